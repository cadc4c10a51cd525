"""What a process pays before the first number: ``torch.compile`` and sympy take seconds, and nobody asked for them.

Nor for the example behind ``python -m jacfunc``.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
import re
import subprocess
import sys

import pytest

import jacfunc
from jacfunc.elsewhere import HERE

HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "jacfunc._demo")

FIRST_CALLS = {
    "a module": "diag_jac(net)(x)",
    "an adapted module": "f, p = make_functional(net); diag_jac(f)(p, x); diag_jac(f)(p, x).sum().backward()",
    "a lambda": "diag_jac(lambda x: x.sin())(x)",
    "laplacian": "laplacian(net)(x)",
    "laplacian in reverse": "laplacian(net, method='reverse')(x)",
    "hess_diag forward": "hess_diag(net, method='forward')(x)",
    "forward": "batch_jac(net, method='forward')(x)",
    "reverse, one output": "diag_jac(lambda x: net(x).sum(1))(x)",
    "partials": "partials(net, 'u u_xy', inputs='x y z', outputs='u v w')(x)",
    "partials in reverse": "partials(net, 'u u_xy', inputs='x y z', outputs='u v w', method='reverse')(x)",
    "divergence and curl": "divergence(net)(x); curl(net)(x)",
    "residual": "residual(net, lambda d: d.u_xx + d.u, inputs='x y z', outputs='u v w')(x)",
    "without a rule": "batch_jac(lambda x: torch.cdist(x, x + 1))(torch.randn(4, 2, 3))",
    "row by row": "diag_jac(Old.apply)(x)",
    "blocks": "diag_jac(net, sample_chunk_size=2)(x)",
    "inside vmap": "torch.func.vmap(diag_jac(net))(x[None])",
    "in inference mode": "torch.inference_mode()(diag_jac(net))(x)",
    "independence": "check_independent(net)(x)",
    "explained": "str(explain(diag_jac(net))(x))",
    "blocks by size": "diag_jac(net, sample_chunk_size='auto')(x)",
    "scripted": "laplacian(torch.jit.script(net))(x)",
}

SCRIPT = """
import sys
import torch
from torch import nn

loaded = {name for name in HEAVY if name in sys.modules}
assert not loaded, f"torch loads them by itself: {loaded}"

from jacfunc import *

def look(after):
    for name in HEAVY:
        if name in sys.modules:
            print(name, "is loaded after", after)
            sys.exit(1)

class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * ctx.saved_tensors[0].cos()

look("the import")
net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 3)
for name, call in CALLS.items():
    exec(call)
    look(name)
"""


def test_neither_the_import_nor_a_first_eager_call_loads_what_compiles():
    script = f"HEAVY, CALLS = {HEAVY!r}, {FIRST_CALLS!r}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


NAMES = {**HERE, "Jacobian": "batch_jac", "hessien": "hessian", "diagjac": "diag_jac", "partial": "partials"}


@pytest.mark.parametrize(("name", "meant"), NAMES.items())
def test_names_of_other_libraries_are_told_by_those_here(name, meant):
    home, _, own = f"jacfunc.{meant}".rpartition(".")
    assert own in importlib.import_module(home).__all__ and name not in jacfunc.__all__
    told = rf"^module 'jacfunc' has no attribute '{name}'; did you mean {re.escape(f'jacfunc.{meant}')}\?$"
    with pytest.raises(AttributeError, match=told):
        getattr(jacfunc, name)
    assert not hasattr(jacfunc, name)
    assert getattr(jacfunc, name, None) is None


@pytest.mark.parametrize("name", ["zzz", "vmap", "_private", "__path2__", "__wrapped__"])
def test_what_resembles_nothing_is_told_as_ever(name):
    with pytest.raises(AttributeError, match=rf"^module 'jacfunc' has no attribute '{name}'$"):
        getattr(jacfunc, name)
    assert not hasattr(jacfunc, name)


def test_the_package_is_imported_pickled_and_looked_at_as_ever():
    with pytest.raises(ImportError, match=r"^cannot import name 'jacobian' from 'jacfunc'; did you mean batch_jac\?$"):
        from jacfunc import jacobian  # noqa: F401
    with pytest.raises(ImportError, match=r"cannot import name 'hessien' from 'jacfunc' \("):  # may be a module's
        from jacfunc import hessien  # noqa: F401
    assert not [name for name in HERE if importlib.util.find_spec(f"jacfunc.{name}")]
    everything = {}
    exec("from jacfunc import *", everything)
    assert set(everything) - {"__builtins__"} == set(jacfunc.__all__)
    for value in (jacfunc.laplacian, jacfunc.Transform):
        assert pickle.loads(pickle.dumps(value)) is value and copy.deepcopy(value) is value
    assert inspect.unwrap(jacfunc) is jacfunc
    assert dict(inspect.getmembers(jacfunc))["hessian"] is jacfunc.hessian


def test_a_package_inside_says_how_it_is_imported():
    script = """
import jacfunc
try:
    jacfunc.nn
except AttributeError as error:
    assert str(error).endswith("before it is imported; write import jacfunc.nn"), error
else:
    raise SystemExit("it is imported already")
from jacfunc import nn
assert jacfunc.nn is nn
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

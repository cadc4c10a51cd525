"""What a process pays before the first number: ``torch.compile`` and sympy take seconds, and nobody asked for them.

Nor for the example behind ``python -m jacfunc``.
"""

from __future__ import annotations

import subprocess
import sys

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

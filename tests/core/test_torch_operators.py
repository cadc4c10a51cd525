"""``jacfunc/core/torch_operators.py``: each operator is what the public function becomes below autograd."""

from __future__ import annotations

import ast
import inspect
import sys

import pytest
import torch
from torch.nn import functional as F

from jacfunc.core import torch_operators as private
from jacfunc.core.torch_private import DispatchMode


class Told(DispatchMode):
    """Keeps which operators it is told of."""

    def __init__(self):
        super().__init__()
        self.operators = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators.append(func.overloadpacket)
        return func(*args, **(kwargs or {}))


def told(function):
    with Told() as mode:
        function()
    return mode.operators


x = torch.rand(2, 3, 6, 6)
CASES = {
    "to_copy": (lambda: x.to(torch.float64), private.to_copy),
    "softmax": (lambda: x.softmax(1), private.softmaxes[0]),
    "fft": (lambda: torch.fft.fft(x.to(torch.complex64)), private.fourier[0]),
    "rfft": (lambda: torch.fft.rfft(x), private.fourier[1]),
    "irfft": (lambda: torch.fft.irfft(x.to(torch.complex64)), private.fourier[2]),
    "pool": (lambda: F.adaptive_avg_pool2d(x, 4), private.adaptive_pools[0]),
    "pool3d": (lambda: F.adaptive_avg_pool3d(x, (2, 4, 4)), private.adaptive_pools[1]),
    "cdist": (lambda: torch.cdist(x, x), private.pair_distances),
    "tangent": (lambda: torch.func.jvp(torch.sin, (x,), (x.mT.contiguous().mT,)), private.zeros_laid_out_like),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_a_public_function_becomes(name):
    function, operator = CASES[name]
    assert operator in told(function)


def test_indexing_without_bounds_is_indexing():
    index = torch.tensor([2, 0])
    assert torch.equal(private.unsafe_index(x, [None, index]), x[:, index])
    written = private.unsafe_index_put(x, [None, index], torch.zeros(()))
    assert written[:, [0, 2]].eq(0).all()
    assert torch.equal(written[:, 1], x[:, 1])


def test_a_safe_softmax_is_zero_where_all_is_masked():
    assert private.softmaxes[1](torch.full((2, 3), -torch.inf), 1).eq(0).all()


def test_arguments_are_declared():
    names = [argument.name for argument in private.arguments_declared(torch.ops.aten.add_.Tensor)]
    assert names == ["self", "other", "alpha"]
    assert private.arguments_declared(torch.ops.aten.add_.Tensor)[0].alias_info.is_write


def test_decompositions_are_the_operator():
    decomposed = private.decompositions()[torch.ops.aten.addmm.default]
    one, other = torch.rand(3, 4), torch.rand(4, 2)
    assert torch.allclose(decomposed(torch.ones(2), one, other), 1 + one @ other)


def test_compiled_graphs_are_counted():
    torch._dynamo.reset()
    before = private.graphs_compiled()
    torch.compile(lambda x: x.sin() + 1, backend="eager")(torch.ones(2))
    assert private.graphs_compiled() == before + 1


def test_every_name_is_tried_here_and_says_what_it_is_for():
    body = ast.parse(inspect.getsource(private)).body
    named = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
    named += [node.name for node in body if isinstance(node, ast.FunctionDef)]
    here = ast.parse(inspect.getsource(sys.modules[__name__]))
    tried = {node.attr for node in ast.walk(here) if isinstance(node, ast.Attribute)}
    assert {name for name in named if name[0] != "_"} <= tried
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and node.target.id[0] != "_":
            assert isinstance(after, ast.Expr), node.target.id


def test_a_torch_whose_c_functions_are_others_is_torch_in_all_else(monkeypatch):
    other = private.torch_with(lambda function: lambda *args: (function, args))
    assert other.sin is torch.sin and other.float32 is torch.float32 and other._C.Tag is torch._C.Tag
    assert other._C._nn.pad(1, 2) == (private.c_nn.pad, (1, 2))
    monkeypatch.setattr(torch, "later", 3, raising=False)
    assert other.later == 3
    assert torch._C._nn is private.c_nn

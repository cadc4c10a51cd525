"""Bad input: one sentence from jacfunc's own classes, naming the leaf, what was found, what was expected, the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from functions import OldStyle, OnlyOnce
from torch import nn
from torch.masked import masked_tensor

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    JacfuncError,
    ParametersError,
    ShapeError,
    UnsupportedOperationError,
    batch_jac,
    check_independent,
    diag_jac,
    divergence,
    explain,
    hess_diag,
    laplacian,
    make_functional,
)

TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian]
X = torch.ones(4, 3)
NET = nn.Linear(3, 3)
F, PARAMS = make_functional(NET)
LSTM = nn.LSTM(3, 3)
LAZY = nn.LazyLinear(3)


@dataclass
class Pair:
    """A dataclass that nobody registered."""

    one: torch.Tensor
    two: torch.Tensor


class Opaque:
    """A node that optree does not know."""

    def __init__(self, value):
        self.value = value


OPTIONS = [
    ({"argnums": "x"}, ArgumentTypeError, "argnums='x' is not an int"),
    ({"argnums": ()}, ArgumentTypeError, "argnums=() is not an int or a non-empty tuple"),
    ({"argnums": True}, ArgumentTypeError, "argnums=True"),
    ({"argnums": 1.0}, ArgumentTypeError, "argnums=1.0"),
    ({"batch_dims": -1}, ArgumentError, "batch_dims=-1 is not the number of leading sample axes"),
    ({"batch_dims": None}, ArgumentError, "batch_dims=None"),
    (
        {"method": "taylr"},
        ArgumentError,
        "method='taylr' is unknown; choose one of 'auto', 'taylor', 'forward', 'reverse'",
    ),
    ({"method": ["auto"]}, ArgumentError, "is unknown"),
    ({"chunk_size": 0}, ArgumentError, "chunk_size=0 is not a number of rows, 1 or more"),
    ({"chunk_size": -3}, ArgumentError, "chunk_size=-3"),
    ({"chunk_size": 2.0}, ArgumentError, "chunk_size=2.0"),
    ({"has_aux": 1}, ArgumentTypeError, "has_aux=1 is not a bool"),
    ({"check": "no"}, ArgumentTypeError, "check='no' is not a bool"),
    ({"chunks": 3}, ArgumentTypeError, "has no keyword 'chunks'; did you mean 'chunk_size'? It takes "),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("keywords", "kind", "message"), OPTIONS)
def test_options_are_refused_when_the_transform_is_made(transform, keywords, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        transform(torch.sin, **keywords)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_integers_of_numpy_are_integers(transform):
    one, none = np.int64(1), np.int32(0)
    for keywords in ({"chunk_size": one}, {"argnums": none, "batch_dims": one}, {"argnums": (none,)}):
        exact = {k: tuple(map(int, v)) if isinstance(v, tuple) else int(v) for k, v in keywords.items()}
        assert transform(torch.sin, **keywords).options == transform(torch.sin, **exact).options
        torch.testing.assert_close(transform(torch.sin, **keywords)(X), transform(torch.sin, **exact)(X))
    blocks = transform(torch.sin, sample_chunk_size=np.int64(2), in_dims=(none,))
    torch.testing.assert_close(blocks(X), transform(torch.sin)(X))
    assert check_independent(torch.sin, argnums=none, batch_dims=one)(X)
    for keywords in ({"chunk_size": np.float64(1)}, {"batch_dims": np.bool_(True)}, {"chunk_size": np.int64(0)}):
        with pytest.raises(ArgumentError):
            transform(torch.sin, **keywords)


@pytest.mark.parametrize("f", [3, None, "f", torch.ones(2)])
def test_only_functions_and_modules_are_transformed(f):
    for make in [*TRANSFORMS, check_independent]:
        with pytest.raises(ArgumentTypeError, match="pass a function or an nn.Module"):
            make(f)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_class_is_no_function(transform):
    with pytest.raises(ArgumentTypeError, match=r"f is the class Linear; pass an instance of it, Linear\(\.\.\.\)"):
        transform(nn.Linear)


def test_a_method_is_given_by_its_name():
    with pytest.raises(ArgumentTypeError, match="method=3 is not the name of a method"):
        make_functional(NET, method=3)


CALLS = [
    # f, keywords, args, kwargs, error, message
    (torch.sin, {"argnums": 1}, (X,), {}, ArgumentError, "argnums=1 selects nothing among the 1 positional argument;"),
    (torch.sin, {"argnums": -2}, (X,), {}, ArgumentError, "argnums=-2 selects nothing"),
    (lambda *, x: x, {}, (), {"x": X}, ArgumentError, "no argument came in by position, only x by keyword; pass the"),
    (torch.mul, {"argnums": (0, -2)}, (X, X), {}, ArgumentError, "selects argument 0 twice"),
    (F, {}, (PARAMS,), {"input": X}, ArgumentError, "selects the parameters (or buffers) of <f(params, ...) of Linear>"),
    (F, {"argnums": 0}, (PARAMS, X), {}, ArgumentError, "argnums=0 selects the parameters"),
    (diag_jac(F), {"argnums": 0}, (PARAMS, X), {}, ArgumentError, "argnums=0 selects the parameters"),
    (torch.sin, {}, (2.0,), {}, ArgumentTypeError, "args[0] is a float, not a tensor; make it one with torch.as_tensor"),
    (torch.sin, {}, (np.ones(3),), {}, ArgumentTypeError, "args[0] is an ndarray, not a tensor"),
    (torch.sin, {}, (None,), {}, ArgumentTypeError, "args[0] holds no tensor"),
    (torch.sin, {}, ({},), {}, ArgumentTypeError, "args[0] holds no tensor"),
    (lambda s: s["u"], {}, ({"u": X, "n": 3},), {}, ArgumentTypeError, "args[0]['n'] is an int, not a tensor"),
    (lambda o: o.value, {}, (Opaque(X),), {}, ArgumentTypeError, "optree.register_pytree_node(Opaque, flatten, unflatten"),
    (torch.sin, {}, (X.long(),), {}, ArgumentTypeError, "if it holds indices (token ids) differentiate by their embeddings"),
    (lambda x: Pair(x, x), {}, (X,), {}, ArgumentTypeError, "make Pair a tree with torch.export.register_dataclass(Pair)"),
    (torch.mul, {"argnums": (0, 1)}, (X[:1], X), {}, ShapeError, "expand args[0] if it is the same for all samples"),
    (torch.mul, {"argnums": (0, 1)}, (X, X[:1]), {}, ShapeError, "expand args[1] if it is the same for all samples"),
    (torch.sin, {}, (X > 0,), {}, ArgumentTypeError, "args[0] has dtype torch.bool"),
    (torch.sin, {}, (X + 0j,), {}, ArgumentTypeError, "args[0] is complex (torch.complex64); pass its real view"),
    (torch.sin, {}, (X.to_sparse(),), {}, ArgumentTypeError, "convert it with .to_dense()"),
    (torch.sin, {}, (torch.nested.nested_tensor([X, X], layout=torch.jagged),), {}, ArgumentTypeError, "is a nested tensor; convert it"),
    (torch.sin, {}, (masked_tensor(X, X > 0),), {}, ArgumentTypeError, "args[0] is a masked tensor; convert it with .to_tensor(0.0)"),
    (lambda x: masked_tensor(x, x > 0), {}, (X,), {}, ArgumentTypeError, "output is a masked tensor"),
    (F, {}, (X, PARAMS), {}, ArgumentTypeError, "args[0] is a Tensor, but <f(params, ...) of Linear> takes its parameters first"),
    (diag_jac(F), {}, (X,), {}, ArgumentTypeError, "takes its parameters first"),
    (torch.sin, {}, (X.to("meta"),), {}, ArgumentTypeError, "args[0] is on the meta device and has no values"),
    (torch.sin, {}, (X.to(torch.float8_e4m3fn),), {}, ArgumentTypeError, "which has no arithmetic; convert it"),
    (torch.sin, {}, ("x",), {}, ArgumentTypeError, "args[0] is a str, not a tensor; select a tensor with argnums"),
    (lambda x: x.to_sparse(), {}, (X,), {}, ArgumentTypeError, "output has layout torch.sparse_coo; convert it"),
    (lambda x: (x, x.sum()), {}, (X,), {}, ShapeError, "or return only what is wanted, as in lambda x: f(x)[0]"),
    (lambda x: LAZY(x), {}, (X,), {}, ArgumentError, "the lazy parameter 'weight' has no shape yet"),
    (F, {}, ({**PARAMS, "weight": PARAMS["weight"].long()}, X), {}, ParametersError, "params['weight'] has dtype torch.int64"),
    (lambda s: s[0][1], {}, ([(X, X.int())],), {}, ArgumentTypeError, "args[0][0][1] has dtype torch.int32"),
    (torch.sin, {}, (torch.tensor(1.0),), {}, ShapeError, "use batch_dims=0, if all samples share it expand it (t.expand(N))"),
    (torch.sin, {"batch_dims": 3}, (X,), {}, ShapeError, "too few axes for batch_dims=3"),
    (torch.mul, {"argnums": (0, 1)}, (X, X[:2]), {}, ShapeError, "args[1] has sample axes (2,), but args[0] has (4,)"),
    (lambda x: x.sum(), {}, (X,), {}, ShapeError, "output is a scalar, but a batch of (4,) samples went in"),
    (lambda x: x.sum(), {}, (X,), {}, ShapeError, "or pass torch.vmap(f) if f is a function of one sample"),
    (lambda x: x[:2].sin(), {}, (X,), {}, ShapeError, "or pass torch.vmap(f) if f is a function of one sample"),
    (lambda x: x.T, {}, (X,), {}, ShapeError, "output has shape (3, 4), whose first axes are not the batch (4,)"),
    (lambda x: {"y": x[:2]}, {}, (X,), {}, ShapeError, "output['y'] has shape (2, 3)"),
    (lambda x: LSTM(x)[1][0], {}, (torch.ones(4, 2, 3),), {}, ShapeError, "LSTM has batch_first=False"),
    (lambda x: x.argmax(1), {}, (X,), {}, ArgumentTypeError, "output has dtype torch.int64, which cannot be differentiated; return it as aux"),
    (lambda x: (x, {"n": x > 0}), {}, (X,), {}, ArgumentTypeError, "output[1]['n'] has dtype torch.bool"),
    (lambda x: x + 0j, {}, (X,), {}, ArgumentTypeError, "output is complex"),
    (lambda x: 3.0, {}, (X,), {}, ArgumentTypeError, "output is a float, not a tensor"),
    (lambda x: None, {}, (X,), {}, ArgumentTypeError, "f returned no tensor"),
    (lambda x: Opaque(x), {}, (X,), {}, ArgumentTypeError, "make Opaque a tree with optree.register_pytree_node"),
    (torch.sin, {"has_aux": True}, (X,), {}, ArgumentTypeError, "f returned a Tensor; it must return a pair (output, aux)"),
]  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("f", "keywords", "args", "kwargs", "kind", "message"), CALLS)
def test_arguments_and_outputs_are_refused(transform, f, keywords, args, kwargs, kind, message):
    state = torch.get_rng_state()
    with pytest.raises(kind, match=re.escape(message)) as caught:
        transform(f, **keywords)(*args, **kwargs)
    assert isinstance(caught.value, JacfuncError)
    assert isinstance(caught.value, ValueError | TypeError)
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("inner", "outer"), [((3,), (3, 3)), ((3, 1), (1, 4)), ((3,), (2,)), ((2, 3), (3, 2)), ((2, 2), (4,))]
)
def test_shapes_without_a_diagonal_say_batch_jac(inner, outer):
    def f(x):
        return x.reshape(4, -1).sum(1).reshape(4, *(1 for _ in outer)).expand(4, *outer)

    x = torch.ones(4, *inner)
    message = f"output has sample shape {outer} and args[0] {inner}"
    with pytest.raises(ShapeError, match=re.escape(message) + ".*batch_jac"):
        diag_jac(f)(x)
    with pytest.raises(ShapeError, match=re.escape(message)):
        divergence(f)(x)
    assert batch_jac(f)(x).shape == (4, *outer, *inner)


def test_divergence_needs_an_output_built_as_the_input():
    with pytest.raises(ShapeError, match="needs an output that is built as the input"):
        divergence(lambda x: {"a": x})(X)
    with pytest.raises(ShapeError, match="built as the input"):
        divergence(lambda x: (x, x))(X)
    with pytest.raises(
        ShapeError, match=re.escape("output has sample shape (1,) and args[0] (3,), but the divergence")
    ):
        divergence(lambda x: x[:, :1])(X)


def test_errors_come_before_heavy_work():
    calls = []

    def f(x):
        calls.append(1)
        return x.T

    with pytest.raises(ShapeError):
        diag_jac(f)(X)
    assert len(calls) == 1
    with pytest.raises(ArgumentTypeError):
        diag_jac(f)(X.long())
    assert len(calls) == 1


def test_errors_of_the_function_itself_surface_as_they_are():
    def broken(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        diag_jac(broken)(X)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        diag_jac(nn.Linear(5, 3))(X)


def test_errors_of_the_function_surface_also_when_it_worked_before():
    def picky(x):
        if bool((x > 1).any()):
            raise ValueError("too large")
        return x.sin()

    diag_jac(picky, check=False)(X)
    with pytest.raises(ValueError, match="^too large\n") as caught:  # and the note which call it was
        diag_jac(picky, check=False)(X + 1)
    assert str(caught.value) == "too large"


def test_no_state_is_left_behind_by_a_failing_forward():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(4, 3))
    before = {name: (id(p), p.clone()) for name, p in [*net.named_parameters(), *net.named_buffers()]}
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        diag_jac(net)(X)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert torch.equal(state, torch.get_rng_state())


def test_explain_takes_transforms_only():
    with pytest.raises(ArgumentTypeError, match="explain takes what diag_jac and its kin return, .*: write explain"):
        explain(torch.sin)


def test_parameters_are_refused_through_a_transform():
    with pytest.raises(ParametersError, match="lacks the key 'bias'"):
        diag_jac(F)({"weight": PARAMS["weight"]}, X)


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_old_style_functions_inside_a_transform_are_refused(transform):
    derivative = transform(lambda x: OldStyle.apply(x))
    for surrounded in (
        lambda x: torch.func.grad(lambda x: derivative(x).sum())(x),
        lambda x: torch.func.vmap(derivative)(x[None]),
        lambda x: torch.func.jvp(derivative, (x,), (x,)),
    ):
        with pytest.raises(UnsupportedOperationError, match=r"autograd\.Function"):
            surrounded(X)
        derivative(X)
        with pytest.raises(UnsupportedOperationError, match="transform"):
            surrounded(X)


def test_a_forced_route_that_cannot_work_says_so():
    with pytest.raises(UnsupportedOperationError, match="use method='auto'"):
        diag_jac(lambda x: OnlyOnce.apply(x), method="forward")(X)
    torch.testing.assert_close(diag_jac(lambda x: OnlyOnce.apply(x))(X), X.cos())

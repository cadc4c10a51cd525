"""Messages as a user meets them: what was meant is found, and said in one sentence with the way out."""

from __future__ import annotations

import functools
import re
import sys
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from functions import OnlyOnce
from torch import nn
from torch.utils.checkpoint import checkpoint

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    NotationError,
    ShapeError,
    UnsupportedOperationError,
    batch_jac,
    biharmonic,
    check_independent,
    curl,
    diag_jac,
    directional,
    divergence,
    explain,
    hess_diag,
    laplacian,
    make_functional,
    partials,
    residual,
    sparse_jac,
)

TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian, curl, biharmonic]
X = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
UV = namedtuple("UV", "u v")


def two(tx):
    h = torch.tanh(tx)
    return h[:, 0] * h[:, 1], h.sum(1)


# -------------------------------------------------------------------- trees of outputs, compiled

TREES = [
    lambda u, v: {"v": v, "u": u},
    lambda u, v: {"v": v[:, None], "u": u},
    lambda u, v: OrderedDict(v=v, u=u),
    lambda u, v: defaultdict(list, {"v": v, "u": u}),
    lambda u, v: [u, v],
    UV,
    lambda u, v: torch.stack([u, v], 1),
]


def compiled_equals_eager(tree, method):
    def f(tx):
        return tree(*two(tx))

    eager = partials(f, "u u_t v_xx u_t-2*u_xx", inputs="t x", outputs="u v", method=method)(X)
    same = partials(f, "u u_t v_xx u_t-2*u_xx", inputs="t x", outputs="u v", method=method, compile=True)(X)
    t, x = torch.tanh(X).unbind(1)
    torch.testing.assert_close(eager.u_t, (1 - t**2) * x)
    for one, other in zip(eager, same, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("tree", TREES[:3])
def test_partials_of_a_dict_are_traced(tree):
    eager = partials(lambda tx: tree(*two(tx)), "u u_t v_xx", inputs="t x", outputs="u v", method="taylor")
    traced = torch.compile(eager, backend="eager", fullgraph=True)
    for one, other in zip(eager(X), traced(X), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("tree", TREES)
def test_partials_of_any_tree_compile(tree, method):
    compiled_equals_eager(tree, method)


# -------------------------------------------------------------------- another argument was meant


def field(x, t):
    return x.sin() * torch.as_tensor(t, dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))


TIMES = [
    3,
    0.5,
    torch.tensor(0.5),
    torch.tensor(3),
    torch.arange(5),
    torch.ones(5, dtype=torch.bool),
    None,
    "t",
    {},
    [1],
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("t", TIMES)
def test_the_argument_that_can_be_differentiated_by_is_named(transform, t):
    with pytest.raises((ArgumentTypeError, ShapeError)) as caught:
        transform(field)(X, t)
    assert str(caught.value).startswith("args[1]")
    assert str(caught.value).endswith(", or pass argnums=0 to differentiate by args[0] of shape (5, 2)")


def test_parameters_are_no_argument_to_differentiate_by():
    f, params = make_functional(nn.Bilinear(2, 3, 2).double())
    with pytest.raises(
        ArgumentTypeError, match=re.escape("pass argnums=1 to differentiate by args[1] of shape (5, 2)")
    ):
        laplacian(f)(params, X, torch.ones(5, 3, dtype=torch.int64))
    with pytest.raises(ArgumentTypeError) as caught:
        laplacian(f)(params, torch.arange(5))
    assert "argnums" not in str(caught.value)


@pytest.mark.parametrize(
    ("transform", "t"),
    [
        (divergence, torch.ones(5, dtype=torch.float64)),
        (divergence, torch.ones(5, 1, dtype=torch.float64)),
        (curl, torch.ones(5, dtype=torch.float64)),
        (curl, torch.ones(5, 1, dtype=torch.float64)),
        (diag_jac, torch.ones(5, 7, dtype=torch.float64)),
        (laplacian, torch.ones(1, dtype=torch.float64)),
        (hess_diag, torch.ones(7, 3, dtype=torch.float64)),
    ],
)
def test_the_argument_whose_shape_fits_is_named(transform, t):
    with pytest.raises(ShapeError, match=re.escape("or pass argnums=0 to differentiate by args[0] of shape (5, 2)")):
        transform(lambda x, t: x.sin() * t.sum())(X, t)


@pytest.mark.parametrize("t", [torch.ones(5, 3), torch.ones(5, 1), torch.arange(5), 2, torch.ones(5, 2, 2)])
def test_partials_name_the_argument_with_all_coordinates(t):
    with pytest.raises((ArgumentTypeError, ShapeError), match="pass argnums=0 to differentiate by"):
        partials(lambda tx, t: tx.sum(1), "u_t", inputs="t x", outputs="u")(X, t)
    u_t = partials(lambda tx, t: tx.sum(1), "u_t", inputs="t x", outputs="u", argnums=0)(X, t).u_t
    torch.testing.assert_close(u_t, torch.ones(5, dtype=torch.float64))


def test_no_argument_is_named_where_none_fits():
    for args in [(3,), (X.long(), 3), (torch.tensor(1.0), X > 0)]:
        with pytest.raises((ArgumentTypeError, ShapeError)) as caught:
            laplacian(lambda *args: X)(*args)
        assert "or pass argnums" not in str(caught.value)


# -------------------------------------------------------------------- numbers that change in names


@pytest.mark.parametrize(
    "named",
    [
        lambda nu: f"u_t-{nu}*u_xx",
        lambda nu: f"{nu}*u_x + u",
        lambda nu: f"u_t - {nu} * u_x - {nu}*v_xx",
    ],
)
def test_names_of_earlier_steps_are_forgotten(named):
    d = partials(two, "u u_t u_x u_xx v_xx", inputs="t x", outputs="u v")(X)
    step = {"nu": 0.0}
    equation = residual(two, lambda d: d[named(step["nu"])] + d.u * d.x + d.t, inputs="t x", outputs="u v")
    for nu in [0.5, *(k / 16 for k in range(1, 24)), 0.5, 0.5]:
        step["nu"] = nu
        by_name = {name: getattr(d, name) for name in ("u", "u_t", "u_x", "u_xx", "v_xx")}
        torch.testing.assert_close(equation(X), eval(named(nu), by_name) + d.u * d.x + d.t)
        assert len(equation.names) <= 6
    assert "u" in equation.names


def test_branches_in_turn_are_not_forgotten():
    turn = {"at": 0}
    names = ["u_t", "u_x", "u_xx", "v_x", "v_tt", "u_tx", "v_tx"]
    equation = residual(two, lambda d: getattr(d, names[turn["at"] % 3]) + d.u, inputs="t x", outputs="u v")
    for turn["at"] in range(9):
        equation(X)
    assert set(equation.names) == {"u", *names[:3]}


# -------------------------------------------------------------------- one point, and no argument


EQUATION = {"inputs": "t x", "outputs": "u"}


@pytest.mark.parametrize(
    "make",
    [
        lambda f, **keywords: residual(f, lambda d: d.u_t, **EQUATION, **keywords),
        lambda f, **keywords: partials(f, "u_t", **EQUATION, **keywords),
        lambda f, **keywords: explain(partials(f, "u_t", **EQUATION, **keywords)),
        lambda f, **keywords: partials(f, "u_t", sample_chunk_size=2, **EQUATION, **keywords),
    ],
)
def test_one_point_is_no_separate_coordinate(make):
    net = nn.Linear(2, 1).double()
    f, params = make_functional(net)
    alone = "has shape (2,), so it was read as one of 2 separate coordinates, of which 1 came in; pass one tensor of "
    one_point = "shape (N, 2), or all 2 separately, and one point as x[None], or with batch_dims=0"
    with pytest.raises(ShapeError, match=rf"^{re.escape('args[0] ' + alone + one_point)}$"):
        make(net)(X[0])
    with pytest.raises(ShapeError, match=rf"^{re.escape('args[1] ' + alone + one_point)}$"):
        make(f)(params, X[0])
    with pytest.raises(
        ShapeError, match=r"of which 1 came in; pass one tensor of shape \(N, 2\), or all 2 separately$"
    ):
        make(net)(X[:, :1])
    make(net)(X[:1])


def test_one_point_with_batch_dims_0():
    named = residual(nn.Linear(2, 1).double(), lambda d: d.u_t, batch_dims=0, **EQUATION)
    assert named(X[0]).shape == ()
    with pytest.raises(ShapeError, match=r"pass one tensor of shape \(2,\), or all 2 separately$"):
        named(X[0, :1])


def test_batch_dims_0_is_proposed_for_one_sample():
    net = nn.Linear(2, 1).double()
    with pytest.raises(
        ShapeError, match=r"has shape \(1,\), .*function of one sample, or x\[None\] or batch_dims=0 for one sample$"
    ):
        laplacian(net)(X[0])
    assert laplacian(net, batch_dims=0)(X[0]).shape == (1,)
    with pytest.raises(ShapeError, match="of one|or set batch_dims$"):
        laplacian(net, batch_dims=2)(X)


@pytest.mark.parametrize("make", [*TRANSFORMS, lambda f: residual(f, lambda d: d.u_t, **EQUATION)])
def test_no_argument_by_position_is_told(make):
    f, params = make_functional(nn.Linear(2, 2).double())
    end = "the tensor to differentiate by position$"
    with pytest.raises(ArgumentError, match=f"^no argument came in; pass {end}"):
        make(field)()
    with pytest.raises(ArgumentError, match=f"^no argument came in by position, only x and t by keyword; pass {end}"):
        make(field)(x=X, t=X)
    with pytest.raises(ArgumentError, match=f"only params and x by keyword; pass the parameters and then {end}"):
        make(f)(params=params, x=X)


def test_the_direction_comes_last():
    vectors, last = torch.ones(5, 2, dtype=torch.float64), "the direction comes last, after all arguments of f"
    with pytest.raises(ShapeError, match=rf"^the direction has shape \(\) for args\[1\] .*; {last}$"):
        directional(field)(X, vectors, torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(ArgumentTypeError, match=rf"^the direction, the last argument, is built as .*; {last}, so pass"):
        directional(field)(X, vectors, {"t": X})


@pytest.mark.parametrize("make", [*TRANSFORMS, check_independent, directional])
@pytest.mark.parametrize("with_buffers", [False, True])
def test_what_make_functional_returns_is_taken_apart(make, with_buffers):
    made = make_functional(nn.Linear(2, 2), with_buffers=with_buffers)
    named = "params, buffers" if with_buffers else "params"
    with pytest.raises(
        ArgumentTypeError, match=rf"^f is a tuple; make_functional returns \(f, {named}\), so write f, "
    ):
        make(made)


def test_a_function_of_one_sample_is_a_cause_of_coupling():
    matrix, square = torch.rand(3, 3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    one = r"x\[None\] or batch_dims=0 if the input is one sample, or check=False"
    with pytest.raises(
        CoupledSamplesError, match=rf"alone, or pass torch.vmap\(f\) if f is a function of one sample, {one}"
    ):
        batch_jac(lambda x: matrix @ x)(square)
    with pytest.raises(CoupledSamplesError, match=r"or pass torch.vmap\(f, in_dims=\(None, 0\)\) if f is a function"):
        batch_jac(lambda w, x: w["w"] @ x)({"w": matrix}, square)
    torch.testing.assert_close(batch_jac(torch.vmap(lambda x: matrix @ x))(square), matrix.expand(3, 3, 3))
    for f, x in [(nn.BatchNorm1d(3).double(), square), (lambda x: matrix @ x, square[0])]:
        with pytest.raises(CoupledSamplesError) as caught:
            batch_jac(f)(x)
        assert "vmap" not in str(caught.value)


def test_one_sequence_is_told_to_be_a_sample():
    net = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()
    sequence = torch.rand(3, 4, dtype=torch.float64)
    with pytest.raises(CoupledSamplesError) as caught:
        batch_jac(net)(sequence)
    assert "alone, or pass x[None] or batch_dims=0 if the input is one sample, or check=False" in str(caught.value)
    assert "vmap" not in str(caught.value)
    one, alone = batch_jac(net)(sequence[None]), batch_jac(net, batch_dims=0)(sequence)
    torch.testing.assert_close(one[0], alone)


# -------------------------------------------------------------------- vmap around a call


AROUND = "; drop the torch.vmap around this call if x is the batch there (a transform takes the whole batch), or "


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.vmap(laplacian(nn.Linear(2, 1).double()))(X),
        lambda: torch.vmap(diag_jac(lambda x: x.square().sum(-1)))(X),
        lambda: torch.vmap(diag_jac(lambda x: x.sin()))(X[:, 0]),
        lambda: torch.vmap(batch_jac(lambda p, x: x @ p["w"].T), in_dims=(None, 0))(
            {"w": torch.ones(4, 2).double()}, X
        ),
        lambda: torch.vmap(batch_jac(lambda w, x: x @ w.T), in_dims=(None, 0))(torch.ones(4, 2).double(), X),
    ],
)
def test_a_vmap_around_a_call_is_told_first(call):
    with pytest.raises(ShapeError) as caught:
        call()
    assert AROUND in str(caught.value)
    assert "argnums" not in str(caught.value)


def test_no_vmap_is_told_of_where_there_is_none():
    with pytest.raises(ShapeError) as caught:
        laplacian(nn.Linear(2, 1).double())(X[0])
    assert "around" not in str(caught.value)


def test_no_dict_is_proposed_to_differentiate_by():
    weights = {"w": torch.ones(4, 2, dtype=torch.float64)}
    for f, x in [(lambda p, x: p["w"][:, 0] * x.sum(), X), (lambda p, t: X, 0.5)]:
        with pytest.raises((ShapeError, ArgumentTypeError)) as caught:
            batch_jac(f)(weights, x)
        assert "argnums" not in str(caught.value)


# -------------------------------------------------------------------- errors of f


ERRORS = [
    (lambda x: x @ torch.ones(7, 3, dtype=x.dtype), RuntimeError),
    (nn.Linear(5, 3).double(), RuntimeError),
    (nn.Linear(2, 3), RuntimeError),
    (lambda x: x + torch.ones(3), RuntimeError),
    (lambda x: torch.cat([x, x[0]]), RuntimeError),
    (lambda x: x[:, 7], IndexError),
    (lambda x: x.view(3, 3), RuntimeError),
    (lambda x: x.no_such(), AttributeError),
    (lambda x: {}["k"], KeyError),
    (lambda x: torch.linalg.cholesky(-torch.eye(2, dtype=x.dtype) * x[:, :1, None] ** 2), torch.linalg.LinAlgError),
]


@pytest.mark.parametrize("transform", [diag_jac, laplacian, check_independent])
@pytest.mark.parametrize(("f", "kind"), ERRORS)
def test_errors_of_f_say_which_call_evaluated_it(transform, f, kind):
    with pytest.raises(kind) as plain:
        f(X)
    with pytest.raises(kind) as caught:
        transform(f)(X)
    assert type(caught.value) is type(plain.value)
    assert str(caught.value) == str(plain.value)
    name = "Linear" if isinstance(f, nn.Module) else "<lambda>"
    told = f"jacfunc: raised inside f while {transform.__name__}({name}) evaluated it on a tensor of shape (5, 2)"
    of_shapes = kind in (RuntimeError, IndexError) and not isinstance(f, nn.Module)
    way_out = "; f gets the whole batch, so pass torch.vmap(f) if it is a function of one sample" * of_shapes
    if "same dtype" in str(plain.value):
        way_out = (
            "; args[0] is torch.float64, so convert it with .to(torch.float32), or f's own tensors to torch.float64"
        )
    assert caught.value.__notes__ == [told + way_out]


def test_errors_of_f_in_other_calls():
    def f(x):
        return x @ torch.ones(7, 3, dtype=x.dtype)

    calls = {
        "partials": partials(f, "u_t", inputs="t x", outputs="u"),
        "check_independent": laplacian(f, sample_chunk_size=2),
        "diag_jac": explain(diag_jac(f)),
        "batch_jac": batch_jac(f, compile=True),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
            call(X)
        assert f"while {name}(f) evaluated it on" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        laplacian(divergence(f))(X)
    assert "while divergence(f) evaluated it on" in caught.value.__notes__[0]


# -------------------------------------------------------------------- did you mean


@pytest.mark.parametrize("make", [*TRANSFORMS, check_independent])
def test_arguments_of_f_belong_in_the_second_call(make):
    net = nn.Linear(2, 2).double()
    with pytest.raises(
        ArgumentTypeError, match=r"keywords only after f, but was given a Tensor of shape \(5, 2\); call "
    ):
        make(net, X)
    with pytest.raises(ArgumentTypeError, match=r"takes keywords only after f, .*as in argnums=0"):
        make(net, 0)


def test_arguments_of_f_belong_in_the_second_call_of_partials():
    with pytest.raises(ArgumentTypeError, match="partials takes keywords only after f and wanted, but .* a Tensor of"):
        partials(two, "u", X, inputs="t x", outputs="u v")
    with pytest.raises(
        ArgumentTypeError, match="residual takes keywords only after f and equation, but .* a Tensor of"
    ):
        residual(two, lambda d: d.u, X, inputs="t x", outputs="u v")


UNCALLED = [
    laplacian(two),
    diag_jac(nn.Linear(2, 2)),
    partials(two, "u u_t", inputs="t x", outputs="u v"),
    residual(two, lambda d: d.u, inputs="t x", outputs="u v"),
    directional(two),
]


@pytest.mark.parametrize("transform", UNCALLED)
@pytest.mark.parametrize("name", ["mean", "shape", "sum", "T", "detach", "backward", "to", "dtype", "numpy", "item"])
def test_attributes_of_the_result_say_to_call_first(transform, name):
    with pytest.raises(AttributeError, match=rf"; call it first, as in g\(x\)\.{name} instead of g\.{name}$"):
        getattr(transform, name)
    assert not hasattr(transform, "no_such_thing")
    assert not hasattr(transform, "__len__")


def test_names_of_derivatives_say_to_call_first():
    for name in ("u_t", "u", "t", "x"):
        with pytest.raises(AttributeError, match="call it first"):
            getattr(UNCALLED[2], name)
    with pytest.raises(AttributeError, match="'Partials' object has no attribute 'v_t'"):
        _ = UNCALLED[2].v_t


@pytest.mark.parametrize("equation", [lambda d, x: d.u, lambda: 0, lambda u, t, x: u, lambda d, *, nu: d.u])
def test_equations_take_the_derivatives_alone(equation):
    with pytest.raises(
        ArgumentTypeError, match=r"equation takes \(.*\), but is called with one argument, the derivatives"
    ):
        residual(two, equation, inputs="t x", outputs="u v")


@pytest.mark.parametrize(
    "equation", [lambda d, nu=1.0: d.u, lambda *d: d[0].u, functools.partial(lambda nu, d: d.u, 1)]
)
def test_equations_with_defaults_are_taken(equation):
    torch.testing.assert_close(residual(two, equation, inputs="t x", outputs="u v")(X), two(X)[0])


SPELLINGS = {
    "uxx": "u_xx",
    "u_{xx}": "u_xx",
    "d2u_dx2": "u_xx",
    "u__x": "u_x",
    "du_dx": "u_x",
    "du/dt": "u_t",
    "d^2u/dx^2": "u_xx",
    "d2u_dxdt": "u_xt",
    "d3v_dx2dt": "v_xxt",
    "∂u/∂x": "u_x",
    "U_x": "u_x",
    "u_X": "u_x",
    "VXX": "v_xx",
    "u.x": "u_x",
    "u_x2": "u_xx",
    "u_2x": "u_xx",
    "u_x^2": "u_xx",
    "u_dxdx": "u_xx",
    "2u_x": "2*u_x",
    "0.1uxx": "0.1*u_xx",
    "u_x*0.1": "0.1*u_x",
    "u_xx*1e-3": "1e-3*u_xx",
    "u_x/2": "0.5*u_x",
}


@pytest.mark.parametrize(("written", "meant"), SPELLINGS.items())
def test_other_notations_are_proposed_in_this_one(written, meant):
    match = re.escape(f"did you mean '{meant}'?")
    with pytest.raises(NotationError, match=match) as caught:
        partials(two, f"u {written}", inputs="t x", outputs="u v")
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(NotationError, match=match):
        residual(two, lambda d: d[written], inputs="t x", outputs="u v")(X)
    partials(two, meant, inputs="t x", outputs="u v")


@pytest.mark.parametrize(
    ("written", "product"),
    [
        ("u*u_x", "d.u*d.u_x"),
        ("u_t + u * u_x - v", "d.u*d.u_x"),
        ("u_t-0.5*u*u_x", "d.u*d.u_x"),
        ("u_x**2", "d.u_x**2"),
        ("u^2", "d.u**2"),
        ("v_t/u_x", "d.v_t/d.u_x"),
    ],
)
def test_products_are_written_in_python(written, product):
    with pytest.raises(NotationError, match=rf"in Python, as {re.escape(product)}\n"):
        partials(two, written, inputs="t x", outputs="u v")


@pytest.mark.parametrize("written", ["w_x", "u_y", "u(x)", "u'", "du", "laplacian", "x_u", "u_xy"])
def test_nothing_is_proposed_that_is_not_meant(written):
    with pytest.raises(NotationError) as caught:
        partials(two, written, inputs="t x", outputs="u v")
    assert "did you mean" not in str(caught.value)


# -------------------------------------------------------------------- the operation before the routes


def test_the_operation_comes_before_the_routes():
    with pytest.raises(UnsupportedOperationError) as caught:
        laplacian(nn.Sequential(nn.Linear(2, 2).double(), _Once()))(X)
    text = str(caught.value)
    assert text.startswith("laplacian cannot differentiate an autograd.Function inside f (in the _Once '1'); write its")
    assert text.index("replace that operation") < text.index("(no route: taylor: ")
    with pytest.raises(
        UnsupportedOperationError, match=r"^diag_jac cannot differentiate .*; use method='auto'.*\(no rou"
    ):
        diag_jac(_Once(), method="forward")(X)


class _Once(nn.Module):
    def forward(self, x):
        return OnlyOnce.apply(x)


# -------------------------------------------------------------------- what is no torch.Tensor


def by_test(x):
    if isinstance(x, torch.Tensor):
        return x.sin()
    return x * 2


def by_assert(x):
    assert isinstance(x, torch.Tensor), "not a tensor"
    return x.sin()


def by_raise(x):
    if not torch.is_tensor(x):
        raise TypeError("expected a tensor")
    return x.sin()


def by_type(x):
    if type(x) is not torch.Tensor:
        raise RuntimeError("bad")
    return x.sin()


def by_table(x):
    return {torch.Tensor: torch.sin}[type(x)](x)


def by_conversion(x):
    return x.sin() if isinstance(x, torch.Tensor) else torch.as_tensor(x).sin()


@functools.singledispatch
def by_dispatch(x):
    raise NotImplementedError(type(x))


@by_dispatch.register(torch.Tensor)
def _(x):
    return x.sin()


def by_try(x):
    try:
        x = torch.nn.Parameter(x.detach()) * 0 + x if False else {torch.Tensor: x}[type(x)]
    except KeyError:
        return x * 3
    return x.sin()


class ByForward(nn.Module):
    def forward(self, x):
        if not isinstance(x, torch.Tensor | tuple):
            raise ValueError("tensors or tuples only")
        return x.sin()


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
@pytest.mark.parametrize(
    "f", [by_test, by_assert, by_raise, by_type, by_table, by_conversion, by_dispatch, by_try, ByForward()]
)
def test_what_treats_other_things_than_tensors_otherwise_is_told(transform, f):
    tracer = sys.gettrace()
    text = str(explain(transform(f))(X))
    assert sys.gettrace() is tracer
    (reason,) = re.findall(r"^not taylor +(.*)$", text, re.MULTILINE)
    assert reason.startswith("f treats what is no torch.Tensor otherwise, as by isinstance (")
    assert re.search(r"in \w+, line \d+ of test_messages\.py\)", reason)
    torch.testing.assert_close(transform(f)(X), X.cos() if transform is diag_jac else -X.sin())


def test_several_equations_in_one_tensor_are_told_to_be_a_tuple():
    net, points = nn.Linear(2, 2), torch.randn(5, 2)
    joined = [lambda d: torch.stack([d.u_t, d.v_x], 1), lambda d: torch.cat([d.u_t, d.v_x])]
    for equation in joined:
        with pytest.raises(ShapeError, match="for several equations return a tuple, a tensor for each"):
            residual(net, equation, inputs="t x", outputs="u v")(points)
    with pytest.raises(ShapeError, match=r"such as \(N, 1\), which broadcasts"):
        residual(net, lambda d: d.u_t * points[:, :1], inputs="t x", outputs="u v")(points)


def notes_of(call: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # of torch and Python
        call()
    return " ".join(raised.value.__notes__)


def test_what_newcomers_may_do_is_noted_on_errors_of_their_functions():
    net, points, scale = nn.Linear(2, 1), torch.randn(20, 2), torch.randn(20, 1)
    for chunk in (7, "auto"):
        told = notes_of(lambda chunk=chunk: diag_jac(lambda x: net(x) * scale, sample_chunk_size=chunk)(points))
        assert "a tensor of all samples that f closes over" in told and "with in_dims=(0, 0)" in told
    cut = batch_jac(lambda c, x: net(x) * c, sample_chunk_size=7, in_dims=(0, 0))(scale, points)
    torch.testing.assert_close(cut, batch_jac(lambda x: net(x) * scale)(points))
    swapped = residual(lambda d: d.u_t, net, inputs="t x", outputs="u")
    assert "in this order: residual(f, equation, ..)" in notes_of(lambda: swapped(points))
    apart = residual(lambda t, x: t * x, lambda d: d.u_t, inputs="t x", outputs="u")
    assert "pass all arguments of f (1 came)" in notes_of(lambda: apart(points))
    told = "args[0] is torch.float64, so convert it with .to(torch.float32), or f's own tensors to torch.float64"
    assert told in notes_of(lambda: diag_jac(net)(points.double()))
    with pytest.raises(ShapeError, match=r"pass as many of each \(t\.expand\(N\)\), or grid=True"):
        apart(torch.tensor(0.5), torch.rand(3))
    jac: Any = sparse_jac(torch.sin)(points)
    with pytest.raises(AttributeError, match=r"no attribute 'square'; it is no tensor: its entries are the tensor \.v"):
        _ = jac.square
    with pytest.raises(ArgumentTypeError, match=r"^a SparseJacobian has no items; it is no tensor: its entries are"):
        _ = jac[0]
    with pytest.raises(TypeError, match="not iterable"):
        iter(jac)
    assert torch.equal(jac @ points, jac.matvec(points))
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = jac @ 2


def test_what_newcomers_leave_out_or_add_is_told():
    net, points = nn.Linear(2, 1), torch.randn(5, 2)
    partial: Any = partials
    with pytest.raises(
        ArgumentTypeError, match="^partials needs outputs=, a name for each output of f, as in outputs='u'"
    ):
        partial(net, "u_t", inputs="t x")
    with pytest.raises(
        ArgumentTypeError, match=r"^partials needs wanted=, the derivatives by name, as in partials\(f, "
    ):
        partial(net, inputs="t x", outputs="u")
    with pytest.raises(ArgumentTypeError, match=r"^residual needs equation=, as in residual\(f, lambda d: "):
        cast(Any, residual)(net, inputs="t x", outputs="u")
    with pytest.raises(
        ShapeError, match=r"or segments= \(where a transform takes it\) if each result is that of several"
    ):
        laplacian(lambda r: torch.zeros(2).index_add(0, torch.tensor([0, 0, 1, 1, 1]), r.square().sum(1)))(points)
    with pytest.raises(ArgumentTypeError, match=r"is not an int or a non-empty tuple of ints; write it as \(0, 1\)$"):
        diag_jac(net, argnums=[0, 1])
    with pytest.raises(ShapeError, match=r"\('t' \(5,\), 'x' \(7,\)\); pass as many of each, or grid=True"):
        partials(torch.outer, "u_t", inputs="t x", outputs="u")(torch.rand(5), torch.rand(7))
    with pytest.raises(
        ShapeError, match=r"^f returned shape \(5, 5\), as on a grid, for 2 coordinates of 5 points each"
    ):
        partials(torch.outer, "u_t", inputs="t x", outputs="u")(torch.rand(5), torch.rand(5))
    with pytest.raises(ShapeError, match="^outputs='u' names 1, but f returned 5"):
        partials(nn.Linear(2, 5), "u_t", inputs="t x", outputs="u")(points)
    with pytest.raises(NotationError, match="'Parameter' is no name; .* as coefficients to be trained are"):
        partials(net, f"u_t - {nn.Parameter(torch.ones(()))}*u_xx", inputs="t x", outputs="u")
    with pytest.raises(UnsupportedOperationError, match="pass use_reentrant=False to torch.utils.checkpoint"):
        laplacian(lambda x: checkpoint(net, x, use_reentrant=True))(points)
    explained = explain(laplacian(net))
    with pytest.raises(AttributeError, match=r"^explain\(laplacian\(Linear\)\) is a function of the arguments of f, "):
        _ = explained.plan
    with pytest.raises(ArgumentError, match="^module is scripted"):
        make_functional(torch.jit.trace(net, points))

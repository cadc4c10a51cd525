"""Combinations of derivatives in an equation: one row for a sum, and never another result than with tensors."""

from __future__ import annotations

import copy
import operator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from partial_truth import ACTIVATIONS, all_indices, close, network, truth
from torch import nn

from jacfunc import (
    Derivatives,
    PrecisionWarning,
    UnsupportedOperationError,
    explain,
    laplacian,
    make_functional,
    partials,
    residual,
)
from jacfunc.multiindices import MultiIndices, Sum
from jacfunc.readings import UnreadError

COORDINATES = "txy"
ALL = "u u_t u_x u_tt u_tx u_xx u_xxx u_xxxx"


def written(index, output="u"):
    subscript = "".join(name * count for name, count in zip(COORDINATES, index, strict=False))
    return f"{output}_{subscript}" if subscript else output


def setting(outputs=1, dims=2, activation="tanh"):
    f, params = make_functional(network(activation, dims, outputs))
    return f, params, torch.randn(5, dims, dtype=torch.double)


# -------------------------------------------------------------------- which rows there are


T, X, XX, XXXX = (1, 0), (0, 1), (0, 2), (0, 4)


def test_what_is_needed_only_in_a_sum_has_one_row():
    kuramoto = ((T, 1.0), (XX, 1.0), (XXXX, 1.0))
    found = MultiIndices.around([(0, 0), X], [kuramoto])
    assert found.indices == ((0, 1), (0, 2), (0, 3))
    assert found.sums == (Sum(((XXXX, 1.0), (T, 1.0))),)
    assert found.made_of(kuramoto) == ((XX, 1.0), (found.sums[0], 1.0))
    assert found.starts == ((4, ((1 / 24, 0.0),)),)
    assert found.separate == MultiIndices.around([(0, 0), X, T, XX, XXXX])


def test_sums_in_proportion_have_one_row():
    momentum = (((1, 0, 0), 1.0), ((0, 2, 0), -0.3), ((0, 0, 2), -0.3))
    again = tuple((index, 2 * coefficient) for index, coefficient in momentum)
    found = MultiIndices.around([(0, 1, 0), (0, 0, 1)], [momentum, again])
    assert found.rows == 3
    assert [made[0][0] for made in map(found.made_of, (momentum, again))] == [*found.sums, *found.sums]


@pytest.mark.parametrize(
    ("wanted", "combined"),
    [
        ([T, XX], [((T, 1.0), (XX, 1.0))]),
        ([], [((T, 1.0), (XX, 1.0)), ((T, 1.0), (XX, 2.0))]),
        ([], [((X, 1.0), (XX, 1.0))]),
        ([XXXX], [((XX, 1.0), (T, 1.0))]),
    ],
)
def test_a_sum_that_saves_no_row_has_none(wanted, combined):
    found = MultiIndices.around(wanted, combined)
    assert not found.sums
    assert found == found.separate
    assert found.wanted == {*wanted, *(index for terms in combined for index, _ in terms)}


def test_parts_and_other_routes_have_every_derivative():
    combined = [((T, 1.0), (XX, -0.1))]
    found = MultiIndices.around([X], combined)
    assert found.parts(found.rows) == (found,)
    assert set().union(*(part.wanted for part in found.parts(1))) == {X, T, XX}


# -------------------------------------------------------------------- values and gradients


def equation_of(terms, factor=1.0):
    """``u u_x`` and a combination."""
    return lambda d: d.u * d[written((0, 1))] + factor * sum(number * d[written(index)] for index, number in terms)


def check(activation, dims, terms, method="auto", out=None):
    f, params, x = setting(dims=dims, activation=activation)
    found = residual(f, equation_of(terms), inputs=" ".join(COORDINATES[:dims]), outputs="u", method=method)
    by_hand = x.clone().requires_grad_()
    known = truth(f(params, by_hand)[:, 0], by_hand, all_indices(dims, 4))
    parts = [number * known[index] for index, number in terms]
    want = known[(0,) * dims] * known[(0, 1, 0)[:dims]] + sum(parts)
    size = max(part.detach().abs().max() for part in (*parts, want))
    weights = torch.randn(5, dtype=torch.double)
    for _ in range(2):
        got = found(params, x)
        assert (got - want).abs().max() <= 1e-9 * size
    pair = [
        torch.autograd.grad((weights * each).sum(), list(params.values()), retain_graph=True, allow_unused=True)
        for each in (got, want)
    ]
    for one, other in zip(*pair, strict=True):
        if other is not None:
            close(one, other, 1e-8)


@st.composite
def combinations(draw):
    dims = draw(st.integers(2, 3))
    indices = [index for index in all_indices(dims, 4) if any(index)]
    chosen = draw(st.lists(st.sampled_from(indices), min_size=2, max_size=6, unique=True))
    numbers = draw(st.lists(st.sampled_from([1.0, -1.0, 0.1, 2.5, -30.0]), min_size=len(chosen), max_size=len(chosen)))
    return dims, list(zip(chosen, numbers, strict=True))


@settings(max_examples=60, deadline=None)
@given(combinations(), st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from(["auto", "auto", "reverse"]))
def test_any_combination_is_that_of_nested_reverse_mode(combination, activation, method):
    dims, terms = combination
    check(activation, dims, terms, method)


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize(
    "terms",
    [
        [((1, 0), 1.0), ((0, 2), 1.0), ((0, 4), 1.0)],
        [((2, 0), 1.0), ((0, 2), -4.0)],
        [((4, 0), 1.0), ((2, 2), 2.0), ((0, 4), 1.0)],
        [((1, 0), 1.0), ((0, 3), 6.0)],
    ],
    ids=["kuramoto-sivashinsky", "wave", "plate", "korteweg-de-vries"],
)
def test_equations_by_every_route(terms, activation, method):
    check(activation, 2, terms, method)


def test_a_laplacian_by_names_is_one_row():
    names = "abcdefghij"
    net = network("tanh", 10, 1)
    x = torch.randn(4, 10, dtype=torch.double)
    poisson = residual(net, lambda d: sum(d[f"u_{n}{n}"] for n in names) - 1.0, inputs=" ".join(names), outputs="u")
    close(poisson(x), laplacian(net)(x)[:, 0] - 1)
    assert explain(poisson)(x).plan.rows == 11


@pytest.mark.parametrize("first", [False, True])
def test_a_laplacian_after_a_narrow_layer(first):
    """Whose sum of second derivatives could begin anew, where no first ones are needed."""
    names = "abcdefgh"
    net = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(4, 8, dtype=torch.double)
    equation = lambda d: sum(d[f"u_{n}{n}"] for n in names) + (d.u_b**2 if first else 0)
    found = residual(net, equation, inputs=" ".join(names), outputs="u")
    want = laplacian(net)(x)[:, 0]
    if first:
        want = want + partials(net, "u_b", inputs=" ".join(names), outputs="u")(x).u_b ** 2
    close(found(x), want)


def test_separate_coordinates_and_several_outputs():
    net = network("silu", 3, 3)
    t, x, y = torch.randn(3, 6, dtype=torch.double)
    f = lambda t, x, y: net(torch.stack([t, x, y], 1))

    def navier_stokes(d):
        return (
            d.u_t + d.u * d.u_x + d.v * d.u_y + d.p_x - 0.1 * (d.u_xx + d.u_yy),
            d.v_t + d.u * d.v_x + d.v * d.v_y + d.p_y - 0.1 * (d.v_xx + d.v_yy),
            d.u_x + d.v_y,
        )

    found = residual(f, navier_stokes, inputs="t x y", outputs="u v p")
    names = "u v p u_t u_x u_y u_xx u_yy v_t v_x v_y v_xx v_yy p_x p_y"
    d = partials(f, names, inputs="t x y", outputs="u v p")(t, x, y)
    for got, want in zip(found(t, x, y), navier_stokes(d), strict=True):
        close(got, want)
    assert explain(found)(t, x, y).plan.rows == 3


def test_points_that_functions_share():
    branch, trunk = nn.Linear(6, 10).double(), network("tanh", 2, 10)
    f = lambda sensors, tx: torch.einsum("fk,pk->fp", branch(sensors), trunk(tx))[..., None]
    sensors, tx = torch.rand(7, 6, dtype=torch.double), torch.rand(5, 2, dtype=torch.double)
    heat = residual(f, lambda d: d.u_t - 0.1 * d.u_xx, inputs="t x", outputs="u", out_dims=1)
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u", out_dims=1)(sensors, tx)
    close(heat(sensors, tx), d.u_t - 0.1 * d.u_xx)


def test_with_value_and_aux():
    net = network("tanh", 2, 1)
    f = lambda tx: (net(tx), tx.sum(1))
    tx = torch.randn(5, 2, dtype=torch.double)
    heat = residual(f, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u", has_aux=True, return_value=True)
    found, value, aux = heat(tx)
    d = partials(net, "u_t u_xx", inputs="t x", outputs="u")(tx)
    close(found, d.u_t - d.u_xx)
    assert torch.equal(value, net(tx))
    assert torch.equal(aux, tx.sum(1))


# -------------------------------------------------------------------- what an equation may do


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


MASK = torch.tensor([True, False, True, True, False])
COLUMN = torch.randn(5, dtype=torch.double)


def in_place(d):
    d.u_xx.mul_(3.0)
    return d.u_t - d.u_xx


def in_place_by_a_view(d):
    d.u_xx.view(5).mul_(3.0)
    return d.u_t - d.u_xx


def in_place_by_torch(d):
    torch.nn.functional.relu_(d.u_xx)
    return d.u_t - d.u_xx


def into_itself(d):
    torch.add(d.u_t.detach(), 1.0, out=d.u_xx.detach())
    return d.u_t - d.u_xx


def item_assigned(d):
    d.u_xx[0] = 1.0
    return d.u_t - d.u_xx


def added_to(d):
    r = d.u_t
    r = r - d.u_xx
    r += d.u
    return r


def without_graph(d):
    with torch.no_grad():
        weight = 1 / (1 + d.u_xx.abs())
    return weight * (d.u_t - d.u_xx)


def careful(d):
    if not isinstance(d.u_t, torch.Tensor):
        return d.u
    return d.u_t - d.u_xx


EQUATIONS = {
    "linear": lambda d: d.u_t - 0.1 * d.u_xx + d.u_x / 2 - (-d.u_tt) + (+d.u_tx) * 2,
    "numbers": lambda d: 1 - d.u_t + 2.0 + d.u_xx - 3,
    "numpy": lambda d: np.float64(0.5) * d.u_t - d.u_xx * np.float32(2),
    "array": lambda d: d.u_t - d.u_xx * torch.as_tensor(np.asarray(d.u_t.detach())),
    "tensors": lambda d: d.x * d.u - d.u_t + d.u - d.u_xx * d.t,
    "integers": lambda d: d.u_t - d.u_xx - torch.arange(5, dtype=torch.uint8),
    "booleans": lambda d: d.u_t * True + d.u_xx * MASK,
    "zero": lambda d: d.u_t - 0.0 * d.u_xx,
    "infinite": lambda d: d.u_t - d.u_xx * float("inf"),
    "cancels": lambda d: d.u_t + d.u_xx - d.u_t,
    "sum": lambda d: sum([d.u_t, d.u_xx, d.u]),
    "functions": lambda d: torch.add(d.u_t, torch.mul(d.u_xx, 2.0)) - torch.sub(d.u, d.u_tt) + torch.div(d.u_x, 3),
    "alpha": lambda d: torch.add(d.u_t, d.u_xx, alpha=3) + torch.rsub(d.u, d.u_tt),
    "methods": lambda d: d.u_t.add(d.u_xx).mul(2).sub(d.u).div(3) + d.u.add(d.u_t),
    "powers": lambda d: d.u_t**2 - 2.0 ** (0.1 * d.u_xx) + (d.u_x - d.u_tt) ** 2,
    "quotients": lambda d: 1 / (2 + d.u_t**2) + d.u / (3 + d.u_xx.abs()) + d.u_tt / (d.u**2 + 1),
    "remainders": lambda d: d.u_t % 0.3 + (1.0 % d.u_xx).detach() + (d.u_t // 0.5).detach() + (2.0 // d.u_xx).detach(),
    "stacked": lambda d: torch.stack([d.u_t, d.u_xx]).sum(0),
    "joined": lambda d: torch.cat((d.u_t[:, None], d.u_xx[:, None]), dim=1).prod(1),
    "where": lambda d: torch.where(d.u_t > 0, d.u_t, d.u_xx) + torch.where(d.u_xx <= d.u_t, 0.5, d.u),
    "compared": lambda d: (d.u_t < d.u_xx) * d.u + (d.u_t >= 0) * d.u + (d.u_t == d.u_t) * 1.0 + (d.u_t != 0) * 1.0,
    "matrix": lambda d: d.u_t * (d.u_xx @ COLUMN) + (COLUMN @ d.u_xx),
    "indexed": lambda d: d.u_t[torch.arange(5)] - d.u_xx[..., :],
    "masked": lambda d: d.u_t - d.u_xx[MASK].sum(),
    "attributes": lambda d: d.u_t.reshape(d.u_t.shape) * d.u_xx.numel() + d.u_xx.square() + abs(d.u_t),
    "truth": lambda d: d.u_t - d.u_xx if (d.u_t * 0 == 0).all() and bool(d.u_xx.sum() * 0 == 0) else d.u,
    "length": lambda d: d.u_t / len(d.u_t) + d.u_xx,
    "iterated": lambda d: torch.stack(list(d.u_t)) + d.u_xx,
    "function": lambda d: Halved.apply(d.u_t) - d.u_xx,
    "function of a sum": lambda d: Halved.apply(d.u_t - d.u_xx),
    "mapped": lambda d: torch.func.vmap(lambda a, b: a * b)(d.u_t, d.u_xx),
    "checkpoint": lambda d: torch.utils.checkpoint.checkpoint(lambda a: a**2, d.u_t - d.u_xx, use_reentrant=False),
    "copied": lambda d: copy.copy(d.u_t.detach()) - d.u_xx,
    "unpacked": lambda d: operator.sub(*[d["u_t"], d["u_xx"]]),
    "caught": lambda d: d.u_t - d.u_xx,
    **{f.__name__: f for f in (in_place, in_place_by_a_view, in_place_by_torch, into_itself, item_assigned)},
    **{f.__name__: f for f in (added_to, without_graph, careful)},
}


@pytest.mark.parametrize("equation", EQUATIONS.values(), ids=EQUATIONS)
def test_an_equation_has_the_result_that_it_has_with_tensors(equation):
    f, params, tx = setting()
    wanted = partials(f, ALL, inputs="t x", outputs="u")
    found = residual(f, equation, inputs="t x", outputs="u")
    expected = equation(wanted(params, tx))
    for _ in range(3):
        got = found(params, tx)
        assert type(got) is torch.Tensor
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11, equal_nan=True)
        if expected.isfinite().all():
            pair = [
                torch.autograd.grad(each.sum(), list(params.values()), retain_graph=True, allow_unused=True)
                for each in (got, expected)
            ]
            for one, other in zip(*pair, strict=True):
                if other is not None and one is not None:
                    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)
                assert (one is None) == (other is None)


def test_a_reentrant_checkpoint():
    f, params, tx = setting()
    equation = lambda d: torch.utils.checkpoint.checkpoint(torch.square, d.u_t - d.u_xx, use_reentrant=True)
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    want = torch.autograd.grad((d.u_t - d.u_xx).square().sum(), list(params.values()), allow_unused=True)
    residual(f, equation, inputs="t x", outputs="u")(params, tx).sum().backward()
    for tensor, gradient in zip(params.values(), want, strict=True):
        assert gradient is None or close(tensor.grad, gradient) is None


def test_a_number_that_changes():
    f, params, tx = setting()
    nu = 0.1
    burgers = residual(f, lambda d: d.u_t - nu * d.u_xx, inputs="t x", outputs="u")
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    for nu in (0.1, 0.3, 0.2):
        close(burgers(params, tx), d.u_t - nu * d.u_xx)


def test_a_number_that_is_trained():
    f, params, tx = setting()
    nu = torch.tensor(0.1, dtype=torch.double, requires_grad=True)
    burgers = residual(f, lambda d: d.u_t - nu * d.u_xx, inputs="t x", outputs="u")
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    close(burgers(params, tx), d.u_t - nu * d.u_xx)
    (gradient,) = torch.autograd.grad(burgers(params, tx).sum(), nu)
    close(gradient, -d.u_xx.sum())


def test_another_branch():
    f, params, tx = setting()
    kind = 0

    def equation(d):
        return (d.u_t - d.u_xx, d.u_t * d.u_xx, d.u_xxx - d.u_t, d.u)[kind]

    found = residual(f, equation, inputs="t x", outputs="u")
    d = partials(f, "u u_t u_xx u_xxx", inputs="t x", outputs="u")(params, tx)
    for kind in (0, 1, 2, 3, 0):  # noqa: B007
        close(found(params, tx), equation(d))


def test_an_error_is_the_equations_own():
    f, params, tx = setting()
    wrong = False

    def equation(d):
        if wrong:
            raise KeyError("mine")
        return d.u_t - d.u_xx

    found = residual(f, equation, inputs="t x", outputs="u")
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    close(found(params, tx), d.u_t - d.u_xx)
    wrong = True
    with pytest.raises(KeyError, match="mine"):
        found(params, tx)
    wrong = False
    close(found(params, tx), d.u_t - d.u_xx)


def test_a_combination_is_gone_after_the_call():
    f, params, tx = setting()
    kept = []

    def equation(d):
        kept.append(d.u_xx)
        return d.u_t - d.u_xx

    residual(f, equation, inputs="t x", outputs="u")(params, tx)
    with pytest.raises(UnsupportedOperationError, match="u_xx had no value of its own after the equation"):
        kept[-1].mean()
    with pytest.raises(UnsupportedOperationError, match="a derivative is changed in place after the equation"):
        kept[-1].zero_()


def test_in_inference_mode_there_are_tensors():
    f, params, tx = setting()
    with torch.inference_mode():
        found = residual(f, in_place, inputs="t x", outputs="u")(params, tx)
        expected = in_place(partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx))
    close(found, expected)


def test_inside_transforms_of_torch():
    f, params, tx = setting()
    heat = residual(f, lambda d: d.u_t - 0.1 * d.u_xx, inputs="t x", outputs="u")
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")
    by_hand = lambda params, tx: d(params, tx).u_t - 0.1 * d(params, tx).u_xx
    detached = {name: tensor.detach() for name, tensor in params.items()}
    for _ in range(2):
        got, want = (torch.func.grad(lambda p, r=r: r(p, tx).square().sum())(detached) for r in (heat, by_hand))
        for name in detached:
            close(got[name], want[name])
        got, want = (torch.func.jacfwd(lambda x, r=r: r(detached, x))(tx) for r in (heat, by_hand))
        close(got, want)


@pytest.mark.parametrize("name", ["linear", "tensors", "powers", "functions", "where", "stacked", "numbers"])
def test_under_torch_compile(name):
    f, params, tx = setting()
    equation = EQUATIONS[name]
    found = residual(f, equation, inputs="t x", outputs="u")
    want = found(params, tx)
    compiled = torch.compile(lambda params, tx: found(params, tx), fullgraph=True)
    got = compiled(params, tx)
    close(got, want)
    pair = [torch.autograd.grad(each.sum(), list(params.values()), allow_unused=True) for each in (got, want)]
    for one, other in zip(*pair, strict=True):
        if other is not None:
            close(one, other)


def test_compiled_by_option():
    f, params, tx = setting()
    heat = residual(f, lambda d: d.u_t - 0.1 * d.u_xx, inputs="t x", outputs="u", compile=True)
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    for _ in range(2):
        close(heat(params, tx), d.u_t - 0.1 * d.u_xx)


@pytest.mark.parametrize("keyword", [{"chunk_size": 1}, {"sample_chunk_size": 2}, {"method": "reverse"}])
def test_with_keywords(keyword):
    f, params, tx = setting()
    heat = residual(f, lambda d: d.u_t - 0.1 * d.u_xx, inputs="t x", outputs="u", **keyword)
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    for _ in range(2):
        close(heat(params, tx), d.u_t - 0.1 * d.u_xx)


def test_an_order_beyond_the_dtype_is_warned_of():
    net = network("tanh", 2, 1).float()
    tall = residual(net, lambda d: d.u_t + d.u_xxxxxxxxxxxx, inputs="t x", outputs="u")
    with pytest.warns(PrecisionWarning, match="a derivative of order 12"):
        tall(torch.randn(3, 2))


def test_a_residual_around_another():
    f, params, tx = setting()
    inner = residual(f, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")
    outer = residual(f, lambda d: d.u_tt - d.u_xx + inner(params, tx), inputs="t x", outputs="u")
    d = partials(f, "u_t u_tt u_xx", inputs="t x", outputs="u")(params, tx)
    close(outer(params, tx), d.u_tt - d.u_xx + d.u_t - d.u_xx)
    assert issubclass(UnreadError, BaseException)
    assert isinstance(d, Derivatives)

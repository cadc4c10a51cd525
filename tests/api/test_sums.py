"""Sums of derivatives by name: as right as their terms, and one row where that saves any."""

from __future__ import annotations

import pytest
import torch
from backends import by_backend, compiling_by
from hypothesis import given, settings
from hypothesis import strategies as st
from partial_truth import ACTIVATIONS, all_indices, close, network, truth
from torch import nn

from jacfunc import NotationError, PrecisionWarning, explain, laplacian, make_functional, partials, residual
from jacfunc.api.notation import Variables
from jacfunc.jet.multiindices import MultiIndices, Sum

COORDINATES = "txy"


def written(index, output="u"):
    subscript = "".join(name * count for name, count in zip(COORDINATES, index, strict=False))
    return f"{output}_{subscript}" if subscript else output


def summed(terms):
    return "+".join(f"{number!r}*{written(index)}" for index, number in terms)


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
        ([], [((T, 1e200), (XX, 1e-200))]),
    ],
)
def test_a_sum_that_saves_no_row_or_digits_has_none(wanted, combined):
    found = MultiIndices.around(wanted, combined)
    assert not found.sums
    assert found.wanted == {*wanted, *(index for terms in combined for index, _ in terms)}
    assert {key for terms in combined for key, _ in found.made_of(terms)} <= found.wanted


def test_parts_and_other_routes_have_every_derivative():
    found = MultiIndices.around([X], [((T, 1.0), (XX, -0.1))])
    assert found.parts(found.rows) == (found,)
    assert set().union(*(part.wanted for part in found.parts(1))) == {X, T, XX}


def test_rows():
    f, params, tx = setting()
    for wanted, rows in [
        ("u u_x u_t-0.1*u_xx", 2),
        ("u u_x u_t+u_xx+u_xxxx", 4),
        ("u_tt-4*u_xx", 3),
        ("u_t+3*u_x", 1),
        ("u_xxxx+2*u_xxtt+u_tttt", 10),
        ("u_t-0.1*u_xx u_t", 3),
    ]:
        assert explain(partials(f, wanted, inputs="t x", outputs="u"))(params, tx).plan.rows == rows


# -------------------------------------------------------------------- values and gradients


def check(activation, dims, terms, method="auto"):
    f, params, x = setting(dims=dims, activation=activation)
    compute = partials(f, f"u, u_x, {summed(terms)}", inputs=" ".join(COORDINATES[:dims]), outputs="u", method=method)
    by_hand = x.clone().requires_grad_()
    known = truth(f(params, by_hand)[:, 0], by_hand, all_indices(dims, 4))
    parts = [number * known[index] for index, number in terms]
    u, u_x = known[(0,) * dims], known[(0, 1, 0)[:dims]]
    size = max(part.detach().abs().max() for part in parts)
    weights = torch.randn(5, dtype=torch.double)
    for _ in range(2):
        got = compute(params, x)
        assert (got[summed(terms)] - sum(parts)).abs().max() <= 1e-9 * size
        close(got.u_x, u_x)
    pair = [
        torch.autograd.grad((weights * (a + b * c)).sum(), list(params.values()), allow_unused=True)
        for a, b, c in ((got[summed(terms)], got.u, got.u_x), (sum(parts), u, u_x))
    ]
    for one, other in zip(*pair, strict=True):
        if other is not None:
            close(one, other, 1e-8)


@st.composite
def combinations(state):
    dims = state(st.integers(2, 3))
    indices = all_indices(dims, 4)
    chosen = state(st.lists(st.sampled_from(indices), min_size=2, max_size=6, unique=True))
    numbers = state(
        st.lists(st.sampled_from([1.0, -1.0, 0.1, 2.5, -30.0, 1e-9]), min_size=len(chosen), max_size=len(chosen))
    )
    return dims, list(zip(chosen, numbers, strict=True))


@settings(max_examples=40, deadline=None)
@given(combinations(), st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from(["auto", "auto", "reverse"]))
def test_any_sum_is_that_of_nested_reverse_mode(combination, activation, method):
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
        [((2, 0), 1.0), ((0, 2), 1.0), ((0, 0), 9.0)],
    ],
    ids=["kuramoto-sivashinsky", "wave", "plate", "korteweg-de-vries", "helmholtz"],
)
def test_equations_by_every_route(terms, activation, method):
    check(activation, 2, terms, method)


def test_a_laplacian_by_names_is_one_row():
    names = "abcdefghij"
    net = network("tanh", 10, 1)
    x = torch.randn(4, 10, dtype=torch.double)
    poisson = partials(net, "+".join(f"u_{n}{n}" for n in names), inputs=" ".join(names), outputs="u")
    close(next(iter(poisson(x))), laplacian(net)(x)[:, 0])
    assert explain(poisson)(x).plan.rows == 11


@pytest.mark.parametrize("also", ["", " u_b"])
def test_a_laplacian_after_a_narrow_layer(also):
    """Whose sum of second derivatives could begin anew, where no first ones are needed."""
    names = "abcdefgh"
    net = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(4, 8, dtype=torch.double)
    wanted = "+".join(f"u_{n}{n}" for n in names)
    d = partials(net, wanted + also, inputs=" ".join(names), outputs="u")(x)
    close(d[wanted], laplacian(net)(x)[:, 0])
    if also:
        close(d.u_b, partials(net, "u_b", inputs=" ".join(names), outputs="u")(x).u_b)


def test_separate_coordinates_and_several_outputs():
    net = network("silu", 3, 3)
    t, x, y = torch.randn(3, 6, dtype=torch.double)
    f = lambda t, x, y: net(torch.stack([t, x, y], 1))
    wanted = "u_t + p_x - 0.1*u_xx - 0.1*u_yy, v_t + p_y - 0.1*v_xx - 0.1*v_yy, u_x + v_y, 2*p, u_x"
    compute = partials(f, wanted, inputs="t x y", outputs="u v p")
    names = "p u_t u_x u_xx u_yy v_t v_y v_xx v_yy p_x p_y"
    d = partials(f, names, inputs="t x y", outputs="u v p")(t, x, y)
    one, two, divergence, twice, u_x = compute(t, x, y)
    close(one, d.u_t + d.p_x - 0.1 * (d.u_xx + d.u_yy))
    close(two, d.v_t + d.p_y - 0.1 * (d.v_xx + d.v_yy))
    close(divergence, d.u_x + d.v_y)
    close(twice, 2 * d.p)
    close(u_x, d.u_x)
    assert explain(compute)(t, x, y).plan.rows == 3


def test_points_that_functions_share():
    branch, trunk = nn.Linear(6, 10).double(), network("tanh", 2, 10)
    f = lambda sensors, tx: torch.einsum("fk,pk->fp", branch(sensors), trunk(tx))[..., None]
    sensors, tx = torch.rand(7, 6, dtype=torch.double), torch.rand(5, 2, dtype=torch.double)
    (heat,) = partials(f, "u_t-0.1*u_xx", inputs="t x", outputs="u", out_dims=1)(sensors, tx)
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u", out_dims=1)(sensors, tx)
    close(heat, d.u_t - 0.1 * d.u_xx)


@pytest.mark.parametrize("keyword", [{"chunk_size": 1}, {"sample_chunk_size": 2}, {"return_value": True}])
def test_with_keywords(keyword):
    f, params, tx = setting()
    found = partials(f, "u_t-0.1*u_xx", inputs="t x", outputs="u", **keyword)(params, tx)
    found = found[0] if "return_value" in keyword else found
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    close(found["u_t-0.1*u_xx"], d.u_t - 0.1 * d.u_xx)


def test_half_precision_has_no_room_for_sums():
    f, params, _ = setting()
    params = {name: tensor.half() for name, tensor in params.items()}
    tx = torch.rand(5, 2).half()
    compute = partials(f, "u_t-1e-4*u_xx", inputs="t x", outputs="u")
    assert explain(compute)(params, tx).plan.rows == 3
    (found,) = compute(params, tx)
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    torch.testing.assert_close(found, d.u_t - 1e-4 * d.u_xx)


def test_inside_transforms_of_torch():
    f, params, tx = setting()
    detached = {name: tensor.detach() for name, tensor in params.items()}
    heat = partials(f, "u_t-0.1*u_xx", inputs="t x", outputs="u")
    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")
    one = lambda params, tx: next(iter(heat(params, tx)))
    other = lambda params, tx: d(params, tx).u_t - 0.1 * d(params, tx).u_xx
    for _ in range(2):
        got, want = (torch.func.grad(lambda p, r=r: r(p, tx).square().sum())(detached) for r in (one, other))
        for name in detached:
            close(got[name], want[name])
        close(*(torch.func.jacfwd(lambda x, r=r: r(detached, x))(tx) for r in (one, other)))


SLOWLY = [
    pytest.param(w, marks=pytest.mark.slow)
    for w in ("u_t-0.1*u_xx", "u_xxxx+2*u_xxtt+u_tttt", "u_t+3*u_x", "u_xx+u_t+u")
]


@pytest.mark.parametrize("wanted", ["u_tt-4*u_xx u_x", *SLOWLY])
@by_backend("aot_eager")
def test_under_torch_compile(wanted, backend):
    f, params, tx = setting()
    found = partials(f, wanted, inputs="t x", outputs="u")
    want = tuple(found(params, tx))
    gradients = torch.autograd.grad(sum(want).sum(), list(params.values()), allow_unused=True)
    # Reset, or torch 2.11 takes sizes of tables that differ for dynamic, since the code below is the same.
    with compiling_by(backend):
        results = (
            torch.compile(lambda params, tx: tuple(found(params, tx)), fullgraph=True)(params, tx),
            tuple(partials(f, wanted, inputs="t x", outputs="u", compile=True)(params, tx)),
        )
    for got in results:
        for one, other in zip(got, want, strict=True):
            close(one, other)
        compiled = torch.autograd.grad(sum(got).sum(), list(params.values()), allow_unused=True)
        for one, other in zip(compiled, gradients, strict=True):
            if other is not None:
                close(one, other)


# -------------------------------------------------------------------- how they are written


def test_a_residual_reads_sums():
    f, params, tx = setting()
    nu = 0.1
    burgers = residual(f, lambda d: d[f"u_t - {nu}*u_xx"] + d.u * d.u_x, inputs="t x", outputs="u")
    d = partials(f, "u u_t u_x u_xx", inputs="t x", outputs="u")(params, tx)
    for _ in range(2):
        close(burgers(params, tx), d.u_t - nu * d.u_xx + d.u * d.u_x)
    assert burgers.names == ("u_t-0.1*u_xx", "u", "u_x")
    assert explain(burgers)(params, tx).plan.rows == 2
    with pytest.raises(NotationError, match="'u_x x' has the subscript 'x x'"):
        residual(f, lambda d: d["u_x x"], inputs="t x", outputs="u")(params, tx)
    negative = residual(f, lambda d: d.u + d["-u_x"], inputs="t x", outputs="u")
    close(negative(params, tx), d.u - d.u_x)


@pytest.mark.parametrize(
    ("token", "parts"),
    [
        ("u_t+u_xx", ((0, ((T, 1.0), (XX, 1.0))),)),
        ("u_t - 1e-3*u_xx", ((0, ((T, 1.0), (XX, -1e-3))),)),
        ("-u_t--.5 * u_xx", ((0, ((T, -1.0), (XX, 0.5))),)),
        ("2.*u_t+-3E+2*u_xx", ((0, ((T, 2.0), (XX, -300.0))),)),
        ("u_t+u_t", ((0, ((T, 2.0),)),)),
        ("u_t-u_t+p", ((1, (((0, 0), 1.0),)),)),
        ("u_t-0*u_xx", ((0, ((T, 1.0),)),)),
        ("p_x+u_t-u", ((1, ((X, 1.0),)), (0, ((T, 1.0), ((0, 0), -1.0))))),
    ],
)
def test_readings(token, parts):
    assert Variables.of("t x", "u p").name(token).parts == parts


def test_where_sums_end():
    names = Variables.of("t x", "u").names("u, u_t - 0.5* u_xx u_x +u_t,-u_x")
    assert [name.written for name in names] == ["u", "u_t-0.5*u_xx", "u_x+u_t", "-u_x"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            "u u_t-0.1u_xx",
            r"'0.1u_xx' begins with a number; between a number and a name is \*.*\n    u u_t-0.1u_xx\n          \^{7}$",
        ),
        ("u_t*u_x", r"'\*u_x' is no term of the sum 'u_t\*u_x'; write names, each.*\n    u_t\*u_x\n       \^{4}$"),
        ("u_t-", r"'-' is no term of the sum 'u_t-'"),
        ("u_t-0.1*", r"'0.1' begins with a number.*\n    u_t-0.1\*\n        \^{3}$"),
        ("u_t-0.1", r"'0.1' begins with a number.*by itself is added in Python"),
        ("u_t-tensor(0.1)*u_xx", r"'tensor\(0.1\)' is no name; a sum has plain numbers"),
        ("1e308*u+1e308*u", r"numbers of '1e308\*u\+1e308\*u' add up to infinity"),
        ("u_t+u_z", r"'u_z' has the subscript 'z'.*\n    u_t\+u_z\n        \^{3}$"),
        ("u_t-u_t", r"'u_t-u_t' is zero; leave it out\n    u_t-u_t\n    \^{7}$"),
        ("u 1e999*u_t", r"1e999 is larger than any number.*\n    u 1e999\*u_t\n      \^{5}$"),
        ("u_t-nan*u_x", r"'nan' names no output"),
        ("u_t-u_x u_t - u_x", r"'u_t - u_x' is asked for twice"),
        ("t+u_x", r"'t' is an input"),
    ],
)
def test_other_sums_are_refused(wanted, message):
    with pytest.raises(NotationError, match=f"(?s){message}"):
        Variables.of("t x", "u").names(wanted)


def test_an_order_beyond_the_dtype_is_warned_of():
    net = network("tanh", 2, 1).bfloat16()
    with pytest.warns(PrecisionWarning, match="a derivative of order 3"):
        partials(net, "u_t+u_xxx", inputs="t x", outputs="u")(torch.randn(3, 2).bfloat16())

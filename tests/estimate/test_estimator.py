"""``jacfunc/estimate/estimator.py``: what an estimate is, how its probes are drawn, and what it refuses."""

from __future__ import annotations

import inspect
import math
import re

import optree
import pytest
import torch
from draws import SEED
from ranks import on_ranks
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    ShapeError,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    divergence,
    estimate,
    explain,
    laplacian,
    make_functional,
)
from jacfunc.estimate import estimator as room

ALL = ("divergence", "laplacian", "diag_jac", "hess_diag")
SIZE = 6


def network(outputs: int = SIZE) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def points(count: int = 7) -> torch.Tensor:
    return torch.randn(count, SIZE, dtype=torch.float64, generator=generator())


def of(name: str) -> nn.Module:
    return network(SIZE if name in ("divergence", "diag_jac") else 1)


# -------------------------------------------------------------------- what it is


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("name", ["divergence", "laplacian"])
def test_by_fixed_probes_it_is_a_contraction_of_the_dense_matrix(name, method):
    x = points()
    probes = estimate.draw(x, 3, generator=generator())
    found = getattr(estimate, name)(of(name), fixed=probes, method=method)(x)
    if name == "divergence":
        matrix = batch_jac(of(name))(x)
    else:
        matrix = torch.stack([torch.autograd.functional.hessian(lambda x: of(name)(x).sum(), one) for one in x])
    terms = torch.einsum("npi,nij,npj->np", probes, matrix, probes)
    assert torch.allclose(found.estimate.reshape(-1), terms.mean(1))
    assert torch.allclose(found.standard_error.reshape(-1), terms.std(1) / math.sqrt(3))
    assert found.probes == 3 and not found.standard_error.requires_grad


def test_half_of_them_are_within_the_standard_error_and_more():
    """Of independent probes, 30 or more, 68 of a hundred errors are within one standard error."""
    x, net = points(1).expand(3000, SIZE), network()
    with torch.no_grad():
        exact = divergence(net)(x[:1])
        for probe in ("rademacher", "gaussian", "sphere", "coordinate"):
            found = estimate.divergence(net, probes=32, probe=probe, generator=generator())(x)
            inside = ((found.estimate - exact).abs() < found.standard_error).double().mean()
            assert 0.64 < inside < 0.72, probe


def test_of_many_numbers():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator())
    f = lambda x: x**3 + x.roll(1, -1)
    found = estimate.diag_jac(f, probes=2, generator=generator())(x)
    assert found.estimate.shape == x.shape
    one = estimate.divergence(f, probes=2, batch_dims=2, generator=generator())(x)
    assert one.estimate.shape == (2, 3)
    alone = estimate.divergence(f, probes=2, batch_dims=0, generator=generator())(x)
    assert alone.estimate.shape == ()


def test_samples_of_one_number():
    found = estimate.divergence(torch.sin, probes=3)(torch.ones(4))
    assert torch.allclose(found.estimate, torch.ones(4).cos())


def test_no_samples():
    found = estimate.divergence(network(), probes=3)(points()[:0])
    assert found.estimate.shape == (0,)


def test_value_and_aux_come_after():
    def f(x):
        return x**2, {"sum": x.sum()}

    x = points()
    found, value, aux = estimate.divergence(f, probes=2, return_value=True, has_aux=True)(x)
    assert torch.equal(value, x**2) and torch.allclose(found.estimate, 2 * x.sum(1)) and aux["sum"] == x.sum()
    for estimator in ("hutch++", "xtrace"):
        found, value = estimate.divergence(network(), probes=4, estimator=estimator, return_value=True)(x)
        assert torch.allclose(value, network()(x)) and value.requires_grad
    found, aux = estimate.hess_diag(lambda x: ((x**3).sum(1), x[0]), probes=2, has_aux=True)(x)
    assert torch.allclose(found.estimate, 6 * x) and torch.equal(aux, x[0])


def test_other_numbers_of_arguments():
    """The last one is another argument then."""
    f = lambda x, y=None: torch.tanh(x) if y is None else torch.tanh(y) * x
    x, made = points(), estimate.divergence(f, probes=1)
    few = divergence(f, coordinates=torch.arange(SIZE))
    for args, exact in (((x,), 1 - torch.tanh(x) ** 2), ((x, 2 * x), x * (1 - torch.tanh(2 * x) ** 2))):
        assert torch.allclose(made(*args).estimate, exact.sum(1)) and torch.allclose(few(*args), exact.sum(1))


def test_parameters_get_gradients():
    f, params = make_functional(network())
    x = points()
    probes = estimate.draw(x, 4, generator=generator())
    estimate.divergence(f, fixed=probes)(params, x).estimate.sum().backward()
    found = [each.grad.clone() for each in params.values() if each.grad is not None]
    terms = torch.einsum("npi,nij,npj->np", probes, batch_jac(f)(params, x), probes).mean(1)
    expected = torch.autograd.grad(terms.sum(), [each for each in params.values() if each.grad is not None])
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_it_is_a_tree():
    found = estimate.Estimate(torch.ones(2), torch.zeros(2), 5)
    doubled = optree.tree_map(lambda leaf: 2 * leaf, found, namespace="jacfunc")
    assert doubled.probes == 5 and torch.equal(doubled.estimate, 2 * torch.ones(2))
    mapped = torch.func.vmap(lambda e: e)(found)
    assert mapped.probes == 5


# -------------------------------------------------------------------- the same probes


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_same_probes_whatever_the_blocks(name):
    x = points()
    whole = getattr(estimate, name)(of(name), probes=4, generator=generator())(x)
    blocks = getattr(estimate, name)(of(name), probes=4, generator=generator(), sample_chunk_size=3)(x)
    rows = getattr(estimate, name)(of(name), probes=4, generator=generator(), chunk_size=1)(x)
    for other in (blocks, rows):
        assert torch.allclose(whole.estimate, other.estimate) and torch.allclose(
            whole.standard_error, other.standard_error
        )


def test_blocks_with_parameters():
    f, params = make_functional(network())
    x = points()
    own = {"probes": 6, "estimator": "xdiag", "probe": "gaussian"}
    found = estimate.diag_jac(f, generator=generator(), sample_chunk_size=2, **own)(params, x)
    whole = estimate.diag_jac(f, generator=generator(), **own)(params, x)
    assert torch.allclose(found.estimate, whole.estimate)


def on_two_ranks(rank: int) -> list[float]:
    mesh, told = init_device_mesh("cpu", (2,)), []
    for name in ALL:
        for estimator in ("hutchinson", "hutch++"):
            own = {"probes": 4, "estimator": estimator}
            one = getattr(estimate, name)(of(name), generator=generator(), **own)(points())
            torch.manual_seed(rank)
            x = distribute_tensor(points(), mesh, [Shard(0)])
            two = getattr(estimate, name)(of(name), generator=generator(), **own)(x)
            told.append(float((one.estimate - two.estimate.full_tensor()).abs().max()))
            told.append(float((one.standard_error - two.standard_error.full_tensor()).abs().max()))
    first, second = estimate.laplacian(of("laplacian"), probes=4, squared_residual=True, generator=generator())(x)
    alone = estimate.laplacian(of("laplacian"), probes=4, squared_residual=True, generator=generator())(points())
    told += [
        float((a.estimate - b.estimate.full_tensor()).abs().max()) for a, b in zip(alone, (first, second), strict=True)
    ]
    return told


def test_samples_have_the_same_probes_whatever_the_ranks():
    for told in on_ranks(on_two_ranks):
        assert max(told) < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_many_probes_are_drawn_in_parts(name, monkeypatch):
    x, f = points(), of(name)
    whole = getattr(estimate, name)(f, probes=11, generator=generator(), return_value=name != "hess_diag")(x)
    monkeypatch.setattr(room, "LARGEST", 4 * x.numel())
    seen = []
    usual = room.drawn
    monkeypatch.setattr(room, "drawn", lambda *given: seen.append(given[3]) or usual(*given))
    parts = getattr(estimate, name)(f, probes=11, generator=generator(), return_value=name != "hess_diag")(x)
    assert seen == [4, 4, 3]
    drawn = [estimate.draw(x, count, generator=own) for own in [generator()] for count in seen]
    alone = getattr(estimate, name)(f, fixed=torch.cat(drawn, 1))(x)
    if name != "hess_diag":
        (parts, value), (whole, _) = parts, whole
        assert torch.allclose(value, f(x))
    assert parts.probes == 11 and not torch.equal(parts.estimate, whole.estimate)
    assert torch.allclose(parts.estimate, alone.estimate) and torch.allclose(parts.standard_error, alone.standard_error)
    assert not parts.standard_error.requires_grad and parts.estimate.requires_grad


def test_a_bar_shows_the_probes(monkeypatch, capfd):
    monkeypatch.setattr(room, "LARGEST", 2 * points().numel())
    estimate.divergence(network(), probes=6, progress=True)(points())
    assert "probes" in capfd.readouterr().err
    with pytest.raises(ArgumentTypeError, match="progress=1 is not a bool"):
        estimate.divergence(network(), probes=6, progress=1)


def test_fixed_probes_are_the_same_at_every_call():
    x = points()
    made = estimate.divergence(network(), fixed=estimate.draw(x, 2))
    assert torch.equal(made(x).estimate, made(x).estimate)
    drawn = estimate.divergence(network(), probes=2)
    assert not torch.equal(drawn(x).estimate, drawn(x).estimate)


def test_torchs_own_generator_is_used_without_another():
    made, x = estimate.divergence(network(), probes=2), points()
    torch.manual_seed(3)
    first = made(x).estimate
    torch.manual_seed(3)
    assert torch.equal(first, made(x).estimate)
    state = torch.get_rng_state()
    estimate.divergence(network(), probes=2, generator=generator())(x)
    assert torch.equal(state, torch.get_rng_state())


def test_two_estimates_are_of_different_probes():
    first, second = estimate.divergence(network(), probes=3, squared_residual=True)(points())
    assert not torch.equal(first.estimate, second.estimate) and first.probes == second.probes == 3


def test_blocks_beside_what_carries_no_samples():
    f = lambda y, t: network()(y) * t
    x, t = points(), torch.tensor(0.2, dtype=torch.float64)
    whole = estimate.divergence(f, argnums=0, probes=2, generator=generator())(x, t)
    blocks = estimate.divergence(f, argnums=0, probes=2, generator=generator(), sample_chunk_size=4)(x, t)
    assert torch.allclose(whole.estimate, blocks.estimate)
    with pytest.raises(ArgumentError, match=re.escape("args[1] has tensors, and whether they carry samples is not")):
        estimate.divergence(f, argnums=0, probes=2, sample_chunk_size=4)(x, t.expand(7, 1))
    with pytest.raises(ArgumentError, match="has 3 entries for 2 positional arguments"):
        estimate.divergence(f, argnums=0, probes=2, sample_chunk_size=4, in_dims=(0, 0, 0))(x, t.expand(7, 1))
    told = estimate.divergence(f, argnums=0, probes=2, generator=generator(), sample_chunk_size=4, in_dims=(0, 0))
    assert torch.allclose(told(x, t.expand(7, 1)).estimate, whole.estimate)


def test_an_estimate_taken_for_a_tensor():
    found = estimate.divergence(network(), probes=2)(points())
    with pytest.raises(AttributeError, match=re.escape("the tensor is its .estimate")):
        found.mean()
    with pytest.raises(AttributeError, match="no attribute 'value'$"):
        found.value  # noqa: B018
    with pytest.raises(ArgumentTypeError, match="which the functions of jacfunc.estimate have"):
        divergence(network(), probes=3)


# -------------------------------------------------------------------- a tolerance


def test_a_tolerance_is_reached():
    found = estimate.divergence(network(), tolerance=0.05, generator=generator())(points())
    assert found.probes > 10
    assert found.standard_error.max() < 0.075


def test_a_pilot_is_not_part_of_the_estimate():
    """Its probes are drawn before, so others are used: stopping at a good moment would be biased."""
    x, own = points(), generator()
    found = estimate.divergence(network(), tolerance=0.05, generator=own)(x)
    again = generator()
    estimate.draw(x, 10, generator=again)
    expected = estimate.divergence(network(), probes=found.probes, generator=again)(x)
    assert torch.equal(found.estimate, expected.estimate)


def test_a_tolerance_that_cannot_be_met_says_how_far_it_got():
    message = r"tolerance=1e-06 takes about .* probes by a pilot of 10, and max_probes=100 reaches .* of about 0\.\d+"
    with pytest.raises(ArgumentError, match=message):
        estimate.divergence(network(), tolerance=1e-6, max_probes=100)(points())
    with pytest.raises(ArgumentError, match="max_probes=1 reaches"):
        estimate.divergence(network(), tolerance=1e-6, max_probes=1)(points())


def test_what_does_not_vary_needs_no_more_than_two():
    assert estimate.divergence(lambda x: x**2, tolerance=1e-9)(points()).probes == 2


# -------------------------------------------------------------------- around it


def test_compiled():
    f, params = make_functional(network())
    x = points()
    compiled = estimate.laplacian(f, probes=2, generator=generator(), compile=True)
    eager = estimate.laplacian(f, probes=2, generator=generator())
    for _ in range(2):
        one, other = compiled(params, x), eager(params, x)
        assert torch.allclose(one.estimate, other.estimate) and torch.allclose(one.standard_error, other.standard_error)


def test_around_it_torch_compile_leaves_it_eager():
    whole = torch.compile(estimate.divergence(network(), probes=2), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="call it outside, with compile=True"):
        whole(points())
    x, made = points(), estimate.divergence(network(), probes=2, generator=generator())
    expected = made(x).estimate
    made.generator.manual_seed(SEED)
    found = torch.compile(lambda x: made(2 * x / 2).estimate, backend="eager")(x)
    torch.testing.assert_close(found, expected)


def test_inside_of_vmap():
    x = torch.stack([points(), points()])
    with pytest.raises(UnsupportedOperationError, match="randomness='different'"):
        torch.func.vmap(estimate.divergence(network(), probes=2))(x)
    different = torch.func.vmap(estimate.divergence(network(), probes=2), randomness="different")(x).estimate
    same = torch.func.vmap(estimate.divergence(network(), probes=2), randomness="same")(x).estimate
    assert not torch.equal(different[0], different[1]) and torch.equal(same[0], same[1])


def test_inside_of_grad():
    def loss(x):
        return estimate.divergence(lambda x: x**3, probes=2)(x).estimate.sum()

    assert torch.allclose(torch.func.grad(loss)(points()), 6 * points())


def test_without_gradients():
    with torch.inference_mode():
        assert estimate.divergence(network(), probes=2)(points()).estimate.shape == (7,)
    with torch.no_grad():
        assert not estimate.laplacian(network(1), probes=4, estimator="xtrace")(points()).estimate.requires_grad


@pytest.mark.parametrize("own", [None, "generator"])
@pytest.mark.parametrize(
    "make",
    [
        lambda g: estimate.divergence(network(2), probes=2, generator=g),
        lambda g: estimate.divergence(lambda x: x - x.mean(0), probes=2, generator=g),
        lambda g: estimate.divergence(network(), tolerance=1e-9, generator=g),
        lambda g: estimate.hess_diag(network(2), probes=2, generator=g),
        lambda g: laplacian(lambda x: x - x.mean(0), coordinates=2, generator=g),
        lambda g: divergence(network(2), coordinates=2, generator=g),
    ],
)
def test_generators_are_left_as_they_were_by_what_is_refused(make, own):
    g = None if own is None else generator()
    made, x = make(g), points()
    before = torch.get_rng_state(), None if g is None else g.get_state()
    with pytest.raises((ShapeError, ArgumentError, CoupledSamplesError)):
        made(x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert g is None or torch.equal(before[1], g.get_state())


def test_no_samples_of_many_kinds():
    none = points()[:0]
    assert estimate.divergence(network(), tolerance=0.1)(none).estimate.shape == (0,)
    assert estimate.divergence(network(), probes=4, estimator="xtrace")(none).estimate.shape == (0,)
    assert estimate.diag_jac(network(), probes=4, estimator="xdiag")(none).estimate.shape == (0, 6)


def test_more_probes_than_coordinates_keep_to_the_rows_of_few():
    """Else reverse mode would look cheaper, with a row for each coordinate through all probes."""
    told = dict(explain(estimate.divergence(network(), probes=60))(points()).items())
    assert told["route"] == "taylor" and told["passes (rows)"] == "6 in 1 chunk"
    found = estimate.divergence(network(), probes=60, generator=generator())(points())
    assert found.probes == 60


@pytest.mark.parametrize("estimator", ["hutch++", "xtrace"])
def test_half_precision(estimator):
    x = points().bfloat16()
    found = estimate.divergence(lambda x: x * x, probes=6, estimator=estimator, generator=generator())(x)
    assert found.estimate.dtype == torch.bfloat16
    assert found.estimate.isfinite().all() and found.standard_error.isfinite().all()


# -------------------------------------------------------------------- what it refuses

REFUSED = [
    (lambda x: estimate.divergence(network())(x), ArgumentError, "none of probes=, tolerance= and fixed="),
    (lambda x: estimate.divergence(network(), probes=3, tolerance=0.1), ArgumentError, "both probes and tolerance"),
    (lambda x: estimate.divergence(network(), probes=0), ArgumentError, "probes=0 is not a number of probes"),
    (lambda x: estimate.divergence(network(), probes=2.5), ArgumentError, "probes=2.5 is not a number of probes"),
    (lambda x: estimate.divergence(network(), probes=True), ArgumentError, "probes=True is not"),
    (lambda x: estimate.divergence(network(), probes=3, max_probes=0), ArgumentError, "max_probes=0"),
    (lambda x: estimate.divergence(network(), probes=3, probe="normal"), ArgumentError, "choose one of 'rademacher'"),
    (lambda x: estimate.divergence(network(), probe=3), ArgumentError, "did you mean probes=3?"),
    (lambda x: estimate.divergence(network(), probes=3, estimator="xdiag"), ArgumentError, "none of estimate.diverg"),
    (lambda x: estimate.diag_jac(network(), probes=3, estimator="xtrace"), ArgumentError, "'hutch++', 'xdiag'"),
    (lambda x: estimate.divergence(network(), probes=2, estimator="hutch++"), ArgumentError, "needs 3 or more"),
    (lambda x: estimate.divergence(network(), probes=1, estimator="xtrace"), ArgumentError, "needs 2 or more"),
    (
        lambda x: estimate.divergence(network(), probes=13, estimator="xtrace")(x),
        ArgumentError,
        "6 products give the exact result",
    ),
    (
        lambda x: estimate.divergence(network(), probes=4, estimator="xtrace", probe="orthogonal"),
        ArgumentError,
        "independent of each other",
    ),
    (lambda x: estimate.divergence(network(), tolerance=-1.0), ArgumentError, "not a standard error"),
    (lambda x: estimate.divergence(network(), tolerance=math.nan), ArgumentError, "tolerance=nan is not"),
    (lambda x: estimate.divergence(network(), tolerance=math.inf), ArgumentError, "tolerance=inf is not"),
    (lambda x: estimate.divergence(network(), tolerance=1e-300)(x), ArgumentError, "max_probes=10000 reaches"),
    (lambda x: estimate.divergence(network(), tolerance=1.0, probe="coordinate"), ArgumentError, "were not drawn"),
    (
        lambda x: estimate.divergence(network(), fixed=estimate.draw(x, 2), generator=generator()),
        ArgumentError,
        "generator= with fixed=",
    ),
    (lambda x: estimate.draw(x, 2, batch_dims=3), ArgumentError, "0 to 2"),
    (lambda x: estimate.draw(x, 2, generator=5), ArgumentTypeError, "pass a torch.Generator"),
    (
        lambda x: torch.func.vmap(estimate.divergence(network(), tolerance=1.0), randomness="same")(x[None]),
        UnsupportedOperationError,
        "a pilot cannot be looked at",
    ),
    (lambda x: estimate.divergence(network(), tolerance=0.1, estimator="xtrace"), ArgumentError, "a few probes do not"),
    (lambda x: estimate.divergence(network(), probes=2, generator=3), ArgumentTypeError, "pass a torch.Generator"),
    (lambda x: estimate.divergence(network(), probes=2, squared_residual=1), ArgumentTypeError, "is not a bool"),
    (
        lambda x: estimate.divergence(network(), fixed=estimate.draw(x, 2), squared_residual=True),
        ArgumentError,
        "two estimates of the same probes",
    ),
    (lambda x: estimate.divergence(network(), fixed=x)(x), ShapeError, "(7, 'probes', 6)"),
    (lambda x: estimate.divergence(network(), fixed=estimate.draw(x, 2).float())(x), ArgumentTypeError, "of the dtype"),
    (lambda x: estimate.divergence(network(), fixed=[1])(x), ArgumentTypeError, "fixed is a list"),
    (lambda x: estimate.divergence(network(2), probes=2)(x), ShapeError, "has 2 elements and one of the input 6"),
    (lambda x: estimate.divergence(network(2), probes=2, estimator="xtrace")(x), ShapeError, "shape of its input"),
    (lambda x: estimate.hess_diag(network(2), probes=2)(x), ShapeError, "one number a sample, but f returned 2"),
    (lambda x: estimate.laplacian(network(2), probes=4, estimator="xtrace")(x), ShapeError, "one number a sample"),
    (lambda x: estimate.hess_diag(network(1), probes=2, return_value=True), ArgumentError, "return_value=True"),
    (lambda x: estimate.divergence(network(), probes=2, argnums=(0, 1)), ArgumentError, "selects several"),
    (lambda x: estimate.divergence(network(), probes=2, out_dims=1), ArgumentTypeError, "no keyword 'out_dims'"),
    (lambda x: estimate.divergence(lambda x: x["a"], probes=2)({"a": x}), ArgumentTypeError, "in a tree"),
    (lambda x: estimate.divergence(network(), n_probes=2), ArgumentTypeError, "did you mean 'probes'"),
    (lambda x: estimate.divergence(network(), 2), ArgumentTypeError, "takes keywords only"),
    (lambda x: estimate.divergence(lambda x: x - x.mean(0), probes=2)(x), CoupledSamplesError, "other samples"),
    (lambda x: estimate.draw(x, 0), ArgumentError, "probes=0"),
    (lambda x: estimate.draw(3, 2), ArgumentTypeError, "x is an int"),
    (lambda x: estimate.draw(x, 2, probe="signs"), ArgumentError, "probe='signs'"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_refused_in_one_sentence(call, error, words):
    with pytest.raises(error, match=re.escape(words)) as caught:
        call(points())
    assert "\n" not in str(caught.value)


def test_an_estimate_that_was_not_called_says_so():
    with pytest.raises(AttributeError, match="call it first"):
        estimate.divergence(network(), probes=2).standard_error  # noqa: B018


def test_help_shows_every_keyword():
    shown = inspect.signature(estimate.divergence).parameters
    assert list(shown)[:3] == ["f", "probes", "probe"]
    assert {"tolerance", "fixed", "generator", "compile"} <= set(shown) and "out_dims" not in shown


# -------------------------------------------------------------------- explain


def test_explain_tells_what_exact_would_cost_and_how_far_it_may_be_off():
    x, own = points(), generator()
    state, torchs = own.get_state(), torch.get_rng_state()
    told = dict(explain(estimate.divergence(network(), probes=40, generator=own))(x).items())
    assert told["probes"].startswith("40 (rademacher) by hutchinson")
    assert told["exact"] == "about 4 plain forwards, by 6 rows on the taylor route"
    assert told["sample shapes"] == "(6,) -> (6,) for each of 7 samples"
    expected = float(re.search(r"about ([\d.e-]+),", told["expected error"])[1])
    with torch.no_grad():
        found = estimate.divergence(network(), probes=40, generator=own)(x)
    seen = float(found.standard_error.square().mean().sqrt())
    assert seen / 2 < expected < 2 * seen
    own.set_state(state)
    explain(estimate.divergence(network(), probes=40, generator=own))(x)
    assert torch.equal(own.get_state(), state) and torch.equal(torch.get_rng_state(), torchs)


@pytest.mark.parametrize("estimator", ["hutch++", "xtrace"])
def test_explain_of_other_estimators(estimator):
    told = dict(explain(estimate.laplacian(network(1), probes=6, estimator=estimator))(points()).items())
    assert estimator in told["probes"] and "by one estimate" in told["expected error"]
    assert told["passes (rows)"].startswith("3 " if estimator == "xtrace" else "2 ")


def test_repr():
    shown = repr(estimate.laplacian(network(1), probes=6, estimator="xtrace", probe="sphere", method="forward"))
    assert shown == "estimate.laplacian(Sequential, probes=6, probe='sphere', estimator='xtrace', method='forward')"
    assert repr(estimate.diag_jac(torch.sin, tolerance=0.1)) == "estimate.diag_jac(sin, tolerance=0.1)"


def test_a_laplacian_of_several_outputs():
    x = points()
    found = estimate.laplacian(network(3), probes=200, generator=generator())(x)
    exact = laplacian(network(3))(x)
    assert found.estimate.shape == (7, 3)
    assert ((found.estimate - exact).abs() < 5 * found.standard_error).all()


def test_the_diagonal_of_a_diagonal_is_exact_by_signs():
    x = points()
    found = estimate.diag_jac(torch.sin, probes=1)(x)
    assert torch.allclose(found.estimate, diag_jac(torch.sin)(x))

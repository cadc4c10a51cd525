"""``jacfunc/estimate/methods.py``: how accurate each method is on matrices with known spectra, and what it says of that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from draws import SEED

from jacfunc.estimate import Estimate
from jacfunc.estimate.methods import (
    diagonal_by_hutch,
    diagonal_by_hutchinson,
    diagonal_by_xdiag,
    trace_by_hutch,
    trace_by_hutchinson,
    trace_by_xtrace,
)
from jacfunc.estimate.probes import drawn

SIZE = 300
TRIALS = 100
PLACES = torch.arange(SIZE, dtype=torch.float64)
Made = Callable[..., Estimate]
TRACES: dict[str, Made] = {
    "hutchinson": lambda forward, backward, tests: trace_by_hutchinson(forward, tests),
    "hutch++": lambda forward, backward, tests: trace_by_hutch(forward, tests),
    "xtrace": lambda forward, backward, tests: trace_by_xtrace(forward, tests),
    "xtrace rotated": lambda forward, backward, tests: trace_by_xtrace(forward, tests, True),
}
DIAGONALS: dict[str, Made] = {
    "hutchinson": lambda forward, backward, tests: diagonal_by_hutchinson(forward, tests),
    "hutch++": diagonal_by_hutch,
    "xdiag": diagonal_by_xdiag,
}


def symmetric(values: torch.Tensor) -> torch.Tensor:
    """A matrix with these eigenvalues and random orthogonal eigenvectors."""
    generator = torch.Generator().manual_seed(SEED)
    count = len(values)
    vectors, _ = torch.linalg.qr(torch.randn(count, count, dtype=torch.float64, generator=generator))
    return vectors @ torch.diag(values) @ vectors.T


def estimated(
    made: Made, matrix: torch.Tensor, probes: int, probe: str = "rademacher", trials: int = TRIALS
) -> Estimate:
    generator = torch.Generator().manual_seed(SEED)
    tests = drawn(probe, torch.zeros(trials, len(matrix), dtype=torch.float64), 1, probes, generator)
    return made(lambda rows: rows @ matrix.T, lambda rows: rows @ matrix, tests)


def off(found: Estimate, truth: torch.Tensor) -> torch.Tensor:
    """The median error relative to the truth."""
    difference = (found.estimate - truth).reshape(len(found.estimate), -1)
    return torch.linalg.vector_norm(difference, dim=1).median() / torch.linalg.vector_norm(truth)


@pytest.mark.parametrize(("name", "bar"), [("hutchinson", 1e-1), ("hutch++", 4e-4), ("xtrace", 2e-5)])
def test_traces_of_a_decaying_spectrum(name, bar):
    matrix = symmetric(0.7**PLACES)
    found = estimated(TRACES[name], matrix, 60)
    assert found.probes == 60
    assert bar / 30 < off(found, matrix.trace()) < bar


@pytest.mark.parametrize(("name", "bar"), [("hutchinson", 1.0), ("hutch++", 1e-2), ("xdiag", 4e-4)])
def test_diagonals_of_a_decaying_spectrum(name, bar):
    matrix = symmetric(0.7**PLACES)
    assert bar / 30 < off(estimated(DIAGONALS[name], matrix, 60), matrix.diagonal()) < bar


def test_diagonals_of_a_slow_spectrum():
    matrix = symmetric(1 / (1 + PLACES))
    found = {name: off(estimated(made, matrix, 120), matrix.diagonal()) for name, made in DIAGONALS.items()}
    assert found["xdiag"] < found["hutchinson"] / 3
    assert found["xdiag"] < found["hutch++"]


def test_on_flat_spectra_signs_win():
    matrix = symmetric(1 + 0.1 * torch.cos(PLACES))
    found = {name: off(estimated(made, matrix, 60), matrix.trace()) for name, made in TRACES.items()}
    assert found["hutchinson"] < found["hutch++"] / 1.5 and found["hutchinson"] < 1e-2


@pytest.mark.parametrize("values", [0.7**PLACES, 1 / (1 + PLACES), 1 + 0.1 * torch.cos(PLACES)])
@pytest.mark.parametrize("name", ["hutch++", "xtrace", "xtrace rotated"])
def test_standard_errors_of_traces_are_those_seen(name, values):
    matrix = symmetric(values)
    found = estimated(TRACES[name], matrix, 60, "gaussian" if "rotated" in name else "rademacher")
    seen = (found.estimate - matrix.trace()).square().mean().sqrt()
    assert seen / 2 < found.standard_error.median() < 2 * seen


@pytest.mark.parametrize("values", [0.7**PLACES, 1 / (1 + PLACES)])
@pytest.mark.parametrize("name", ["hutch++", "xdiag"])
def test_standard_errors_of_diagonals_are_those_seen(name, values):
    matrix = symmetric(values)
    found = estimated(DIAGONALS[name], matrix, 60)
    seen = (found.estimate - matrix.diagonal()).square().mean(0).sqrt()
    ratio = (found.standard_error.square().mean(0).sqrt() / seen).median()
    assert 0.5 < ratio < 2


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("name", ["hutch++", "xtrace", "xtrace rotated", "xdiag"])
def test_few_dimensions_are_exact(name, rank):
    """What spans fewer dimensions than there are test vectors is found whole."""
    matrix = symmetric((rank > PLACES).double())
    made, truth = (DIAGONALS[name], matrix.diagonal()) if name == "xdiag" else (TRACES[name], matrix.trace())
    found = estimated(made, matrix, 30, trials=5)
    assert (found.estimate - truth).abs().max() < 1e-12
    assert found.standard_error.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["hutch++", "xtrace", "xdiag"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_as_many_test_vectors_as_dimensions(name, size):
    generator = torch.Generator().manual_seed(SEED)
    matrix = torch.randn(size, size, dtype=torch.float64, generator=generator)
    made = {**TRACES, "xdiag": diagonal_by_xdiag}[name]
    truth = matrix.diagonal() if name == "xdiag" else matrix.trace()
    found = estimated(made, matrix, 2 * size if name != "hutch++" else 3 * size, trials=2000)
    error = found.estimate.std(0) / 2000**0.5
    assert ((found.estimate.mean(0) - truth).abs() <= 4.5 * error + 1e-12).all()


def test_single_precision_is_as_good_as_it_can_be():
    matrix = symmetric(0.5**PLACES).float()
    tests = drawn("rademacher", torch.zeros(20, SIZE), 1, 80, torch.Generator().manual_seed(SEED))
    found = trace_by_xtrace(lambda rows: rows @ matrix, tests)
    assert found.estimate.dtype == torch.float32
    assert (found.estimate - matrix.trace()).abs().max() < 50 * torch.finfo(torch.float32).eps * matrix.trace()


@pytest.mark.parametrize("probe", ["rademacher", "coordinate"])
@pytest.mark.parametrize("name", ["xtrace", "xdiag"])
def test_test_vectors_that_depend_on_each_other_do_not_bias(name, probe):
    """In three dimensions many of them are equal: which of them is left out is not for rounding to choose."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    made = {**TRACES, "xdiag": diagonal_by_xdiag}[name]
    truth = matrix.diagonal() if name == "xdiag" else matrix.trace()
    found = estimated(made, matrix, 6, probe, trials=200_000)
    error = found.estimate.std(0) / 200_000**0.5
    assert ((found.estimate.mean(0) - truth).abs() < 4.5 * error).all()


def test_what_rounding_moves_is_moved_by_rounding_alone():
    matrix = symmetric(1.0 + PLACES[:4])
    tests = drawn("rademacher", torch.zeros(500, 4, dtype=torch.float64), 1, 8, torch.Generator().manual_seed(SEED))
    shaken = matrix + 1e-13 * torch.randn(4, 4, dtype=torch.float64)
    for made in (lambda forward: trace_by_xtrace(forward, tests), lambda forward: trace_by_hutch(forward, tests)):
        one, other = (made(lambda rows, each=each: rows @ each.T) for each in (matrix, shaken))
        assert (one.estimate - other.estimate).abs().max() < 1e-9


def test_one_probe_has_no_standard_error():
    found = estimated(TRACES["hutchinson"], symmetric(0.7**PLACES), 1)
    assert found.standard_error.isnan().all() and found.estimate.isfinite().all()

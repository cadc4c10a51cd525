"""``jacfunc/call/dead_branches.py``: which NaN is looked into, and what may stand in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jacfunc import diag_jac
from jacfunc.call.dead_branches import completes, has_values_around
from jacfunc.call.evaluator import Evaluator
from jacfunc.call.request import Request
from jacfunc.options import Options

NAN = float("nan")


@pytest.mark.parametrize(
    ("other", "result", "fits"),
    [
        ([1.0, 2.0], [NAN, 2.0], True),
        ([1.0, 2.0 + 1e-12], [NAN, 2.0], True),
        ([1.0, 0.0], [NAN, 2.0], False),  # of a route that took f for a constant
        ([NAN, 2.0], [NAN, 2.0], False),
        ([0.0, 0.0], [NAN, NAN], True),
    ],
)
def test_what_stands_in_its_place_has_the_other_numbers(other: list[float], result: list[float], fits: bool) -> None:
    one, two = (torch.tensor(numbers, dtype=torch.double) for numbers in (other, result))
    assert completes(one, two) is fits


@pytest.mark.parametrize(
    ("f", "around"),
    [
        (lambda x: torch.where(x > 0, x.sqrt(), 0.0), True),
        (torch.sqrt, False),
        (lambda x: x.log() if bool((x > 0).all()) else 1 / 0, False),
        (torch.abs, True),
    ],
)
def test_a_function_has_values_on_both_sides_or_not(f: Callable[[torch.Tensor], torch.Tensor], around: bool) -> None:
    request = Request(f, Options(), (torch.zeros(3, 2),), {})
    state = request.random_state()
    assert has_values_around(Evaluator(request), state) is around


@pytest.mark.parametrize(
    "f", [lambda x: x.abs().sqrt(), lambda x: x.abs().log(), lambda x: (x * x).sqrt()], ids=["root", "log", "square"]
)
def test_one_infinite_sample_does_not_couple_the_others(f: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Inside another transform, where a route beside may have nothing to differentiate."""
    x = torch.tensor([[0.0, 0.5], [1.0, -0.7]], dtype=torch.double)
    truth = diag_jac(diag_jac(f, method="reverse"), method="reverse")(x)
    torch.testing.assert_close(diag_jac(diag_jac(f))(x), truth, equal_nan=True)
    assert truth[0, 0].isnan() and truth[1].isfinite().all()

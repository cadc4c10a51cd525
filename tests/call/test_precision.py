"""The error that is expected of an order and a dtype, and its warning, once for a function and signature."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from jacfunc import partials
from jacfunc.call.precision import GROWTH, TOLERATED, expected_error
from jacfunc.errors import PrecisionWarning

NAMES = {order: "u_" + "x" * order for order in range(1, 11)}


def f(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


def warned(order: int, *dtypes: torch.dtype) -> bool:
    inputs = [torch.rand(3, 1, dtype=dtype) for dtype in dtypes]
    names = " ".join("xyz"[: len(inputs)])
    call = partials(
        lambda *x: f(x[0] + sum(x[1:])), NAMES[order], inputs=names, outputs="u", argnums=tuple(range(len(inputs)))
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call(*inputs)
    return any(issubclass(warning.category, PrecisionWarning) for warning in told)


def test_each_order_costs_two_bits() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert expected_error(0, dtype) == torch.finfo(dtype).eps
        assert expected_error(3, dtype) == 64 * torch.finfo(dtype).eps
    assert GROWTH == 4


def last_sound(dtype: torch.dtype) -> int:
    """The highest order whose error is below what is tolerated."""
    return math.floor(math.log(TOLERATED / torch.finfo(dtype).eps, 4))


@pytest.mark.parametrize(("dtype", "order"), [(torch.float32, 8), (torch.float16, 1), (torch.bfloat16, 1)])
def test_the_first_order_that_is_warned_of(dtype: torch.dtype, order: int) -> None:
    assert max(last_sound(dtype), 1) == order  # a first derivative is no worse than the dtype itself
    assert not warned(order, dtype)
    assert warned(order + 1, dtype)
    assert not warned(order + 1, torch.float64)


def test_the_coarsest_of_several_tensors_counts() -> None:
    assert not warned(2, torch.float64, torch.float32)
    assert warned(2, torch.float64, torch.float16)
    assert warned(2, torch.float16, torch.float64)


def test_it_names_order_dtype_and_error() -> None:
    x = torch.rand(3, 1)
    call = partials(f, NAMES[9], inputs="x", outputs="u")
    with pytest.warns(
        PrecisionWarning, match=r"order 9 in torch.float32 has a relative error of about 3%; use a wider"
    ):
        call(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        call(x)  # once only


def test_the_highest_derivative_of_a_sum_counts() -> None:
    x = torch.rand(3, 1)
    with pytest.warns(PrecisionWarning, match="order 9"):
        partials(f, f"u_x+2*{NAMES[9]}", inputs="x", outputs="u")(x)

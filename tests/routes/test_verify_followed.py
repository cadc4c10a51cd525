"""``jacfunc/routes/verify_followed.py``: jets that are wrong are found out, right ones are left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from functions import OldStyle
from tasks import LEAVES, field, made
from torch import nn

from jacfunc import UnsupportedOperationError, laplacian
from jacfunc.jet import Jet
from jacfunc.jet.layout import first_order
from jacfunc.routes.followed import follow
from jacfunc.routes.verify_followed import OtherwiseError, grouped, verify_followed

X = LEAVES[0]
Function = Callable[[Any], Any]

SOUND: dict[str, Function] = {
    "smooth": lambda x: x.sin() * x.prod(1, keepdim=True),
    "constant": lambda x: torch.ones_like(x),
    "cancels to rounding": lambda x: x.sin() ** 2 + x.cos() ** 2,
    "infinite both ways": lambda x: (x * 0).sqrt(),
    "not a number": lambda x: x * float("nan"),
}


def otherwise(right: Function, wrong: Function) -> Function:
    """A function that does another thing with jets."""
    return lambda x: right(x) if isinstance(x, torch.Tensor) else wrong(x)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["field", *SOUND])
def test_right_derivatives_by_jets_pass(name: str, order: int) -> None:
    task = made(field, *LEAVES, order=order) if name == "field" else made(SOUND[name], X, order=order)
    verify_followed(task)


WRONG: dict[str, tuple[Function, Function, int]] = {
    "another function": (torch.sin, torch.cos, 1),
    "a sign": (lambda x: x**2, lambda x: -(x**2), 1),
    "one coordinate": (lambda x: x.sin(), lambda x: torch.cat([x[:, :2].sin(), x[:, 2:] * 1], 1), 1),
    "a millionth": (lambda x: x.sin(), lambda x: x.sin() * (1 + 1e-6), 1),
    "the second only": (lambda x: x.sin(), lambda x: x.sin() + (x - x.detach()) ** 2, 2),
    "the third only": (lambda x: x.sin(), lambda x: x.sin() + (x - x.detach()) ** 3, 3),
    "a constant": (lambda x: x.sin(), lambda x: x.sin().detach() + 0 * x, 1),
    "what is linear": (lambda x: 3 * x, lambda x: 3 * x + 1e-5 * x**2, 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_derivatives_by_jets_are_found_out_at_the_order_that_they_are_of(name: str) -> None:
    right, wrong, first = WRONG[name]
    for order in (1, 2, 3):
        task = made(otherwise(right, wrong), X, order=order)
        if order < first:
            verify_followed(task)
        else:
            with pytest.raises(OtherwiseError, match="the derivatives by jets are not those of reverse mode"):
                verify_followed(task)


def test_one_sample_that_is_wrong_is_enough() -> None:
    x = torch.linspace(-1, 1, 300, dtype=torch.double).reshape(100, 3)
    mask = (torch.arange(100) == 70)[:, None]
    task = made(otherwise(torch.sin, lambda x: torch.where(mask, x.cos(), x.sin())), x)
    with pytest.raises(OtherwiseError):
        verify_followed(task)


def test_what_is_finite_by_reverse_mode_has_to_be_by_jets() -> None:
    f = otherwise(torch.sin, lambda x: torch.where(x > 0, x.sin(), (x - x.detach()).sqrt()))
    with pytest.raises(OtherwiseError):
        verify_followed(made(f, X))
    verify_followed(made(lambda x: (x - x.detach()).sqrt(), X))  # infinite both ways


def test_what_torch_func_cannot_transform_is_compared_with_a_graph() -> None:
    old = lambda x: OldStyle.apply(x)
    verify_followed(made(otherwise(old, torch.sin), X, order=2))
    task = made(otherwise(old, torch.cos), X)
    with pytest.raises(OtherwiseError):
        verify_followed(task)


class Never(OldStyle):
    """The sine, without a backward."""

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no backward")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_what_nothing_can_differentiate_is_compared_with_differences(order: int, dtype: torch.dtype) -> None:
    never: Function = lambda x: Never.apply(x)
    x = X.to(dtype)
    for right in (torch.sin, lambda x: x.sin() + torch.where(x > 0.35, 1e-9 * x, 0)):
        task = made(otherwise(never, right), x, order=order)
        verify_followed(task)
        assert not task.open
    wrongs: list[tuple[int, Function]] = [
        (1, torch.cos),
        (1, lambda x: x.sin() * 1.05),
        (2, lambda x: x.sin() + (x - x.detach()) ** 2),
        (3, lambda x: x.sin() + (x - x.detach()) ** 3),
    ]
    for first, wrong in wrongs:
        task = made(otherwise(never, wrong), x, order=order)
        if order < first:
            verify_followed(task)
        else:
            with pytest.raises(OtherwiseError, match="the derivatives by jets are not the differences of f"):
                verify_followed(task)


def test_a_kink_lies_between_its_differences() -> None:
    never: Function = lambda x: Never.apply(x).abs()
    x = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]], dtype=torch.double)
    verify_followed(made(otherwise(never, lambda x: x.sin().abs()), x))


# -------------------------------------------------------------------- what tells nothing


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("at", [float("nan"), float("inf"), 0.0])
def test_where_nothing_is_told_other_values_are_compared(at: float, order: int) -> None:
    x = torch.full_like(X, at)
    right: Function = lambda x: (x**4).sum(1, keepdim=True)
    task = made(right, x, order=order)
    verify_followed(task)
    assert not task.open
    task = made(otherwise(right, lambda x: (3 * x**4).sum(1, keepdim=True)), x, order=order)
    with pytest.raises(OtherwiseError):
        verify_followed(task)


def test_what_is_finite_nowhere_and_no_sample_at_all_stay_open() -> None:
    for f, x in ((lambda x: x * float("nan"), X), (torch.sin, X[:0])):
        task = made(otherwise(f, torch.cos), x)
        verify_followed(task)
        assert task.open == ["no sample told whether its derivatives by jets are right"]


def test_an_order_that_is_zero_everywhere_is_told() -> None:
    task = made(lambda x: 3 * x, X, order=3)
    verify_followed(task)
    assert not task.open


def test_other_values_that_the_function_refuses_say_nothing() -> None:
    def f(x: Any) -> Any:
        if x.detach().ne(0).any():
            raise ValueError("zeros only")
        return x**4

    task = made(f, torch.zeros_like(X))
    verify_followed(task)
    assert task.open


def test_inside_a_function_that_jets_go_through_nothing_is_compared() -> None:
    seen: list[int] = []

    def outer(x: Jet) -> Any:
        inner = made(otherwise(torch.sin, torch.cos), X)
        verify_followed(replace(inner, within=x.frame))
        seen.append(1)
        return x

    task = made(lambda x: outer(x) if type(x) is Jet else x, X)
    follow(task, first_order(3), lambda propagation: [propagation.identity(3, X)])
    assert seen == [1]


def test_rounding_of_single_precision_is_forgiven() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    for dtype in (torch.float32, torch.bfloat16):
        net.to(dtype)
        verify_followed(made(net, X.to(dtype), order=2))
    task = made(otherwise(net.float(), lambda x: net(x) * 1.1), X.float())
    with pytest.raises(OtherwiseError):
        verify_followed(task)


def test_tensors_in_groups() -> None:
    tensors = tuple(torch.full((), float(number)) for number in range(7))
    found = [[int(tensor) for tensor in group] for group in grouped(tensors, 2, 3)]
    assert found == [[0, 1, 2], [3, 4], [5, 6]]
    assert grouped(tensors[:1], 2, 1) == [tensors[:1]]


# -------------------------------------------------------------------- where a norm is zero

ROOT3 = 3**0.5
KERNELS = {
    "Matern 3/2": lambda r: (1 + ROOT3 * r) * torch.exp(-ROOT3 * r),
    "a multiquadric": lambda r: (1 + r**2).sqrt(),
    "a Gaussian": lambda r: torch.exp(-(r**2)),
}


def _scattered(count, seed, dtype=torch.float64):
    return torch.rand(count, 2, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kernel", "count", "length", "seed", "dtype", "mode"),
    [
        ("Matern 3/2", 40, 0.5, 0, torch.float64, "use_mm_for_euclid_dist_if_necessary"),
        ("a multiquadric", 100, 0.1, 0, torch.float64, "use_mm_for_euclid_dist_if_necessary"),
        ("Matern 3/2", 100, 0.1, 1, torch.float32, "donot_use_mm_for_euclid_dist"),
        *[
            (kernel, count, length, seed, dtype, "use_mm_for_euclid_dist_if_necessary")
            for kernel in KERNELS
            for count, length in ((10, 0.1), (40, 0.3), (100, 0.1))
            for seed in range(4)
            for dtype in (torch.float32, torch.float64)
        ],
    ],
)
def test_differences_of_rounded_distances_are_no_reason_to_refuse(kernel, count, length, seed, dtype, mode):
    """Many distances are products of matrices, and near zero nothing but rounding; other points are near as well."""
    x = _scattered(count, seed, dtype)
    found = laplacian(lambda y: KERNELS[kernel](torch.cdist(y, x, compute_mode=mode) / length))(x).diagonal()
    right = {"Matern 3/2": -6, "a multiquadric": 2, "a Gaussian": -4}[kernel] / length**2
    torch.testing.assert_close(
        found, torch.full_like(found, right), rtol=1e-9 if dtype == torch.float64 else 1e-4, atol=0
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("count", "wrong"), [(1, 1.01), (40, 1.01), (100, 1.1)])
def test_wrong_derivatives_where_a_norm_is_zero_are_refused(kernel, count, wrong):
    """Another curvature at zero, which no plain forward shows."""
    x = _scattered(count, 0)

    def f(y):
        r = torch.cdist(y, x) / 0.3
        value = KERNELS[kernel](r)
        return value if isinstance(r, torch.Tensor) else torch.where(r.value == 0, 1 + wrong * (value - 1), value)

    with pytest.raises(
        UnsupportedOperationError, match="cdist is zero here, and its derivatives there are not confirmed"
    ):
        laplacian(f)(x)


@pytest.mark.parametrize("method", ["auto", "taylor"])
@pytest.mark.parametrize("asking", [lambda r: r.clamp_min(1e-15), lambda r: torch.where(r > 0, r, 1e-15)])
def test_who_asks_for_zero_by_value_is_told_which_norm_it_is(asking, method):
    f = lambda x: torch.exp(-(asking(torch.linalg.vector_norm(x, dim=1)) ** 2))
    with pytest.raises(
        UnsupportedOperationError, match="vector_norm is zero here, and .*: write f of the squared"
    ) as told:
        laplacian(f, method=method)(torch.zeros(1, 2, dtype=torch.float64))
    assert "isinstance" not in str(told.value)

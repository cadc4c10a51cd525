"""How a rule is judged: value, rows of every order and parameter gradients against nested reverse mode; no test here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from propagated import along, by_layout, closed, nested

from jacfunc.jet.layout import Layout, diagonal, first_order, summed

Tensor = torch.Tensor
Index = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """``f`` of ``x`` of shape ``(samples, size)``; ``low`` and ``high`` bound its elements.

    ``truth`` computes the same where torch's own reverse mode cannot take ``f``.
    """

    name: str
    f: Callable[[Any], Any]
    size: int = 4
    samples: int = 2
    low: float = -1.0
    high: float = 1.0
    truth: Callable[[Any], Any] | None = None

    def __str__(self) -> str:
        return self.name

    def point(self) -> Tensor:
        generator = torch.Generator().manual_seed(len(self.name))
        unit = torch.rand(self.samples, self.size, dtype=torch.float64, generator=generator)
        return self.low + (self.high - self.low) * unit

    def of_two_variables(self) -> Case:
        """The same of two, for all mixed derivatives of a higher order."""

        def widened(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
            copies = max(self.size // 4, 1)
            return lambda x: f(torch.cat([x, x.exp()] * copies, 1))

        return Case(self.name, widened(self.f), 2, truth=widened(self.truth or self.f))


wave = torch.complex(*[torch.linspace(a, b, 4, dtype=torch.float64) for a, b in ((0.3, 2.0), (2.0, 0.3))])


def parts(z: Any) -> Any:
    """A complex result as real numbers."""
    return torch.view_as_real(torch.resolve_conj(z))


def matrix(x: Any, rows: int = 2) -> Any:
    return x.sin().reshape(len(x), rows, -1)


def complexes(x: Any) -> Any:
    return torch.complex(x.sin(), x.cos())


def projected(rows: Tensor | None, like: Tensor) -> Tensor:
    """Each row times the same numbers in general position, added up: one number stands for all elements."""
    weights = torch.linspace(0.5, 1.5, max(like.numel(), 1), dtype=like.dtype).sin()[: like.numel()].reshape(like.shape)
    if rows is None:
        return torch.zeros((), dtype=like.dtype)
    return (rows * weights).reshape(-1, like.numel()).sum(1)


def rows_of(layout: str, size: int) -> tuple[Layout, list[list[list[Index]]]]:
    """A layout by name, and the derivatives that each row of each order is the sum of."""
    unit = [tuple(int(i == k) for i in range(size)) for k in range(size)]
    twice = [tuple(2 * i for i in one) for one in unit]
    first = [[one] for one in unit]
    if layout == "first":
        return first_order(size), [first]
    if layout == "diagonal":
        return diagonal(size), [first, [[two] for two in twice]]
    if layout == "summed":
        return summed((size,)), [first, [twice]]
    return total(size, int(layout))


def total(size: int, order: int) -> tuple[Layout, list[list[list[Index]]]]:
    """All derivatives up to an order; in one variable, or mixed ones."""
    indices = [index for index in product(range(order, -1, -1), repeat=size) if 0 < sum(index) <= order]
    groups = [[[index] for index in indices if sum(index) == k] for k in range(1, order + 1)]
    return closed(tuple(row[0] for group in groups for row in group)), groups


def check(case: Case, layout: str, rtol: float = 1e-10) -> None:
    """Value, rows and the gradient by a parameter of the rows."""
    x = case.point()
    scale = torch.linspace(0.9, 1.1, case.size, dtype=torch.float64).requires_grad_()
    shape, groups = rows_of(layout, case.size)

    def f(x: Any) -> Any:
        return case.f(x * scale)

    value, coefficients = by_layout(f, x, shape)
    torch.testing.assert_close(value, f(x), rtol=rtol, atol=1e-12)
    assert value.dtype == f(x).dtype
    true = case.truth or case.f
    displaced, zero = along(lambda x: true(x * scale), x)
    truth = projected(displaced(zero)[None], value)[0]
    assert coefficients, f"{case} is no jet"
    for group, rows in zip(groups, coefficients, strict=True):
        found = projected(rows, value)
        wanted = torch.stack([sum(nested(truth, zero, i) / _factorial(i) for i in row) for row in group])  # type: ignore[arg-type]
        found = found.expand(len(wanted))
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * max(1.0, float(wanted.detach().abs().max())))
        _same_gradient(found, wanted, scale, rtol)


def _same_gradient(found: Tensor, wanted: Tensor, by: Tensor, rtol: float) -> None:
    one, other = (
        torch.autograd.grad(rows.cos().sum(), by, retain_graph=True, materialize_grads=True)[0]
        if rows.requires_grad
        else torch.zeros_like(by)
        for rows in (found, wanted)
    )
    torch.testing.assert_close(one, other, rtol=10 * rtol, atol=10 * rtol * max(1.0, float(other.abs().max())))


def _factorial(index: Index) -> int:
    return math.prod(map(math.factorial, index))

"""What the rows of a function on jets should be, by nested reverse mode; no test lives here."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from propagated import opened, propagated

from jacfunc.jet import Frame, Jet, Propagation
from jacfunc.jet.frame import ApartError
from jacfunc.jet.layout import closed

Function = Callable[..., torch.Tensor]


def along(f: Function, x: torch.Tensor, direction: torch.Tensor, order: int) -> list[torch.Tensor]:
    """The derivatives of ``f(x + t direction)`` by t at zero, from the first."""
    layout = closed(tuple((k,) for k in range(1, order + 1)))
    jet = Jet(x, (direction[None], *(None for _ in range(order - 1))), Frame(Propagation((len(x),)), layout))
    value, rows = opened(f(jet))
    return [filled(c, value, 1)[0] * math.factorial(k) for k, c in enumerate(rows, start=1)]


def filled(rows: torch.Tensor | None, value: torch.Tensor, count: int) -> torch.Tensor:
    """Rows, or zeros."""
    return value.new_zeros((count, *value.shape)) if rows is None else rows


def derivatives(f: Function, x: torch.Tensor, direction: torch.Tensor, order: int) -> list[torch.Tensor]:
    """The derivatives of ``f(x + t direction)`` by nested reverse mode, one output after the other; keeps the graph of parameters."""
    t = x.new_zeros((), requires_grad=True)
    y = f(x + t * direction)
    found = []
    for cell in y.flatten():
        chain = []
        for _ in range(order):
            if cell.requires_grad:
                (cell,) = torch.autograd.grad(cell, t, create_graph=True, materialize_grads=True)  # noqa: PLW2901
            else:
                cell = x.new_zeros(())  # noqa: PLW2901
            chain.append(cell)
        found.append(torch.stack(chain))
    return [column.reshape(y.shape) for column in torch.stack(found, 1)]


def directions(x: torch.Tensor) -> torch.Tensor:
    """Each coordinate of a sample, of all samples at once."""
    size = math.prod(x.shape[1:])
    return torch.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:]).expand(size, *x.shape)


def check(f: Function, x: torch.Tensor, order: int = 3, reference: Function | None = None, exact: bool = True) -> None:
    """Value, first and second orders in both layouts, and ``order`` along one direction, against nested reverse mode."""
    truth = [derivatives(reference or f, x, direction, min(order, 2)) for direction in directions(x)]
    first = torch.stack([column[0] for column in truth]).detach()
    value, rows = propagated(f, x)
    torch.testing.assert_close(value, f(x), **({"rtol": 0, "atol": 0} if exact else {}), equal_nan=True)
    close(filled(rows[0], value, len(first)), first)
    if order > 1:
        second = torch.stack([column[1] for column in truth]).detach()
        for kind, expected in (("diagonal", second), ("summed", second.sum(0, keepdim=True))):
            try:
                _, rows = propagated(f, x, kind)
            except ApartError:  # of what does not move, a sum says too little: the route takes each by itself
                assert kind == "summed"
                continue
            close(filled(rows[0], value, len(first)), first)
            close(2 * filled(rows[1], value, len(expected)), expected)
    if order > 2:
        direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
        expected = derivatives(reference or f, x, direction, order)
        for got, want in zip(along(f, x, direction, order), expected, strict=True):
            close(got, want.detach())


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to ten digits."""
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def check_parameters(
    f: Function, x: torch.Tensor, parameters: list[torch.Tensor], reference: Function | None = None
) -> None:
    """Gradients by parameters of the rows of the diagonal and summed layouts."""
    truth = [derivatives(reference or f, x, direction, 2) for direction in directions(x)]
    first, second = (torch.stack([column[k] for column in truth]) for k in range(2))
    for kind, expected in (("diagonal", second), ("summed", second.sum(0, keepdim=True))):
        value, rows = propagated(f, x, kind)
        rows = [filled(c, value, len(want)) for c, want in zip(rows, (first, expected), strict=True)]
        for got, want in ((rows[0], first), (2 * rows[1], expected)):
            weights = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(7))
            pair = [_gradients((weights * tensor).sum(), parameters) for tensor in (got, want)]
            for ours, theirs in zip(*pair, strict=True):
                close(ours, theirs)


def _gradients(loss: torch.Tensor, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))

"""A function run on jets, and the same derivatives by nested reverse mode; no test lives here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jacfunc.jet import Frame, Jet, Propagation
from jacfunc.jet.dispatch import lifted, root
from jacfunc.jet.layout import Layout, closed, diagonal, first_order, summed

Tensor = torch.Tensor
Function = Callable[[Any], Any]
LAYOUTS: dict[str, Callable[[int], Layout]] = {
    "first": first_order,
    "diagonal": diagonal,
    "summed": lambda size: summed((size,)),
}


def propagated(f: Function, x: Tensor, kind: str = "first") -> tuple[Tensor, list[Tensor | None]]:
    """The value of ``f`` at ``x`` of shape ``(N, *I)``, and its coefficients of each order in full shape."""
    return by_layout(f, x, LAYOUTS[kind](x.shape[1:].numel()))


def by_layout(f: Function, x: Tensor, layout: Layout, quiet: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    """The same for any layout whose first rows are the coordinates of ``x``."""
    jet, propagation = seeded(x, layout)
    propagation.quiet = quiet
    return opened(f(jet))


def seeded(x: Tensor, layout: Layout) -> tuple[Any, Propagation]:
    """``x`` as a jet, one-hot rows and none beyond, in a propagation of its own."""
    propagation = Propagation(tuple(x.shape[:1]), narrowing=False)
    frame = Frame(propagation, layout)
    size = x.shape[1:].numel()
    rows = (
        propagation.identity(size, x) if x.dim() == 2 else torch.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
    )
    return Jet(x, (rows, *(None,) * (layout.order - 1)), frame), propagation


def opened(y: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Value and full coefficients of a jet; a plain tensor has none."""
    if not isinstance(y, Jet):
        return y, []
    y = lifted(y, root(y.frame))
    return y.value, [y.full(order) for order in range(1, y.frame.layout.order + 1)]


def along(f: Function, x: Tensor) -> tuple[Function, Tensor]:
    """``v -> f(x + v)`` for one displacement of all samples, which the rows of a jet are derivatives by, and its zero."""
    return lambda v: f(x + v), torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)


def nested(scalar: Tensor, by: Tensor, index: tuple[int, ...]) -> Tensor:
    """``d^index scalar / d by^index`` by nested reverse mode."""
    for place, times in enumerate(index):
        for _ in range(times):
            if not scalar.requires_grad:
                return torch.zeros_like(scalar)
            (gradient,) = torch.autograd.grad(scalar, by, create_graph=True, materialize_grads=True)
            scalar = gradient[place]
    return scalar


__all__ = ["along", "by_layout", "closed", "nested", "opened", "propagated", "seeded"]

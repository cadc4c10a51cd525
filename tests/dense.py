"""The truth: dense derivatives in float64 by reverse mode, one sample after the other; no test lives here."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch

Function = Callable[[torch.Tensor], torch.Tensor]


def apart(f: Function, x: torch.Tensor) -> torch.Tensor:
    """``(N, *O, *I)`` of a function whose samples are known to stay apart: a row of all samples at once."""
    x = x.detach().requires_grad_()
    y = f(x)
    flat = y.reshape(len(y), math.prod(y.shape[1:]))
    sums = [column.sum() for column in flat.unbind(1)]
    rows = [torch.autograd.grad(each, x, retain_graph=True, materialize_grads=True)[0] for each in sums]
    return torch.stack(rows, dim=1).reshape(*y.shape, *x.shape[1:])


def jacobian(f: Function, x: torch.Tensor, batch_dims: int = 1) -> torch.Tensor:
    """``(*batch, *O, *I)``: rows of the whole Jacobian, of which the blocks of each sample are kept."""
    x = x.detach().requires_grad_()
    y = f(x)
    batch, out = y.shape[:batch_dims], y.shape[batch_dims:]
    rows = []
    flat = y.reshape(*batch, -1) if y.numel() else y
    for index in range(math.prod(out)):
        cells = []
        for sample in product(*map(range, batch)):
            (gradient,) = torch.autograd.grad(
                flat[(*sample, index)], x, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            cells.append(gradient[sample])
        rows.append(torch.stack(cells).reshape(*batch, *x.shape[batch_dims:]))
    return torch.stack(rows, dim=batch_dims).reshape(*batch, *out, *x.shape[batch_dims:])


def diagonal(
    f: Function, x: torch.Tensor, whole: Callable[[Function, torch.Tensor], torch.Tensor] = jacobian
) -> torch.Tensor:
    """The diagonal by the words of DESIGN: index by index, from the dense Jacobian of flat samples."""
    entries = whole(f, x)
    inner = x.shape[1:]
    outer = entries.shape[1 : entries.dim() - len(inner)]
    larger = max(outer, inner, key=lambda shape: (math.prod(shape), len(shape)))
    kept = []
    for place in product(*map(range, larger)):
        i = _opposite(place, inner)
        o = _opposite(place, outer)
        kept.append(entries[(slice(None), *o, *i)])
    return torch.stack(kept, dim=1).reshape(len(x), *larger)


def _opposite(place: tuple[int, ...], shape: torch.Size) -> tuple[int, ...]:
    if math.prod(shape) == 1:
        return (0,) * len(shape)
    return tuple(0 if size == 1 else index for index, size in zip(place, shape, strict=True))


def hessian_diagonal(f: Function, x: torch.Tensor) -> torch.Tensor:
    """``(N, *O, *I)`` by reverse over reverse."""
    x = x.detach().requires_grad_()
    y = f(x)
    n, out, inner = len(x), y.shape[1:], x.shape[1:]
    flat = y.reshape(n, math.prod(out))
    result = x.new_zeros(n, math.prod(out), math.prod(inner))
    for o in range(flat.shape[1]):
        (gradient,) = torch.autograd.grad(flat[:, o].sum(), x, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:
            continue
        columns = gradient.reshape(n, -1)
        for i in range(columns.shape[1]):
            (second,) = torch.autograd.grad(columns[:, i].sum(), x, retain_graph=True, materialize_grads=True)
            result[:, o, i] = second.reshape(n, -1)[:, i]
    return result.reshape(n, *out, *inner).detach()

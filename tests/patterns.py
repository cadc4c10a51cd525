"""The truth for sparsity patterns: entries of dense Jacobians that are nonzero at one of several points; no test here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jacfunc.call.request import Request, as_function
from jacfunc.options import Options
from jacfunc.structure.detect import Found, detect

Function = Callable[[torch.Tensor], torch.Tensor]
POINTS = 4


def found_of(f: Function, x: torch.Tensor, order: int = 1, exact: bool = True) -> Found:
    """What is found of one big map."""
    return detect(Request(as_function(f), Options(batch_dims=0, check=False), (x,), {}), order, exact)


def pattern_of(f: Function, x: torch.Tensor) -> torch.Tensor:
    """The pattern that is found, dense: ``(outputs, inputs)``."""
    return found_of(f, x).pattern.to_dense()


def derivative(f: Function, x: torch.Tensor) -> torch.Tensor:
    """The dense Jacobian at a point, ``(outputs, inputs)``, by torch alone."""
    found = torch.autograd.functional.jacobian(f, x)
    return found.reshape(found.numel() // max(x.numel(), 1) if x.numel() else 0, x.numel())


def differences(f: Function, x: torch.Tensor) -> torch.Tensor:
    """That of what torch cannot differentiate, or gets wrong, by the difference of two values a bit apart."""
    columns = []
    for place in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[place] = 1e-3
        columns.append((f(x + step) - f(x - step)).reshape(-1))
    return torch.stack(columns, 1)


def nonzeros(f: Function, x: torch.Tensor, points: int = POINTS, derivative: Any = derivative) -> torch.Tensor:
    """Entries that are nonzero at this point or at one of some random ones; NaN does not count."""
    generator = torch.Generator().manual_seed(1)
    others = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(points - 1)]
    jacs = [derivative(f, point) for point in (x, *others)]
    return torch.stack([(jac != 0) & ~jac.isnan() for jac in jacs]).any(0)


def missed(f: Function, x: torch.Tensor, points: int = POINTS) -> list[Any]:
    """The entries that are nonzero, but not in the pattern that is found."""
    return (nonzeros(f, x, points) & ~pattern_of(f, x)).nonzero().tolist()


def assert_found(
    f: Function, x: torch.Tensor, exactly: bool, derivative: Any = derivative, points: int = POINTS
) -> None:
    """No entry is missing; ``exactly``: and no more are in the pattern, without an operation that counts as dense."""
    want, found = nonzeros(f, x, points, derivative), found_of(f, x)
    pattern = found.pattern.to_dense()
    assert (want & ~pattern).nonzero().tolist() == []
    if exactly:
        assert ((pattern & ~want).nonzero().tolist(), found.dense) == ([], ())


class Cases(dict[str, Function]):
    """Functions by name, entered as a decorator."""

    def __call__(self, f: Function) -> Function:
        self[f.__name__] = f
        return f

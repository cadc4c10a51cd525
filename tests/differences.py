"""The judge that shares no second derivative with torch: finite differences of the dense first-order Jacobian.

First derivatives are reverse mode in float64, row by row (``dense.py``), of functions whose samples stay apart;
everything beyond is a five-point stencil over them.  No test lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import dense
import torch

Params = Mapping[str, torch.Tensor]
Function = Callable[[Params, torch.Tensor], torch.Tensor]
Quantity = Callable[[Function, Params, torch.Tensor], torch.Tensor]

INNER, OUTER = 1e-3, 2e-3
"""Steps: for the second derivative, and for what is differentiated by parameters on top of it."""


def stencil(along: Callable[[float], torch.Tensor], step: float) -> torch.Tensor:
    """The derivative of ``along`` at 0, to fourth order in ``step``."""
    near, far = along(step) - along(-step), along(2 * step) - along(-2 * step)
    return (8 * near - far) / (12 * step)


def _jacobian(f: Function, params: Params, x: torch.Tensor) -> torch.Tensor:
    return dense.apart(lambda x: f(params, x), x).detach()


def _diagonal(f: Function, params: Params, x: torch.Tensor) -> torch.Tensor:
    return dense.diagonal(lambda x: f(params, x), x, dense.apart).detach()


def _divergence(f: Function, params: Params, x: torch.Tensor) -> torch.Tensor:
    return _diagonal(f, params, x).flatten(1).sum(1)


def _hessian_diagonal(f: Function, params: Params, x: torch.Tensor) -> torch.Tensor:
    """``(N, *O, *I)``: the derivative of each entry of the Jacobian by its own input coordinate."""
    columns = []
    for place in torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:]):
        moved = stencil(lambda h, place=place: _jacobian(f, params, x + h * place), INNER)
        columns.append(moved * place)
    return torch.stack(columns).sum(0)


def _laplacian(f: Function, params: Params, x: torch.Tensor) -> torch.Tensor:
    seconds = _hessian_diagonal(f, params, x)
    return seconds.flatten(seconds.dim() - (x.dim() - 1)).sum(-1)


def _nested_diagonal(f: Function, params: Params, x: torch.Tensor) -> torch.Tensor:
    """The diagonal of the diagonal's Jacobian, of maps with equal sample shapes."""
    columns = []
    for place in torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:]):
        columns.append(place * stencil(lambda h, place=place: _diagonal(f, params, x + h * place), INNER))
    return torch.stack(columns).sum(0)


TRUTH: Mapping[str, Quantity] = {
    "diag_jac": _diagonal,
    "batch_jac": _jacobian,
    "divergence": _divergence,
    "hess_diag": _hessian_diagonal,
    "laplacian": _laplacian,
    "nested": _nested_diagonal,
}


def along_parameters(
    quantity: Quantity, f: Function, params: Params, directions: Params, x: torch.Tensor, weights: torch.Tensor
) -> float:
    """The derivative of ``sum(weights * quantity)`` when all parameters move along their directions."""

    def moved(h: float) -> torch.Tensor:
        there = {name: (p + h * directions[name]).detach() for name, p in params.items()}
        return (weights * quantity(f, there, x)).sum()

    return stencil(moved, OUTER).item()

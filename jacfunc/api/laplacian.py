"""``laplacian``, alone by the route of second derivatives, or with the gradient by that of mixed derivatives.

With the gradient there is a row for each first derivative and one for the Laplacian, all in one propagation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from ..call.evaluator import Outputs
from ..call.quantity import EntriesOf, Outcome, PartialsOf, Quantity, Wanted
from ..call.request import Request
from ..core.caches import computed_once
from ..errors import ArgumentError
from ..jet.layout import Index, Terms, summed
from ..jet.multiindices import MultiIndices, index_of
from ..jet.network import ONE_HOT, Pick
from ..jet.stacked import Picked
from ..keywords import (
    Keywords,
    RowsAlone,
    RowsAux,
    RowsBoth,
    RowsSeveral,
    RowsValue,
    SumAlone,
    SumAux,
    SumBoth,
    SumKeywords,
    SumValue,
)
from ..options import check_flag
from ..routes.collect import Laplacian
from .compressed import SparsityLike, either
from .coordinates import CoordinatesLike, by_coordinates
from .kinds import SecondSum
from .results import gradients, per_argument, sizes, summed_by_argument
from .transform import Network, Transform, X, Y, transform_of, with_signature

Sizes = tuple[int, ...]
"""The numbers of coordinates of the arguments."""


@computed_once(64)
def _firsts(total: int) -> tuple[Index, ...]:
    """The derivatives of first order, of so many coordinates."""
    return tuple([index_of((place,), total) for place in range(total)])


@computed_once(64)
def _laplacians(arguments: Sizes) -> tuple[Terms, ...]:
    """For each argument the sum of the second derivatives by its coordinates; empty where it has none."""
    total, start, found = sum(arguments), 0, []
    for size in arguments:
        found.append(tuple([(index_of((place, place), total), 1.0) for place in range(start, start + size)]))
        start += size
    return tuple(found)


def _arguments(request: Request) -> Sizes:
    return tuple([sum(sizes(request)[argument.span]) for argument in request.arguments])


def _derivatives(request: Request) -> MultiIndices:
    arguments = _arguments(request)
    total = sum(arguments)
    if not total:  # nothing is differentiated, but a set needs a coordinate
        return MultiIndices.around([(0,)])
    return MultiIndices.around(_firsts(total), [terms for terms in _laplacians(arguments) if terms])


def _with_gradient(request: Request, outcome: Outcome) -> tuple[Any, Any]:
    arguments = _arguments(request)
    flat, sums = [], []
    for output, shape in enumerate(outcome.outputs.shapes):
        zeros = request.leaves[0].new_zeros((*request.batch, *shape))
        found = [outcome.results[output, index] for index in _firsts(sum(arguments))]
        flat.append(torch.stack(found, -1) if found else zeros[..., None][..., :0])
        totals = [outcome.combined(output, terms) if terms else zeros for terms in _laplacians(arguments)]
        sums.append(per_argument(request, totals))
    return outcome.outputs.structure.build(sums), gradients(request, outcome, flat)


def _last_row(wanted: Wanted, outputs: Outputs, value: torch.Tensor) -> Picked | None:
    """Twice the sum of all coefficients of the second order."""
    count = value.shape[1]
    return Picked(summed((count,)), (ONE_HOT, None), (Pick(1 + count, None, 2.0),), alone=True)


ALONE = Quantity("laplacian", 2, EntriesOf(2, Laplacian), summed_by_argument, picked=_last_row)
WITH_GRADIENT = Quantity("laplacian", 2, PartialsOf(_derivatives), _with_gradient, gradient=True)


@overload
def laplacian(f: Network, *, return_gradient: Literal[False] = False, **keywords: Unpack[SumAlone]) -> Transform[Y]: ...
@overload
def laplacian(
    f: Network, *, return_gradient: Literal[False] = False, **keywords: Unpack[SumValue]
) -> Transform[tuple[Y, Y]]: ...
@overload
def laplacian(
    f: Callable[[Tensor], Y], *, return_gradient: Literal[False] = False, **keywords: Unpack[SumAlone]
) -> Transform[Y]: ...
@overload
def laplacian(
    f: Callable[..., Y], *, return_gradient: Literal[False] = False, **keywords: Unpack[SumAlone]
) -> Transform[Y]: ...
@overload
def laplacian(
    f: Callable[..., Y], *, return_gradient: Literal[False] = False, **keywords: Unpack[SumValue]
) -> Transform[tuple[Y, Y]]: ...
@overload
def laplacian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[False] = False, **keywords: Unpack[SumAux]
) -> Transform[tuple[Y, X]]: ...
@overload
def laplacian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[False] = False, **keywords: Unpack[SumBoth]
) -> Transform[tuple[Y, Y, X]]: ...
@overload
def laplacian(
    f: Callable[..., Tensor], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsSeveral]
) -> Transform[tuple[Tensor, ...]]: ...
@overload
def laplacian(
    f: Network, *, return_gradient: Literal[True], **keywords: Unpack[RowsAlone]
) -> Transform[tuple[Y, Y]]: ...
@overload
def laplacian(
    f: Network, *, return_gradient: Literal[True], **keywords: Unpack[RowsValue]
) -> Transform[tuple[Y, Y, Y]]: ...
@overload
def laplacian(
    f: Callable[..., Y], *, return_gradient: Literal[True], **keywords: Unpack[RowsAlone]
) -> Transform[tuple[Y, Y]]: ...
@overload
def laplacian(
    f: Callable[..., Y], *, return_gradient: Literal[True], **keywords: Unpack[RowsValue]
) -> Transform[tuple[Y, Y, Y]]: ...
@overload
def laplacian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[True], **keywords: Unpack[RowsAux]
) -> Transform[tuple[Y, Y, X]]: ...
@overload
def laplacian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[True], **keywords: Unpack[RowsBoth]
) -> Transform[tuple[Y, Y, Y, X]]: ...
@overload
def laplacian(
    f: Callable[..., Any], *, return_gradient: bool = False, **keywords: Unpack[SumKeywords]
) -> Transform[Any]: ...
@with_signature
def laplacian(
    f: Callable[..., Any],
    *,
    return_gradient: bool = False,
    segments: torch.Tensor | None = None,
    sparsity: SparsityLike | None = None,
    coordinates: CoordinatesLike | None = None,
    generator: torch.Generator | None = None,
    **keywords: Unpack[Keywords],
) -> Transform[Any]:
    r"""The Laplacian of every output, ``(N, *O)``: its second derivatives, summed over the whole input.

    .. math:: \Delta y_{no} = \sum_i \partial^2 y_{no} / \partial x_{ni}^2

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, as for
            :func:`diag_jac`.
        return_gradient: also return the first derivatives, from the same evaluation.
        segments: for rows of segments, as in :func:`diag_jac`: ``(G, *O)`` or ``(R, *O)``, summed over all rows of the
            segment.
        sparsity: for a Hessian that is mostly zero: ``"auto"`` for its pattern to be found, or the pattern, as for
            :func:`sparse_jac`, of the Hessian of the sum of all outputs; then without ``return_gradient``.
        coordinates: estimate the sum by that of ``k`` of its ``d`` terms, times ``d / k``: which ones, ``(k,)``, or how
            many, to be drawn anew at each call, the same for all samples, without replacement.  Over these draws the
            result is unbiased.  A first linear layer then costs ``k`` columns of its weight, whatever ``d`` is.
        generator: what they are drawn by; torch's own if None.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has shape ``(N, *O)``; the leaves within one argument
        are summed, and a tuple ``argnums`` gives a tuple.  With ``return_gradient=True`` it is
        ``(laplacian, gradient)``, the latter that of :func:`batch_jac`; with ``return_value=True`` the value comes
        next, and aux last.

    Raises:
        ArgumentTypeError: ``return_gradient`` is no bool.
        ArgumentError: ``return_gradient`` with ``sparsity`` or ``coordinates``, or a coordinate that is not there.
        JacfuncError: as :func:`diag_jac`, but that no shapes are refused.

    Example:
        >>> import torch
        >>> from jacfunc import laplacian
        >>> laplacian(lambda x: x.square().sum(dim=1))(torch.ones(2, 3))
        tensor([6., 6.])
        >>> f = lambda x: x.square().sum(dim=1)
        >>> laplacian(f, return_gradient=True)(torch.ones(1, 3))
        (tensor([6.]), tensor([[2., 2., 2.]]))
    """
    check_flag("return_gradient", return_gradient)
    if return_gradient and sparsity is not None:
        raise ArgumentError("sparsity= with return_gradient=True; ask for the gradient by a diag_jac of its own")
    transform = transform_of(WITH_GRADIENT if return_gradient else ALONE, f, keywords)
    return by_coordinates(either(transform, segments, sparsity, SecondSum(ALONE)), coordinates, generator, sums=True)

"""The transforms of one batched pass: each says which entries it wants, and what the axes of its result are.

What all transforms are is in ``transform.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Unpack, overload

import torch
from torch import Tensor

from ..call.evaluator import Outputs
from ..call.quantity import Axes, EntriesOf, Quantity, Wanted
from ..call.shapes import refuse_unequal_trees, refuse_without_diagonal
from ..jet.layout import first_order
from ..jet.network import ONE_HOT, Pick
from ..jet.stacked import Picked
from ..keywords import (
    Keywords,
    RowsSeveral,
    SparseAlone,
    SparseAux,
    SparseBoth,
    SparseKeywords,
    SparseValue,
    SumAlone,
    SumAux,
    SumBoth,
    SumKeywords,
    SumValue,
)
from ..routes.collect import Block, Diagonal, HessianDiagonal
from .compressed import SparsityLike, either
from .coordinates import CoordinatesLike, by_coordinates
from .kinds import OfGradient, OnDiagonal, Whole
from .results import by_pair, trace
from .transform import Network, Transform, X, Y, transform_of, with_signature


def _one_row(wanted: Wanted, outputs: Outputs, value: torch.Tensor) -> Picked | None:
    """All outputs by the one coordinate."""
    if value.shape[1] != 1:
        return None
    return Picked(first_order(1), (ONE_HOT,), (Pick(1, None, 1.0),), alone=True)


DIAG_JAC = Quantity(
    "diag_jac",
    1,
    EntriesOf(1, Diagonal),
    by_pair,
    refuse=refuse_without_diagonal,
    axes=Axes.ROW,
    picked=_one_row,
)
DIAG_JAC_OF_ROWS = Quantity(
    "diag_jac",
    1,
    EntriesOf(1, Diagonal, of_rows=True),
    by_pair,
    key="rows",
    refuse=partial(refuse_without_diagonal, of_rows=True),
    axes=Axes.ROW,
)
BATCH_JAC = Quantity("batch_jac", 1, EntriesOf(1, Block), by_pair, axes=Axes.INPUT)
DIVERGENCE = Quantity(
    "divergence", 1, EntriesOf(1, Diagonal, paired=True), trace, refuse=refuse_unequal_trees, axes=Axes.SAMPLE
)
HESS_DIAG = Quantity("hess_diag", 2, EntriesOf(2, HessianDiagonal), by_pair, axes=Axes.INPUT)


@overload
def diag_jac(f: Network, **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def diag_jac(f: Network, **keywords: Unpack[SparseValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def diag_jac(f: Callable[[Tensor], Y], **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def diag_jac(f: Callable[..., Y], **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def diag_jac(f: Callable[..., Y], **keywords: Unpack[SparseValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def diag_jac(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SparseAux]) -> Transform[tuple[Y, X]]: ...
@overload
def diag_jac(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SparseBoth]) -> Transform[tuple[Y, Y, X]]: ...
@overload
def diag_jac(f: Callable[..., Tensor], **keywords: Unpack[RowsSeveral]) -> Transform[tuple[Tensor, ...]]: ...
@overload
def diag_jac(f: Callable[..., Any], **keywords: Unpack[SparseKeywords]) -> Transform[Any]: ...
@with_signature
def diag_jac(
    f: Callable[..., Any],
    *,
    segments: torch.Tensor | None = None,
    sparsity: SparsityLike | None = None,
    coordinates: torch.Tensor | None = None,
    **keywords: Unpack[Keywords],
) -> Transform[Any]:
    r"""The diagonal of each sample's Jacobian, without the Jacobian.

    .. math:: D_{nb} = \partial y_{nb} / \partial x_{nb}, \qquad y = f(\theta, x)

    where the smaller of the sample shapes ``I`` of ``x`` and ``O`` of ``y`` is broadcast to the larger: they have
    the same rank with each axis of the smaller equal or 1, or one of them has a single element.

    ============================  ===========  ==================================================
    sample input -> output        result       meaning
    ============================  ===========  ==================================================
    ``(d,) -> (d,)``              ``(N, d)``   the main diagonal of each square Jacobian
    ``(1,)`` or ``() -> (m,)``    ``(N, m)``   the derivative of every output by the one coordinate
    ``(d,) -> (1,)`` or ``()``    ``(N, d)``   the gradient
    ============================  ===========  ==================================================

    Args:
        f: a function or an ``nn.Module``: ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, each sample on its
            own.  ``x`` and ``y`` may be trees (dicts, tuples, whatever ``optree`` knows).
        segments: for ragged samples, rows ``(R, *I)`` that belong to ``G`` segments as atoms do to molecules: the
            number of the segment of each row, ``(R,)``, as ``batch`` of PyTorch Geometric.  ``f`` returns a result for
            each segment, ``(G, *O)``, or for each row, ``(R, *O)``.
        sparsity: for a Jacobian that is mostly zero, of one tensor by another of its shape: ``"auto"`` for its pattern
            to be found, or the pattern, as for :func:`sparse_jac`.  The number of passes is then that of the colours:
            2 for a stencil in the plane, whatever its size.
        coordinates: the numbers of the elements of ``x`` to differentiate by, ``(k,)``; the result is ``(N, k)``.
        **keywords: what all transforms share, of which :class:`jacfunc.options.Options` says more:

            - ``argnums=-1``: which positional arguments to differentiate by; the last one by default.
            - ``batch_dims=1``: how many leading axes are sample axes; 0 for one sample.
            - ``method="auto"``: ``"auto"`` takes the cheapest route that ``f`` allows; ``"taylor"``, ``"forward"``,
              ``"reverse"`` ask for one.
            - ``chunk_size=None``: at most so many rows in flight, which bounds memory; None for all at once.
            - ``sample_chunk_size=None``: at most so many samples at a time; ``"auto"`` for as many as caches hold,
              None for all at once.
            - ``in_dims=None``: which positional arguments carry samples, as in ``torch.vmap``: 0 or None for each.
            - ``out_dims=None``: the axis of the outputs that the samples lie on; None for the first.
            - ``has_aux=False``: ``f`` returns ``(output, aux)``; aux comes last in the result.
            - ``return_value=False``: also return the output of ``f``, after the derivative.
            - ``check=True``: find out, once, whether samples influence each other, and refuse if so.
            - ``check_tolerance=None``: by which part of its size an output may move in that check; None for rounding
              alone.
            - ``compile=False``: run under ``torch.compile``, compiled once.

    Returns:
        A function of the same arguments as ``f``.  Its result has the larger of ``O`` and ``I``, ``(N, *larger)``, the
        dtype and device of ``x``; for trees the output's tree is outside, then the tuple of a tuple ``argnums``, the
        input's tree innermost.  With ``segments`` it is ``(R, *larger)``: each row's own diagonal, of the output of its
        segment or of itself.  With ``return_value=True`` it is ``(derivative, value)``, aux comes last.

    Raises:
        ArgumentError: ``argnums`` selects nothing or the parameters, ``chunk_size`` or ``method`` cannot be meant.
        ArgumentTypeError: an argument or output leaf is no floating-point tensor.
        ShapeError: an output without the batch in front, or shapes without a common diagonal.
        CoupledSamplesError: a sample of the output depends on other samples of the input.
        UnsupportedOperationError: no route can differentiate an operation inside ``f``.

    Example:
        >>> import torch
        >>> from jacfunc import diag_jac
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> diag_jac(lambda x: x**2)(x)
        tensor([[2., 4.],
                [6., 8.]])
    """
    quantity = DIAG_JAC if segments is None else DIAG_JAC_OF_ROWS
    transform = either(transform_of(quantity, f, keywords), segments, sparsity, OnDiagonal())
    return by_coordinates(transform, coordinates, picks=True)


@overload
def batch_jac(f: Network, **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def batch_jac(f: Network, **keywords: Unpack[SparseValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def batch_jac(f: Callable[[Tensor], Y], **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def batch_jac(f: Callable[..., Y], **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def batch_jac(f: Callable[..., Y], **keywords: Unpack[SparseValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def batch_jac(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SparseAux]) -> Transform[tuple[Y, X]]: ...
@overload
def batch_jac(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SparseBoth]) -> Transform[tuple[Y, Y, X]]: ...
@overload
def batch_jac(f: Callable[..., Tensor], **keywords: Unpack[RowsSeveral]) -> Transform[tuple[Tensor, ...]]: ...
@overload
def batch_jac(f: Callable[..., Any], **keywords: Unpack[SparseKeywords]) -> Transform[Any]: ...
@with_signature
def batch_jac(
    f: Callable[..., Any],
    *,
    segments: torch.Tensor | None = None,
    sparsity: SparsityLike | None = None,
    coordinates: torch.Tensor | None = None,
    **keywords: Unpack[Keywords],
) -> Transform[Any]:
    r"""The Jacobian of each sample, ``(N, *O, *I)``, without the zeros between samples.

    .. math:: J_{noi} = \partial y_{no} / \partial x_{ni}

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, as for
            :func:`diag_jac`.
        segments: for rows of segments, as in :func:`diag_jac`: ``(R, *O, *I)`` for outputs of each segment, and for
            outputs of each row ``(R, *O, M, *I)``, by the rows of its segment in their order and zeros up to ``M``, as
            many as the longest has (at least 2).
        sparsity: as for :func:`diag_jac`; the result is dense.
        coordinates: the numbers of the elements of ``x`` to differentiate by, ``(k,)``; the result is ``(N, *O, k)``.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has shape ``(N, *O, *I)``, trees as in :func:`diag_jac`.

    Raises:
        JacfuncError: as :func:`diag_jac`, but that no shapes are refused.

    Example:
        >>> import torch
        >>> from jacfunc import batch_jac
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> batch_jac(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 0]], dim=1))(x)
        tensor([[[2., 1.],
                 [1., 0.]]])
    """
    transform = either(transform_of(BATCH_JAC, f, keywords), segments, sparsity, Whole(BATCH_JAC, dense=True))
    return by_coordinates(transform, coordinates)


@overload
def divergence(f: Callable[[Tensor], Any], **keywords: Unpack[SumAlone]) -> Transform[Tensor]: ...
@overload
def divergence(f: Callable[..., Any], **keywords: Unpack[SumAlone]) -> Transform[Tensor]: ...
@overload
def divergence(f: Callable[..., Y], **keywords: Unpack[SumValue]) -> Transform[tuple[Tensor, Y]]: ...
@overload
def divergence(f: Callable[..., tuple[Any, X]], **keywords: Unpack[SumAux]) -> Transform[tuple[Tensor, X]]: ...
@overload
def divergence(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SumBoth]) -> Transform[tuple[Tensor, Y, X]]: ...
@overload
def divergence(f: Callable[..., Any], **keywords: Unpack[SumKeywords]) -> Transform[Any]: ...
@with_signature
def divergence(
    f: Callable[..., Any],
    *,
    segments: torch.Tensor | None = None,
    sparsity: SparsityLike | None = None,
    coordinates: CoordinatesLike | None = None,
    generator: torch.Generator | None = None,
    **keywords: Unpack[Keywords],
) -> Transform[Any]:
    r"""The divergence of each sample, ``(N,)``: the sum of the main diagonal of its Jacobian.

    .. math:: \nabla \cdot f = \sum_b \partial y_{nb} / \partial x_{nb}

    Args:
        f: a function or an ``nn.Module`` whose output has the shape (and the tree) of its input.
        segments: for rows of segments, as in :func:`diag_jac`: ``(G,)``, summed over all rows of the segment.
        sparsity: as for :func:`diag_jac`.
        coordinates: estimate the sum by that of ``k`` of its ``d`` terms, times ``d / k``: which ones, ``(k,)``, or how
            many, to be drawn anew at each call, the same for all samples, without replacement.  Over these draws the
            result is unbiased.
        generator: what they are drawn by; torch's own if None.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has the shape of the sample axes; over a tree the
        leaves are paired one by one and summed.

    Raises:
        ShapeError: the output is not built and shaped as the input.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import divergence
        >>> divergence(lambda x: x**2)(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([ 6., 14.])
    """
    transform = either(transform_of(DIVERGENCE, f, keywords), segments, sparsity, OnDiagonal(summed=True))
    return by_coordinates(transform, coordinates, generator, picks=True, sums=True)


@overload
def hess_diag(f: Network, **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def hess_diag(f: Network, **keywords: Unpack[SparseValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def hess_diag(f: Callable[[Tensor], Y], **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def hess_diag(f: Callable[..., Y], **keywords: Unpack[SparseAlone]) -> Transform[Y]: ...
@overload
def hess_diag(f: Callable[..., Y], **keywords: Unpack[SparseValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def hess_diag(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SparseAux]) -> Transform[tuple[Y, X]]: ...
@overload
def hess_diag(f: Callable[..., tuple[Y, X]], **keywords: Unpack[SparseBoth]) -> Transform[tuple[Y, Y, X]]: ...
@overload
def hess_diag(f: Callable[..., Tensor], **keywords: Unpack[RowsSeveral]) -> Transform[tuple[Tensor, ...]]: ...
@overload
def hess_diag(f: Callable[..., Any], **keywords: Unpack[SparseKeywords]) -> Transform[Any]: ...
@with_signature
def hess_diag(
    f: Callable[..., Any],
    *,
    segments: torch.Tensor | None = None,
    sparsity: SparsityLike | None = None,
    coordinates: torch.Tensor | None = None,
    **keywords: Unpack[Keywords],
) -> Transform[Any]:
    r"""The second derivative of every output by every input element, ``(N, *O, *I)``.

    .. math:: H_{noi} = \partial^2 y_{no} / \partial x_{ni}^2

    Args:
        f: as for :func:`batch_jac`, twice differentiable where its second derivative is to mean something.
        segments: for rows of segments, shapes as in :func:`batch_jac`.
        sparsity: for a Hessian that is mostly zero, of one number a sample: ``"auto"`` for its pattern to be found, or
            the pattern, as for :func:`sparse_jac`.  A pass then is a product with the Hessian, one for each colour.
        coordinates: the numbers of the elements of ``x`` to differentiate by, ``(k,)``; the result is ``(N, *O, k)``.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, with the shape ``(N, *O, *I)`` and the trees of :func:`batch_jac`.

    Raises:
        JacfuncError: as :func:`batch_jac`, and for an operation without a second derivative.

    Example:
        >>> import torch
        >>> from jacfunc import hess_diag
        >>> hess_diag(lambda x: x.pow(3).sum(dim=1))(torch.tensor([[1.0, 2.0]]))
        tensor([[ 6., 12.]])
    """
    transform = transform_of(HESS_DIAG, f, keywords)
    if sparsity is not None:
        transform.options.refuse(("return_value",), "sparsity", "what is differentiated again is the gradient")
        transform = replace(transform, transformed=Transform(transform.transformed, BATCH_JAC, transform.options))
    return by_coordinates(either(transform, segments, sparsity, OfGradient()), coordinates)

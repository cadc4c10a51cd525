"""``hessian``: every second derivative of every output, whole, in blocks by the leaves of the input.

All coordinates count as those of one input while derivatives are computed (``routes/hessians.py``); here the square is
cut into its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from ..call.quantity import Axes, Outcome, Quantity, WantedHessian
from ..call.request import Request
from ..keywords import Keywords, RowsAlone, RowsAux, RowsBoth, RowsKeywords, RowsSeveral, RowsValue
from ..options import check_flag
from ..routes.hessians import GRADIENT, HESSIAN
from .results import by_leaf, by_pair, cast, gradients, parted
from .segments import segmented
from .transform import Network, Transform, X, Y, transform_of, with_signature


def _blocks(request: Request, outcome: Outcome) -> Any:
    """Blocks between all leaves: the output's tree outside, that of the first leaf, that of the second innermost."""
    found = {}
    for output in range(len(outcome.outputs.shapes)):
        for leaf, rows in enumerate(parted(request, outcome.results[HESSIAN, output], -2)):
            blocks = [_block(request, leaf, other, block) for other, block in enumerate(parted(request, rows, -1))]
            found[output, leaf] = by_leaf(request, blocks)
    return by_pair(request, outcome._replace(results=found))


def _block(request: Request, first: int, second: int, flat: Any) -> Any:
    shapes, leaves = request.input_shapes, request.leaves
    dtype = torch.promote_types(leaves[first].dtype, leaves[second].dtype)
    return cast(flat.reshape(*flat.shape[:-2], *shapes[first], *shapes[second]), dtype)


def _with_gradient(request: Request, outcome: Outcome) -> tuple[Any, Any]:
    flat = [outcome.results[GRADIENT, output] for output in range(len(outcome.outputs.shapes))]
    return _blocks(request, outcome), gradients(request, outcome, flat)


ALONE = Quantity("hessian", 2, lambda *_: WantedHessian(gradient=False), _blocks, axes=Axes.INPUTS)
WITH_GRADIENT = Quantity(
    "hessian", 2, lambda *_: WantedHessian(gradient=True), _with_gradient, gradient=True, axes=Axes.INPUTS
)


@overload
def hessian(f: Network, *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsAlone]) -> Transform[Y]: ...
@overload
def hessian(
    f: Network, *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsValue]
) -> Transform[tuple[Y, Y]]: ...
@overload
def hessian(
    f: Callable[[Tensor], Y], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsAlone]
) -> Transform[Y]: ...
@overload
def hessian(
    f: Callable[..., Y], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsAlone]
) -> Transform[Y]: ...
@overload
def hessian(
    f: Callable[..., Y], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsValue]
) -> Transform[tuple[Y, Y]]: ...
@overload
def hessian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsAux]
) -> Transform[tuple[Y, X]]: ...
@overload
def hessian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsBoth]
) -> Transform[tuple[Y, Y, X]]: ...
@overload
def hessian(
    f: Callable[..., Tensor], *, return_gradient: Literal[False] = False, **keywords: Unpack[RowsSeveral]
) -> Transform[tuple[Tensor, ...]]: ...
@overload
def hessian(f: Network, *, return_gradient: Literal[True], **keywords: Unpack[RowsAlone]) -> Transform[tuple[Y, Y]]: ...
@overload
def hessian(
    f: Network, *, return_gradient: Literal[True], **keywords: Unpack[RowsValue]
) -> Transform[tuple[Y, Y, Y]]: ...
@overload
def hessian(
    f: Callable[..., Y], *, return_gradient: Literal[True], **keywords: Unpack[RowsAlone]
) -> Transform[tuple[Y, Y]]: ...
@overload
def hessian(
    f: Callable[..., Y], *, return_gradient: Literal[True], **keywords: Unpack[RowsValue]
) -> Transform[tuple[Y, Y, Y]]: ...
@overload
def hessian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[True], **keywords: Unpack[RowsAux]
) -> Transform[tuple[Y, Y, X]]: ...
@overload
def hessian(
    f: Callable[..., tuple[Y, X]], *, return_gradient: Literal[True], **keywords: Unpack[RowsBoth]
) -> Transform[tuple[Y, Y, Y, X]]: ...
@overload
def hessian(
    f: Callable[..., Any], *, return_gradient: bool = False, **keywords: Unpack[RowsKeywords]
) -> Transform[Any]: ...
@with_signature
def hessian(
    f: Callable[..., Any],
    *,
    return_gradient: bool = False,
    segments: torch.Tensor | None = None,
    **keywords: Unpack[Keywords],
) -> Transform[Any]:
    r"""The Hessian of every output of each sample, ``(N, *O, *I, *I)``, without the zeros between samples.

    .. math:: H_{noij} = \frac{\partial^2 y_{no}}{\partial x_{ni} \, \partial x_{nj}}

    It is exactly symmetric: the entries ``ij`` and ``ji`` are the same number.  Where only its diagonal or its trace is
    needed, :func:`hess_diag` and :func:`laplacian` cost a fraction.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, as for
            :func:`diag_jac`, twice differentiable where its second derivative is to mean something.
        return_gradient: also return the first derivatives, from the same evaluation.
        segments: for rows of segments, as in :func:`diag_jac`: ``(G, *O, M, *I, M, *I)`` for outputs of each segment,
            zeros where it has fewer rows than ``M``, and ``(R, ...)`` for outputs of each row.
        **keywords: those of :func:`diag_jac`.  ``chunk_size`` bounds the rows, at the price of more evaluations of
            ``f``.

    Returns:
        A function of the same arguments as ``f``, whose result has shape ``(N, *O, *I, *I)``.  The output's tree is
        outside, then the tuple of a tuple ``argnums`` and the input's tree, and once more both: a block for each pair
        of leaves.  With ``return_gradient=True`` it is ``(hessian, gradient)``, the latter that of :func:`batch_jac`;
        with ``return_value=True`` the value comes next, and aux last.

    Raises:
        ArgumentTypeError: ``return_gradient`` is no bool.
        JacfuncError: as :func:`batch_jac`, and for an operation without a second derivative.

    Example:
        >>> import torch
        >>> from jacfunc import hessian
        >>> f = lambda x: x[:, 0] ** 2 * x[:, 1]
        >>> x = torch.tensor([[1.0, 3.0]])
        >>> hess, gradient = hessian(f, return_gradient=True)(x)
        >>> hess
        tensor([[[6., 2.],
                 [2., 0.]]])
        >>> gradient
        tensor([[6., 1.]])
    """
    check_flag("return_gradient", return_gradient)
    return segmented(transform_of(WITH_GRADIENT if return_gradient else ALONE, f, keywords), segments)

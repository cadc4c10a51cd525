"""``sparsity`` and ``sparse_jac``: which entries of a Jacobian can be nonzero, and these entries in a few passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack, overload

from ..call.request import as_function, requested
from ..core.keywords_only import keywords_only
from ..core.reasons import name_of
from ..core.unasked import unasked
from ..errors import ArgumentError
from ..keywords import Alone, Aux, Both, Keywords, Value
from ..options import Options
from ..structure.compressed import TimesOutput
from ..structure.jacobian import SparseJacobian
from ..structure.pattern import SparsityPattern
from .calling import Uncalled
from .compressed import SparsityLike, compressed
from .kinds import Whole
from .probed import probed_pattern
from .transform import Transform, X, Y, transform_of, with_signature
from .transforms import BATCH_JAC

_SPARSE = Whole(BATCH_JAC)


@dataclass(frozen=True, eq=False)
class PatternOf(Uncalled):
    """A function of the same arguments as ``f`` that returns a :class:`SparsityPattern`."""

    transformed: Callable[..., Any]
    options: Options
    order: int

    def __call__(self, *args: Any, **kwargs: Any) -> SparsityPattern:
        """The pattern of ``f`` at its arguments."""
        with requested(self.transformed, self.options, args, kwargs) as request, unasked():
            return probed_pattern(self.transformed, request, self._gradient() if self.order == 2 else None)

    def _gradient(self) -> Transform:
        """That of the sum of all outputs."""
        summed = TimesOutput(self.transformed, self.options.batch_dims, self.options.has_aux)
        return Transform(summed, BATCH_JAC, replace(self.options, has_aux=False, check=False))

    def _results(self) -> tuple[str, ...]:
        return tuple([name for name in dir(SparsityPattern) if name[0] != "_"])

    def __repr__(self) -> str:
        order = [f"order={self.order}"] if self.order != 1 else []
        return f"sparsity({', '.join([name_of(self.transformed), *order, *self.options.changed()])})"


@keywords_only
def sparsity(
    f: Callable[..., Any],
    *,
    order: int = 1,
    argnums: int = -1,
    batch_dims: int = 1,
    has_aux: bool = False,
    check: bool = True,
    check_tolerance: float | None = None,
) -> PatternOf:
    r"""Which entries of each sample's Jacobian can be nonzero: one pattern for all samples.

    .. math:: P_{ij} \ge [\, \partial y_{ni} / \partial x_{nj} \ne 0 \text{ for a sample } n \,]

    ``f`` is evaluated once, and each of torch's operations is followed: which coordinates of the input its elements
    depend on.  What was found is held against changes of ``f`` along random sets of columns.  No entry is missed, and
    some may be zero: what cannot be told apart (the largest of some numbers, an index that depends on ``x``) counts as
    all that it may be, and an operation without a rule as dense.  What index tensors and masks hold is followed
    exactly, and so are zeros of constants that are no parameters.

    Args:
        f: a function or an ``nn.Module``: ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, one tensor each.
        order: 1 for the Jacobian, 2 for the Hessian of the sum of all outputs, ``I`` by ``I``.
        argnums: which positional argument to differentiate by; the last one by default.
        batch_dims: how many leading axes are sample axes; 0 for one big map.
        has_aux: ``f`` returns ``(output, aux)``; aux is not looked at.
        check: find out whether samples influence each other, and refuse if so.
        check_tolerance: by which part of its size an output may move in that check; None for rounding alone.

    Returns:
        A function of the same arguments as ``f`` that returns a :class:`SparsityPattern` of ``prod(O)`` rows and
        ``prod(I)`` columns.

    Raises:
        ArgumentError: ``order`` is neither 1 nor 2.
        ShapeError: ``f`` takes or returns more than one tensor.
        UnsupportedOperationError: inside ``torch.compile`` or a ``torch.func`` transform, or through sparse tensors.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import sparsity
        >>> sparsity(lambda x: x[:, 1:] - x[:, :-1])(torch.rand(8, 4)).to_dense().int()
        tensor([[1, 1, 0, 0],
                [0, 1, 1, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    if order not in (1, 2):
        raise ArgumentError(f"order={order!r} is neither 1, for Jacobians, nor 2, for Hessians")
    keywords: Keywords = {
        "argnums": argnums,
        "batch_dims": batch_dims,
        "has_aux": has_aux,
        "check": check,
        "check_tolerance": check_tolerance,
    }
    return PatternOf(as_function(f), Options.of("sparsity", keywords), order)


@overload
def sparse_jac(
    f: Callable[..., Any], *, sparsity: SparsityLike = "auto", **keywords: Unpack[Alone]
) -> Transform[SparseJacobian]: ...
@overload
def sparse_jac(
    f: Callable[..., Y], *, sparsity: SparsityLike = "auto", **keywords: Unpack[Value]
) -> Transform[tuple[SparseJacobian, Y]]: ...
@overload
def sparse_jac(
    f: Callable[..., tuple[Any, X]], *, sparsity: SparsityLike = "auto", **keywords: Unpack[Aux]
) -> Transform[tuple[SparseJacobian, X]]: ...
@overload
def sparse_jac(
    f: Callable[..., tuple[Y, X]], *, sparsity: SparsityLike = "auto", **keywords: Unpack[Both]
) -> Transform[tuple[SparseJacobian, Y, X]]: ...
@overload
def sparse_jac(
    f: Callable[..., Any], *, sparsity: SparsityLike = "auto", **keywords: Unpack[Keywords]
) -> Transform[Any]: ...
@with_signature
def sparse_jac(
    f: Callable[..., Any], *, sparsity: SparsityLike = "auto", **keywords: Unpack[Keywords]
) -> Transform[Any]:
    r"""The Jacobian of each sample by its nonzero entries, in a few passes.

    .. math:: J_{n,ij} = \partial y_{ni} / \partial x_{nj}, \qquad (i, j) \in P

    The pattern ``P`` is found as by :func:`sparsity`.  Columns that share no row get one colour, and one pass gives all
    entries of a colour (Curtis, Powell and Reid, 1974); or the same with rows, if that takes less time.  The number of
    passes is that of the colours, whatever the size: 3 for a stencil of three points, 5 for one of five in the plane.

    In a Hessian (``f`` is :func:`diag_jac` or :func:`batch_jac` of one number a sample, or the pattern is symmetric) an
    entry may be read at its mirror image: fewer passes where some columns are full (Coleman and More, 1984).

    The pattern is looked for again where ``f`` runs other operations than before, or meets other indices, masks, zeros
    or numbers around it.  Results are held against the derivative along a random vector at the calls 1, 2, 4, 8 and so
    on.  With ``compile=True`` constants that are exchanged for others are only noticed by that.

    Args:
        f: a function or an ``nn.Module``: ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, one tensor each.
        sparsity: ``"auto"`` for the pattern to be found, or the pattern: what :func:`sparsity` returned, or a matrix
            ``(prod(O), prod(I))`` (a tensor, an array, a scipy sparse matrix), nonzero where the Jacobian may be.
        **keywords: those of :func:`diag_jac`; ``argnums`` names one argument, and there is no ``out_dims``.

    Returns:
        A function of the same arguments as ``f``, whose result is a :class:`SparseJacobian`: values ``(N, nnz)`` that
        carry gradients, and the pattern.  With ``return_value=True`` it is ``(jacobian, value)``, aux comes last.

    Raises:
        ShapeError: ``f`` takes or returns more than one tensor, or ``sparsity`` is no matrix of its columns.
        UnsupportedOperationError: ``sparsity`` lacks entries.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import sparse_jac
        >>> x = torch.tensor([[1.0, 2.0, 4.0]])
        >>> jac = sparse_jac(lambda x: x[:, 1:] * x[:, :-1])(x)
        >>> jac
        SparseJacobian((1, 2, 3), 4 entries a sample, torch.float32)
        >>> jac.to_dense()
        tensor([[[2., 1., 0.],
                 [0., 4., 2.]]])
    """
    transform = transform_of(BATCH_JAC, f, keywords)
    return compressed(transform, "auto" if sparsity is None else sparsity, _SPARSE)

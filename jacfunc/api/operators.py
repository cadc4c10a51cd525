"""``linear_operator``: a Jacobian as scipy's solvers take it, by its products with vectors, without the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..call.request import Request, as_function, requested
from ..core.keywords_only import keywords_only
from ..core.reasons import name_of
from ..keywords import Keywords, Method
from ..options import Options
from ..structure.compressed import TimesOutput
from ..structure.detect import refuse_several
from .calculus import directional
from .calling import Uncalled
from .transform import Transform
from .transforms import BATCH_JAC

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator  # type: ignore[import-untyped]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class OperatorOf(Uncalled):
    """A function of the same arguments as ``f`` that returns a ``LinearOperator``."""

    transformed: Callable[..., Any]
    options: Options

    def __call__(self, *args: Any, **kwargs: Any) -> LinearOperator:
        """The Jacobian of ``f`` at its arguments."""
        from scipy.sparse.linalg import LinearOperator

        with requested(self.transformed, self.options, args, kwargs) as given:
            refuse_several(len(given.leaves), "differentiates by")
            request = _of_now(given)
            rows = self._pushed(request, torch.zeros_like(request.leaves[0])).numel()
        columns = request.leaves[0].numel()
        return LinearOperator(
            (rows, columns),
            matvec=lambda v: self._times(request, v),
            rmatvec=lambda u: self._transposed_times(request, u, rows),
            dtype=torch.empty(0, dtype=request.leaves[0].dtype).numpy().dtype,
        )

    def _times(self, request: Request, v: Array) -> Array:
        x = request.leaves[0]
        return _as_array(self._pushed(request, _as_tensor(v, x).reshape(x.shape)))

    def _pushed(self, request: Request, direction: torch.Tensor) -> torch.Tensor:
        options = self.options
        along = directional(
            self.transformed,
            argnums=options.argnums,
            batch_dims=options.batch_dims,
            has_aux=options.has_aux,
            check=options.check,
            check_tolerance=options.check_tolerance,
        )
        with torch.no_grad():
            found = along(*request.args, direction, **request.kwargs)
        refuse_several(1 if isinstance(found[0] if options.has_aux else found, torch.Tensor) else 2, "returns")
        result: torch.Tensor = found[0] if options.has_aux else found
        return result

    def _transposed_times(self, request: Request, u: Array, rows: int) -> Array:
        options, x = self.options, request.leaves[0]
        times = _as_tensor(u, x).reshape(*request.batch, rows // max(math.prod(request.batch), 1))
        product = TimesOutput(self.transformed, options.batch_dims, options.has_aux)
        inner = Transform(product, BATCH_JAC, replace(options, has_aux=False))
        with torch.no_grad():
            return _as_array(inner(*request.args, times=times, **request.kwargs))

    def __repr__(self) -> str:
        return f"linear_operator({', '.join([name_of(self.transformed), *self.options.changed()])})"


def _of_now(request: Request) -> Request:
    """With a copy of the differentiated tensor, so that the operator stays that of the point where it was made."""
    place, args = request.arguments[0].position, list(request.args)
    args[place] = request.leaves[0].detach().clone()
    return Request(request.function, request.options, tuple(args), request.kwargs)


def _as_tensor(vector: Array, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(vector)).to(like).reshape(-1)


def _as_array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().reshape(-1).numpy()


@keywords_only
def linear_operator(
    f: Callable[..., Any],
    *,
    argnums: int = -1,
    batch_dims: int = 1,
    method: Method = "auto",
    has_aux: bool = False,
    check: bool = True,
    check_tolerance: float | None = None,
) -> OperatorOf:
    r"""The Jacobian as a ``LinearOperator`` of scipy's, by products with vectors, without the matrix.

    .. math:: v \mapsto J v, \qquad u \mapsto J^T u

    Each product evaluates ``f`` once more: ``matvec`` pushes one direction forward, ``rmatvec`` pulls one back.  With
    samples the operator has a block for each of them on its diagonal.  For a matrix with few entries a row
    :func:`sparse_jac` is the other way: its ``matvec`` does not call ``f``.

    Args:
        f: a function or an ``nn.Module``: ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, one tensor each.
        argnums: which positional argument to differentiate by; the last one by default.
        batch_dims: how many leading axes are sample axes; 0 for one big map.
        method: the route of ``rmatvec``, as in :func:`diag_jac`.
        has_aux: ``f`` returns ``(output, aux)``; aux is not looked at.
        check: find out whether samples influence each other, and refuse if so.
        check_tolerance: by which part of its size an output may move in that check; None for rounding alone.

    Returns:
        A function of the same arguments as ``f`` that returns a ``scipy.sparse.linalg.LinearOperator`` of
        ``N * prod(O)`` rows and ``N * prod(I)`` columns, of the dtype of ``x``; vectors are numpy's.  It needs scipy.

    Raises:
        ShapeError: ``f`` takes or returns more than one tensor.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from scipy.sparse.linalg import gmres  # pip install jacfunc[sparse]
        >>> from jacfunc import linear_operator
        >>> f = lambda x: x**3 + x.roll(1)
        >>> x = torch.ones(4, dtype=torch.float64)
        >>> operator = linear_operator(f, batch_dims=0)(x)
        >>> step, info = gmres(operator, f(x).numpy())
        >>> bool(abs(operator @ step - f(x).numpy()).max() < 1e-4)
        True
    """
    keywords: Keywords = {
        "argnums": argnums,
        "batch_dims": batch_dims,
        "method": method,
        "has_aux": has_aux,
        "check": check,
        "check_tolerance": check_tolerance,
    }
    return OperatorOf(as_function(f), Options.of("linear_operator", keywords))

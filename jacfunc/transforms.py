"""The public transforms: each says which entries it wants and what its result looks like.

Arguments are checked in ``request.py``, the route is chosen in ``plan.py``.  A :class:`Transform` is what they
return: a function of the same arguments that ``explain`` can ask about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import independence
from .entries import Block, Diagonal, HessianDiagonal, Laplacian, have_diagonal
from .errors import ShapeError
from .plan import Outcome, Wanted, run
from .request import Method, Options, Outputs, Request, as_function, requested
from .rng import Draw


@dataclass(frozen=True)
class Transform:
    """A function of the same arguments as ``f`` that returns a derivative of it."""

    transformed: Callable[..., Any]
    wanted: Wanted
    options: Options
    assemble: Callable[[Request, Outcome], Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with requested(self.transformed, self.options, args, kwargs) as request:
            outcome = run(request, self.wanted)
            derivative = self.assemble(request, outcome)
            extra: tuple[Any, ...] = ()
            assert request.outputs is not None
            if self.options.return_value:
                extra = (request.outputs.structure.build(outcome.evaluation.outputs),)
            if self.options.has_aux:
                extra = (*extra, request.aux(outcome.evaluation.aux))
            return (derivative, *extra) if extra else derivative

    def _captured(self) -> tuple[object, ...]:
        return (self.wanted.name, self.options.argnums, self.options.batch_dims, self.transformed)

    def __repr__(self) -> str:
        return f"{self.wanted.name}({self.transformed!r})"


def _by_pair(request: Request, outcome: Outcome) -> Any:
    """The output's tree outside, then the tuple of a tuple ``argnums``, the input's tree innermost."""
    assert request.outputs is not None
    trees = []
    for output in range(len(request.outputs.shapes)):
        arguments = [
            argument.structure.build([outcome.results[output, leaf] for leaf in _leaves(argument.span)])
            for argument in request.arguments
        ]
        trees.append(_per_argument(request, arguments))
    return request.outputs.structure.build(trees)


def _summed_by_argument(request: Request, outcome: Outcome) -> Any:
    """The output's tree outside; the leaves within one argument are summed."""
    assert request.outputs is not None
    trees = []
    for output in range(len(request.outputs.shapes)):
        sums = [_sum([outcome.results[output, leaf] for leaf in _leaves(argument.span)]) for argument in request.arguments]
        trees.append(_per_argument(request, sums))
    return request.outputs.structure.build(trees)


def _trace(request: Request, outcome: Outcome) -> torch.Tensor:
    """All diagonals, summed over samples' coordinates and leaves: one number for each sample."""
    return _sum([diagonal.reshape(*request.batch, -1).sum(-1) if diagonal.numel() else diagonal.new_zeros(request.batch) for diagonal in outcome.results.values()])


def _per_argument(request: Request, results: list[Any]) -> Any:
    return tuple(results) if isinstance(request.options.argnums, tuple) else results[0]


def _leaves(span: slice) -> range:
    return range(span.start, span.stop)


def _sum(tensors: list[torch.Tensor]) -> torch.Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _refuse_without_diagonal(request: Request, outputs: Outputs) -> None:
    for output, path in zip(outputs.shapes, outputs.paths(), strict=True):
        for shape, input_path in zip(request.input_shapes, request.input_paths(), strict=True):
            if not have_diagonal(output, shape):
                raise ShapeError(
                    f"{path} has sample shape {output} and {input_path} {shape}, which have no diagonal in common: one must "
                    "have a single element, or equal rank and each axis equal or 1; use batch_jac for the whole Jacobian"
                )


def _refuse_unequal_trees(request: Request, outputs: Outputs) -> None:
    given = [argument.structure for argument in request.arguments]
    shapes = request.input_shapes
    if isinstance(request.options.argnums, int) and outputs.structure != given[0] or len(outputs.shapes) != len(shapes):
        raise ShapeError(
            f"the divergence needs an output that is built as the input, but the output is {outputs.structure!r} "
            f"and the input {', '.join(map(repr, given))}; use diag_jac or batch_jac"
        )
    for output, path, shape, input_path in zip(outputs.shapes, outputs.paths(), shapes, request.input_paths(), strict=True):
        if output != shape:
            raise ShapeError(
                f"{path} has sample shape {output} and {input_path} {shape}, but the divergence needs equal ones; "
                "use diag_jac, batch_jac, or laplacian"
            )


DIAG_JAC = Wanted("diag_jac", 1, Diagonal, refuse=_refuse_without_diagonal)
BATCH_JAC = Wanted("batch_jac", 1, Block)
DIVERGENCE = Wanted("divergence", 1, Diagonal, paired=True, refuse=_refuse_unequal_trees)
HESS_DIAG = Wanted("hess_diag", 2, HessianDiagonal)
LAPLACIAN = Wanted("laplacian", 2, Laplacian)


def diag_jac(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    return_value: bool = False,
    check: bool = True,
) -> Transform:
    """DOC"""
    options = Options(argnums, batch_dims, method, chunk_size, has_aux, return_value, check)
    return Transform(as_function(f), DIAG_JAC, options, _by_pair)


def batch_jac(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    return_value: bool = False,
    check: bool = True,
) -> Transform:
    """DOC"""
    options = Options(argnums, batch_dims, method, chunk_size, has_aux, return_value, check)
    return Transform(as_function(f), BATCH_JAC, options, _by_pair)


def divergence(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    return_value: bool = False,
    check: bool = True,
) -> Transform:
    """DOC"""
    options = Options(argnums, batch_dims, method, chunk_size, has_aux, return_value, check)
    return Transform(as_function(f), DIVERGENCE, options, _trace)


def hess_diag(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    return_value: bool = False,
    check: bool = True,
) -> Transform:
    """DOC"""
    options = Options(argnums, batch_dims, method, chunk_size, has_aux, return_value, check)
    return Transform(as_function(f), HESS_DIAG, options, _by_pair)


def laplacian(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    return_value: bool = False,
    check: bool = True,
) -> Transform:
    """DOC"""
    options = Options(argnums, batch_dims, method, chunk_size, has_aux, return_value, check)
    return Transform(as_function(f), LAPLACIAN, options, _summed_by_argument)

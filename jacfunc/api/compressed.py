"""A transform whose Jacobian is sparse: few columns or rows are computed, and what is wanted is picked out of them.

How a pattern is found, coloured and compressed is in ``structure/``; here is what is remembered between calls, and what
each result is held against.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..call.evaluator import Evaluator
from ..call.plan import Plan
from ..call.quantity import Quantity
from ..call.refusals import JetsGivenError
from ..call.reproduced import Precision
from ..call.request import Request, requested
from ..call.sample_chunks import cut_arguments
from ..core import caches
from ..core.closeness import agree
from ..core.levels import inside_transform
from ..core.reasons import name_of
from ..errors import ArgumentError, ShapeError, UnsupportedOperationError
from ..structure.compressed import AlongColumns, Passes, along
from ..structure.detect import Found, detect, refuse_several
from ..structure.jacobian import SparseJacobian
from ..structure.pattern import SparsityPattern
from .segments import segmented
from .transform import Result_co, Transform

Pair = tuple[Tensor, Tensor]
SparsityLike = SparsityPattern | Literal["auto"] | Any
"""A pattern, or a matrix that has one (``SparsityPattern.of``), or ``"auto"`` for it to be found."""


# -------------------------------------------------------------------- what is picked


@dataclass(frozen=True)
class Kind(ABC):
    """What is picked of ``B = J S``, and how it is told to be right.

    Attributes:
        within: the quantity of the inner function that gives ``B``.
        order: that of the pattern: 1 for Jacobians, 2 for Hessians.
        draws: how many of the other ``B`` tell at the first call.
    """

    within: Quantity
    order: int = 1
    draws: int = 1

    @abstractmethod
    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """How what is wanted of a pattern is computed."""

    def refuse(self, name: str, output_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:  # noqa: B027
        """Refuse samples of shapes that have not what is wanted."""

    @abstractmethod
    def result(self, request: Request, passes: Passes, matrix: torch.Tensor) -> Any:
        """What is wanted, of ``B``."""

    @abstractmethod
    def other_seeds(self, passes: Passes, weights: torch.Tensor) -> torch.Tensor:
        """Another ``S``, by weights of the columns that are random from 0.5 to 1.5, whose ``B`` tells what is right."""

    @abstractmethod
    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, matrix: Tensor) -> Pair:
        """A result, or what follows from it, and what that ``B`` says it is."""


@dataclass(frozen=True)
class Whole(Kind):
    """All entries of a Jacobian, held against its product with a random vector."""

    dense: bool = False

    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """Of columns or of rows."""
        return Passes.of_all(pattern, method)

    def result(self, request: Request, passes: Passes, matrix: torch.Tensor) -> SparseJacobian | torch.Tensor:
        """The entries and one pattern for all samples, or a dense Jacobian of each."""
        jac = SparseJacobian(passes.picked(matrix, request.batch).squeeze(-2), passes.pattern)
        if not self.dense:
            return jac
        return jac.to_dense().reshape(*request.batch, *passes.pattern.output_shape, *passes.pattern.input_shape)

    def other_seeds(self, passes: Passes, weights: torch.Tensor) -> torch.Tensor:
        """The vector."""
        return weights[None]

    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, matrix: Tensor) -> Pair:
        """The product with the vector, and what it is."""
        if self.dense:
            axes = len(passes.pattern.input_shape)
            product = result.flatten(-axes) @ weights if axes else result * weights
        else:
            product = result.matvec(weights.expand(*request.batch, -1))
        return product.reshape(matrix.shape), matrix


@dataclass(frozen=True)
class OnDiagonal(Kind):
    """The diagonal alone, or its sum, held against that of columns with random weights.

    What another column leaves in a diagonal entry has the weight of that other column.
    """

    summed: bool = False

    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """Of columns; they may share a colour unless they have entries in each other's rows."""
        return Passes.of_diagonal(pattern)

    def refuse(self, name: str, output_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        """Both are to be the same."""
        if output_shape != input_shape:
            raise ShapeError(
                f"{name} with sparsity= takes an output of the shape of the input, but a sample of the output has "
                f"shape {output_shape} and one of the input {input_shape}; leave sparsity out, or use sparse_jac"
            )

    def result(self, request: Request, passes: Passes, matrix: torch.Tensor) -> torch.Tensor:
        """An entry for each element of the input, or their sum."""
        return self._reduced(request, passes.picked(matrix, request.batch))

    def other_seeds(self, passes: Passes, weights: torch.Tensor) -> torch.Tensor:
        """Those of before with weights."""
        return passes.seeds * weights

    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, matrix: Tensor) -> Pair:
        """Entries, and those of the other columns without their weights."""
        return result, self._reduced(request, passes.picked(matrix, request.batch) / weights)

    def _reduced(self, request: Request, found: torch.Tensor) -> torch.Tensor:
        batch = request.batch
        return found.sum((-2, -1)) if self.summed else found.reshape(*batch, *request.input_shapes[0])


@dataclass(frozen=True)
class SecondSum(Kind):
    r"""The Laplacian, as that by ``s``: :math:`\sum_c v_c^T H v_c`, where no two columns of a colour meet in ``H``.

    What is held against it has random signs, by which entries off the diagonal count in another way.
    """

    order: int = 2
    draws: int = 4

    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """Of columns; they may share a colour unless they have an entry in common."""
        return Passes.of_diagonal(pattern)

    def result(self, request: Request, passes: Passes, matrix: torch.Tensor) -> torch.Tensor:
        """It is there already."""
        return matrix

    def other_seeds(self, passes: Passes, weights: torch.Tensor) -> torch.Tensor:
        """Those of before with signs."""
        return passes.seeds * (weights - 1).sign()

    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, matrix: Tensor) -> Pair:
        """Both sums."""
        return result, matrix


# -------------------------------------------------------------------- the transform


@dataclass(eq=False)
class Known:
    """What is known of calls of one kind.

    Attributes:
        found: the pattern, and what it belongs to.
        passes: how what is wanted is computed.
        calls: how many there were.
        plan: how the last one was computed; of another program there is another one.
    """

    found: Found
    passes: Passes
    calls: int = 0
    plan: Plan | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Compressed(Transform[Result_co]):
    """A transform by few columns or rows.

    ``quantity`` is what it would compute of a function that jets go through, and without a pattern.
    """

    kind: Kind
    sparsity: SparsityPattern | None
    given: Passes | None = field(default=None, repr=False)
    """How a pattern that was passed is computed, known before torch.compile looks at a call."""

    def here(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        """What is wanted, at arguments that are tensors of this process alone; ``traced``: it is recorded."""
        if traced or inside_transform():
            return self._unchecked(args, kwargs, traced)
        try:
            with requested(self.transformed, self.options, args, kwargs) as request:
                if self.options.sample_chunk_size is not None or self.options.in_dims is not None:
                    cut_arguments(request, self.options)
                return self._found(request)
        except JetsGivenError:
            if isinstance(self.kind, Whole):
                raise UnsupportedOperationError(
                    f"{self.quantity.name} with sparsity= is called in a function that another transform "
                    "differentiates; use batch_jac without it there"
                ) from None
        return super().here(args, kwargs, traced)

    def _found(self, request: Request) -> Any:
        key = (request.fingerprint.key, request.signature)
        known: Known | None = caches.PATTERNS.get(self, key)
        result, right = None, False
        if known is not None:
            result, right = self._computed(request, known)
        for exact in (True, False):
            if right:
                break
            known = self._look(request, known, exact)
            caches.PATTERNS.put(self, key, known)
            result, right = self._computed(request, known)
        if not right:
            raise UnsupportedOperationError(LACKING if self.sparsity is not None else OTHERWISE)
        return result

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        with requested(self.transformed, self.options, args, kwargs) as request:
            return self._inner(request, self._look(request).passes)

    def told(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, str]]:
        """What ``explain`` says of the pattern: how many entries and colours it has, and what made it dense."""
        with requested(self.transformed, self.options, args, kwargs) as request:
            known = self._look(request)
        pattern, passes, dense = known.found.pattern, known.passes, known.found.dense
        side = "columns" if passes.columns else "rows"
        return [
            ("sparsity", f"{pattern!r}, in {passes.count} colours of {side}"),
            *([("dense", f"{', '.join(dense)}: all outputs of it may depend on all inputs")] if dense else []),
        ]

    def _look(self, request: Request, before: Known | None = None, exact: bool = True) -> Known:
        """Find the pattern; what it was ``before``, of another branch perhaps, belongs to it too."""
        like = request.leaves[0]
        if self.given is not None:
            coarsest = self._refuse_other_shapes(request, self.given.pattern)
            return Known(Found(self.given.pattern, (), (), coarsest), self.given.to(like))
        found = detect(request, self.kind.order, exact)
        self.kind.refuse(self.quantity.name, found.pattern.output_shape, found.pattern.input_shape)
        if before is not None:
            found = replace(found, pattern=found.pattern | before.found.pattern)
        return Known(found, self.kind.passes(found.pattern, self.options.method).to(like))

    def _refuse_other_shapes(self, request: Request, pattern: SparsityPattern) -> float:
        """Refuse a pattern that is not of as many rows and columns as the Jacobian has, by one look at ``f``.

        What is returned is the precision of the coarsest dtype that it computes in.
        """
        state = request.random_state()
        with Precision() as precision:
            values, _ = Evaluator(request).look(state)
        state.restore()
        refuse_several(len(request.leaves), "differentiates by")
        refuse_several(len(values), "returns")
        shapes = request.sample_shape(values[0]), request.input_shapes[0]
        self.kind.refuse(self.quantity.name, *shapes)
        sides = ("output", "input") if self.kind.order == 1 else ("input", "input")
        for axis, (line, side) in enumerate(zip(("row", "column"), sides, strict=True)):
            shape = shapes[0] if side == "output" else shapes[1]
            if pattern.shape[axis] != math.prod(shape):
                raise ShapeError(
                    f"sparsity has {pattern.shape[axis]} {line}s, but a sample of the {side} has shape {shape}; pass a "
                    f"{line} for each of its {math.prod(shape)} elements"
                )
        return float(precision.coarsest)

    def _inner(self, request: Request, passes: Passes) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that computes ``B``, and its arguments."""
        function, options = passes.function(self.transformed, self.options)
        args = passes.arguments(request.args, request.leaves[0], request.batch)
        return Transform(function, self.kind.within, options), args

    def _computed(self, request: Request, known: Known) -> tuple[Any, bool]:
        """The result, and whether it is right, where that is asked: at calls 1, 2, 4, .. and of another program."""
        transform, args = self._inner(request, known.passes)
        options, state = transform.options, request.random_state()
        if options.compile or options.sample_chunk_size is not None:
            found, plan = transform(*args, **request.kwargs), known.plan
        else:
            found, plan = transform.outcome(Request(transform.transformed, options, args, request.kwargs), None)
        result, *others = self._assembled(request, known.passes, found)
        known.calls += 1
        right = True
        if caches.due(known.calls) or plan is not known.plan or not known.found.holds:
            known.plan, after = plan, request.random_state()
            state.restore()
            right = self._is_right(request, known, result)
            after.restore()
            known.found = known.found.now()
        return ((result, *others) if others else result), right

    def _assembled(self, request: Request, passes: Passes, found: Any) -> tuple[Any, ...]:
        """What is returned, of ``B`` and what comes with it."""
        options = self.options
        matrix, *others = found if options.return_value or options.has_aux else (found,)
        if options.return_value and not passes.columns:
            others = [*others[0]]
        return self.kind.result(request, passes, matrix), *others

    def _is_right(self, request: Request, known: Known, result: Any) -> bool:
        """Whether a result agrees with one by other columns, weighted at random."""
        draws = range(self.kind.draws if known.calls == 1 else 1)
        state = request.random_state()
        for draw in draws:
            state.restore()
            if not self._agrees(request, known, result, known.calls + draw * len(draws)):
                return False
        return True

    def _agrees(self, request: Request, known: Known, result: Any, seed: int) -> bool:
        passes, x = known.passes, request.leaves[0].detach()
        generator = torch.Generator().manual_seed(seed)
        weights = torch.rand(passes.pattern.shape[1], generator=generator, dtype=torch.float64).to(x) + 0.5
        seeds = self.kind.other_seeds(passes, weights)
        options = replace(along(self.options.eager.whole), method="auto", return_value=False)
        function = AlongColumns(self.transformed, self.options.numbers[0], seeds)
        args = (*request.args, x.new_zeros(*request.batch, len(seeds)))
        with torch.no_grad():
            found = Transform(function, self.kind.within, options)(*args, along=seeds, **request.kwargs)
            pair = self.kind.compared(request, passes, weights, result, found[0] if options.has_aux else found)
            return agree(*pair, known.found.coarsest)

    def _unchecked(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        """By a pattern that is given, where no value can be looked at."""
        if self.given is None:
            raise UnsupportedOperationError(
                f"{self.quantity.name} finds the pattern by a look at f, which torch.compile, torch.export and "
                "torch.func transforms cannot trace; pass sparsity=sparsity(f)(..), or compile=True in place of "
                "torch.compile"
            )
        request = Request(self.transformed, self.options, args, kwargs, traced=traced)
        passes = self.given.to(request.leaves[0])
        transform, given = self._inner(request, passes)
        result = self._assembled(request, passes, transform(*given, **kwargs))
        return result if len(result) > 1 else result[0]

    def _results(self) -> tuple[str, ...]:
        whole = isinstance(self.kind, Whole) and not self.kind.dense
        return tuple([name for name in dir(SparseJacobian) if name[0] != "_"]) if whole else ()

    def _fingerprint(self) -> tuple[object, ...]:
        return (*super()._fingerprint(), self.kind, self.sparsity)

    def __repr__(self) -> str:
        given = "'auto'" if self.sparsity is None else repr(self.sparsity)
        told = [name_of(self.transformed), f"sparsity={given}", *self.options.changed()]
        name = "sparse_jac" if isinstance(self.kind, Whole) and not self.kind.dense else self.quantity.name
        return f"{name}({', '.join(told)})"


def compressed(transform: Transform, sparsity: SparsityLike, kind: Kind) -> Transform:
    """The transform by few columns or rows of a pattern."""
    transform.options.refuse(("out_dims",), "sparsity", "a pattern is of samples that lie on the first axes")
    if isinstance(sparsity, str) and sparsity != "auto":
        raise ArgumentError(f"sparsity={sparsity!r} is neither 'auto' nor a pattern; pass sparsity(f)(..), or a matrix")
    pattern = None if isinstance(sparsity, str) else SparsityPattern.of(sparsity)
    given = None if pattern is None else kind.passes(pattern, transform.options.method)
    return Compressed(transform.transformed, transform.quantity, transform.options, kind, pattern, given)


def either(transform: Transform, segments: Any, sparsity: SparsityLike | None, kind: Kind) -> Transform:
    """The transform for rows that belong to segments, or by the pattern of its Jacobian; itself for neither."""
    if sparsity is None:
        return segmented(transform, segments)
    if segments is not None:
        raise ArgumentError("sparsity= with segments=; one pattern is that of all samples, so leave one of them out")
    return compressed(transform, sparsity, kind)


LACKING = (
    "sparsity lacks entries: what it leaves of the Jacobian, times a random vector, is not the derivative of f along "
    "it; leave sparsity out for the pattern to be found, or add the entries that are missing"
)
OTHERWISE = (
    "the sparse Jacobian times a random vector is not the derivative of f along it: f does something else here than "
    "when its pattern was looked for; leave sparsity out"
)

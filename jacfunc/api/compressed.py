"""A transform whose Jacobian is sparse: few columns or rows are computed, and what is wanted is picked out of them.

How a pattern is found, coloured and compressed is in ``structure/``; here is what is remembered between calls, and what
each result is held against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from ..call.evaluator import Evaluator
from ..call.known import Ran
from ..call.refusals import JetsGivenError
from ..call.reproduced import Precision
from ..call.request import Request, requested
from ..call.sample_chunks import Blocks, cut_arguments
from ..core import caches
from ..core.levels import compiling, inside_transform
from ..core.reasons import name_of
from ..core.torch_private import innermost, outside_transforms
from ..core.unasked import unasked
from ..errors import ArgumentError, ShapeError, UnsupportedOperationError
from ..evaluation.rng import RandomState
from ..options import Options
from ..structure.compressed import Passes
from ..structure.detect import Found, refuse_several
from ..structure.jacobian import SparseJacobian
from ..structure.pattern import SparsityPattern
from .gradients import found_pattern
from .kinds import Kind, OfGradient, Pair, Whole
from .probed import ROUNDING, along_columns
from .segments import segmented
from .states import State
from .transform import Result_co, Transform

SparsityLike = SparsityPattern | Literal["auto"] | Any
"""A pattern, or a matrix that has one (``SparsityPattern.of``), or ``"auto"`` for it to be found."""

STATES = 16
"""So many states are remembered of one pattern."""
WIDER = 2
"""A pattern of several states has at most so many times the entries of the last one; else it begins anew."""
KEPT = 8
"""So many transforms inside are kept."""


@dataclass(eq=False)
class Known:
    """What is known of calls of one kind.

    Attributes:
        found: the pattern, and what it belongs to.
        passes: how what is wanted is computed.
        calls: how many there were.
        states: what it was found with, or was seen to be right with.
        random: whether random numbers are drawn.
        fresh: whether it was found in the call that is under way.
    """

    found: Found
    passes: Passes
    calls: int = 0
    states: list[State] = field(default_factory=list, repr=False)
    random: bool = False
    fresh: bool = True

    def knows(self, request: Request, ran: Sequence[Ran]) -> bool:
        """Whether what ran is nothing new."""
        return any(state.is_now(request, ran) for state in reversed(self.states))

    def learn(self, request: Request, ran: Sequence[Ran]) -> None:
        """What ran is nothing new from now on."""
        self.states = [*self.states[-STATES + 1 :], State.of(request, ran)]


@dataclass(frozen=True, eq=False)
class Compressed(Transform[Result_co]):
    """A transform by few columns or rows.

    ``quantity`` is what it would compute of a function that jets go through, and without a pattern.
    """

    kind: Kind
    given: Passes | None
    made: dict[Any, Transform] = field(default_factory=dict, repr=False)
    """The transforms inside, by passes and options: the same at each call, since compiled code is looked up by them."""

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
                    f"{self._name()} with sparsity= is called in a function that another transform "
                    "differentiates; use batch_jac without it there"
                ) from None
        return super().here(args, kwargs, traced)

    def _found(self, request: Request) -> Any:
        key = (request.fingerprint.key, request.signature)
        remembered = known = caches.PATTERNS.get(self, key)
        for exact in (True, True, False):  # as it is known, looked for, and with what masks leave out
            known = known or self._look(request, exact)
            state = request.random_state() if _may_draw(request, known) else None
            result, ran = self._computed(request, known)
            known, right = self._judged(request, known, result[0], ran, state)
            if right:
                if request.samples and known is not remembered:  # without samples nothing was seen
                    caches.PATTERNS.put(self, key, known)
                return result if len(result) > 1 else result[0]
            if state is not None:
                state.restore()
        raise UnsupportedOperationError(OTHERWISE if self.given is None else LACKING)

    def _judged(
        self, request: Request, known: Known, result: Any, ran: Sequence[Ran], state: RandomState | None
    ) -> tuple[Any, bool]:
        """What is known from now on, None for what has to be looked for anew, and whether the result is right."""
        new, known.calls = not known.knows(request, ran), known.calls + 1
        if new and not known.fresh and self.given is None:
            other = self._look(request)
            both = known.found.pattern | other.found.pattern
            if both.nnz > known.found.pattern.nnz:
                return (
                    other if both.nnz > WIDER * other.found.pattern.nnz else self._wider(request, known, both)
                ), False
        if new or caches.due(known.calls) or not known.found.holds:
            after = request.random_state()
            right = self._is_right(request, known, result, state or after)
            after.restore()
            if not right:
                return None, False
            known.found = known.found.now()
        if new:
            known.learn(request, ran)
        known.fresh = False
        return known, True

    def _wider(self, request: Request, known: Known, pattern: SparsityPattern) -> Known:
        """What is known, with a pattern that is right for another state as well."""
        passes = self.kind.passes(pattern, self.options.method).to(request.leaves[0])
        return Known(replace(known.found, pattern=pattern), passes, known.calls, known.states, known.random)

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        with requested(self.transformed, self.options, args, kwargs) as request:
            return self._inner(request, self._look(request).passes)

    def looked_at(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Known:
        """What a first call with these arguments finds."""
        with requested(self.transformed, self.options, args, kwargs) as request:
            return self._look(request)

    def told(self, known: Known) -> list[tuple[str, str]]:
        """What ``explain`` says of that: how many entries and colours there are, and what made the pattern dense."""
        pattern, passes, dense = known.found.pattern, known.passes, known.found.dense
        side, plural = "columns" if passes.columns else "rows", "s" * (passes.count != 1)
        return [
            ("sparsity", f"{pattern!r}, in {passes.count} colour{plural} of {side}"),
            *([("dense", f"{', '.join(dense)}: all outputs of it may depend on all inputs")] if dense else []),
        ]

    def _look(self, request: Request, exact: bool = True) -> Known:
        """Find the pattern."""
        like = request.leaves[0]
        if self.given is not None:
            coarsest = self._refuse_other_shapes(request, self.given.pattern)
            return Known(Found(self.given.pattern, (), (), coarsest), self.given.to(like))
        found = found_pattern(self.transformed, request, self.kind.order, exact)
        self.kind.refuse(self.quantity.name, found.pattern.output_shape, found.pattern.input_shape)
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
        args, options = passes.arguments(request.args, request.leaves[0], request.batch), self._cut(request)
        found = None if request.traced else self.made.get((passes, options))
        if found is None:
            function, inner = passes.function(self.transformed, options)
            found = Transform(function, self.kind.quantity(passes), inner)
            if not request.traced:
                if len(self.made) >= KEPT:
                    self.made.clear()
                self.made[passes, options] = found
        return found, args

    def _computed(self, request: Request, known: Known) -> tuple[tuple[Any, ...], Sequence[Ran]]:
        """What is returned, and what ran: a program for each block of samples; none where torch compiled it."""
        transform, args = self._inner(request, known.passes)
        options = transform.options
        if options.compile:
            return self._assembled(request, known.passes, transform(*args, **request.kwargs)), ()
        blocks, parts = None, [args]
        if options.sample_chunk_size is not None:
            blocks = Blocks.of(transform.transformed, options, transform.quantity, args, request.kwargs, False)
            transform = replace(transform, options=options.whole)
            if len(blocks.starts()) > 1:
                blocks.settle_independence(args, request.kwargs)
                parts = [blocks.samples(args, start) for start in blocks.starts()]
        noted = []
        for part in parts:
            noted.append(transform.noted(Request(transform.transformed, transform.options, part, request.kwargs)))
            known.random = known.random or noted[-1][1].findings.random
        found = noted[0][0] if blocks is None or len(parts) == 1 else blocks.joined([each[0] for each in noted])
        return self._assembled(request, known.passes, found), [each[2] for each in noted]

    def _assembled(self, request: Request, passes: Passes, found: Any) -> tuple[Any, ...]:
        """What is returned, of ``B`` and what comes with it."""
        options = self.options
        entries, *others = found if options.return_value or options.has_aux else (found,)
        if options.return_value and not passes.columns:
            others = [*others[0]]
        return self.kind.result(request, passes, entries), *others

    def _is_right(self, request: Request, known: Known, result: Any, state: RandomState) -> bool:
        """Whether a result agrees with one by other columns, weighted at random; ``state`` is that before it."""
        draws = range(self.kind.draws(known.passes)) if known.calls == 1 else [None]
        for draw in draws:
            state.restore()
            with unasked():
                if not self._agrees(request, known, result, draw):
                    return False
        return True

    def _agrees(self, request: Request, known: Known, result: Any, draw: int | None) -> bool:
        kind, passes, x = self.kind, known.passes, request.leaves[0].detach()
        generator = torch.Generator().manual_seed(known.calls)
        weights = torch.rand(passes.pattern.shape[1], generator=generator, dtype=torch.float64).to(x) + 0.5
        quantity, seeds, by = kind.other_quantity(passes), kind.other_seeds(passes), kind.other_weights(weights, draw)
        with torch.no_grad():
            other = along_columns(self.transformed, request, self.options, quantity, seeds, weights=by)
            return _agree(*kind.compared(request, passes, weights, result, other), known.found.coarsest)

    def _cut(self, request: Request) -> Options:
        """The options, where the one argument there is beside parameters is cut into blocks of samples."""
        options, state = self.options, request.state_arguments
        alone = len(request.args) == state + 1 and not request.kwargs
        if options.sample_chunk_size is None or options.in_dims is not None or not alone:
            return options
        return replace(options, in_dims=(*[None] * state, 0))

    def _unchecked(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        """The result where nothing can be looked at: the pattern is taken for right."""
        if self.given is None:
            raise UnsupportedOperationError(
                f"{self._name()} finds the pattern by a look at f, which torch.compile, torch.export and "
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
        return (*super()._fingerprint(), self.kind, self.given)

    def _name(self) -> str:
        return "sparse_jac" if isinstance(self.kind, Whole) and not self.kind.dense else self.quantity.name

    def __repr__(self) -> str:
        given = "'auto'" if self.given is None else repr(self.given.pattern)
        inside = isinstance(self.kind, OfGradient) and isinstance(self.transformed, Transform)
        f = self.transformed.transformed if inside else self.transformed  # type: ignore[attr-defined]
        told = [name_of(f), f"sparsity={given}", *self.options.changed()]
        return f"{self._name()}({', '.join(told)})"


def _agree(found: Pair, size: torch.Tensor, eps: float) -> bool:
    """Whether two results, where they are finite, are the same but for half of the digits of what they are sums of.

    A number that is much smaller than the largest may be rounding of that one, too.
    """
    one, other = found
    eps = max(torch.finfo(one.dtype).eps, eps)
    finite = one.isfinite() & other.isfinite() & size.isfinite()
    if not finite.any():
        return True
    one, other, size = one[finite], other[finite], size[finite]
    return bool(((one - other).abs() <= eps**0.5 * size + ROUNDING * eps * size.max()).all())


def _may_draw(request: Request, known: Known) -> bool:
    """Whether the function may draw random numbers, so that another evaluation has to begin where this one did."""
    return known.random or not known.calls or request.fingerprint.may_draw


def compressed(transform: Transform, sparsity: SparsityLike, kind: Kind) -> Transform:
    """The transform by few columns or rows of a pattern."""
    transform.options.refuse(("out_dims",), "sparsity", "a pattern is of samples that lie on the first axes")
    if isinstance(sparsity, str) and sparsity != "auto":
        raise ArgumentError(f"sparsity={sparsity!r} is neither 'auto' nor a pattern; pass sparsity(f)(..), or a matrix")
    if compiling() and not isinstance(sparsity, str):
        raise UnsupportedOperationError(
            f"{transform.quantity.name} with sparsity= is made in code that torch.compile traces, which cannot trace "
            "how columns are coloured; make it outside, and call it there"
        )
    given = None
    if not isinstance(sparsity, str):
        with outside_transforms():  # what is made inside of one is wrapped, and has no numbers to be read
            plain = innermost(sparsity) if isinstance(sparsity, torch.Tensor) else sparsity
            given = kind.passes(SparsityPattern.of(plain), transform.options.method)
    return Compressed(transform.transformed, transform.quantity, transform.options, kind, given)


def either(transform: Transform, segments: Any, sparsity: SparsityLike | None, kind: Kind) -> Transform:
    """The transform for rows that belong to segments, or by the pattern of its Jacobian; itself for neither."""
    if sparsity is None:
        return segmented(transform, segments)
    if segments is not None:
        raise ArgumentError("sparsity= with segments=; one pattern is that of all samples, so leave one of them out")
    return compressed(transform, sparsity, kind)


LACKING = (
    "sparsity lacks entries: what it leaves of the Jacobian, times a random vector, is not the derivative of f along "
    "it; leave sparsity out for the pattern to be found, or add the entries that are missing (and call no pattern "
    "symmetric whose entries (i, j) and (j, i) differ)"
)
OTHERWISE = (
    "the sparse Jacobian times a random vector is not the derivative of f along it: f does something else here than "
    "when its pattern was looked for; use batch_jac, or leave sparsity= out"
)

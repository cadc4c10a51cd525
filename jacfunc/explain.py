"""What a transform does with given arguments: its plan, with the costs counted, as text and as a table.

The plan is found and settled exactly as in a call (``run.py``), on a trial of a few rows; nothing is decided here.
"""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .api.calculus import Directional
from .api.calling import Uncalled
from .api.compressed import Compressed
from .api.coordinates import AtFew
from .api.named import Partials
from .api.residual import Residual
from .api.transform import Transform
from .call.compiled import left_eager
from .call.independence import Independence
from .call.plan import Findings, Plan
from .call.request import requested, state_arguments
from .call.run import run
from .call.sample_chunks import Blocks
from .call.sizes import forward_bytes
from .core.keywords_only import keywords_only
from .core.reasons import a_type, name_of
from .errors import ArgumentTypeError
from .estimate.estimator import Estimator
from .estimate.told import told
from .evaluation.corrections import Entry, Noting
from .evaluation.rng import replaying

TRIAL_ROWS = 2

Explainable = Transform | Partials | Residual | Directional | Estimator
"""What is a transform, or has one inside."""


@dataclass(frozen=True)
class Explanation:
    """How a transform computes its result for one kind of arguments."""

    transform: Explainable
    plan: Plan
    samples: int
    chunk_size: int | None
    forward_bytes: int
    widest_bytes: int
    corrected: tuple[Entry, ...] = ()
    blocks: Blocks | None = None
    compiled: str = ""
    """What a first call with ``compile=True`` found, if it left such calls eager."""
    input_shapes: tuple[tuple[int, ...], ...] = ()
    """Those that the user gave, where the transform inside differentiates by something else."""
    sparsity: tuple[tuple[str, str], ...] = ()
    """Of a sparse Jacobian its pattern, and what made that dense."""
    output_shapes: tuple[tuple[int, ...], ...] = ()
    """Those of the outputs, where the transform inside has others."""
    estimate: tuple[tuple[str, str], ...] = ()
    """Of an estimate how it is made, how far it may be off, and what the exact result would cost."""
    argument: str = ""
    """By which argument the derivative is, where an earlier one may have been meant."""

    @property
    def rows_in_flight(self) -> int:
        """How many rows are pushed through at a time."""
        return min(self.plan.rows, self.chunk_size or self.plan.rows)

    @property
    def memory(self) -> int:
        """An estimate of the peak memory in bytes, of what the forward keeps and each row in flight at its widest."""
        kept = self.forward_bytes * (2 if self.plan.quantity.order == 2 else 1)
        return kept + 2 * self.rows_in_flight * self.widest_bytes

    def items(self) -> list[tuple[str, str]]:
        """What there is to say, in order."""
        plan = self.plan
        chunks = math.ceil(plan.rows / self.rows_in_flight) if plan.rows else 0
        rows = f"{plan.rows} in {chunks} chunk{'s' if chunks != 1 else ''}"
        taken = self.input_shapes or plan.input_shapes
        returned = self.output_shapes or plan.outputs.shapes
        shapes = f"{_shapes(taken)} -> {_shapes(returned)} for each of {self.samples} samples"
        without = f"{', '.join(plan.findings.notes)}: each goes by a forward route of its own"
        return [
            ("transform", repr(self.transform)),
            ("sample shapes", shapes),
            *([("derivative by", self.argument)] if self.argument else []),
            ("route", str(plan.strategy)),
            ("why", plan.reason),
            *((f"not {strategy}", reason) for strategy, reason in plan.findings.refused),
            *self.sparsity,
            *self.estimate,
            ("passes (rows)", rows),
            *([] if self.blocks is None else [("samples", str(self.blocks))]),
            ("cost", f"about {plan.cost:g} plain forwards"),
            ("memory", f"about {_bytes(self.memory)}"),
            ("independence", _independence(plan.findings)),
            *([("compiled", self.compiled)] if self.compiled else []),
            *([("without a rule", without)] if plan.findings.notes else []),
            *(("corrected", str(entry)) for entry in self.corrected),
        ]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.items())
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(text)}</td></tr>"
            for name, text in self.items()
        )
        return f"<table>{rows}</table>"


def _independence(findings: Findings) -> str:
    """What is known of it, and what keeps that from being known for all later numbers."""
    checked = findings.independence is Independence.CHECKED
    obstacle = findings.programs[0].obstacle if checked and findings.programs else ""
    if not obstacle:
        return findings.independence
    return f"{findings.independence}; again at later calls, as {obstacle} keeps it from being proved"


@keywords_only
def explain(transform: Explainable) -> Callable[..., Explanation]:
    """Which route a transform takes for given arguments, what it costs, and why.

    Args:
        transform: what :func:`diag_jac` and its kin returned.

    Returns:
        A function of the same arguments that returns an :class:`Explanation`.  That is text when printed, a table in
        a notebook, and has in ``.plan`` the object that the transform runs.  The route is tried on a few rows.

    Raises:
        ArgumentTypeError: ``transform`` is no transform of jacfunc.
        JacfuncError: whatever a call with these arguments raises.

    Example:
        >>> import torch
        >>> from jacfunc import diag_jac, explain
        >>> print(explain(diag_jac(torch.nn.Tanh()))(torch.ones(5, 3)))
        transform      diag_jac(Tanh)
        sample shapes  (3,) -> (3,) for each of 5 samples
        route          taylor
        why            taylor would cost 2.5 plain forwards, forward 5, reverse 4
        passes (rows)  3 in 1 chunk
        cost           about 2.5 plain forwards
        memory         about 540 B
        independence   checked: no sample influences another
    """
    if not isinstance(transform, Explainable):
        what = name_of(transform) if inspect.isfunction(transform) else a_type(transform)
        raise ArgumentTypeError(
            f"transform is {what}; explain takes what diag_jac and its kin return, and then the arguments of f: write "
            "explain(diag_jac(f))(x)"
        )

    return Explained(transform)


@dataclass(frozen=True)
class Explained(Uncalled):
    """A function of the arguments of ``f`` that returns an :class:`Explanation`."""

    transform: Explainable

    def __call__(self, *given: Any, **kwargs: Any) -> Explanation:
        """What the transform does with these arguments."""
        transform = self.transform
        resolved, args = transform.resolved(given, kwargs)
        options, blocks = resolved.options, None
        if options.sample_chunk_size is not None:
            blocks = Blocks.of(resolved.transformed, options, resolved.quantity, args, kwargs)
            blocks.settle_independence(args, kwargs)
            args, options = blocks.samples(args, 0), options.whole
        with requested(resolved.transformed, options, args, kwargs) as request:
            with replaying(request.random_state()):
                _, plan = run(request, resolved.quantity, limit=TRIAL_ROWS)
            with Noting() as noting:
                sizes = forward_bytes(request)
            batch, corrected = request.batch, tuple(noting.met.values())
            samples = math.prod(batch if blocks is None else (blocks.count, *batch[1:]))
            widest = max(sizes, default=0)
            shapes = transform.input_shapes(given) if isinstance(transform, Directional | Estimator | AtFew) else ()
            sparsity: tuple[tuple[str, str], ...] = ()
            returned: tuple[tuple[int, ...], ...] = ()
            if isinstance(transform, Compressed):
                known = transform.looked_at(given, kwargs)
                pattern, sparsity = known.found.pattern, tuple(transform.told(known))
                shapes = (pattern.input_shape,)
                returned = () if known.passes.columns else (pattern.output_shape,)
            left = left_eager(resolved, request) if options.compile else None
            return Explanation(
                transform,
                plan,
                samples,
                options.chunk_size,
                sum(sizes),
                widest,
                corrected,
                blocks,
                str(left or ""),
                shapes,
                sparsity,
                returned,
                _estimated(transform, given, kwargs) if isinstance(transform, Estimator | AtFew) else (),
                _argument(transform, resolved, given),
            )

    def _results(self) -> tuple[str, ...]:
        return (*Explanation.__annotations__, "rows_in_flight", "memory", "items")

    def __repr__(self) -> str:
        return f"explain({self.transform!r})"


def _estimated(made: Estimator | AtFew, given: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What there is to say of an estimate alone."""
    lines = made.told(given) if isinstance(made, AtFew) else told(made, given, kwargs)
    if made.exact is not None:
        plan = Explained(made.exact)(*given, **kwargs).plan
        lines.append(("exact", f"about {plan.cost:g} plain forwards, by {plan.rows} rows on the {plan.route} route"))
    return tuple(lines)


def _argument(transform: Explainable, resolved: Transform, given: Sequence[Any]) -> str:
    """By which argument the derivative is, if nobody said so and it may be by an earlier one."""
    options, args = (transform if isinstance(transform, Compressed | Estimator | AtFew) else resolved).options, given
    if isinstance(transform, Directional):  # whose last argument is the direction
        options, args = transform.options, given[:-1]
    if options.argnums != -1 or not isinstance(args[-1], torch.Tensor):
        return ""
    last, shape = len(args) - 1, tuple(args[-1].shape)
    others = [
        f"args[{place}] " + ("has that shape too" if own == shape else f"has shape {own}") + f" (argnums={place})"
        for place in range(state_arguments(resolved.transformed), last)
        if (own := _shape_of(args[place]))
    ]
    return f"args[{last}] of shape {shape}, the last one; {', '.join(others)}" if others else ""


def _shape_of(argument: Any) -> tuple[int, ...]:
    """That of a tensor that may be differentiated by, with samples; of anything else none."""
    usable = isinstance(argument, torch.Tensor) and argument.is_floating_point()
    return tuple(argument.shape) if usable else ()


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(str(shape) for shape in shapes)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    raise AssertionError

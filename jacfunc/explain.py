"""What a transform does with given arguments: its plan, with the costs counted, as text and as a table.

The plan is found and settled exactly as in a call (``plan.py``), on a trial of a few rows; nothing is decided here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .errors import ArgumentTypeError
from .levels import inside_transform
from .operations import Entry, Noting
from .plan import Plan, run
from .request import Request, requested
from .rng import replaying
from .transforms import Transform
from .trees import tensors

TRIAL_ROWS = 2


@dataclass(frozen=True)
class Explanation:
    """How a transform computes its result for one kind of arguments."""

    transform: Transform
    plan: Plan
    samples: int
    chunk_size: int | None
    forward_bytes: int
    widest_bytes: int
    corrected: tuple[Entry, ...] = ()

    @property
    def rows_in_flight(self) -> int:
        """How many rows are pushed through at a time."""
        return min(self.plan.rows, self.chunk_size or self.plan.rows)

    @property
    def memory(self) -> int:
        """An estimate of the peak memory in bytes: what the forward keeps, and each row in flight at its widest."""
        kept = self.forward_bytes * (2 if self.plan.wanted.order == 2 else 1)
        return kept + 2 * self.rows_in_flight * self.widest_bytes

    def items(self) -> list[tuple[str, str]]:
        """What there is to say, in order."""
        plan = self.plan
        chunks = math.ceil(plan.rows / self.rows_in_flight) if plan.rows else 0
        rows = f"{plan.rows} in {chunks} chunk{'s' if chunks != 1 else ''}"
        shapes = f"{_shapes(plan.input_shapes)} -> {_shapes(plan.outputs.shapes)} for each of {self.samples} samples"
        items = [
            ("transform", repr(self.transform)),
            ("sample shapes", shapes),
            ("route", str(plan.attempts[0])),
            ("why", plan.reason),
            ("passes (rows)", rows),
            ("cost", f"about {plan.cost:g} plain forwards"),
            ("memory", f"about {_bytes(self.memory)}"),
            ("independence", plan.independence),
        ]
        items[4:4] = [(f"not {attempt}", reason) for attempt, reason in plan.refused]
        if plan.notes:
            items.append(("without a rule", f"{', '.join(plan.notes)}: each goes by a forward route of its own"))
        items += [("corrected", str(entry)) for entry in self.corrected]
        return items

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.items())
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.items())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(text)}</td></tr>"
            for name, text in self.items()
        )
        return f"<table>{rows}</table>"


def explain(transform: Transform) -> Callable[..., Explanation]:
    """Which route a transform takes for given arguments, what it costs, and why.

    Args:
        transform: what :func:`diag_jac` and its kin returned.

    Returns:
        A function of the same arguments that returns an :class:`Explanation`: text when printed, a table in a
        notebook, and in ``.plan`` the object that the transform runs.  It tries the route on a few rows.

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
        why            taylor would cost 4 plain forwards, forward 5, reverse 4
        passes (rows)  3 in 1 chunk
        cost           about 4 plain forwards
        memory         about 540 B
        independence   checked: no sample influences another
    """
    if not isinstance(transform, Transform):
        raise ArgumentTypeError(
            f"transform is a {type(transform).__name__}; explain takes what diag_jac and its kin return"
        )

    def explained(*args: Any, **kwargs: Any) -> Explanation:
        with requested(transform.transformed, transform.options, args, kwargs) as request:
            with replaying(request.draw()):
                plan = run(request, transform.wanted, TRIAL_ROWS).plan
            with Noting() as noting:
                total, widest = _forward_bytes(request)
            samples, corrected = math.prod(request.batch), tuple(noting.met.values())
            return Explanation(transform, plan, samples, transform.options.chunk_size, total, widest, corrected)

    return explained


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every result inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.widest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in tensors(result):
                size = tensor.numel() * tensor.element_size()
                self.total += size
                self.widest = max(self.widest, size)
        return result


def _forward_bytes(request: Request) -> tuple[int, int]:
    """Bytes of all results of one forward, and of the largest."""
    recorder = _Recorder()
    draw = request.draw()
    with recorder, replaying(draw):
        request.first_values(draw)
    if inside_transform():  # a dispatch mode does not see through wrapped tensors
        size = sum(leaf.numel() * leaf.element_size() for leaf in request.leaves)
        return size, size
    return recorder.total, recorder.widest


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(str(shape) for shape in shapes)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    raise AssertionError

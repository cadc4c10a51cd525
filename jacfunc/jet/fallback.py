"""An operation without a rule of its own: the forward route for this operation alone, corrected by the table.

Slower than a rule (about 100 us for each), and right for first and second orders.  Rules are in ``rules/``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import optree
import torch

from ..core import caches
from ..core.levels import compiling, exporting
from ..evaluation.basis import flattened, through
from ..evaluation.corrections import corrected
from ..evaluation.linear import pullback, pushforward
from ..evaluation.rng import RandomState
from ..evaluation.scripted import SCRIPTED, plainly
from .build import filled
from .frame import CannotFollowError, Frame
from .jet import Jet
from .values import jets_in, replaced

Tensor = torch.Tensor
Tensors = tuple[Tensor, ...]


def pushed(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of an operation, each floating-point tensor of it as a jet."""
    refuse_writing(function, kwargs)
    if name_of(function) == FUNCTION:  # its backward says nothing of what is off the tape
        raise CannotFollowError("an autograd.Function")
    if exporting():
        raise CannotFollowError(f"{name_of(function)}, which has no rule for torch.export to record")
    jets_in(args, kwargs)[0].propagation.slow[name_of(function)] = None
    jets = list({id(jet): jet for jet in jets_in(args, kwargs)}.values())
    operation = _Operation(function, args, kwargs, jets, RandomState.capture([jet.value for jet in jets]))
    if any(jet.dtype.is_complex for jet in jets):
        raise CannotFollowError(f"{name_of(function)} of complex numbers has no rule")
    try:
        outputs, pull, _ = pullback(operation, *(jet.value for jet in jets))
    except _ConstantError as constant:
        return constant.result
    frame = jets[0].frame
    if frame.layout.order > 2:
        raise CannotFollowError(f"{name_of(function)} has no rule, so it is not carried to order {frame.layout.order}")
    push = pushforward(pull, outputs)
    firsts = _through(function, push, jets, 1)
    columns = [firsts]
    if frame.layout.order == 2:
        columns.append(_seconds(function, operation, push, jets, frame))
    results = [
        Jet(output, tuple(None if column is None else column[place] for column in columns), frame)
        for place, output in enumerate(outputs)
    ]
    return operation.rebuilt(results)


FUNCTION = "custom_function_call"
"""By which name torch.func hands over an ``autograd.Function``."""


def name_of(function: Any) -> str:
    """What to call an operation in a message."""
    name: str = getattr(function, "__name__", None) or str(function)
    return name


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


WRITING = frozenset(
    [
        "__setitem__",
        "__set__",
        *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "div", "mod", "pow", "matmul")),
        *(f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")),
        *(name for place in (torch, torch.Tensor, torch.nn.functional) for name in dir(place) if _in_place(name)),
    ]
)
"""Methods that change their tensor; those with an underscore at the end, because Dynamo cannot ask how a name ends."""


def writes(function: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation changes its first argument, or writes into ``out``."""
    name = name_of(function)
    return name in WRITING or kwargs.get("out") is not None or (not compiling() and _in_place(name))


def refuse_writing(function: Any, kwargs: dict[str, Any]) -> None:
    """Refuse what would write a jet into a plain tensor, or change one in place without a rule."""
    if writes(function, kwargs):
        raise CannotFollowError(f"{name_of(function)} writes a differentiated tensor into another one")


class _ConstantError(Exception):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class _Operation:
    """The operation as a function of its jets' values: floating-point results, and nothing else, as outputs."""

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, jets: list[Jet], state: RandomState
    ) -> None:
        self.function, self.args, self.kwargs, self.random_state = function, args, kwargs, state
        self.places = {id(jet): place for place, jet in enumerate(jets)}
        self.leaves: list[Any] = []
        self.spec: Any = None
        self.evaluated = False

    def __call__(self, *values: Tensor) -> tuple[Tensors, tuple[()]]:
        def value(jet: Jet) -> Tensor:
            return values[self.places[id(jet)]]

        if self.evaluated:  # a second evaluation sees the same random draw
            self.random_state.restore()
        self.evaluated = True
        with corrected(), plainly() if isinstance(self.function, SCRIPTED) else nullcontext():
            result = self.function(*replaced(self.args, value), **replaced(self.kwargs, value))
        leaves, spec = optree.tree_flatten(result)
        if self.spec is None:  # of a later evaluation they would belong to a level of torch.func that has ended
            self.leaves, self.spec = leaves, spec
        outputs = tuple(leaf for leaf in leaves if _differentiable(leaf))
        if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves):
            raise CannotFollowError(f"{name_of(self.function)}, whose result is complex, has no rule")
        if not outputs:
            raise _ConstantError(result)
        return outputs, ()

    def rebuilt(self, jets: list[Jet]) -> Any:
        remaining = iter(jets)
        leaves = [next(remaining) if _differentiable(leaf) else leaf for leaf in self.leaves]
        return optree.tree_unflatten(self.spec, leaves)


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _through(function: Any, linear: Callable[..., Tensors], jets: list[Jet], order: int) -> Tensors | None:
    """A linear function of all jets, for each row of an order; None for zero."""
    rows = filled(jets, order)
    return None if rows is None else _mapped(function, linear, tuple(stack.contiguous() for stack in rows))


def _mapped(function: Any, linear: Callable[..., Tensors], rows: Tensors) -> Tensors:
    """Under ``vmap`` where that works and was right the first time, else row by row."""
    batched = caches.BATCHED.get(function)
    if batched is not False:
        try:
            result = through(linear, rows, True, batched is None)
        except RuntimeError:
            caches.BATCHED[function] = False
        else:
            caches.BATCHED[function] = True
            return result
    return through(linear, rows, False, False)


def _seconds(
    function: Any, operation: _Operation, push: Callable[..., Tensors], jets: list[Jet], frame: Frame
) -> Tensors | None:
    """``J x_2 + H[x_1, x_1] / 2``, the latter summed over the products of the layout."""
    linear = _through(function, push, jets, 2)
    table = frame.layout.table(1, 1)
    stacks = filled(jets, 1)
    if table is None or stacks is None:
        return linear
    others = stacks if frame.metric is None else [torch.tensordot(frame.metric, stack, 1) for stack in stacks]
    left = tuple(stack[list(table.left)] for stack in stacks)
    right = tuple(stack[list(table.right)] for stack in others)
    values = tuple(jet.value for jet in jets)

    def second(*pair: Tensor) -> tuple[Tensors, tuple[()]]:
        v, w = pair[: len(jets)], pair[len(jets) :]

        def first(*leaves: Tensor) -> tuple[Tensors, tuple[()]]:
            outputs, pull, _ = pullback(operation, *leaves)
            return pushforward(pull, outputs)(*v), ()

        along, pull, _ = pullback(first, *values)
        return pushforward(pull, along)(*w), ()

    flat, _ = flattened(second)
    products = _mapped((function, 2), flat, (*left, *right))
    curved = tuple(table.gathered(product) / 2 for product in products)
    return curved if linear is None else tuple(a + b for a, b in zip(linear, curved, strict=True))

"""From an operation on jets to its rule: torch's ``__torch_function__``, and the operators and methods of a jet.

In this order: the rule of the operation; what the table of corrected operations has instead; the body of a Python
function of torch with jets inside; the forward route for this operation alone (``fallback.py``).  What no jet can go
through raises :class:`CannotFollowError`, and ``run.py`` takes another route.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from types import FunctionType
from typing import Any

import optree
import torch

from ..core import caches
from ..core.levels import compiling, inside_function
from ..core.torch_operators import torch_with
from ..core.torch_private import IMPLEMENTED_IN, set_grad
from ..evaluation.corrections import TABLE
from ..evaluation.program import KINDS, Kind
from .blockwise import blockwise
from .chosen import at_places
from .fallback import name_of, pushed, writes
from .frame import CannotFollowError, Frame, Propagation
from .jet import Jet
from .pending import PendingWrite
from .registry import writing
from .roots import on_roots
from .values import jets_in, plain, replaced
from .within import embedded

Function = Callable[..., Any]


def apply(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation with jets among its arguments."""
    jets = jets_in(args, kwargs)
    if not jets:  # handed over for another reason, such as a mode
        return function(*args, **kwargs)
    frame = jets[0].frame
    moved = False
    for jet in jets:
        if jet.frame is not frame:
            frame, moved = common_frame(jets), True
            break
    propagation = frame.propagation
    if not propagation.alive:  # kept from an evaluation that has ended
        return function(*plain(args), **plain(kwargs))
    recorder = propagation.recorder
    if recorder is None or recorder.busy:
        return _ruled(function, args, kwargs, frame, moved)
    recorder.before(function, args, kwargs)  # recorder.step without its call, which every operation would pay for
    try:
        result = _ruled(function, args, kwargs, frame, moved)
    finally:
        recorder.busy = False
    recorder.after(result)
    return result


def _ruled(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Frame, moved: bool) -> Any:
    """What the rule of an operation gives, whose jets are in this frame, or are to be ``moved`` to it."""
    propagation = frame.propagation
    if not propagation.inside and not torch.is_grad_enabled():
        return constant(function, args, kwargs)
    if kwargs:
        kwargs = _spelled(function, kwargs)
    found = caches.RULES.get(function)
    rule = _alone(function) if found is None else found[0]
    if propagation.chosen:
        rule = at_places(function, rule, args, kwargs)
    if propagation.whole is not None and (propagation.parted or function in caches.BLOCKWISE["cutting"]):
        instead = None if propagation.rooted else blockwise(function, found, args, kwargs)
        if instead is not None:
            (rule, args, kwargs), moved = instead, False
        elif frame.blocks is not None:
            frame, moved = root(frame), True
    if frame.factor is not None and (found is None or not found[1] or _adds_axes((*args, *kwargs.values()))):
        frame, moved = root(frame), True
    if moved:
        rule = _moving(rule, frame)
    elif propagation.rooted:
        rule = on_roots(function, rule)
    if not propagation.quiet or propagation.inside:
        return rule(*args, **kwargs)
    propagation.inside = True
    set_grad(False)
    try:
        return rule(*args, **kwargs)
    finally:
        set_grad(True)
        propagation.inside = False


SPELLINGS = {"axis": "dim", "keepdims": "keepdim"}
"""Numpy's names of arguments, which torch takes as well."""


def _spelled(function: Function, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments by torch's names, and without ``out=None``."""
    if kwargs.get("out") is not None:
        raise CannotFollowError(f"{name_of(function)} with out=")
    return {SPELLINGS.get(name, name): value for name, value in kwargs.items() if name != "out"}


def _adds_axes(arguments: tuple[Any, ...]) -> bool:
    """Whether broadcasting would put axes before that of the samples."""
    axes = jets_in(arguments, {})[0].dim()
    return any(isinstance(item, torch.Tensor) and item.dim() > axes for item in arguments)


def _alone(function: Function) -> Function:
    return lambda *args, **kwargs: pushed(function, args, kwargs)


def _replacement(function: Function, instead: Function) -> Function:
    """What the table has instead, with jets inside; if that calls the operation itself, it is alone there."""

    def replaced_by(*args: Any, **kwargs: Any) -> Any:
        replacing = jets_in(args, kwargs)[0].propagation.replacing
        if function in replacing:
            return pushed(function, args, kwargs)
        replacing.add(function)
        try:
            return instead(*args, **kwargs)
        finally:
            replacing.discard(function)

    return writing(replaced_by) if name_of(function).endswith("_") else replaced_by


def enter_others() -> None:
    """Enter what has no rule of its own: corrected operations, and Python functions of torch by their bodies."""
    for function, entry in TABLE.items():
        caches.RULES.setdefault(function, (_replacement(function, entry.instead), False))
    for place in (torch.nn.functional, torch.functional, torch.Tensor):
        for function in list(vars(place).values()):
            composite = _composite(function)
            if composite is not None:
                caches.RULES.setdefault(function, (composite, True))


def _composite(function: Any) -> Function | None:
    """A Python function of torch that no longer hands itself over, so that its body runs with jets inside."""
    code, module = getattr(function, "__code__", None), getattr(function, "__module__", None) or ""
    if code is None or not module.startswith(IMPLEMENTED_IN):
        return None
    if not any(name.startswith("has_torch_function") for name in code.co_names):
        return None
    never = {name: _never for name in function.__globals__ if name.startswith("has_torch_function")}
    inner = {**function.__globals__, **never}
    if inner.get("torch") is torch:
        inner["torch"] = torch_with(_handed_over)
    del inner["__name__"]  # by which Dynamo would look globals up in the module
    copied = FunctionType(code, inner, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.body = True  # type: ignore[attr-defined]
    return copied


def _handed_over(function: Function) -> Function:
    """A C function that these bodies call, which torch hands over to jets, and Dynamo does not."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return apply(function, args, kwargs) if compiling() else function(*args, **kwargs)

    return called


def _never(*tensors: Any) -> bool:
    return False


# -------------------------------------------------------------------- jets of different frames


def common_frame(jets: list[Jet]) -> Frame:
    """The nearest frame that those of all jets descend from, of the innermost propagation that runs."""
    living = [jet for jet in jets if jet.propagation.alive] or jets
    propagation = living[0].propagation
    if any(jet.propagation is not propagation for jet in living):
        propagation = _innermost([jet.propagation for jet in living])
        living = [jet for jet in living if jet.propagation is propagation]
    chains = [_ancestors(jet.frame) for jet in living]
    return next(frame for frame in chains[0] if all(frame in chain for chain in chains))


def _innermost(propagations: list[Propagation]) -> Propagation:
    """The one that runs inside of all others."""
    for propagation in propagations:
        around, current = {id(propagation)}, propagation
        while current.within is not None:
            current = current.within.frame.propagation
            around.add(id(current))
        if all(id(other) in around for other in propagations):
            return propagation
    raise CannotFollowError("jets of two evaluations in one operation")


def _moving(rule: Function, frame: Frame) -> Function:
    """The rule, for its jets in a frame that their own descend from; those of one that has ended are constants."""
    if getattr(rule, "body", False):  # whose operations do that for themselves
        return rule

    def on_moved(*args: Any, **kwargs: Any) -> Any:
        if getattr(rule, "writes", False) and type(args[0]) is Jet and args[0].propagation.alive:
            if args[0].propagation is not frame.propagation:
                raise CannotFollowError("a tensor from outside of a transform that is changed in place inside of it")
            _write_to(args[0], frame)

        def one(jet: Jet) -> Any:
            if jet.frame is frame:
                return jet
            if jet.propagation is not frame.propagation and not jet.propagation.alive:
                return jet.value.detach()
            return jet.seen_by(lifted(jet, frame))  # what is a view of the copy is one of the jet

        return rule(*replaced(args, one), **replaced(kwargs, one))

    return on_moved


def _write_to(jet: Jet, frame: Frame) -> None:
    """Have a jet in a frame that its own descends from, with what waits to be written back to it."""
    pending = jet.pending
    if type(pending) is PendingWrite:
        jet.pending, jet._frame = pending._replace(before=lifted(pending.before, frame)), frame
    else:
        jet.move(lifted(jet, frame))


def _ancestors(frame: Frame) -> list[Frame]:
    chain = [frame]
    while chain[-1].parent is not None:
        chain.append(chain[-1].parent)
    return chain


def root(frame: Frame) -> Frame:
    """The frame of the input, from which all factors lead away."""
    return next(f for f in _ancestors(frame) if f.factor is None and f.blocks is None)


def lifted(jet: Jet, frame: Frame) -> Jet:
    """The jet in a frame that its own descends from, or in one of a propagation within its own."""
    if jet.propagation is not frame.propagation:
        assert frame.propagation.within is not None
        return embedded(lifted(jet, frame.propagation.within.frame), frame)
    while jet.frame is not frame:
        parent = jet.frame.parent
        assert parent is not None
        jet = Jet(jet.value, jet.frame.outwards(jet.coefficients), parent)
    return jet


# -------------------------------------------------------------------- under no_grad


def constant(function: Function, args: Any, kwargs: Any) -> Any:
    """What happens under an inner ``no_grad`` is constant."""
    if writes(function, kwargs):
        raise CannotFollowError(f"{name_of(function)} in place under no_grad")
    if not compiling() and inside_function():
        raise CannotFollowError("an autograd.Function")
    jets, result = jets_in(args, kwargs), function(*plain(args), **plain(kwargs))
    return result if jets[0].propagation.traced else _apart(result, jets)


def _apart(result: Any, jets: list[Jet]) -> Any:
    """A result none of whose tensors shares memory with a jet."""
    places = {jet.value.untyped_storage().data_ptr() for jet in jets}

    def one(leaf: Any) -> Any:
        shared = isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() in places
        return jets[0].propagation.apart(leaf) if shared else leaf

    return optree.tree_map(one, result)


# -------------------------------------------------------------------- operators and methods


def _torch_function(cls: type, function: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    if compiling():
        if function in REFLECTED:
            return _operated(function, *args)
        if name_of(function) in IN_PYTHON:
            function = getattr(torch.Tensor, name_of(function))
        if function == MATMUL and type(args[0]) is not Jet:
            raise CannotFollowError("@ of a tensor and a jet, which Dynamo may have exchanged (write torch.matmul)")
    return apply(function, args, kwargs or {})


def _method(name: str) -> Function:
    known = getattr(torch.Tensor, name)
    function = OPERATORS.get(name) or known
    if isinstance(function, FunctionType):
        return lambda self, *args, **kwargs: apply(getattr(torch.Tensor, name), (self, *args), kwargs)

    def method(self: Jet, *args: Any, **kwargs: Any) -> Any:
        if not compiling() and getattr(torch.Tensor, name) is not known:
            raise CannotFollowError(f"Tensor.{name}, which was replaced by another function")
        return apply(function, (self, *args), kwargs)

    return method


MATMUL = torch.Tensor.matmul
"""What Dynamo takes for ``@``: it puts a tensor first, whichever operand it is, and has no reflected method for it."""

# Dynamo forgets where a method in Python is from, and finds no rule for it then; looked up at the tensor it does.
IN_PYTHON = frozenset(name for name, _ in inspect.getmembers(torch.Tensor, inspect.isfunction)) - set(dir(torch))
"""Methods that are no function by the same name too."""


def _attribute(name: str) -> property:
    getter = getattr(torch.Tensor, name).__get__
    return property(lambda self: apply(getter, (self,), {}))


KEPT = frozenset(
    [
        "__class__",
        "__new__",
        "__init__",
        "__init_subclass__",
        "__subclasshook__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__dir__",
        "__sizeof__",
        "__reduce__",
        "__getstate__",
        "__setstate__",
        "__dict__",
        "__doc__",
        "__module__",
        "__weakref__",
        "__torch_dispatch__",
        "__torch_function__",
        "__array_priority__",
        "__array_wrap__",
        "__cuda_array_interface__",
        "__dlpack__",
        "__dlpack_device__",
    ]
)


OPERATORS: dict[str, Function] = {
    "__pow__": torch.pow,
    "__matmul__": torch.matmul,
    "__rsub__": torch.rsub,
    "__truediv__": torch.div,
}
"""Operators by a function that ``torch.compile`` knows; the methods of a tensor are wrapped."""


REFLECTED = {
    getattr(operator, name): f"__r{name[2:]}"
    for name in dir(operator)
    if name.startswith("__") and hasattr(torch.Tensor, name)
}
"""Python's operators, as Dynamo hands them over while it exports, each with the method for a number on the left."""


def _operated(function: Function, left: Any, *right: Any) -> Any:
    if not isinstance(left, torch.Tensor | Jet):
        return getattr(right[0], REFLECTED[function])(left)
    name = f"__{function.__name__.strip('_')}__"
    return apply(OPERATORS.get(name) or getattr(torch.Tensor, name), (left, *right), {})


def _divided(self: Jet, other: Any) -> Any:
    return apply(torch.mul, (apply(torch.reciprocal, (self,), {}), other), {})


def install() -> None:
    """Give :class:`Jet` what a tensor has, through :func:`apply`."""
    KINDS[Jet] = Kind.JET
    Jet.__torch_function__ = classmethod(_torch_function)  # type: ignore[attr-defined]
    Jet.__rtruediv__ = Jet.__rdiv__ = _divided  # type: ignore[attr-defined]
    for name in dir(torch.Tensor):
        if name in KEPT or name in vars(Jet):
            continue
        member = getattr(torch.Tensor, name)
        if callable(member):
            setattr(Jet, name, _method(name))
        elif hasattr(member, "__get__"):
            setattr(Jet, name, _attribute(name))

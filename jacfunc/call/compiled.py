"""``compile=True``: a transform under ``torch.compile``, compiled once for a function and a kind of arguments.

Which route is compiled, whether samples are independent, and that the compiled numbers are the eager ones is found out
at the first call; what a call does is in ``transforms.py`` and ``run.py``, which ``torch.compile`` traces.  Later calls
of a module for arguments of the same shapes ask the guards of Dynamo alone, and look again where something has changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from ..core import caches, trees
from ..core.closeness import agree
from ..core.levels import differentiated_again, inside_transform
from ..core.reasons import line_of, together
from ..core.torch_private import constant_in_traces, dynamo_error
from ..core.unasked import unasked
from ..errors import UnsupportedOperationError
from ..evaluation.program import Program
from ..modules.attributes import counts_of
from ..modules.functional import FunctionalModule, LiveModule
from ..modules.swapping import Inventory, exchanged, locked
from ..options import METHODS
from ..routes.points import REFUSED, waves
from . import faster, independence
from .dynamo_guards import filtered
from .entrance import own_code
from .fast_path import kind_of
from .plan import Plan
from .reproduced import tells_nothing
from .request import Request, requested
from .toolchain import answered, prepared

Transform = Any
Call = Callable[..., Any]
Programs = tuple[Program, ...]


def call_compiled(transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a transform for these arguments, compiled; eager inside of ``torch.func``, which takes no other."""
    if inside_transform():
        return _eager(transform)(*args, **kwargs)
    kind = kind_of(transform.transformed, args, kwargs)
    if kind is None:
        return _looked_at(transform, args, kwargs)[1]
    known = caches.FAST_COMPILED.get(transform, kind, _unknown)
    call: Call | None = known()
    if call is not None:
        with suppress(dynamo_error()):
            return _as_it_is(call, transform.transformed, args, kwargs)
    found, result = _looked_at(transform, args, kwargs)
    lasting = found is not None and not found.programs and not found.writes  # type: ignore[attr-defined]
    if found is not None and lasting and known is not _unclear:
        settled = weakref.ref(found) if call is None or call is found else _unclear
        caches.FAST_COMPILED.put(transform, kind, settled)
    return result


def _unknown() -> None:
    """In place of the reference to a call: of a kind that is new."""


def _unclear() -> None:
    """In place of the reference, of a kind that turned out to be two: each would be traced in vain for the other."""


def _as_it_is(call: Call, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result without compiling; if Dynamo would, something that was looked at has changed, and it raises."""
    settled = caches.SETTLED
    settled.only = True
    try:
        return call(f, *args, **kwargs)
    finally:
        settled.only = False


class _ChangedError(Exception):
    """What is called was compiled for something else."""


@constant_in_traces
def _refuse_changed() -> None:
    """Run while Dynamo traces, so before anything is compiled."""
    if caches.SETTLED.only:
        raise _ChangedError


def _looked_at(transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call | None, Any]:
    """What is called for these arguments, if it can be remembered, and its result."""
    if not torch.is_inference_mode_enabled():
        request = Request(transform.transformed, transform.options, args, kwargs)
        if not request.inference:
            return _called(transform, request)
    with requested(transform.transformed, transform.options, args, kwargs) as request:
        return _called(transform, request)


def _called(transform: Transform, request: Request) -> tuple[Call | None, Any]:
    key = request.fingerprint.key
    known: Call | None = caches.COMPILED.get(key, _signature(transform, request))
    if isinstance(known, LeftEager):
        return None, _eager(transform)(*request.args, **request.kwargs)
    if known is not None:
        for program in known.programs:  # type: ignore[attr-defined]
            if program.depends or not program.fits(request.samples):  # for which no guard asks
                independence.confirm(request)
            independence.look_again(request, program)
        # Of what is another program after all, or is refused: by its own words below.
        with suppress(dynamo_error()), _kept(request) if known.writes else nullcontext():  # type: ignore[attr-defined]
            return known, _as_it_is(known, transform.transformed, request.args, request.kwargs)
    try:
        call, result, programs, random = _compiled(_eager(transform), request, known)
    except _CountsError as error:
        return None, _left_eager(transform, request, str(error))
    if call is None or not request.fingerprint.watchable:
        return None, result
    slowdown = None if random else _slowdown(_eager(transform), call, request)
    if slowdown is not None:
        return None, _left_eager(transform, request, f"compiled, a call took {slowdown:.3g} times as long")
    call.programs = programs  # type: ignore[attr-defined]
    call.scopes = request.fingerprint.scopes  # type: ignore[attr-defined]  # no other may be told apart by the same address
    # By the modules that were found meanwhile, too.
    caches.COMPILED.put(key, request.fingerprint.parts, _signature(transform, request), call)
    return call, result


class LeftEager(NamedTuple):
    """In place of what is compiled, where eager code is better, and why that is."""

    reason: str

    def __str__(self) -> str:
        return f"left eager: {self.reason}"


def _left_eager(transform: Transform, request: Request, reason: str) -> Any:
    """The eager result, now and from now on; its backward is not compiled either."""
    found, key = LeftEager(reason), request.fingerprint.key
    caches.COMPILED.put(key, request.fingerprint.parts, _signature(transform, request), found)
    return _eager(transform)(*request.args, **request.kwargs)


class _CountsError(Exception):
    """A module counts its calls where compiled code would go on counting."""


def left_eager(transform: Transform, request: Request) -> LeftEager | None:
    """What a first compiled call for such arguments found, if it left them eager."""
    known = caches.COMPILED.get(request.fingerprint.key, _signature(transform, request))
    return known if isinstance(known, LeftEager) else None


@unasked()
def _slowdown(eager: Transform, call: Call, request: Request) -> float | None:
    """How much slower compiled code is, if it is."""
    if not faster.comparable(request.leaves) or call.writes:  # type: ignore[attr-defined]
        return None
    function, args, kwargs = request.function, request.args, request.kwargs
    recorded = differentiated_again()
    with _kept(request):
        return faster.slowdown(lambda: eager(*args, **kwargs), lambda: call(function, *args, **kwargs), recorded)


def _eager(transform: Transform) -> Transform:
    return replace(transform, options=transform.options.eager)


def _signature(transform: Transform, request: Request) -> tuple[object, ...]:
    options, surroundings = transform.options, (differentiated_again(), caches.RULES_ENTERED.number)
    asked = (transform.quantity.identity, options.planned, options.return_value)
    # Dynamo takes functions of one code for one, in whatever namespaces they are, and compiles each number by itself.
    return (*asked, request.signature, request.numbers(), *map(id, request.fingerprint.scopes), *surroundings)


def _of_the_call(*args: Any, **kwargs: Any) -> Any:
    """In place of the function of a transform that is compiled, which is an argument."""
    raise NotImplementedError


def _compiled(eager: Transform, request: Request, known: Call | None) -> tuple[Call | None, Any, Programs, bool]:
    """The first route that can be traced and gives what the eager one does, and its result for this request.

    And the program that samples are only known to be independent in for what is held outside of the function now, and
    whether the function draws random numbers.

    The call that is ``known`` comes first: it is compiled once more, beside what it was compiled for.  For numbers that
    nothing could be verified with, as NaN, there is the eager result alone.
    """
    options = prepared(request.leaves)
    if not request.fingerprint.has_arrays():  # whose guards Dynamo cannot make twice, as it does to have them filtered
        options |= filtered(isinstance(request.function, FunctionalModule))
    truth, plan = eager.outcome(request)
    if not plan.lasting:
        return None, truth, (), False
    methods = dict.fromkeys([plan.route, *METHODS[1:]] if eager.options.method == "auto" else [eager.options.method])
    attempts: list[tuple[str, Callable[[], Call]]] = [
        (method, partial(_by, eager, plan, method, options)) for method in methods
    ]
    if known is not None:
        again = known
        attempts.insert(0, ("the route before", lambda: again))
    reasons = []
    for name, make in attempts:
        try:
            call, result = _beside_nobody(make, request)
        except (dynamo_error(), UnsupportedOperationError) as error:
            reasons.append((name, f"{str(error).strip().splitlines()[0]}{line_of(error)}"))
            continue
        close = plan.findings.random or _close(result, truth) or _close_but_for_rounding(eager, request, result, truth)
        if close and (plan.findings.random or _close_elsewhere(call, eager, request, truth)):
            programs = tuple(program for program in plan.findings.programs[:1] if not program.proved)
            return call, result, programs, plan.findings.random
        reasons.append((name, "other numbers than the eager ones"))
    raise UnsupportedOperationError(
        f"{eager.quantity.name} of f cannot be compiled: {reasons[-1][1]}; leave compile=True out, or replace what is "
        f"named here (no route that torch.compile traces: {together(reasons)})"
    )


def _beside_nobody(make: Callable[[], Call], request: Request) -> tuple[Call, Any]:
    """What is compiled, and its result; once more if an import in another thread (who asks the compiler) broke in."""
    try:
        return _called_first(make, request)
    except dynamo_error() as error:
        if "changed size during iteration" not in str(error):
            raise
    answered()
    return _called_first(make, request)


def _called_first(make: Callable[[], Call], request: Request) -> tuple[Call, Any]:
    call = make()
    with _kept(request) as writes, _counted(request):
        result = call(request.function, *request.args, **request.kwargs)
        call.writes = getattr(call, "writes", False) or writes()  # type: ignore[attr-defined]
    return call, result


@contextmanager
def _kept(request: Request) -> Iterator[Callable[[], bool]]:
    """While it lasts, the buffers of modules are copies; whether one of them was written to.

    What is compiled writes to them where the function closes over a module; an adapted one brings its own copies.
    """
    fingerprint = request.fingerprint
    own = [] if isinstance(request.function, FunctionalModule | LiveModule) else fingerprint.modules
    modules = [*own, *fingerprint.hidden]
    before: list[tuple[Any, Any, Any, object]] = []
    with locked() if modules else nullcontext(), ExitStack() as swaps:
        for module in modules:
            inventory = Inventory.remembered(module)
            swaps.callback(exchanged(inventory).restore)
            slots = [slot for slot in (*inventory.buffers, *inventory.attributes) if slot.index in slot.container]
            before += [(home, key, home[key], _version(home[key])) for home, key, _ in slots]
        yield lambda: any(home.get(key) is not was or _version(was) != number for home, key, was, number in before)


@contextmanager
def _counted(request: Request) -> Iterator[None]:
    """Refuse code in which modules count their calls: what is eager puts that back after each of its evaluations."""
    before = counts_of(request.fingerprint.tree())
    try:
        yield
    finally:
        changed = before.put_back()
    if changed:
        raise _CountsError(f"a module counts its calls in {changed!r}, as compiled code cannot undo")


def _version(kept: Any) -> object:
    """What is another number once it was written to; of a tensor that counts nothing, never the same."""
    if not isinstance(kept, torch.Tensor):
        return None
    return object() if kept.is_inference() else kept._version


def _by(eager: Transform, found: Plan, method: str, options: dict[str, Any]) -> Call:
    if method not in METHODS:
        raise UnsupportedOperationError("it has no trace")
    own = replace(eager.options, method=method, check=False)
    template = replace(eager, transformed=_of_the_call, options=own)
    # Dynamo cannot compare how a tree is built with what it has not seen built.
    plan = found.traced(method) if found.outputs.structure is trees.LEAF else None

    def call(f: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_changed()
        return template.traced(f, args, kwargs, plan)

    call.__code__ = own_code(call.__code__)
    return torch.compile(call, fullgraph=True, options=options)


def _close(found: Any, truth: Any) -> bool:
    """Whether compiled numbers are the eager ones but for the order in which they were rounded."""
    return all(map(agree, trees.tensors(found), trees.tensors(truth)))


ROUNDINGS = 8
"""How many times the change by one unit in the last place of the arguments a long calculation may have been off."""


@unasked()
def _close_but_for_rounding(eager: Transform, request: Request, found: Any, truth: Any) -> bool:
    """Whether they are where little is left of the digits of some, as near a pole: told by shaking the arguments."""
    known, computed = [list(map(torch.Tensor.detach, trees.tensors(tree))) for tree in (truth, found)]
    if not all(tensor.is_floating_point() for tensor in known):
        return False
    generator, moved = torch.Generator().manual_seed(0), [torch.zeros_like(tensor) for tensor in known]
    for _ in range(2):
        leaves = [_shaken(leaf, generator) for leaf in request.leaves]
        try:
            near = trees.tensors(_at(eager, request, leaves))
        except REFUSED:
            return False
        changes = [(one.detach() - other).abs() for one, other in zip(near, known, strict=True)]
        moved = [torch.maximum(*pair) for pair in zip(moved, changes, strict=True)]
    return all(map(_agree_but_for, computed, known, moved))


def _agree_but_for(one: torch.Tensor, other: torch.Tensor, moved: torch.Tensor) -> bool:
    """Whether two tensors agree wherever rounding may not do more; which is most of them, or nothing was compared."""
    room = ROUNDINGS * moved
    lost = room > torch.finfo(other.dtype).eps ** 0.5 * other.abs()
    return 2 * int(lost.sum()) <= lost.numel() and agree(torch.where((one - other).abs() <= room, other, one), other)


def _shaken(leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """By a unit in the last place, up or down."""
    up = torch.rand(leaf.shape, generator=generator) < 0.5
    unit = torch.finfo(leaf.dtype).eps
    return leaf.detach() * torch.where(up, 1 + unit, 1 - unit).to(leaf)


def _at(transform: Call, request: Request, leaves: list[torch.Tensor]) -> Any:
    """What is called, for other numbers in place of those that are differentiated by."""
    args = list(request.args)
    leaves = [there.requires_grad_(leaf.requires_grad) for there, leaf in zip(leaves, request.leaves, strict=True)]
    for argument in request.arguments:
        args[argument.position] = argument.build(leaves[argument.span])
    return transform(*args, **request.kwargs)


@unasked()
def _close_elsewhere(call: Call, eager: Transform, request: Request, truth: Any) -> bool:
    """Whether they are at other points too, where the truth tells nothing here; what f refuses there says nothing."""
    if not tells_nothing(tuple(trees.tensors(truth))):
        return True
    leaves = list(waves(request.leaves))
    try:
        known = _at(eager, request, leaves)
        with _kept(request):
            return _close(_at(partial(call, request.function), request, leaves), known)
    except (*REFUSED, dynamo_error()):
        return True

"""Does a function depend on where in the batch a sample is, or on how many there are?  A block does not know.

``s[: len(x)]`` of a tensor that it closes over, ``torch.linspace(0, 1, len(x))``, a mask with an entry for each sample,
``/ len(x)``: each block would take the beginning, and no error is raised.  So two blocks of different sizes are
evaluated together, and the second alone: a function that may be cut gives the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..core import caches, trees
from ..core.closeness import agree
from ..core.unasked import unasked
from ..errors import ArgumentError
from ..evaluation.program import OUTSIDE, Origin, Step, origin
from ..routes.points import REFUSED
from .evaluator import Evaluator
from .request import Request

FEWEST = 24
"""Samples before the last of those that are looked at, where blocks are smaller."""


def refuse_positions(request: Request, size: int, part: Callable[[int, int], Request]) -> None:
    """Refuse a function that gives other values for ``part`` of the samples of a request, in blocks of this size.

    So is one that takes as many entries as there are samples of a tensor that has one for each of them all: beyond the
    first ones these may be others.  It is asked at calls 1, 2, 4, 8 and so on of a function that passes, for what it
    closes over may change.
    """
    if not request.options.check:
        return
    with at_call(request, size) as due:
        if due and _differs(request, size, part):
            raise ArgumentError(_message(request))


@contextmanager
def at_call(request: Request, way: object) -> Iterator[bool]:
    """Whether it is one of calls 1, 2, 4, 8 and so on of a function in some way; one that raises is not counted."""
    fingerprint, signature = request.fingerprint, (request.signature, way)
    passed: int = caches.CUT.get(fingerprint.key, signature) or 0
    yield caches.due(passed + 1)
    if fingerprint.watchable:
        caches.CUT.put(fingerprint.key, fingerprint.parts, signature, passed + 1)


@unasked()
def _differs(request: Request, size: int, part: Callable[[int, int], Request]) -> bool:
    """Whether a few samples at the beginning of a block have other values than they have alone."""
    count, few = request.batch[0], _few(request.batch[0] % size, size)
    last = min(-(-FEWEST // size), (count - few) // size) * size
    most = min(few + 1, count - last)
    joint = part(0, last + most)
    state, evaluator = joint.random_state(), Evaluator(joint)
    together, random = evaluator.look(state)
    if random:  # a block draws anew
        return False
    program = evaluator.looked_at
    if program is not None and any(_takes(step, joint, last + most, count) for step in program.steps):
        return True
    parts = ((size, size + few), (last, last + most))  # an even and an odd number, where there are so many
    for start, stop in parts:
        try:
            alone, _ = Evaluator(part(start, stop)).look(state)
        except REFUSED:  # of so many samples: then it does of no block of another size either
            continue
        room = joint.options.tolerance**2
        if not all(agree(own, whole[start:stop], room) for own, whole in zip(alone, together, strict=True)):
            return True
    return False


def _few(left: int, size: int) -> int:
    """As many samples as the last block has, if these are few, so that all takes no more than two blocks do."""
    most = max(1, (size - 2) // 3)
    return left if 0 < left <= most else most


def _takes(step: Step, request: Request, count: int, total: int) -> bool:
    """Whether it takes the first so many entries of a tensor from outside of f that has an entry for each sample."""
    if step[0] is torch.Tensor.__getitem__ and slice in step:
        first = step.index(slice)
        begins, ends = step[first + 1 : first + 3]
    elif step[0] in (torch.Tensor.narrow, torch.narrow):
        begins, ends = step[-2:]
    else:
        return False
    if begins not in (None, 0) or ends != count:
        return False
    shapes = [step[2]] if step[1] is OUTSIDE else [shape for place, shape in _given(request) if step[1] is place]
    return any(shape[:1] >= (total,) for shape in shapes)  # type: ignore[index]


def _given(request: Request) -> Iterator[tuple[Origin, tuple[int, ...]]]:
    """The places that the tensors among the other arguments have in a program, and their shapes."""
    state, places = request.state_arguments, {argument.position for argument in request.arguments}
    before = len(request.leaves) + sum(map(len, request.args[:state]))
    others = [arg for place, arg in enumerate(request.args) if place >= state and place not in places]
    for number, tensor in enumerate(trees.tensors((others, request.kwargs)), start=before):
        yield origin(number), tuple(tensor.shape)


def _message(request: Request) -> str:
    named = list(dict.fromkeys(_tensors(request)))
    told = f"; tensors that may carry samples: {', '.join(named)}" if named else ""
    return (
        f"sample_chunk_size={request.options.sample_chunk_size!r}: f gives other values for samples alone than for the "
        "same ones among others, so it depends on where in the batch they are, or on how many there are, which a block "
        f"of them does not know{told}; pass what belongs to a sample as a positional argument with an entry 0 "
        "in in_dims, and numbers of all samples as they are, or leave sample_chunk_size out"
    )


def _tensors(request: Request) -> Iterator[str]:
    """Tensors that f takes by keyword, closes over or finds in its module, and that have as many entries as a block."""
    least = request.batch[0]
    for name, value in request.kwargs.items():
        leaves, structure = trees.flatten(value)
        yield from _told(structure.paths(f"the keyword {name}"), leaves, least)
    function = request.function
    closed = inspect.getclosurevars(function) if inspect.isfunction(function) else None
    for scope in () if closed is None else (closed.nonlocals, closed.globals):
        yield from _told(list(scope), list(scope.values()), least)
    for module in request.fingerprint.tree():
        yield from _told(list(module._buffers), list(module._buffers.values()), least)


def _told(names: Sequence[str], values: Sequence[Any], least: int) -> Iterator[str]:
    for name, value in zip(names, values, strict=True):
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] >= least:
            yield f"{name} of shape {tuple(value.shape)}"

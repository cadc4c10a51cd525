"""Operations on jets whose rows are of blocks: which of them keep that, and who is asked (``rules/blockwise.py``).

An operation that is not known, or that mixes parts, gets the rows in full: nothing else has to know of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..core import caches
from .blocks import Blocks, first_blocks
from .frame import Frame, OneHot
from .jet import Jet
from .values import jets_in, replaced

Tensor = torch.Tensor
Rule = Callable[..., Any]


class Call(NamedTuple):
    """An operation with its rule: ``blocks`` are those of all its jets, None where these differ or have none."""

    function: Any
    rule: Rule
    blocks: Blocks | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def jets(self) -> list[Jet]:
        """All jets among the arguments."""
        return jets_in(self.args, self.kwargs)


def blockwise(
    function: Any, known: tuple[Rule, bool] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Rule, tuple[Any, ...], dict[str, Any]] | None:
    """What to call with which arguments, where any jet has or may have rows of blocks; None if all need full rows."""
    if known is None or function in caches.USER_RULES:
        return None
    rule, keeps_frame = known
    handler = caches.BLOCKWISE.get(function)
    if handler is None and (keeps_frame or getattr(rule, "body", False)):
        handler = caches.BLOCKWISE["composed" if getattr(rule, "body", False) else "elementwise"]
    if handler is None:
        return None
    jets = jets_in(args, kwargs)
    begun = {id(jet): found for jet in jets for found in [_begun(jet)] if found is not None}
    if begun:
        if (getattr(rule, "writes", False) or _in_place(args, kwargs)) and id(args[0]) in begun:
            return None  # what is written to is the input, not the jet that stands for it
        args, kwargs = (replaced(tree, lambda jet: begun.get(id(jet), jet)) for tree in (args, kwargs))
        jets = jets_in(args, kwargs)
    frames = [jet.frame for jet in jets]
    if all(frame.blocks is None for frame in frames):
        return _of_flat(function, rule, args, kwargs)
    same = all(frame is frames[0] for frame in frames)
    instead = handler(Call(function, rule, frames[0].blocks if same else None, args, kwargs))
    return None if instead is None else (instead, args, kwargs)


def _in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("inplace")) or any(arg is True for arg in args[1:])


def _begun(jet: Jet) -> Jet | None:
    """The input, with rows of blocks, where a sample has several axes; None for any other jet."""
    propagation, rows = jet.propagation, jet._coefficients
    if not rows or rows[0] is None or rows[0] is not propagation.whole or jet.pending is not None:
        return None
    blocks = first_blocks(tuple(jet.shape[len(propagation.batch) :]))
    if blocks is None or jet._frame.parent is not None:
        return None
    return jet.seen_by(_started(jet.value, blocks, jet._frame))


def _started(value: Tensor, blocks: Blocks, frame: Frame) -> Jet:
    """A value each of whose entries is a coordinate of the input, all in their order."""
    frame.propagation.parted = True
    shape = (blocks.each, *(1,) * (value.dim() + 1 + blocks.axis), *value.shape[value.dim() + blocks.axis + 1 :])
    rows = torch.eye(blocks.each, dtype=value.dtype, device=value.device).reshape(shape)
    return Jet(value, (rows, *(None,) * (frame.layout.order - 1)), frame.of_blocks(blocks))


def _of_flat(
    function: Any, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Rule, tuple[Any, ...], dict[str, Any]] | None:
    """An input of one axis that is cut into parts by a reshape."""
    jet = args[0]
    if function not in caches.BLOCKWISE["cutting"] or type(jet) is not Jet or len(jet.propagation.batch) != 1:
        return None
    rows, propagation = jet._coefficients, jet.propagation
    if not rows or jet.pending is not None or jet._frame.parent is not None or jet.dim() != 2:
        return None
    whole = propagation.whole
    same = rows[0] is whole or (type(whole) is OneHot and propagation.identities.get(whole.size) is rows[0])
    if rows[0] is None or not same:
        return None

    def cut(input: Jet, *args: Any, **kwargs: Any) -> Any:
        result = rule(input, *args, **kwargs)
        if result.shape[:1] != input.shape[:1]:
            return result
        blocks = first_blocks(tuple(result.shape[1:]))
        return result if blocks is None else result.seen_by(_started(result.value, blocks, input._frame))

    return cut, args, kwargs


def in_blocks(result: Jet, frame: Frame) -> Jet:
    """The result of a rule with its rows taken for those of other blocks, unless they are those in full."""
    if result._frame.blocks is not None:
        result._frame = frame
    return result

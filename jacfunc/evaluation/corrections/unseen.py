"""Writes that torch does not see: through ``.data``, which shares a tensor's memory and not its version counter.

An ``autograd.Function`` that fills a buffer in this way (the adaptive solvers of torchdiffeq) is right as long as
nothing overwritten was kept for a backward.  Torch takes that on trust; here it is looked at, after the evaluation.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch.autograd.graph import Node

from ...core.graphs import nodes
from ...core.levels import inside_function
from ...core.torch_private import SAVED, next_node_number, node_number
from ...errors import UnsupportedOperationError


@dataclass(frozen=True)
class Access:
    """One access to ``.data``: where, what the memory held then, and which nodes of the graph are older.

    ``running`` are the names that the node of the ``autograd.Function`` may have in whose forward it happened.
    """

    tensor: torch.Tensor
    before: torch.Tensor
    number: int
    running: frozenset[str]


def data_of(tensor: torch.Tensor, accesses: list[Access]) -> torch.Tensor:
    """Torch's own ``.data``, noted."""
    found: torch.Tensor = torch.Tensor.data.__get__(tensor)  # type: ignore[attr-defined]
    if tensor.layout == torch.strided:
        accesses.append(Access(found, _memory(found).clone(), next_node_number(), _running()))
    return found


def refuse_overwritten(outputs: Sequence[Any], accesses: Sequence[Access]) -> None:
    """Refuse a graph in which a backward would read what was overwritten after it had been kept."""
    changed = [access for access in accesses if not _same(_memory(access.tensor), access.before)]
    if not changed:
        return
    by_age = sorted(nodes(outputs), key=node_number)
    kept = _kept_at([_place(access.tensor) for access in changed], by_age)
    for access in changed:
        last = bisect_left(by_age, access.number, key=node_number) - 1
        own = by_age[last] if last >= 0 and by_age[last].name() in access.running else None  # keeps what it left behind
        for node, tensor in kept[_place(access.tensor)]:
            if node_number(node) < access.number and node is not own and _overwritten(tensor, access):
                raise UnsupportedOperationError(
                    f"what {node.name()} needs in its backward is overwritten through .data, out of sight of torch"
                )


def _kept_at(places: Sequence[int], nodes: Sequence[Node]) -> dict[int, list[tuple[Node, torch.Tensor]]]:
    """What nodes keep for their backward in the memory at some places."""
    found: dict[int, list[tuple[Node, torch.Tensor]]] = {place: [] for place in places}
    for node in nodes:
        for tensor in _kept(node):
            if tensor.layout == torch.strided and _place(tensor) in found:
                found[_place(tensor)].append((node, tensor))
    return found


def _overwritten(tensor: torch.Tensor, access: Access) -> bool:
    if tensor.dtype != access.tensor.dtype:  # another view of the same bytes
        return True
    before = access.before.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return not _same(tensor.detach(), before)


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """All the memory that a tensor is a part of, as one row of its numbers."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _kept(node: Any) -> Iterator[torch.Tensor]:
    """The tensors that a node keeps for its backward."""
    for name in dir(node):
        if name == "saved_tensors" or name.startswith(SAVED):
            kept = getattr(node, name)
            for item in kept if isinstance(kept, tuple | list) else [kept]:
                if isinstance(item, torch.Tensor):
                    yield item


def _running() -> frozenset[str]:
    """The names that the node of the outermost ``autograd.Function`` may have whose forward is around this call.

    By the code of the forward, which several classes may share: torch calls it without a frame of Python since 2.14.
    """
    if not inside_function():
        return frozenset()
    frame, names = sys._getframe(1), frozenset[str]()
    forwards = _forwards()
    while frame is not None:
        names = frozenset(forwards.get(frame.f_code, names))
        frame = frame.f_back  # type: ignore[assignment]
    return names


def _forwards() -> dict[CodeType, list[str]]:
    """The names of the nodes of every ``autograd.Function`` there is, by the code of its forward."""
    found: dict[CodeType, list[str]] = {}
    classes: list[type] = [torch.autograd.Function]
    while classes:
        kind = classes.pop()
        classes += kind.__subclasses__()
        code = getattr(getattr(kind, "forward", None), "__code__", None)
        if code is not None:
            found.setdefault(code, []).append(f"{kind.__name__}Backward")
    return found

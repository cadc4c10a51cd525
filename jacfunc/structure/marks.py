"""For each element of each tensor that depends on the input, the number of the set of coordinates that it depends on.

Numbers are kept by storage, not by tensor, so views have those of what they look at, and a write through a view is seen
by all others.  Storages without numbers hold what is KNOWN: the same for all inputs and parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..errors import UnsupportedOperationError
from .joins import Union, all_joined, over_axes
from .sets import KNOWN, Sets


class _Marked(NamedTuple):
    """Numbers for each so many bytes of a storage, which is kept, so that its memory goes to no other.

    An element depends on the union of what the ``parts`` have for it.
    """

    storage: torch.UntypedStorage
    parts: Sequence[torch.Tensor]
    grain: int


class Marks:
    """The numbers of all storages, in double precision, so that torch's own operations can move them."""

    def __init__(self, sets: Sets) -> None:
        self.sets = sets
        self._marked: dict[int, _Marked] = {}

    def are_on(self, tensor: torch.Tensor) -> bool:
        """Whether there are numbers for the tensor's storage."""
        return address(tensor) in self._marked

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """The numbers of a tensor's elements, of its shape."""
        marked = self._marked.get(address(tensor))
        if marked is None:
            return torch.full((), KNOWN, dtype=torch.float64, device=tensor.device).expand(tensor.shape)
        if len(marked.parts) > 1:
            marked = self._put(marked._replace(parts=[all_joined(self.sets, marked.parts)]))
        marked = self._fine_enough(tensor, marked)
        (seen,) = _seen(tensor, marked)
        return seen if seen.dim() == tensor.dim() else over_axes(self.sets, seen, (seen.dim() - 1,))

    def read_parts(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        """Numbers whose unions are those of a tensor's elements."""
        marked = self._marked.get(address(tensor))
        if marked is None or marked.grain != tensor.element_size():
            return [self.read(tensor)]
        return _seen(tensor, marked)

    def write(self, tensor: torch.Tensor, union: Union) -> None:
        """Give the elements of a tensor the numbers of a union, of its shape or broadcast to it."""
        size, place = tensor.element_size(), address(tensor)
        if not place:
            return
        storage = tensor.untyped_storage()
        marked = self._marked.get(place) or _Marked(storage, [], size)
        marked = self._fine_enough(tensor, marked)
        fresh = [
            torch.full((storage.nbytes() // marked.grain,), KNOWN, dtype=torch.float64, device=tensor.device)
            for _ in range(len(union.parts) - len(marked.parts))
        ]
        marked = self._put(marked._replace(parts=[*marked.parts, *fresh]))
        for place, seen in enumerate(_seen(tensor, marked)):
            numbers = union.parts[place] if place < len(union.parts) else torch.tensor(float(KNOWN))
            seen.copy_(numbers if seen.dim() == tensor.dim() else numbers[..., None])

    def _put(self, marked: _Marked) -> _Marked:
        self._marked[marked.storage.data_ptr()] = marked
        return marked

    def _fine_enough(self, tensor: torch.Tensor, marked: _Marked) -> _Marked:
        """With a number for each element of a tensor, if those that there are span several."""
        size = tensor.element_size()
        if size >= marked.grain:
            return marked
        parts = [part.repeat_interleave(marked.grain // size) for part in marked.parts]
        return self._put(_Marked(marked.storage, parts, size))


def _seen(tensor: torch.Tensor, marked: _Marked) -> list[torch.Tensor]:
    """Views of the numbers of its storage; with an axis more, if an element of it spans several."""
    ratio = tensor.element_size() // marked.grain
    if ratio == 1:
        shape, strides = tuple(tensor.shape), tensor.stride()
    else:
        shape, strides = (*tensor.shape, ratio), (*[stride * ratio for stride in tensor.stride()], 1)
    return [part.as_strided(shape, strides, tensor.storage_offset() * ratio) for part in marked.parts]


def address(tensor: torch.Tensor) -> int:
    """Where its storage begins; 0 if it has none: without elements, zeros of a tangent, on the meta device."""
    if tensor.layout is not torch.strided:
        raise UnsupportedOperationError(
            f"f makes a tensor of layout {tensor.layout}, through which no sparsity pattern is found; pass the pattern "
            "as sparsity=, or use a dense tensor"
        )
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # what autograd has in place of zeros
        return 0

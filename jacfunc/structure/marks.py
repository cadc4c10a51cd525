"""For each element of each tensor that depends on the input, the number of the set of coordinates that it depends on.

Numbers are kept by storage, not by tensor, so views have those of what they look at, and a write through a view is seen
by all others.  Storages without numbers hold what is KNOWN: the same for all inputs and parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..errors import UnsupportedOperationError
from .joins import over_axes
from .sets import KNOWN, Sets


class _Marked(NamedTuple):
    """A number for each so many bytes of a storage, which is kept, so that its memory goes to no other."""

    storage: torch.UntypedStorage
    numbers: torch.Tensor
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
            return torch.full((), KNOWN, dtype=torch.float64).expand(tensor.shape)
        numbers, parts = self._seen(tensor, marked)
        return over_axes(self.sets, numbers, (numbers.dim() - 1,)) if parts else numbers

    def write(self, tensor: torch.Tensor, numbers: torch.Tensor) -> None:
        """Give the elements of a tensor these numbers, of its shape or broadcast to it."""
        size, place = tensor.element_size(), address(tensor)
        if not place:
            return
        if place not in self._marked:
            storage = tensor.untyped_storage()
            fresh = torch.full((storage.nbytes() // size,), KNOWN, dtype=torch.float64)
            self._marked[place] = _Marked(storage, fresh, size)
        seen, parts = self._seen(tensor, self._marked[place])
        seen.copy_(numbers[..., None] if parts else numbers)

    def _seen(self, tensor: torch.Tensor, marked: _Marked) -> tuple[torch.Tensor, bool]:
        """A view of the numbers of its storage; with an axis more, if an element of it spans several."""
        size, numbers, grain = tensor.element_size(), marked.numbers, marked.grain
        if size < grain:
            numbers = numbers.repeat_interleave(grain // size)
            grain = size
            self._marked[marked.storage.data_ptr()] = _Marked(marked.storage, numbers, grain)
        part = size // grain
        if part == 1:
            return numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()), False
        strides = [stride * part for stride in tensor.stride()]
        return numbers.as_strided((*tensor.shape, part), (*strides, 1), tensor.storage_offset() * part), True


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

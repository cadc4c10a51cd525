"""How large what a function computes is, counted in a plain forward; what to make of it is for those who ask."""

from __future__ import annotations

from typing import Any

from ..core.levels import inside_transform
from ..core.torch_private import DispatchMode
from ..core.trees import tensors
from ..core.unasked import unasked
from ..evaluation.rng import replaying
from .evaluator import Evaluator
from .request import Request


class _Recorder(DispatchMode):
    """Counts the bytes of every result inside it, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.sizes += [tensor.numel() * tensor.element_size() for tensor in tensors(result)]
        return result


@unasked()
def forward_bytes(request: Request) -> list[int]:
    """The bytes of every result of one forward of the request, in order."""
    recorder = _Recorder()
    state = request.random_state()
    with recorder, replaying(state):
        Evaluator(request).first_values(state)
    if inside_transform():  # a dispatch mode does not see through wrapped tensors
        return [sum(leaf.numel() * leaf.element_size() for leaf in request.leaves)]
    return recorder.sizes


def bytes_per_sample(fewer: Request, more: Request) -> float:
    """How much the result that grows most with the number of samples grows with each."""
    few, many = forward_bytes(fewer), forward_bytes(more)
    if len(few) != len(many):
        few = [0] * len(many)
    difference = more.batch[0] - fewer.batch[0]
    return max((m - f for f, m in zip(few, many, strict=True)), default=0) / difference

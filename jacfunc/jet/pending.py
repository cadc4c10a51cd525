"""What a jet waits for before its numbers can be used: the three things that ``Jet.pending`` may be."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class PendingLayer(NamedTuple):
    """A linear layer of a jet ``source``, only multiplied out when something needs it.

    By then neither weight nor bias may have changed in place: ``versions`` are how often each had at first.
    """

    source: Any
    weight: torch.Tensor
    bias: torch.Tensor | None
    versions: tuple[int, int] | None


class PendingWrite(NamedTuple):
    """A jet ``view`` by an index of this one that changed in place and has to be written back; ``before`` it did."""

    before: Any
    view: Any
    index: Any


class Ended:
    """Nothing will help: it was written to something that in torch it would still be a view of."""


def versions_of(weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[int, int]:
    """How often each has been changed in place, where torch counts that."""
    try:
        return weight._version, 0 if bias is None else bias._version
    except RuntimeError:  # made in inference mode
        return 0, 0

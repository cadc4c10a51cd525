"""One draw of the random generators: saved, and replayed for dry runs, chunks and retries.

Covers torch on the CPU and on the accelerators in use, numpy's global generator and Python's ``random``, and the
generators that a function brings along, which ``fingerprint.py`` finds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)

Source = tuple[Callable[[], Any], Callable[[Any], None]]
"""How to read the state of a generator, and how to set it."""


@dataclass(frozen=True)
class RandomState:
    """The state of every generator at one moment."""

    sources: tuple[Source, ...]
    states: tuple[Any, ...]

    @classmethod
    def capture(cls, tensors: Iterable[torch.Tensor] = (), generators: Iterable[Any] = ()) -> RandomState:
        """The state now: global generators, those of the devices where ``tensors`` live, and ``generators``."""
        devices = {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
        sources: tuple[Source, ...] = (
            (torch.get_rng_state, torch.set_rng_state),
            (np.random.get_state, np.random.set_state),
            (random.getstate, random.setstate),
            *map(_of_device, devices),
            *map(_source, generators),
        )
        return cls(sources, tuple(read() for read, _ in sources))

    def now(self) -> RandomState:
        """The state of the same generators at this moment."""
        return RandomState(self.sources, tuple(read() for read, _ in self.sources))

    def is_now(self) -> bool:
        """Whether every generator still is in this state."""
        return self.same_as(self.now())

    def same_as(self, other: RandomState) -> bool:
        """Whether both are the same states of the same generators."""
        return all(map(_same, self.states, other.states))

    def restore(self) -> None:
        """Set every generator back, so that the next evaluation sees the same draw."""
        for (_, write), state in zip(self.sources, self.states, strict=True):
            write(state)


@contextmanager
def replaying(state: RandomState) -> Iterator[None]:
    """Run the body from ``state`` and leave the generators as they were found before it."""
    found = state.now()
    state.restore()
    try:
        yield
    finally:
        found.restore()


def _source(generator: Any) -> Source:
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return partial(getattr, bits, "state"), partial(setattr, bits, "state")
    if isinstance(generator, random.Random):
        return generator.getstate, generator.setstate
    return generator.get_state, generator.set_state


def replayable(device: torch.device) -> bool:
    """Whether the random state of a kind of device can be read and set, in the way that all of torch's own have."""
    module = getattr(torch, device.type, None)
    return device.type == "cpu" or (hasattr(module, "get_rng_state") and hasattr(module, "set_rng_state"))


def _of_device(device: torch.device) -> Source:
    module = torch.get_device_module(device)

    def write(state: Any) -> None:
        module.set_rng_state(state, device)

    return partial(module.get_rng_state, device), write


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and any(isinstance(part, np.ndarray) for part in one):
        return all(map(_same, one, other))
    return bool(one == other)

"""Random numbers that repeat from call to call: every generator set to a seed, and then back to where it was."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..evaluation.rng import RandomState


@contextmanager
def seeded(seed: int | None, tensors: Iterable[torch.Tensor], generators: Iterable[Any]) -> Iterator[None]:
    """Run the body from a seed, or from where the generators are for None."""
    if seed is None:
        yield
        return
    tensors, generators = list(tensors), list(generators)
    found = RandomState.capture(tensors, generators)
    try:
        _sow(seed, {tensor.device for tensor in tensors if tensor.device.type != "cpu"}, generators)
        yield
    finally:
        found.restore()


def _sow(seed: int, devices: Iterable[torch.device], generators: Iterable[Any]) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    for device in devices:
        module = torch.get_device_module(device)
        with module.device(device):
            module.manual_seed(seed)
    for generator in generators:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(seed).state
        else:
            generator.seed(seed % 2**32)

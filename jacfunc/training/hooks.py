"""Hooks of parameters held back while blocks run, and called once in the end, with the whole gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core.torch_private import AFTER_HOOKS, GRADIENT_HOOKS, OPTIMISERS
from ..errors import UnsupportedOperationError
from .gradients import Sums

Hooks = dict[int, Callable[[torch.Tensor], Any]]


class Held:
    """The hooks of some leaves, in whose places others that do nothing stand for as long."""

    def __init__(self) -> None:
        self._taken: list[tuple[torch.Tensor, str, Hooks]] = []

    def put(self, leaf: torch.Tensor, sharded: bool) -> None:
        """Hold back those of a leaf; of a sharded one only what ``fully_shard`` calls, which is not all."""
        if getattr(leaf, OPTIMISERS, None):
            raise UnsupportedOperationError(
                f"an optimiser steps a parameter of shape {tuple(leaf.shape)} within the backward, once for each block "
                "of accumulate; step after it, or in a hook of register_post_accumulate_grad_hook"
            )
        for name in (AFTER_HOOKS,) if sharded else (GRADIENT_HOOKS, AFTER_HOOKS):
            hooks: Hooks | None = getattr(leaf, name)
            if hooks:
                self._taken.append((leaf, name, dict(hooks)))
                hooks.update(dict.fromkeys(hooks, _nothing))

    def back(self) -> None:
        """Put them back, but those that were removed in the meantime."""
        for leaf, name, taken in self._taken:
            hooks: Hooks = getattr(leaf, name)
            hooks.update({key: hook for key, hook in taken.items() if key in hooks})

    def on_gradients(self, sums: Sums) -> None:
        """Let hooks see, and change, the sums of the gradients of their leaves."""
        leaves = [leaf for leaf, name, _ in self._taken if name == GRADIENT_HOOKS and id(leaf) in sums.of]
        if not leaves:
            return
        given = [sums.of[id(leaf)].to(leaf.dtype) for leaf in leaves]
        # The gradient of a leaf by itself: its hooks run within a backward, as they expect, and nothing else does.
        for leaf, gradient in zip(leaves, torch.autograd.grad(leaves, leaves, given), strict=True):
            sums.of[id(leaf)] = gradient

    def after(self, written: set[int]) -> None:
        """Call those that wait for the ``.grad`` of their leaf, where it was written to."""
        with torch.no_grad():
            for leaf, name, _ in self._taken:
                if name == AFTER_HOOKS and id(leaf) in written:
                    for hook in [*(getattr(leaf, name) or {}).values()]:
                        hook(leaf)


def _nothing(_: torch.Tensor) -> None:
    return None

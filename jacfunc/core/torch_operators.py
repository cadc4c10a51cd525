"""Operators below autograd that are private to torch, and what is asked of one: the second room for private names.

Like ``torch_private.py``, this file is to be read against a new version of torch.  An operator whose name begins with
an underscore is what a public function becomes on its way down; who follows a function there meets these.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import ModuleType
from typing import Any

import torch

from .torch_private import c_nn

_aten: Any = torch.ops.aten

arguments_declared: Callable[[Any], Sequence[Any]] = attrgetter("_schema.arguments")
"""The arguments of a form of an operator: names, defaults, which of them it writes to."""
to_copy: Any = _aten._to_copy
"""What ``Tensor.to`` becomes."""
unsafe_index: Any = _aten._unsafe_index
"""Indexing without a look at the bounds, which resampling becomes."""
unsafe_index_put: Any = _aten._unsafe_index_put
"""Writing at indices without a look at the bounds."""
softmaxes: tuple[Any, ...] = (_aten._softmax, _aten._safe_softmax)
"""What ``torch.softmax`` becomes, and the one that is zero where all is masked."""
fourier: tuple[Any, ...] = (_aten._fft_c2c, _aten._fft_r2c, _aten._fft_c2r)
"""What the functions of ``torch.fft`` become."""
adaptive_pools: tuple[Any, ...] = (_aten._adaptive_avg_pool2d, _aten._adaptive_avg_pool3d)
"""Averages over windows whose sizes differ by one."""

pair_distances: Any = _aten._cdist_forward
"""What ``torch.cdist`` becomes."""
zeros_laid_out_like: Any = _aten._new_zeros_with_same_feature_meta
"""New zeros for the tangent of a tensor whose elements lie in memory in another way than those of the tangent."""


def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """Operators written as others, as torch's compiler takes them; loading them takes a moment."""
    from torch._decomp import decomposition_table

    return decomposition_table


def graphs_compiled() -> int:
    """How many graphs ``torch.compile`` has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])


@functools.cache
def torch_with(instead: Callable[[Callable[..., Any]], Callable[..., Any]]) -> ModuleType:
    """A module that has all of ``torch``, as it is when it is asked, but others in place of these functions.

    Without it no convolution with padding, no resampling and no loss is traced: to objects that are no tensors Dynamo
    hands over public functions alone, and their bodies call these.
    """
    own = {name: instead(function) for name, function in vars(c_nn).items() if callable(function)}
    return _like(torch, _C=_like(torch._C, _nn=_like(c_nn, **own)))


def _like(module: Any, **others: Any) -> ModuleType:
    made = ModuleType(f"{__name__}.{module.__name__}")
    made.__dict__.update({"__getattr__": functools.partial(getattr, module), **others})
    return made

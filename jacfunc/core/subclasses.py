"""Tensors of a class of another library (``LieTensor``, ``LabelTensor``): plain to torch.func, of their class to f.

Torch's transforms hand f tensors without class or attributes.  So what is differentiated is the plain tensor, and f is
given one of the class with the attributes of what came in.  What it returns is taken plain again, as all results are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .torch_private import WithoutClasses

Tensor = torch.Tensor


def is_own(value: Any) -> bool:
    """Whether a value is a tensor of a class that torch's transforms forget.

    Those that torch dispatches on (``__torch_dispatch__``), such as fake ones, hold no memory of their own, and
    parameters are plain tensors.
    """
    kind = type(value)
    if kind is Tensor or kind is torch.nn.Parameter or not isinstance(value, Tensor):
        return False
    return kind.__torch_dispatch__ is Tensor.__torch_dispatch__ and kind.__module__.partition(".")[0] != "torch"


def undressed(value: Any) -> Any:
    """The plain tensor, in the same memory and the same graph; anything else as it is."""
    if not is_own(value):
        return value
    with WithoutClasses():
        return value.as_subclass(Tensor)


def dressed(tensor: Tensor, like: Tensor) -> Tensor:
    """The plain tensor with the class and the attributes of another one; as it is where that is plain too."""
    if not is_own(like):
        return tensor
    with WithoutClasses():
        made = tensor.as_subclass(type(like))
    vars(made).update(vars(like))
    for name in _slots(type(like)):
        if hasattr(like, name):
            setattr(made, name, getattr(like, name))
    return made


def dressed_all(tensors: Sequence[Any], like: Sequence[Tensor]) -> Sequence[Any]:
    """Plain tensors with the classes and attributes of others, one by one; as they are where there are no others."""
    return [dressed(tensor, other) for tensor, other in zip(tensors, like, strict=True)] if like else tensors


def cloned(tensor: Tensor) -> Tensor:
    """A copy of the class and with the attributes of the tensor."""
    return dressed(undressed(tensor).clone(), tensor)


def _slots(kind: type) -> list[str]:
    named = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    return [name for names in named for name in ((names,) if isinstance(names, str) else names)]

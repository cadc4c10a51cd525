"""What torch takes for constants without a word: operators of other libraries (``torch.library``), and its own few.

An operator whose derivative is registered in Python has none in forward mode, and one without a formula has none in any
mode of ``torch.func``: all get zeros.  ``torch.autograd.grad`` follows both, or says that there is no derivative.
Bessel functions and orthogonal polynomials of ``torch.special`` are smooth, and declared as not differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...core import trees
from ...core.levels import inside_jvp, is_dual, tracked
from ...core.torch_private import OpOverload, OpOverloadPacket
from ...errors import RefusedOperationError, UnsupportedOperationError

OWN = ("aten", "prims")
DEVICES = ("", "CPU", "CUDA", "XPU", "MPS", "HPU", "PrivateUse1", "Other")
FORMULAS = tuple(f"Autograd{device}" for device in DEVICES)


SMOOTH = (
    "airy_ai",
    *(f"bessel_{kind}" for kind in ("j0", "j1", "y0", "y1")),
    *(f"modified_bessel_{kind}" for kind in ("i0", "i1", "k0", "k1")),
    *(f"scaled_modified_bessel_{kind}" for kind in ("k0", "k1")),
    "spherical_bessel_j0",
    *(f"{shifted}chebyshev_polynomial_{kind}" for shifted in ("", "shifted_") for kind in "tuvw"),
    *(f"hermite_polynomial_{kind}" for kind in ("h", "he")),
    "laguerre_polynomial_l",
    "legendre_polynomial_p",
)
"""Of ``torch.special``: what torch has no derivative of, though there is one."""


def is_foreign(function: Any) -> bool:
    """Whether a function is an operator that is none of torch's own."""
    kind = type(function)
    return (kind is OpOverload or kind is OpOverloadPacket) and _forms(function)[0].namespace not in OWN


def refuse_constants(function: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Refuse what torch has silently taken for a constant."""
    if not torch.is_grad_enabled():
        return
    given, made = _floating((args, kwargs)), _floating(result)
    if not made or _has(function, "CompositeImplicitAutograd"):
        return
    if any(map(_pushed, given)):
        raise UnsupportedOperationError(f"torch takes the operator {function} for a constant in forward mode")
    if _has(function, *FORMULAS):
        return
    if any(map(tracked, given)):
        raise UnsupportedOperationError(f"torch.func takes the operator {function} for a constant: it has no formula")
    if any(tensor.requires_grad for tensor in given) and any(map(_is_constant, made)):
        raise RefusedOperationError(
            f"the operator {function} is applied to what is differentiated, but has no derivative; register one with "
            "torch.library.register_autograd, or detach what it is given if it is meant to be constant"
        )


def refusing_zeros(native: Callable[..., Any], name: str, /, *args: Any, **kwargs: Any) -> Any:
    """For a smooth function without a derivative in torch, which is refused where it is differentiated."""
    if torch.is_grad_enabled() and any(map(_differentiated, _floating((args, kwargs)))):
        raise RefusedOperationError(
            f"torch has no derivative of {name} and takes it for a constant; give it one by a "
            "torch.autograd.Function, or detach what it is given if it is meant to be constant"
        )
    return native(*args, **kwargs)


def _differentiated(tensor: torch.Tensor) -> bool:
    return tensor.requires_grad or tracked(tensor) or _pushed(tensor)


def _pushed(tensor: torch.Tensor) -> bool:
    """Whether forward mode may differentiate what a tensor depends on."""
    return is_dual(tensor) or (inside_jvp() and tracked(tensor, strictly=False))


def _floating(tree: Any) -> list[torch.Tensor]:
    return [tensor for tensor in trees.tensors(tree) if tensor.is_floating_point()]


def _is_constant(tensor: torch.Tensor) -> bool:
    """Whether torch would warn in its backward, and have no gradient."""
    return tensor.grad_fn is None or tensor.grad_fn.name().endswith("WarnNotImplemented")


def _has(function: Any, *keys: str) -> bool:
    """Whether each overload of an operator has a kernel for one of the keys."""
    return all(any(form.has_kernel_for_dispatch_key(key) for key in keys) for form in _forms(function))


def _forms(function: Any) -> list[Any]:
    """An overload of an operator by itself, or all that there are."""
    return [function] if type(function) is OpOverload else [getattr(function, form) for form in function.overloads()]

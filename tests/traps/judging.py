"""What the tests of the traps share: whether torch still fails, and finite differences of values; no test lives here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from differences import stencil

from jacfunc import JacfuncError, diag_jac

METHODS = ("auto", "taylor", "forward", "reverse")
CURED = f"torch {torch.__version__} is right by itself now: this trap is gone"
FOREIGN = (RuntimeError, NotImplementedError, ValueError, TypeError)


def fails(call: Callable[[], Any], *words: str) -> bool:
    """Whether ``call`` raises an error of torch's own with one of ``words`` in it."""
    try:
        call()
    except FOREIGN as error:
        assert not isinstance(error, JacfuncError)
        assert any(word in str(error) for word in words), f"torch fails in another way now: {error}"
        return True
    return False


def far(found: torch.Tensor, truth: torch.Tensor, least: float = 1e-2) -> bool:
    """Whether a number is wrong beyond any rounding."""
    return not bool((found.detach().double() - truth.double()).abs().max() < least)


def first_difference(f: Callable[[torch.Tensor], torch.Tensor], t: torch.Tensor) -> torch.Tensor:
    """The first derivative of an elementwise map, by its values alone."""
    return stencil(lambda h: f(t + h), 1e-3)


def second_difference(f: Callable[[torch.Tensor], torch.Tensor], t: torch.Tensor, h: float = 1e-2) -> torch.Tensor:
    """The second derivative of an elementwise map, by its values alone."""
    near, far_ = f(t + h) + f(t - h), f(t + 2 * h) + f(t - 2 * h)
    return (16 * near - far_ - 30 * f(t)) / (12 * h * h)


def third_difference(f: Callable[[torch.Tensor], torch.Tensor], t: torch.Tensor) -> torch.Tensor:
    return stencil(lambda h: second_difference(f, t + h), 1e-2)


def slope(gradients: Mapping[str, torch.Tensor], directions: Mapping[str, torch.Tensor]) -> float:
    """The derivative along ``directions``."""
    return sum((gradients[name] * direction).sum().item() for name, direction in directions.items())


# How a derivative is differentiated once more, by its own input, from outside.  The map is elementwise.


def nested(f: Callable, x: torch.Tensor, method: str) -> torch.Tensor:
    return diag_jac(diag_jac(f, method=method), method=method)(x)


def by_torch_grad(f: Callable, x: torch.Tensor, method: str) -> torch.Tensor:
    return torch.func.grad(lambda x: diag_jac(f, method=method)(x).sum())(x)


def by_backward(f: Callable, x: torch.Tensor, method: str) -> torch.Tensor:
    x = x.clone().requires_grad_()
    diag_jac(f, method=method)(x).sum().backward()
    assert x.grad is not None
    return x.grad


AGAIN = {"nested": nested, "torch.func.grad": by_torch_grad, "backward": by_backward}

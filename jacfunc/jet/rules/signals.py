"""Spectra, complex numbers, differences and integrals along an axis.

A jet may be complex inside a function: its rows are derivatives by real numbers, so that holomorphic functions have the
same rules, and ``real``, ``imag`` and ``conj`` are linear.  What is not holomorphic is here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ...core import caches
from ..build import Operand, linear
from ..fallback import pushed
from ..jet import Jet
from ..registry import add
from ..root import with_value
from ..vmap_rules import batched, mapped, stacked
from .roots import rooted
from .shared import enter, enter_each, enter_valued, from_end, functions_of, valued

Tensor = torch.Tensor


# -------------------------------------------------------------------- Fourier transforms


def along_one(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """The rule of a transform along one axis."""

    def rule(input: Jet, n: int | None = None, dim: int = -1, norm: str | None = None) -> Jet:
        at = from_end(dim, input.dim())
        return linear(input, lambda x: function(x, n, dim, norm), lambda rows: function(rows, n, at, norm))

    return rule


def along_several(function: Callable[..., Tensor], default: tuple[int, ...] | None) -> Callable[..., Jet]:
    """The rule of a transform along several axes."""

    def rule(input: Jet, s: Any = None, dim: Any = default, norm: str | None = None) -> Jet:
        ndim = input.dim()
        s, dim = ((one,) if isinstance(one, int) else one for one in (s, dim))
        dims = range(-(ndim if s is None else len(s)), 0) if dim is None else dim
        at = tuple(from_end(d, ndim) for d in dims)
        return linear(input, lambda x: function(x, s, dim, norm), lambda rows: function(rows, s, at, norm))

    return rule


def shifted(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """The rule of a shift of the zero frequency."""

    def rule(input: Jet, dim: Any = None) -> Jet:
        ndim = input.dim()
        dims = range(ndim) if dim is None else ((dim,) if isinstance(dim, int) else dim)
        at = tuple(from_end(d, ndim) for d in dims)
        return linear(input, lambda x: function(x, dim), lambda rows: function(rows, at))

    return rule


# -------------------------------------------------------------------- complex numbers


def view_as_real(input: Jet) -> Jet:
    """The real and the imaginary part along a new axis."""
    return input.seen_by(linear(input, torch.view_as_real, lambda rows: torch.view_as_real(rows.resolve_conj())))


def view_as_complex(input: Jet) -> Jet:
    """Of the last axis; rows need not be laid out as their value is."""
    return input.seen_by(linear(input, torch.view_as_complex, lambda rows: torch.view_as_complex(rows.contiguous())))


def complex_(real: Operand, imag: Operand) -> Any:
    """Of a real and an imaginary part."""
    return torch.add(real, torch.mul(imag, 1j))


def polar(abs: Operand, angle: Operand) -> Any:
    """Of an absolute value and an angle."""
    return complex_(torch.mul(abs, torch.cos(angle)), torch.mul(abs, torch.sin(angle)))


def angle(input: Any) -> Any:
    """The imaginary part of the logarithm."""
    return torch.imag(torch.log(input))


def modulus(input: Any) -> Jet:
    """The absolute value; constant where it is zero."""
    parts: Any = torch.real(input), torch.imag(input)
    square = torch.square(parts[0]) + torch.square(parts[1])
    size = rooted(square, lambda: torch.stack(parts, -1), (-1,), False)
    return with_value(torch.abs(input.value), size)


def sgn(input: Any) -> Any:
    """A number of absolute value 1, or zero."""
    size: Any = modulus(input)
    zero = size.value == 0
    divisor: Any = Jet(size.value.masked_fill(zero, 1.0), size.coefficients, size.frame)
    return torch.div(input, divisor)


def adjoint(input: Any) -> Any:
    """Transposed, and conjugated."""
    return torch.conj(torch.transpose(input, -1, -2)) if input.dim() > 1 else torch.conj(input)


def vdot(input: Operand, other: Operand) -> Any:
    """A product with the conjugate of the first vector."""
    return torch.dot(torch.conj(input), other)


def vecdot(x: Operand, y: Operand, *, dim: int = -1) -> Any:
    """Products with the conjugate of the first, summed along an axis."""
    return torch.sum(torch.mul(torch.conj(x), y), dim)


def _if_complex(rule: Callable[..., Any], function: Any) -> Callable[..., Any]:
    """``rule`` for complex jets, and for real ones what there was before."""
    before, _ = caches.RULES.get(function, (None, False))

    def either(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(arg, Tensor | Jet) and arg.dtype.is_complex for arg in args):
            return rule(*args, **kwargs)
        return pushed(function, args, kwargs) if before is None else before(*args, **kwargs)

    return either


# -------------------------------------------------------------------- along an axis


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours, n times."""
    parts = [part for part in (prepend, input, append) if part is not None]
    whole = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        rest = max(whole.shape[dim] - 1, 0)
        whole = torch.narrow(whole, dim, min(1, whole.shape[dim]), rest) - torch.narrow(whole, dim, 0, rest)
    return whole


def _strips(y: Any, x: Any, dx: Any, dim: int) -> Any:
    """The areas under neighbours."""
    rest = y.shape[dim] - 1
    sums = torch.narrow(y, dim, 1, rest) + torch.narrow(y, dim, 0, rest)
    if x is None:
        return sums * ((1 if dx is None else dx) / 2)
    if x.dim() == 1:
        shape = [1] * y.dim()
        shape[dim] = rest
        return sums * torch.reshape(diff(x), shape) / 2
    if x.dim() < y.dim():
        x = torch.reshape(x, (1,) * (y.dim() - x.dim()) + tuple(x.shape))
    return sums * diff(x, 1, dim) / 2


def trapezoid(y: Any, x: Any = None, *, dx: Any = None, dim: int = -1) -> Any:
    """The integral by the trapezoidal rule."""
    return torch.sum(_strips(y, x, dx, dim), dim)


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = None, dim: int = -1) -> Any:
    """The integral up to each place by the trapezoidal rule."""
    return torch.cumsum(_strips(y, x, dx, dim), dim)


ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
LINEAR = ("real", "imag", "conj", "conj_physical", "resolve_conj", "resolve_neg")


def install() -> None:
    """Enter the rules of this file."""
    fft = torch.fft
    enter_each(along_one, *[getattr(fft, name) for name in ONE])
    enter_each(functools.partial(along_several, default=(-2, -1)), *[getattr(fft, f"{name}2") for name in ONE])
    enter_each(functools.partial(along_several, default=None), *[getattr(fft, f"{name}n") for name in ONE])
    enter_each(shifted, fft.fftshift, fft.ifftshift)
    _install_complex()
    enter(
        {
            torch.stft: batched(torch.stft, 1),
            torch.istft: batched(torch.istft, 2),
            "diff": diff,
            "trapezoid": trapezoid,
            "trapz": trapezoid,
            "cumulative_trapezoid": cumulative_trapezoid,
            "gradient": mapped(torch.gradient),
        }
    )


def _install_complex() -> None:
    method: Any = torch.Tensor
    enter(
        {
            **{name: stacked(getattr(torch, name), viewing=True) for name in LINEAR},
            method.real.__get__: stacked(torch.real, viewing=True),
            method.imag.__get__: stacked(torch.imag, viewing=True),
            "view_as_real": view_as_real,
            "view_as_complex": view_as_complex,
            "adjoint": adjoint,
            method.mH.__get__: adjoint,
            method.H.__get__: adjoint,
            torch.linalg.vecdot: vecdot,
        }
    )
    enter_valued({"complex": complex_, "polar": polar})
    for rule, operations in (
        (modulus, ("abs", "absolute")),
        (sgn, ("sgn",)),
        (valued(torch.angle, angle), ("angle",)),
        (valued(torch.vdot, vdot), ("vdot",)),
    ):
        for function in functions_of(*operations):
            _, keeps_frame = caches.RULES.get(function, (None, False))
            add(_if_complex(rule, function), function, keeps_frame=keeps_frame, overrides=True)

r"""Numbers ``A + r B`` at elements where a norm ``r`` is zero, of which only the square ``s = r^2`` has a series.

A norm has no derivatives at zero, but a smooth function of its square has all: ``exp(-r^2)``, ``cosh(r)``, the Matern
kernels up to some order.  So where ``s`` is zero a jet of second order or higher also has a :class:`Root`: ``A`` and
``B`` are truncated series, ``r`` counts as of order one, and ``r r`` is ``s``.  Then

.. math:: (A + r B) (C + r D) = A C + s B D + r (A D + B C), \qquad
    g(A + r B) = \sum_k g^{(k)}(A) / k! \, (r B)^k .

In a graph ``s`` moves with parameters, of which nothing is truncated but functions, :data:`GRADIENTS` orders later.
Which derivatives there are in the end is in ``root.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..core import caches
from ..core.levels import differentiated_again
from . import layout
from .build import composed, constant_rows
from .frame import Frame, Propagation
from .generic import either_of
from .jet import Jet
from .root import Root, orders_of, parts_of
from .values import jets_in

Tensor = torch.Tensor

GRADIENTS = 2
"""So often a result may be differentiated by what it is computed of beside the rows: gradients, and theirs."""


def on_roots(function: Any, rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule, or what stands for it where an argument has a root."""
    handler = caches.ROOTED.get(function)
    if handler is None:
        return rule

    def rooted(*args: Any, **kwargs: Any) -> Any:
        if not any(jet.root is not None for jet in jets_in(args, kwargs)):
            return rule(*args, **kwargs)
        result = handler(function, rule, args, kwargs)
        return rule(*args, **kwargs) if result is NotImplemented else result

    return rooted


# -------------------------------------------------------------------- sums and products


def added(one: Root, other: Root) -> Root:
    """The sum."""
    ours, two = _together(one, other)

    def total(name: str) -> Any:
        return getattr(one, name) + getattr(other, name)

    odd_size = _unknown(total("odd_size"), two)
    return replace(ours, even=total("even"), odd=total("odd"), even_size=total("even_size"), odd_size=odd_size)


def multiplied(one: Root, other: Root) -> Root:
    """The product."""
    ours, two = _together(one, other)
    even, odd = _product(one.even, one.odd, other.even, other.odd, ours.square)
    even_size, odd_size = _product(one.even_size, one.odd_size, other.even_size, other.odd_size, ours.square_size)
    return replace(ours, even=even, odd=odd, even_size=even_size, odd_size=_unknown(odd_size, two))


def _product(a: Any, b: Any, c: Any, d: Any, square: Any) -> tuple[Any, Any]:
    """``A C + s B D``, and ``A D + B C``."""
    return a * c + square * (b * d), _below_top(a * d + b * c)


def _below_top(odd: Jet) -> Jet:
    """Without the rows of the highest order, which with the root are beyond it, but for a graph."""
    return odd if differentiated_again() else Jet(odd.value, (*odd.coefficients[:-1], None), odd.frame)


def _together(one: Root, other: Root) -> tuple[Root, Tensor | None]:
    """The square of the root of either of two numbers, of which nothing is known where there are two; and where."""
    if one.square is other.square:
        return one, None
    first, second = [either_of(orders_of(root, parts_of(root))) for root in (one, other)]
    assert first is not None
    assert second is not None
    two = first & second & _told_apart(one, other)

    def chosen(name: str) -> Any:
        return torch.where(first, getattr(one, name), getattr(other, name))

    square = chosen("square")
    unknown = torch.where(two, math.nan, torch.zeros_like(square.value))
    sizes = square.frame.layout.sizes
    rows = [
        c if order == 0 else unknown.expand(sizes[order], *unknown.shape) if c is None else c + unknown
        for order, c in enumerate(square.coefficients)
    ]
    square = Jet(square.value, tuple(rows), square.frame)
    moves = chosen("moves")
    others = other.moves.value  # which may move with other parameters
    beside = torch.where(first & second, others - others.detach(), 0.0)
    moves = Jet(moves.value + beside, moves.coefficients, moves.frame)
    return replace(one, square=square, square_size=chosen("square_size"), moves=moves), two


def _unknown(size: Any, two: Tensor | None) -> Any:
    """The size of what the root is multiplied by, NaN where that is two of them, and so never what is left of zero."""
    return size if two is None else Jet(torch.where(two, math.nan, size.value), size.coefficients, size.frame)


def _told_apart(one: Root, other: Root) -> Tensor:
    """Where they are different roots, also where no row shows it, if that was looked at."""
    different, generic = _different(one.square, other.square), one.even.propagation.generic
    if generic is None:
        return different
    generic.two = True
    (found,) = generic.with_own([different], one.moves.value)
    assert found is not None
    return found


def _different(one: Jet, other: Jet) -> Tensor:
    """Where two squares are those of different roots: a root is not negative, so its square tells which it is."""
    different = torch.zeros_like(one.value, dtype=torch.bool)
    for order in range(1, one.frame.layout.order + 1):
        mine, others = one.full(order), other.full(order)
        if mine is None or others is None:
            some = others if mine is None else mine
            different = different if some is None else different | (some != 0).any(0)
        else:
            different = different | (mine != others).any(0)
    return different


# -------------------------------------------------------------------- functions of one number


def applied(function: Callable[[Any], Any], root: Root, beside: Tensor | float = 0.0) -> Root | None:
    """An elementwise function, by its series so much ``beside``; None of what gives no jet of the same shape."""
    coefficients = series(function, root.even, root.even.value + beside)
    if coefficients is None:
        return None
    even, odd = _composition(coefficients, root.even, root.odd, root.square)
    sizes = [c.detach().abs() for c in coefficients]
    even_size, odd_size = _composition(sizes, root.even_size, root.odd_size, root.square_size)
    return replace(root, even=even, odd=odd, even_size=even_size, odd_size=odd_size)


def series(function: Callable[[Any], Any], like: Jet, value: Tensor) -> list[Tensor] | None:
    """``g^(k) / k!`` at a value, from 0 up to the order of the layout of a jet; None of what gives no such jet.

    In a graph there are more: zero where they are not finite, as those of a power.
    """
    own, outer = like.frame.layout.order, like.propagation
    order = own + (GRADIENTS if differentiated_again() else 0)
    alone = Propagation(outer.batch, quiet=outer.quiet, narrowing=False, traced=outer.traced, inside=outer.inside)
    frame = Frame(alone, layout.closed([(k,) for k in range(1, order + 1)]))
    found = function(Jet(value, (torch.ones_like(value).unsqueeze(0), *[None] * (order - 1)), frame))
    if type(found) is not Jet or found.shape != value.shape or found.dtype != value.dtype:
        return None
    rows = [found.full(k) for k in range(1, order + 1)]
    slopes = [torch.zeros_like(value) if stack is None else stack[0] for stack in rows]
    return [found.value, *slopes[:own], *[torch.where(c.isfinite(), c, 0.0) for c in slopes[own:]]]


def _composition(coefficients: Sequence[Tensor], even: Any, odd: Any, square: Any) -> tuple[Any, Any]:
    """``sum_k g^(k)(A) / k! (r B)^k``, the even and the odd terms, for ``g^(k) / k!`` at the value of A."""
    order = len(coefficients) - 1
    evens: Any = _slope(coefficients, 0, even)
    odds: Any = constant_rows(even, torch.zeros_like(even.value))
    power = odd  # (r B)^k, where k is odd without the one r that is left
    for k in range(1, order + 1):
        term = _slope(coefficients, k, even) * power
        if k % 2:
            odds = odds + term
            power = square * (power * odd)
        else:
            evens = evens + term
            power = power * odd
    return evens, _below_top(odds)


def _slope(coefficients: Sequence[Tensor], k: int, at: Jet) -> Any:
    """``g^(k) / k!`` of a jet."""
    later = [math.perm(k + m, m) * coefficients[k + m] for m in range(1, len(coefficients) - k)]
    return Jet(coefficients[k], composed(at, later), at.frame)

"""The largest, the smallest, the middle, and sorting: rows are gathered where the values were found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..build import linear
from ..jet import Jet
from ..values import plain
from .selection import maximum, minimum
from .shared import Rule, all_dims, enter, exact_value, gathered

Tensor = torch.Tensor


def _found(function: Callable[..., Any], dim_place: int = 0) -> Rule:
    """The rule of what gives values and their indices along an axis, its argument at a place; by default the last."""

    def rule(input: Jet, *args: Any, **kwargs: Any) -> Any:
        given = args[dim_place] if len(args) > dim_place else kwargs.get("dim", -1)
        result = function(input.value, *args, **kwargs)
        values, indices = result
        kept = indices.dim() == input.dim()
        index = indices if kept else indices.unsqueeze(given)
        picked = gathered(input, values if kept else values.unsqueeze(given), given, index)
        if not kept:
            picked = picked.squeeze(given)  # type: ignore[attr-defined]
        return type(result)((Jet(values, picked.coefficients, picked.frame), indices))

    return rule


def evenly(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """The rule of a value that is found in an input, all those equal to it having the same share, over some axes."""

    def rule(input: Jet, dim: Any = (), keepdim: bool = False) -> Jet:
        x, dims = input.value, all_dims(dim, input.dim())
        if not x.dim():
            return Jet(function(x), input.coefficients, input.frame)
        overall = len(dims) == x.dim() and not keepdim
        value = function(x) if overall else function(x, dim, keepdim)
        kept = value.reshape([1] * x.dim()) if overall else function(x, dim, True)
        equal = (x == kept) | (x.isnan() & kept.isnan())
        share = equal.to(x.dtype) / equal.sum(dims, keepdim=True)
        return linear(input, lambda _: value, lambda rows: (torch.where(equal, rows, 0.0) * share).sum(dims, keepdim))

    return rule


def _overall_or_found(function: Callable[..., Any], of_two: Rule | None = None) -> Rule:
    """``max`` and its kin: of everything, along an axis, or of two tensors."""
    found, overall = _found(function), evenly(function)

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        other = args[0] if args else kwargs.get("other")
        if of_two is not None and isinstance(other, Tensor | Jet):
            return of_two(input, other)
        if not args and not kwargs:
            return overall(input)
        return found(input, *plain(args), **plain(kwargs))

    return rule


def aminmax(input: Jet, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Both at once."""
    result = torch.aminmax(input.value, dim=dim, keepdim=keepdim)
    dims = () if dim is None else dim
    least, most = (evenly(function)(input, dims, keepdim) for function in (torch.amin, torch.amax))
    pair = zip(result, (least, most), strict=True)
    jets: Any = tuple(Jet(value, jet.coefficients, jet.frame) for value, jet in pair)
    return type(result)(jets)


def msort(input: Jet) -> Any:
    """Sorted along the first axis."""
    return torch.sort(input, dim=0)[0]  # type: ignore[call-overload]


def quantile(function: Callable[..., Tensor], counted: Callable[..., Tensor]) -> Rule:
    """Between two neighbours of the sorted input, ``counted`` being how many of it are numbers."""

    def rule(
        input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
    ) -> Any:
        value = function(plain(input), plain(q), dim, keepdim, interpolation=interpolation)
        x = input.flatten() if dim is None or not input.dim() else input.movedim(dim, -1)
        at: Any = q if type(q) is Jet else torch.as_tensor(q, dtype=x.dtype, device=x.device)
        ordered = x.sort(-1).values
        places: Any = at.reshape(-1, *(1,) * (x.dim() - 1)) * (counted(plain(x)) - 1).to(x.dtype)
        places = places.clamp(min=0).movedim(0, -1)
        low, high = (end(plain(places)) for end in ENDS.get(interpolation, (torch.floor, torch.ceil)))
        below, above = (ordered.gather(-1, end.long()) for end in (low, high))
        weight = {"linear": places - low, "midpoint": 0.5}.get(interpolation, 0.0)
        result = (below + weight * (above - below)).movedim(-1, 0).reshape(value.shape)
        return exact_value(value, result) if type(result) is Jet else value

    return rule


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "nearest": (torch.round, torch.round),
    "lower": (torch.floor, torch.floor),
    "higher": (torch.ceil, torch.ceil),
}
"""The neighbours of a place, where they are not those below and above it."""


def _all_of(x: Tensor) -> Tensor:
    return torch.full(x.shape[:-1], x.shape[-1], device=x.device)


def _numbers_of(x: Tensor) -> Tensor:
    return x.isnan().logical_not().sum(-1)


def install() -> None:
    """Enter the rules of this file."""
    enter(
        {
            "max": _overall_or_found(torch.max, maximum),
            "min": _overall_or_found(torch.min, minimum),
            "median": _overall_or_found(torch.median),
            "nanmedian": _overall_or_found(torch.nanmedian),
            **{name: _found(getattr(torch, name)) for name in ("mode", "sort", "cummax", "cummin")},
            **{name: _found(getattr(torch, name), 1) for name in ("kthvalue", "topk")},
            "amax": evenly(torch.amax),
            "amin": evenly(torch.amin),
            "aminmax": aminmax,
            "msort": msort,
            "quantile": quantile(torch.quantile, _all_of),
            "nanquantile": quantile(torch.nanquantile, _numbers_of),
        }
    )

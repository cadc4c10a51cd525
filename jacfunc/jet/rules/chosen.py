"""Operations on values that move at some entries of the last axis alone (``jet/chosen.py``): which of them keep that.

A handler is given the operation, its rule and its arguments, and says by which rule it is done; None where the rows are
needed in full.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ...core import caches
from ...evaluation.sample_axis_rules import ELEMENTWISE, tensors_in
from ..chosen import Chosen, chosen_of, with_chosen
from ..dispatch import apply
from ..jet import Jet
from ..values import jets_in, plain
from .shared import Rule, all_dims, from_end, functions_of

Tensor = torch.Tensor
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _alone(args: Args, kwargs: Kwargs) -> Chosen | None:
    """What moves of the first argument, where it is the only jet."""
    return chosen_of(args[0]) if args and len(jets_in(args, kwargs)) == 1 else None


def elementwise(function: Any, rule: Rule, args: Args, kwargs: Kwargs) -> Rule | None:
    """Entry by entry, of tensors that are broadcast with each other, and of jets that move at the same places."""
    jets = jets_in(args, kwargs)
    found, width = [chosen_of(jet) for jet in jets], jets[0].shape[-1]
    first = found[0]
    if first is None or any(one is None or one.places is not first.places for one in found):
        return None
    places = first.places
    if any(tensor.dim() and tensor.shape[-1] not in (1, width) for tensor in tensors_in((*args, *kwargs.values()))):
        return None

    def at(item: Any) -> Any:
        if type(item) is Jet:
            own = chosen_of(item)
            assert own is not None
            return own.entries
        if isinstance(item, Tensor) and item.dim() and item.shape[-1] == width:
            return item.index_select(-1, places)
        return item

    def apart(*args: Any, **kwargs: Any) -> Any:
        value = function(*plain(args), **plain(kwargs))
        entries = apply(function, tuple(map(at, args)), {name: at(item) for name, item in kwargs.items()})
        return with_chosen(value, entries, places) if type(entries) is Jet else value

    return apart


def added_up(function: Any, rule: Rule, args: Args, kwargs: Kwargs) -> Rule | None:
    """Sums and means; over the last axis those of what moves."""
    own = _alone(args, kwargs)
    if own is None:
        return None

    def summed(input: Jet, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        dims = all_dims(dim, input.dim())
        value = function(input.value, dims, keepdim, **kwargs)
        entries = apply(function, (own.entries, dims, keepdim), kwargs)
        if -1 not in dims:
            return with_chosen(value, entries, own.places)
        if function in MEANS:
            entries = entries * (len(own.places) / input.shape[-1])
        return Jet(value, entries.coefficients, entries.frame)

    return summed


def layer(function: Any, rule: Rule, args: Args, kwargs: Kwargs) -> Rule | None:
    """A linear layer, by the columns of its weight."""
    own = _alone(args, kwargs)
    if own is None:
        return None

    def multiplied(input: Jet, weight: Tensor, bias: Tensor | None = None) -> Jet:
        return _with_rows(F.linear(input.value, weight, bias), own, weight.index_select(-1, own.places))

    return multiplied


def product(function: Any, rule: Rule, args: Args, kwargs: Kwargs) -> Rule | None:
    """A product with a matrix or a vector on the right, by their rows."""
    own = _alone(args, kwargs)
    if own is None or kwargs or len(args) != 2 or args[1].dim() > 2:
        return None

    def multiplied(input: Jet, other: Tensor) -> Jet:
        return _with_rows(torch.matmul(input.value, other), own, other.index_select(0, own.places).t())

    return multiplied


def _with_rows(value: Tensor, own: Chosen, weight: Tensor) -> Jet:
    """A value whose rows are those of the entries times a weight."""
    moved = apply(F.linear, (own.entries, weight), {})
    return Jet(value, moved.coefficients, moved.frame)


def concatenated(function: Any, rule: Rule, args: Args, kwargs: Kwargs) -> Rule | None:
    """Beside constants along the last axis."""
    tensors = args[0]
    if not isinstance(tensors, list | tuple) or len(jets_in(args, kwargs)) != 1:
        return None
    place = next((place for place, tensor in enumerate(tensors) if type(tensor) is Jet), None)
    dim: Any = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    if place is None or from_end(dim, tensors[place].dim()) != -1:
        return None

    def beside(tensors: Any, dim: int = 0, **_: Any) -> Any:
        own = chosen_of(tensors[place])
        assert own is not None
        value, before = torch.cat(plain(tensors), -1), sum(tensor.shape[-1] for tensor in tensors[:place])
        entries = own.entries
        if value.dtype != entries.dtype:
            entries = entries.to(value.dtype)  # type: ignore[attr-defined]
        return with_chosen(value, entries, own.places + before)

    return beside


def same(function: Any, rule: Rule, args: Args, kwargs: Kwargs) -> Rule | None:
    """Another shape that is the same shape."""
    if _alone(args, kwargs) is None:
        return None
    shape = args[0].shape
    result = function(torch.empty(shape, device="meta"), *args[1:], **kwargs).shape
    return _view if result == shape else None


def _view(input: Jet, *_: Any, **__: Any) -> Jet:
    own = chosen_of(input)
    assert own is not None
    return input.seen_by(with_chosen(input.value, own.entries, own.places))


# -------------------------------------------------------------------- entered

NOT_APART = frozenset(
    ["alpha_dropout", "broadcast_tensors", "data", "detach", "dropout", "fill", "native_dropout", "prelu"]
    + ["rand_like", "randn_like", "zero"]
)
"""What draws numbers, knows another axis than the last, has several results, or another memory of its own."""

RESHAPING = ("reshape", "view", "flatten", "unflatten", "ravel")
MEANS = frozenset(functions_of("mean"))


def install() -> None:
    """Enter what this file knows, for operations that have rules of their own by now, with torch's own value."""
    method: Any = torch.Tensor
    names = sorted(ELEMENTWISE - NOT_APART)
    operators = [getattr(place, form, None) for name in names for place, form in ((method, f"__{name}__"), (F, name))]
    every = [*functions_of(*names), *functions_of("to", "float", "double"), *filter(None, operators)]
    table: list[tuple[Any, list[Any]]] = [
        (elementwise, every),
        (added_up, functions_of("sum", "mean")),
        (layer, [F.linear]),
        (product, [*functions_of("matmul", "mm", "mv"), method.__matmul__]),
        (concatenated, functions_of("cat", "concat", "concatenate")),
        (same, functions_of(*RESHAPING)),
    ]
    caches.CHOSEN.update(
        {function: handler for handler, functions in table for function in functions if function in caches.RULES}
    )

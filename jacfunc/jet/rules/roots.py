"""Norms that are zero: where their roots come from, and which operations know of them (``jet/roots.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch.nn import functional as F

from ...core import caches
from ...core.levels import differentiated_again, in_a_graph
from ..build import constant_rows
from ..dispatch import lifted
from ..dispatch import root as outermost
from ..frame import ApartError, CannotFollowError
from ..jet import Jet
from ..lost import moving_with
from ..root import Root, looked_at, parts_of, with_root
from ..roots import added, applied, multiplied, series
from ..values import jets_in, plain, replaced
from .shared import broadcast, functions_of

Tensor = torch.Tensor
Function = Callable[..., Any]
Args = tuple[Any, ...]
Named = dict[str, Any]
Handler = Callable[[Function, Function, Args, Named], Any]
"""The result of an operation with a rule for arguments of which one has a root, or NotImplemented."""

# -------------------------------------------------------------------- the root of a sum of squares


def rooted(square: Any, vector: Callable[[], Any], dims: tuple[int, ...], keepdim: bool) -> Any:
    """The root of the sum of the squares of a vector along axes; constant where it is zero, as torch has it."""
    zero = square == 0
    norm: Any = torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())
    if type(norm) is not Jet:
        return norm
    first = norm.frame.layout.order == 1 and not caches.AROUND.by_tensors
    if first and not (differentiated_again() and _in_a_graph(square)):
        return norm
    if looked_at(norm.frame) and not bool(zero.any()):
        return norm
    if caches.AROUND.by_tensors:
        raise CannotFollowError("a norm that is zero, which something other than jets differentiates again")
    if norm.frame.blocks is not None:  # a root is of rows in full
        around = outermost(norm.frame)
        return rooted(lifted(square, around), lambda: lifted(vector(), around), dims, keepdim)
    within = vector()
    moves = _moves(norm, within, dims, keepdim, zero)
    if norm.frame.layout.summing and looked_at(norm.frame):
        _refuse_sums(moves)
    if differentiated_again():
        moves = moving_with(moves, within.value, dims, keepdim)
    return with_root(Root.of(square, norm, zero, moves), norm.value)


def _in_a_graph(square: Jet) -> bool:
    tensors = [square.value, *[rows for rows in square.coefficients if rows is not None]]
    return any(map(in_a_graph, tensors))


def _moves(norm: Jet, vector: Jet, dims: tuple[int, ...], keepdim: bool, zero: Tensor) -> Jet:
    """In which rows any element of a vector moves; of one element the norm is its absolute value, as torch has that."""
    one = all(vector.shape[dim] == 1 for dim in dims)
    rows = []
    for order in range(1, norm.frame.layout.order + 1):
        stack = None if one else vector.full(order)
        moved = None if stack is None else (stack.detach() != 0).any(dims, keepdim) & zero
        rows.append(None if moved is None else moved.to(norm.dtype))
    return Jet(zero.to(norm.dtype), tuple(rows), norm.frame)


def _refuse_sums(moves: Jet) -> None:
    """Of what has no first derivatives a sum of second ones may be zero though they are not: ``x^2 - y^2``."""
    first, still = moves.full(1), moves.value > 0
    if bool((still if first is None else still & ~(first > 0).any(0)).any()):
        raise ApartError("a norm that is zero where nothing moves at first order")


# -------------------------------------------------------------------- what keeps a root


def _root(operand: Any, like: Jet) -> Root:
    """That of an operand, if need be one of a constant."""
    if type(operand) is Jet:
        return operand.root or Root.without(operand)
    if isinstance(operand, Tensor) and operand.is_floating_point():
        return Root.without(constant_rows(like, operand))
    return Root.without(constant_rows(like, torch.as_tensor(operand, dtype=like.dtype, device=like.device)))


def _first_rooted(args: tuple[Any, ...]) -> Jet:
    return next(jet for jet in jets_in(args, {}) if jet.root is not None)


def _broadcast(one: Root, other: Root) -> tuple[Root, Root]:
    shape = broadcast(one.even, other.even)
    return _expanded(one, shape), _expanded(other, shape)


def _expanded(root: Root, shape: Any) -> Root:
    if root.even.shape == shape:
        return root
    return Root(*root.each(lambda name, part: torch.broadcast_to(part, shape)))  # type: ignore[arg-type]


def with_kinks(function: Function, rule: Function, args: Args, kwargs: Named) -> Any:
    """A function with kinks: at one that is met, on the side to which the root moves the number, if that is known."""
    input, *others = args
    if type(input) is not Jet or input.root is None or jets_in(tuple(others), kwargs) or not looked_at(input.frame):
        return NotImplemented
    if kwargs.get("inplace"):
        return NotImplemented
    root = input.root

    def of(x: Any) -> Any:
        return rule(x, *others, **kwargs)

    kinked = _kinked(of, root)
    if kinked is None:
        return NotImplemented
    if not bool(kinked.any()):
        return elementwise(function, rule, args, kwargs)
    side = _side(root)
    unknown = kinked & (side == 0)
    even = root.even.value.detach()
    towards = even + torch.where(unknown, 1.0, side)
    found = applied(of, root, torch.where(kinked, torch.nextafter(even, towards) - even, 0.0))
    if found is None:
        return NotImplemented
    if bool(unknown.any()):
        even_jet: Any = torch.where(unknown, of(input), found.even)  # type: ignore[call-overload]
        found = replace(found, even=even_jet, square=_nobody_knows(found, unknown))
    value, there = function(*plain(args), **plain(kwargs)), found.even
    own = there.value + (value - there.value).detach()  # not that a step beside
    return with_root(replace(found, even=Jet(own, there.coefficients, there.frame)), value)


def _kinked(of: Callable[[Any], Any], root: Root) -> Tensor | None:
    """Where a function has other derivatives a little before, or there, than after; None of what has no series."""
    even = root.even.value.detach()
    step = torch.where(root.moves.value > 0, (1 + even.abs()) * torch.finfo(even.dtype).eps ** 0.5, 0.0)
    found = [series(of, root.even, even + sign * step) for sign in (1, 0, -1)]
    near = [torch.ones_like(even, dtype=torch.bool)]
    for other in found[1:]:
        if found[0] is None or other is None:
            return None
        near += [torch.isclose(*pair, rtol=1e-3, atol=1e-3) for pair in zip(found[0][1:], other[1:], strict=True)]
    return ~torch.stack(near).all(0) & (root.moves.value > 0)


def _side(root: Root) -> Tensor:
    """The sign of what a root, which is not negative, adds at first order; 0 where that is none, or not all."""
    value, first = parts_of(root)[0], root.even.full(1)
    assert value is not None
    alone = value[0] if first is None else value[0] & ~(first.detach() != 0).any(0)
    return torch.where(alone, root.odd.value.detach().sign(), 0.0)


def _nobody_knows(root: Root, where: Tensor) -> Jet:
    """The square, NaN in some places: what is multiplied by the root there may be any number, its first slope too."""
    square, unknown = root.square, torch.where(where, math.nan, 0.0).to(root.square.dtype)
    rows = []
    for order, count in enumerate(square.frame.layout.sizes, start=1):
        own = square.full(order)
        rows.append(unknown.expand(count, *unknown.shape) if own is None else own + unknown)
    return Jet(square.value + unknown, tuple(rows), square.frame)


def elementwise(function: Function, rule: Function, args: Args, kwargs: Named) -> Any:
    """A smooth function of each element, beside which nothing varies."""
    input, *others = args
    if type(input) is not Jet or input.root is None or jets_in(tuple(others), kwargs) or kwargs.get("inplace"):
        return NotImplemented
    root = applied(lambda x: rule(x, *others, **kwargs), input.root)
    return NotImplemented if root is None else with_root(root, function(*plain(args), **plain(kwargs)))


def two(combined: Callable[[Root, Root], Root]) -> Handler:
    """What is made of two numbers."""

    def handler(function: Function, rule: Function, args: Args, kwargs: Named) -> Any:
        operands = (*args, *([kwargs["other"]] if "other" in kwargs else ()))
        if len(operands) != 2 or set(kwargs) - {"other"}:
            return NotImplemented
        like = _first_rooted(operands)
        if any(isinstance(x, Tensor) and x.dtype.is_complex for x in plain(operands)):
            return NotImplemented
        root = combined(*_broadcast(*(_root(x, like) for x in operands)))
        return with_root(root, function(*plain(args), **plain(kwargs)))

    return handler


def negative(function: Function, rule: Function, args: Args, kwargs: Named) -> Any:
    """Another sign."""
    return with_root(_negative(args[0].root), -args[0].value)


def _less(one: Root, other: Root) -> Root:
    return added(one, _negative(other))


def _negative(root: Root) -> Root:
    return Root(*root.each(lambda name, part: -part if name in ("even", "odd") else part))  # type: ignore[operator]


def _over(one: Root, other: Root) -> Root:
    inverse = applied(torch.reciprocal, other)
    assert inverse is not None
    return multiplied(one, inverse)


def _more(one: Root, other: Root) -> Root:
    return _less(other, one)


def _under(one: Root, other: Root) -> Root:
    return _over(other, one)


def moved(function: Function, rule: Function, args: Args, kwargs: Named) -> Any:
    """What moves or casts the elements of one tensor: every part moves with it."""
    input = jets_in(args, kwargs)[0]
    result = rule(*args, **kwargs)
    if input.root is None:
        return result
    parts = input.root.each(lambda _, part: rule(*_with(args, input, part), **_with(kwargs, input, part)))
    return _rooted_as(result, parts)


def _with(arguments: Any, input: Jet, part: Jet) -> Any:
    return replaced(arguments, lambda jet: part if jet is input else jet)


def chosen(*places: int) -> Handler:
    """What takes each element from one of the operands in these places, or in lists there."""

    def handler(function: Function, rule: Function, args: Args, kwargs: Named) -> Any:
        if set(kwargs) - {"dim", "axis"} or len(args) <= max(places):
            return NotImplemented
        like = _first_rooted(args)
        result = rule(*args, **kwargs)
        roots = {place: _roots(args[place], like) for place in places}

        def of(name: str) -> Any:
            return rule(*[_part(roots[k], name) if k in roots else arg for k, arg in enumerate(args)], **kwargs)

        return _rooted_as(result, [of(field.name) for field in fields(Root)])

    return handler


def _roots(operand: Any, like: Jet) -> Any:
    return [_root(x, like) for x in operand] if isinstance(operand, list | tuple) else _root(operand, like)


def _part(roots: Any, name: str) -> Any:
    return [getattr(root, name) for root in roots] if isinstance(roots, list) else getattr(roots, name)


def _rooted_as(result: Any, parts: list[Any]) -> Any:
    """The result of a rule, one jet or several, with the root whose parts the rule made."""
    jets = [result] if type(result) is Jet else result
    for jet, *own in zip(jets, *[[part] if type(result) is Jet else part for part in parts], strict=True):
        jet.root = Root(*own)
    return result


ELEMENTWISE = (
    *("tanh", "sigmoid", "expit", "sin", "cos", "tan", "sinh", "cosh", "exp", "expm1", "exp2", "log", "log2", "log10"),
    *("log1p", "reciprocal", "sqrt", "rsqrt", "square", "erf", "erfc", "atan", "arctan", "asin", "acos", "asinh"),
    *("arcsinh", "acosh", "atanh", "pow", "float_power", "sinc", "i0", "i1", "i0e", "i1e", "erfcx", "log_ndtr", "ndtr"),
    *("silu", "softplus", "gelu", "mish", "logsigmoid", "lgamma", "digamma", "deg2rad", "rad2deg"),
    *("bessel_j0", "bessel_j1", "special_sinc"),
)
KINKED = (
    *("relu", "relu6", "leaky_relu", "abs", "absolute", "clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "elu"),
    *("celu", "selu", "threshold", "hardswish", "hardsigmoid", "softshrink", "hardshrink"),
)
MOVING = (
    *("reshape", "view", "reshape_as", "view_as", "flatten", "ravel", "unflatten", "expand", "broadcast_to"),
    *("expand_as", "repeat", "tile", "squeeze", "unsqueeze", "permute", "flip", "t", "transpose", "swapaxes"),
    *("swapdims", "movedim", "moveaxis", "index_select", "unbind", "select", "narrow", "split", "split_with_sizes"),
    *("chunk", "tensor_split", "diagonal", "gather", "take", "take_along_dim", "masked_select", "repeat_interleave"),
    *("roll", "tril", "triu", "clone", "contiguous", "to", "float", "double", "half", "bfloat16", "type_as"),
)


def install() -> None:
    """Enter what this file knows, for operations that have rules."""
    method: Any = torch.Tensor
    smooth, kinked = ([getattr(F, name) for name in names if hasattr(F, name)] for names in (ELEMENTWISE, KINKED))
    dunder = [method.T.__get__, method.mT.__get__, method.__getitem__]
    table: list[tuple[Handler, list[Any]]] = [
        (elementwise, [*functions_of(*ELEMENTWISE), *smooth, method.__pow__]),
        (with_kinks, [*functions_of(*KINKED), *kinked]),
        (two(added), [*functions_of("add"), method.__add__, method.__radd__]),
        (two(_less), [*functions_of("sub", "subtract"), method.__sub__]),
        (two(_more), [torch.rsub, method.__rsub__]),
        (two(multiplied), [*functions_of("mul", "multiply"), method.__mul__, method.__rmul__]),
        (two(_over), [*functions_of("div", "divide", "true_divide"), method.__truediv__]),
        (two(_under), [method.__rtruediv__]),
        (negative, [*functions_of("neg", "negative"), method.__neg__]),
        (moved, [*functions_of(*MOVING), *dunder]),
        (chosen(1, 2), [torch.where]),
        (chosen(0, 2), [*functions_of("masked_fill"), method.where]),
        (chosen(0), functions_of("cat", "concat", "concatenate", "stack", "hstack", "vstack")),
    ]
    caches.ROOTED.update({function: handler for handler, functions in table for function in functions})

"""The table of rules by operation, and how a user adds one; the rules themselves are in ``rules/``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..core import caches
from ..core.reasons import a_type
from ..core.torch_private import OpOverload, OpOverloadPacket, c_nn
from ..errors import ArgumentTypeError, JacfuncError, RuleError
from .fallback import name_of
from .frame import CannotFollowError
from .jet import Jet
from .values import jets_in

Rule = Callable[..., Any]


def forms(name: str) -> list[Any]:
    """Every function under which torch has an operation of this name; those of ``nn.functional`` call one of them."""
    places = (torch, torch.Tensor, torch.special, c_nn)
    found = [getattr(place, name, None) for place in places]
    return [function for function in found if callable(function)]


def add(rule: Rule, *functions: Any, keeps_frame: bool = False, overrides: bool = False) -> None:
    """Let ``rule`` stand for these functions, and for what they are called in place (``add_``).

    ``keeps_frame``: it leaves the first axis in front, so that rows may be relative to a narrow layer.
    ``overrides``: it takes the place of another rule, which is an error otherwise.
    """
    for function in functions:
        taken = caches.RULES.get(function, (rule, keeps_frame))[0] is not rule
        if taken and not overrides and not name_of(function).endswith("_"):
            raise RuleError(f"{name_of(function)} has a rule already; leave one out, or pass overrides=True")
    caches.RULES_ENTERED.number += 1
    for function in functions:
        caches.RULES[function] = (rule, keeps_frame)
        for in_place in _in_place_forms(function):
            caches.RULES[in_place] = (in_place_of(rule), keeps_frame)


def _in_place_forms(function: Any) -> list[Any]:
    name = getattr(function, "__name__", "")
    if not name or name.startswith("_") or name.endswith("_"):
        return []
    places = (torch, torch.Tensor, c_nn)
    found = [getattr(place, f"{name}_", None) for place in places]
    return [function for function in found if callable(function)]


def in_place_of(rule: Rule) -> Rule:
    """The rule of an operation in place: a jet becomes the result."""

    def act(self: Any, *args: Any, **kwargs: Any) -> Any:
        if type(self) is not Jet:
            raise CannotFollowError("a differentiated tensor is written into another one")
        result = rule(self, *args, **kwargs)
        if result.shape != self.shape or result.dtype != self.dtype:
            raise CannotFollowError("an operation in place that would change the shape or dtype")
        return self.become(result)

    return writing(act)


def spelled(rule: Rule, **names: str) -> Rule:
    """The rule for an operation of which torch calls these arguments otherwise than the rule."""

    def renamed(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **{names.get(name, name): value for name, value in kwargs.items()})

    return renamed


def writing(rule: Rule) -> Rule:
    """Mark a rule that changes its first argument, which then has to be that jet itself in any frame."""
    rule.writes = True  # type: ignore[attr-defined]
    return rule


def register_rule(function: Callable[..., Any], rule: Rule | None = None) -> Any:
    r"""Teach the Taylor route an operation: ``rule`` takes the arguments of ``function``, jets among them.

    The rule returns jets, made by the builders of :mod:`jacfunc.jet` (``elementwise``, ``linear``, ``bilinear``) or by
    operations on jets that have rules themselves.  Its results are checked at every call.  A rule for an operation that
    has one takes its place.

    .. math:: z = g(x), \qquad z_a = \sum_k g^{(k)}(x_0)/k! \sum_{b_1+..+b_k=a} x_{b_1} \cdots x_{b_k}

    Args:
        function: what torch hands over by ``__torch_function__``: a function of ``torch``, a method of
            ``torch.Tensor``, an operator of ``torch.ops``, or a Python function of yours that calls
            ``torch.overrides.handle_torch_function``.
        rule: the rule; without it ``register_rule`` is a decorator.

    Returns:
        The rule.

    Raises:
        ArgumentTypeError: ``function`` is nothing that torch hands over, or ``rule`` is not callable.
        RuleError: at a call, if the rule raises what is no error of jacfunc's, gives None, or a result whose rows have
            another shape or dtype than its value.  What no jet can go through raises
            :class:`~jacfunc.UnsupportedOperationError`, and another route is taken.

    Example:
        >>> import torch
        >>> from jacfunc import diag_jac, register_rule
        >>> from jacfunc.jet import elementwise
        >>> def derivatives(x, y, order):
        ...     factor = torch.tensor(2.0).log()
        ...     return [y * factor**k for k in range(1, order + 1)]
        >>> rule = register_rule(torch.exp2, elementwise(torch.exp2, derivatives))
        >>> diag_jac(torch.exp2, method="taylor")(torch.tensor([[1.0]]))
        tensor([[1.3863]])
    """
    if not _handed_over(function):
        raise ArgumentTypeError(
            f"function={function!r} is no operation that torch hands over to __torch_function__; pass a function of "
            "torch, a method of torch.Tensor or an operator of torch.ops"
        )
    return partial(_registered, function) if rule is None else _registered(function, rule)


def _registered(function: Callable[..., Any], rule: Rule) -> Rule:
    if not callable(rule):
        raise ArgumentTypeError(f"rule is {a_type(rule)}; pass a function of the operation's arguments")
    add(_checked(function, rule), function, overrides=True)
    return rule


def _handed_over(function: Any) -> bool:
    if isinstance(function, OpOverload | OpOverloadPacket):
        return True
    if not callable(function) or isinstance(function, type) or not hasattr(function, "__name__"):
        return False
    if torch.overrides.is_tensor_method_or_property(function):
        return True
    if function in torch.overrides.get_testing_overrides():
        return True
    code = getattr(function, "__code__", None)
    return code is not None and "handle_torch_function" in code.co_names


def _checked(function: Any, rule: Rule) -> Rule:
    """A user's rule, whose results are looked at; found where what is compiled of it counts as the user's."""
    caches.USER_RULES[function] = rule

    def checked(*args: Any, **kwargs: Any) -> Any:
        name = name_of(function)
        try:
            result = caches.USER_RULES[function](*args, **kwargs)
        except JacfuncError:  # among them what says that no jet can go through
            raise
        except Exception as error:
            raise RuleError(f"the rule of {name} raised {type(error).__name__}: {error}") from error
        if result is None:
            raise RuleError(f"the rule of {name} gave None; return the jet of the result")
        for jet in jets_in((result,), {}):
            _check_jet(name, jet)
        return result

    return checked


def _check_jet(name: str, jet: Jet) -> None:
    sizes = jet.frame.layout.sizes
    if len(jet.coefficients) != len(sizes):
        raise RuleError(
            f"the rule of {name} gave coefficients of {len(jet.coefficients)} orders; the layout carries {len(sizes)}"
        )
    for order, (rows, size) in enumerate(zip(jet.coefficients, sizes, strict=True), start=1):
        if rows is None:
            continue
        if rows.dtype != jet.dtype:
            raise RuleError(
                f"the rule of {name} gave rows of dtype {rows.dtype} at order {order} for a value of {jet.dtype}; "
                "rows have the dtype of the value"
            )
        fits = rows.dim() == jet.dim() + 1 and all(
            have in (1, want) for have, want in zip(rows.shape[1:], jet.shape, strict=True)
        )
        if not fits or rows.shape[0] != size:
            raise RuleError(
                f"the rule of {name} gave rows of shape {tuple(rows.shape)} at order {order} for a value of shape "
                f"{tuple(jet.shape)}; {(size, *jet.shape)} was expected, where an axis of the value may be 1"
            )

"""Elementwise functions of one tensor: each is its list of derivatives, with what they share computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ...core.levels import compiling, exporting, grad_mode
from ...core.torch_private import c_nn
from ..build import Derivatives, composed, elementwise
from ..frame import CannotFollowError
from ..jet import Jet
from ..tanh import tanh
from .powers import constant_power
from .shared import enter, enter_each

Tensor = torch.Tensor
List = list[Tensor | float | None]
Polynomial = tuple[float, ...]
"""Coefficients from the constant one up."""


# -------------------------------------------------------------------- polynomials in the value


def _derived(polynomial: Polynomial) -> Polynomial:
    return tuple(k * c for k, c in enumerate(polynomial))[1:] or (0.0,)


def _multiplied(left: Polynomial, right: Polynomial) -> Polynomial:
    product = [0.0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] += a * b
    return tuple(product)


def _added(left: Polynomial, right: Polynomial) -> Polynomial:
    size = max(len(left), len(right))
    padded = [(*p, *(0.0,) * (size - len(p))) for p in (left, right)]
    total = [a + b for a, b in zip(*padded, strict=True)]
    while len(total) > 1 and total[-1] == 0:
        total.pop()
    return tuple(total)


def _evaluated(polynomial: Polynomial, y: Tensor) -> Tensor:
    if len(polynomial) == 1:
        return torch.full_like(y, polynomial[0])
    result = polynomial[-1] * y
    for coefficient in reversed(polynomial[1:-1]):
        result = (result + coefficient if coefficient else result) * y
    return result + polynomial[0] if polynomial[0] else result


def _by_slope(y: Tensor, slope: Tensor, polynomial: Polynomial, order: int) -> List:
    """All derivatives where ``y'`` is a polynomial in y, given as ``slope`` too: they are ``y'`` times one in y."""
    found: List = [slope]
    cofactor: Polynomial = (1.0,)
    for _ in range(1, order):
        following = _multiplied(_derived(cofactor), polynomial)
        cofactor = _added(following, _multiplied(cofactor, _derived(polynomial)))
        found.append(slope * _evaluated(cofactor, y))
    return found


def _tanh(x: Tensor, y: Tensor, order: int) -> List:
    return _by_slope(y, 1 - y * y, (1.0, 0.0, -1.0), order)


def _sigmoid(x: Tensor, y: Tensor, order: int) -> List:
    return _by_slope(y, y * (1 - y), (0.0, 1.0, -1.0), order)


# -------------------------------------------------------------------- by formula


def _taking_turns(kin: Callable[[Tensor], Tensor], *signs: int) -> Derivatives:
    """Sines and cosines: by turns another function and the function itself, with these signs."""

    def derivatives(x: Tensor, y: Tensor, order: int, inner: Tensor | None = None) -> List:
        both = kin(x) if inner is None else inner, y
        return [both[k % 2] if signs[k % len(signs)] > 0 else -both[k % 2] for k in range(order)]

    return derivatives


def _exp(x: Tensor, y: Tensor, order: int) -> List:
    return [y] * order


def _expm1(x: Tensor, y: Tensor, order: int) -> List:
    return [y + 1] * order


def _exp2(x: Tensor, y: Tensor, order: int) -> List:
    return [y * math.log(2) ** k for k in range(1, order + 1)]


def _one_from_another(first: Tensor, order: int, following: Callable[[Any, int], Tensor]) -> List:
    """The first derivative and those after it; ``following`` makes the next of the k-th."""
    found: List = [first]
    for k in range(1, order):
        found.append(following(found[-1], k))
    return found


def _log(scale: float = 1.0, shift: float = 0.0) -> Derivatives:
    def derivatives(x: Tensor, y: Tensor, order: int) -> List:
        inverse = 1 / (x + shift if shift else x)
        return _one_from_another(inverse * scale if scale != 1 else inverse, order, lambda last, k: last * inverse * -k)

    return derivatives


def _reciprocal(x: Tensor, y: Tensor, order: int) -> List:
    return _one_from_another(-y * y, order, lambda last, k: last * y * (-1 - k))


def _sqrt(x: Tensor, y: Tensor, order: int) -> List:
    return _one_from_another(0.5 / y, order, lambda last, k: last * (0.5 - k) / x)


def _rsqrt(x: Tensor, y: Tensor, order: int) -> List:
    return _one_from_another(y * -0.5 / x, order, lambda last, k: last * (-0.5 - k) / x)


def _gaussian(x: Tensor, order: int, start: Polynomial, scale: float, bell: Tensor | None = None) -> list[Tensor]:
    """``order`` functions ``p_k(x) exp(-scale x^2)`` that are each other's derivatives, from ``p_0 = start``."""
    bell = torch.exp(-scale * x * x) if bell is None else bell
    found, polynomial = [], start
    for _ in range(order):
        found.append(bell * _evaluated(polynomial, x) if len(polynomial) > 1 else bell * polynomial[0])
        polynomial = _added(_derived(polynomial), _multiplied(polynomial, (0.0, -2 * scale)))
    return found


def _erf(x: Tensor, y: Tensor, order: int) -> List:
    return list(_gaussian(x, order, (2 / math.sqrt(math.pi),), 1.0))


def _erfc(x: Tensor, y: Tensor, order: int) -> List:
    return list(_gaussian(x, order, (-2 / math.sqrt(math.pi),), 1.0))


def _normal(x: Tensor) -> Tensor:
    """``Phi(x)``, how probable a normal number below x is."""
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def _gelu(x: Tensor, y: Tensor, order: int, inner: Tensor | None = None) -> List:
    """``x Phi(x)``: the first is ``Phi + x phi``, the next ``(2 - x^2) phi``."""
    density = 1 / math.sqrt(2 * math.pi)
    bell = torch.exp(-0.5 * x * x)  # once for all of them
    first = torch.addcmul(_normal(x) if inner is None else inner, x, bell, value=density)
    return [first, *_gaussian(x, order - 1, (2 * density, 0.0, -density), 0.5, bell)]


def _softplus(x: Tensor, y: Tensor, order: int) -> List:
    inner = torch.sigmoid(x)
    return [inner, *_sigmoid(x, inner, order - 1)[: order - 1]]


def _silu(x: Tensor, y: Tensor, order: int) -> List:
    """``x s(x)``: its k-th derivative is ``x s^(k) + k s^(k-1)``."""
    inner = torch.sigmoid(x)
    chain: list[Any] = [inner, slope := inner * (1 - inner)]
    if order > 1:  # the first ones in fewer steps than polynomials take
        chain.append(slope * torch.rsub(inner, 1, alpha=2))
    if order > 2:
        chain.append(slope * torch.rsub(slope, 1, alpha=6))
    if order > 3:
        chain += _sigmoid(x, inner, order)[3:]
    return [torch.addcmul(chain[k - 1] if k == 1 else k * chain[k - 1], x, chain[k]) for k in range(1, order + 1)]


def _logsigmoid(x: Tensor, y: Tensor, order: int) -> List:
    inner = torch.sigmoid(-x)
    return [inner, *(d if k % 2 else -d for k, d in enumerate(_sigmoid(x, inner, order - 1)[: order - 1]))]  # type: ignore[operator]


# -------------------------------------------------------------------- piecewise


def piecewise(slope: Callable[[Tensor], Tensor]) -> Derivatives:
    """Linear in pieces: a slope, or a mask of where it is 1, and nothing beyond."""

    def derivatives(x: Tensor, y: Tensor, order: int) -> List:
        return [slope(x)]

    return derivatives


def leaky_relu(input: Jet, negative_slope: float = 0.01) -> Jet:
    """A slope on either side."""
    x = input.value
    # Of two numbers torch.where would make a tensor of the default dtype.
    slope = torch.where(x > 0, x.new_ones(()), negative_slope)
    return Jet(F.leaky_relu(x, negative_slope), composed(input, [slope]), input.frame)


def threshold(input: Jet, threshold: float, value: float) -> Jet:
    """The input above the threshold."""
    return Jet(F.threshold(input.value, threshold, value), composed(input, [input.value > threshold]), input.frame)


def hardtanh(input: Jet, min_val: float = -1.0, max_val: float = 1.0) -> Jet:
    """The input between two bounds."""
    inside = (input.value > min_val) & (input.value < max_val)
    return Jet(F.hardtanh(input.value, min_val, max_val), composed(input, [inside]), input.frame)


def elu(input: Jet, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Jet:
    """``scale (exp(input_scale x) - 1) alpha`` below zero; at zero torch has its first derivative and no second."""
    x = input.value
    tail = scale * alpha * torch.exp(torch.where(x < 0, x, 0.0) * input_scale)  # constant at zero
    found: List = [torch.where(x > 0, scale, tail * input_scale).to(x.dtype)]
    for k in range(2, input.frame.layout.order + 1):
        found.append(torch.where(x < 0, tail * input_scale**k, 0.0))
    return Jet(c_nn.elu(x, alpha, scale, input_scale), composed(input, found), input.frame)


def _softplus_until_20(x: Tensor, y: Tensor, order: int) -> List:
    """Beyond 20 the identity, as torch has it; there a sigmoid in single precision is 1 by itself."""
    if x.dtype != torch.float64:
        return _softplus(x, y, order)
    first, *others = _softplus(torch.where(x > 20.0, 0.0, x), y, order)
    return [torch.where(x > 20.0, 1.0, first), *[torch.where(x >= 20.0, 0.0, other) for other in others]]  # type: ignore[arg-type]


_usual_softplus = elementwise(F.softplus, _softplus_until_20, smooth=True)
_usual_gelu = elementwise(F.gelu, _gelu, smooth=True, inner=_normal)


def softplus(input: Jet, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Beyond the threshold the identity, of which torch has the second derivative at the threshold already."""
    if beta == 1 and threshold == 20:
        return _usual_softplus(input)
    x = input.value
    linear = x * beta > threshold
    first, *others = _softplus(torch.where(linear, 0.0, x * beta), x, input.frame.layout.order)
    found: List = [torch.where(linear, 1.0, first)]  # type: ignore[arg-type]
    flat = x * beta >= threshold
    for k, derivative in enumerate(others, start=1):
        found.append(torch.where(flat, 0.0, derivative * beta**k))  # type: ignore[operator]
    return Jet(F.softplus(x, beta, threshold), composed(input, found), input.frame)


def gelu(input: Jet, approximate: str = "none") -> Any:
    """By the error function; by tanh from its formula."""
    if approximate == "none":
        return _usual_gelu(input)
    if approximate != "tanh":
        raise CannotFollowError(f"gelu with approximate={approximate!r}")
    x: Any = input
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    result = 0.5 * x * (1 + inner.tanh())
    return Jet(F.gelu(input.value, approximate=approximate), result.coefficients, input.frame)


def by_torch(function: Callable[..., Tensor]) -> Derivatives:
    """Derivatives by torch's own reverse mode, one cotangent of ones for each order: the Jacobian is diagonal."""

    def derivatives(x: Tensor, y: Tensor, order: int) -> Sequence[Tensor]:
        if exporting():
            return _by_autograd(function, x, order)
        found = []
        derivative = function
        for _ in range(order):
            derivative = _derivative(derivative)
            found.append(derivative(x))
        return found

    return derivatives


def _by_autograd(function: Callable[..., Tensor], x: Tensor, order: int) -> Sequence[Tensor]:
    """Derivatives by ``torch.autograd.grad`` instead of ``torch.func``, which no exported program holds."""
    if compiling():
        raise CannotFollowError(f"{function.__name__}, whose derivatives a strict torch.export cannot record")
    found = []
    with grad_mode(True):
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = function(x)
        for _ in range(order):
            y = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0].conj()
            found.append(y)
    return found


def _derivative(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def derivative(x: Tensor) -> Tensor:
        y, pull = torch.func.vjp(function, x)  # type: ignore[misc]  # typed as either form
        # Where it is complex, what is pulled back is the conjugate of the derivative.
        result: Tensor = pull(torch.ones_like(y))[0].conj()
        return result

    return derivative


LISTS: dict[str, tuple[Any, ...]] = {
    "tanh": (tanh, _tanh, torch.ops.aten.tanh_backward.default, (1, 0)),
    "sigmoid": (torch.sigmoid, _sigmoid, torch.ops.aten.sigmoid_backward.default, (0, 1)),
    "sin": (torch.sin, _taking_turns(torch.cos, 1, -1, -1, 1), None, None, torch.cos),
    "cos": (torch.cos, _taking_turns(torch.sin, -1, -1, 1, 1), None, None, torch.sin),
    "sinh": (torch.sinh, _taking_turns(torch.cosh, 1)),
    "cosh": (torch.cosh, _taking_turns(torch.sinh, 1)),
    "exp": (torch.exp, _exp),
    "expm1": (torch.expm1, _expm1),
    "exp2": (torch.exp2, _exp2),
    "log": (torch.log, _log()),
    "log2": (torch.log2, _log(1 / math.log(2))),
    "log10": (torch.log10, _log(1 / math.log(10))),
    "log1p": (torch.log1p, _log(shift=1.0)),
    "reciprocal": (torch.reciprocal, _reciprocal),
    "sqrt": (torch.sqrt, _sqrt),
    "rsqrt": (torch.rsqrt, _rsqrt),
    "square": (torch.square, constant_power(2)),
    "erf": (torch.erf, _erf),
    "erfc": (torch.erfc, _erfc),
    "silu": (F.silu, _silu),
    "relu": (torch.relu, piecewise(lambda x: x > 0)),
    "relu6": (F.relu6, piecewise(lambda x: (x > 0) & (x < 6))),
    "abs": (torch.abs, piecewise(torch.sign)),
    "absolute": (torch.abs, piecewise(torch.sign)),
}

PIECEWISE = frozenset(["relu", "relu6", "abs", "absolute"])
"""Those of them whose lists end."""

BY_TORCH = [
    "asin",
    "arcsin",
    "acos",
    "arccos",
    "atan",
    "arctan",
    "asinh",
    "arcsinh",
    "acosh",
    "arccosh",
    "atanh",
    "arctanh",
    "tan",
    "lgamma",
    "digamma",
    "erfinv",
    "expit",
    "ndtr",
    "ndtri",
    "entr",
    "gammaln",
    "psi",
]
"""Elementwise, without a list of their own; what the table of corrected operations has goes by it instead."""


def _activation(rule: Callable[..., Any], numbers: int) -> Callable[..., Any]:
    """The rule of a function of ``nn.functional`` with so many numbers, then ``inplace`` (by position under Dynamo)."""

    def activate(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        result = rule(input, *args[:numbers], **kwargs)
        return input.become(result) if inplace or any(args[numbers:]) else result

    activate.whole = None if numbers else getattr(rule, "whole", None)  # type: ignore[attr-defined]
    return activate


def _listed(name: str) -> Callable[..., Any]:
    function, derivatives, *others = LISTS[name]
    kernel, quadratic, inner = (*others, None, None, None)[:3]
    return elementwise(function, derivatives, kernel, quadratic, name not in PIECEWISE, inner)


def install() -> None:
    """Enter the rules of this file."""
    enter(
        {
            **{
                getattr(F, name): _activation(_listed(name), 0) for name in ("tanh", "sigmoid", "relu", "silu", "relu6")
            },
            F.leaky_relu: _activation(leaky_relu, 1),
            F.elu: _activation(elu, 1),
            F.hardtanh: _activation(hardtanh, 2),
            **{name: _listed(name) for name in LISTS},
            F.logsigmoid: elementwise(F.logsigmoid, _logsigmoid),
            c_nn.leaky_relu: leaky_relu,
            c_nn.hardtanh: hardtanh,
            torch.threshold: threshold,
            c_nn.elu: elu,
            F.softplus: softplus,
            F.gelu: gelu,
        },
        keeps_frame=True,
    )
    enter_each(lambda function: elementwise(function, by_torch(function)), *BY_TORCH, keeps_frame=True)

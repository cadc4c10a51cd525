"""Normalisations, variances, norms and products: composed of sums and products of jets, with torch's own value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core.levels import grad_mode
from ...core.torch_private import c_torch
from ...evaluation.corrections import norms as corrected
from ...evaluation.corrections.expansion import wide
from ..jet import Jet
from ..values import plain
from .roots import rooted
from .shared import all_dims, broadcast, enter, enter_valued, exact_value, moved_in_both
from .softmax import Tensor


def squared(input: Any) -> Any:
    """``|x|^2``, which is smooth at a complex zero too."""
    return input.real.square() + input.imag.square() if input.dtype.is_complex else input.square()


# -------------------------------------------------------------------- variances


def variance(*args: Any, **kwargs: Any) -> Any:
    """The mean square of what is left without the mean."""
    return _variance(*args, **kwargs)[0]


def deviation(*args: Any, **kwargs: Any) -> Any:
    """The root of the variance."""
    found, centred, dims, keepdim = _variance(*args, **kwargs)
    return rooted(found, lambda: centred, dims, keepdim)


def _variance(
    input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Any, Any, tuple[int, ...], bool]:
    """It, what is left without the mean, along which axes, and whether these are kept."""
    if isinstance(dim, bool):  # ``var(x, unbiased)``
        dim, unbiased = None, dim
    dims = all_dims(dim, input.dim())
    lost = correction if correction is not None else (1 if unbiased is None else int(unbiased))
    centred = input - input.mean(dims, keepdim=True)
    count = math.prod([input.shape[d] for d in dims])
    return squared(centred).sum(dims, keepdim) / max(count - lost, 0), centred, dims, keepdim


def _with_mean(function: Callable[..., Any], native: Callable[..., Any]) -> Callable[..., Any]:
    """``var_mean`` and ``std_mean``: a pair."""

    def rule(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, **options: Any) -> Any:
        dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
        lost = options.get("correction", 1 if unbiased is None else int(unbiased))
        dims = all_dims(dim, input.dim())
        with grad_mode(False):
            values = native(input.value, dims, correction=lost, keepdim=keepdim)
        rows = function(input, dims, correction=lost, keepdim=keepdim), input.mean(dims, keepdim=keepdim)
        return tuple(map(exact_value, values, rows))

    return rule


def covariance(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """Of variables in rows and observations in columns, which may have weights."""
    x = input.reshape(1, -1) if input.dim() < 2 else input
    if fweights is None and aweights is None:
        centred, weighted, lost = x - x.mean(1, True), 1.0, x.shape[1] - correction
    else:
        weights = aweights if fweights is None else (fweights if aweights is None else fweights * aweights)
        total = weights.sum()
        centred, weighted = x - (x * weights).sum(1, keepdim=True) / total, weights
        lost = total - correction * (1 if aweights is None else (weights * aweights).sum() / total)
    return (torch.matmul(centred, torch.adjoint(centred * weighted)) / lost).squeeze()


def correlation(input: Any) -> Any:
    """The covariance of what is divided by its deviation."""
    found = covariance(input)
    if not found.dim():
        return found / found
    deviations = found.diagonal().sqrt()
    return found / deviations[:, None] / deviations[None]


# -------------------------------------------------------------------- norms


def vector_norm(
    input: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """Of any order; constant where it is zero."""
    input = input if dtype is None else input.to(dtype)
    dims = all_dims(dim, input.dim())
    ord = float(ord)
    if ord == 0:
        return torch.linalg.vector_norm(input.value, 0, dim, keepdim)
    if math.isinf(ord):
        return (input.abs().amax if ord > 0 else input.abs().amin)(dims, keepdim)
    if ord == 1:
        return input.abs().sum(dims, keepdim)
    total = _summed_powers(wide(input), ord, dims, keepdim)
    result = rooted(total, lambda: input, dims, keepdim) if ord == 2 else _powered(total, 1 / ord)
    return result if input.dtype.is_complex else result.to(input.dtype)


def _summed_powers(input: Any, ord: float, dims: tuple[int, ...], keepdim: bool) -> Any:
    if ord == 2:
        return squared(input).sum(dims, keepdim)
    if ord > 0 and ord % 2 == 0:
        return (squared(input) ** (ord // 2)).sum(dims, keepdim)
    powers = _powered(input.abs(), ord)
    if input.frame.layout.order > max(ord, 1) and ord > 0 and ord % 1 and not input.dtype.is_complex:
        powers = _cusped(powers, input, ord)
    return powers.sum(dims, keepdim)


def _cusped(powers: Any, input: Any, ord: float) -> Any:
    """Powers of sizes, whose derivatives of even order above the power are infinite at zero, and of odd order none."""
    zero, falling, found = input.value == 0, 1.0, []
    for n, (rows, moved) in enumerate(zip(powers.coefficients, moved_in_both(input, input), strict=True), start=1):
        falling *= ord - n + 1
        if rows is None or moved is None or n < ord:
            found.append(rows)
        else:
            edge = math.nan if n % 2 else math.copysign(math.inf, falling)
            found.append(torch.where(zero & (moved != 0), edge, rows))
    return Jet(powers.value, tuple(found), powers.frame)


def _powered(input: Any, exponent: float) -> Any:
    """A power, constant at zero."""
    zero = input == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, input) ** exponent)


def norm(input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Any:
    """``torch.norm``: of a number, and the Frobenius norm."""
    if p == "nuc":
        return matrix_norm(input, p, tuple(range(input.dim())) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


def frobenius(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The root of the sum of squares."""
    return vector_norm(input, 2, dim, keepdim)


def matrix_norm(
    input: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """By sums of columns or rows, or by singular values."""
    x = input if dtype is None else input.to(dtype)
    if ord == "fro":
        return vector_norm(x, 2, dim, keepdim)
    x = x.movedim(tuple(dim), (-2, -1))
    sizes = torch.linalg.svdvals(x) if ord in ("nuc", 2, -2) else x.abs().sum(-2 if abs(ord) == 1 else -1)
    result = sizes.sum(-1) if ord == "nuc" else (sizes.amax(-1) if ord > 0 else sizes.amin(-1))
    with grad_mode(False):
        shape = torch.linalg.vector_norm(plain(input), 2, tuple(dim), keepdim).shape
    return result.reshape(shape)


def any_norm(input: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    """``torch.linalg.norm``: of vectors or of matrices, by what it is asked for."""
    several = input.dim() if dim is None else (len(dim) if isinstance(dim, list | tuple) else 1)
    if ord is None or several == 1:
        return vector_norm(input, 2 if ord is None else ord, dim, keepdim, **options)
    return matrix_norm(input, ord, (-2, -1) if dim is None else dim, keepdim, **options)


def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Slices of too large a norm scaled down."""
    others = [d for d in range(input.dim()) if d != dim % input.dim()]
    size = vector_norm(input, p, others, True)
    return input * torch.where(size > maxnorm, maxnorm / (size + 1e-7), 1.0)


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    """The norms of all differences."""
    return vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, -1)


def pdist(input: Any, p: float = 2.0) -> Any:
    """The norms of the differences of each pair."""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return vector_norm(input[first] - input[second], p, -1)


def distance(input: Any, other: Any, p: float = 2) -> Any:
    """``torch.dist``."""
    return vector_norm(input - other, p)


def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The norm of differences along the last axis."""
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The product of what is divided by its norm."""
    shape = broadcast(x1, x2)
    x1, x2 = x1.expand(shape), x2.expand(shape)
    one, two = (_unit(x, dim, eps) for x in (x1, x2))
    return (one * two).sum(dim)


def _unit(x: Any, dim: int, eps: float) -> Any:
    return x / torch.linalg.vector_norm(x, 2, dim, True).clamp_min(eps)


# -------------------------------------------------------------------- normalisations


def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    """Each group of channels as a layer."""
    grouped = input.reshape(input.shape[0], num_groups, -1)
    result = corrected.layer_norm(grouped, grouped.shape[-1:], eps=eps).reshape(input.shape)
    shape = (1, -1, *(1 for _ in input.shape[2:]))
    result = result if weight is None else result * weight.reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Divided by the root of the mean square."""
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    x: Any = wide(input)
    square = x.square().mean(tuple(range(-len(normalized_shape), 0)), keepdim=True)
    result = (x * (square + eps).rsqrt()).to(input.dtype)
    return result if weight is None else result * weight


# -------------------------------------------------------------------- sums and products along an axis


def nansum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """The sum of what is a number."""
    return torch.where(torch.isnan(input), 0.0, input).sum(dim, keepdim, dtype=dtype)


def nanmean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """The mean of what is a number."""
    counted = torch.isnan(input).logical_not().sum(dim, keepdim)
    return nansum(input, dim, keepdim, dtype=dtype) / counted


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Halves multiplied with each other, so that zeros need no division."""
    x = input if dtype is None else input.to(dtype)
    if dim is None:
        x, at = x.flatten(), 0
    else:
        at = dim % max(x.dim(), 1)
    if not x.dim():
        return x
    if not x.shape[at]:
        return torch.prod(x.value, at, keepdim)
    while x.shape[at] > 1:
        half = x.shape[at] // 2
        product = x.narrow(at, 0, half) * x.narrow(at, half, half)
        x = torch.cat([product, x.narrow(at, 2 * half, 1)], at) if x.shape[at] % 2 else product
    return x if keepdim else x.squeeze(at)


def cumprod(input: Any, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """A scan by products.  W. D. Hillis and G. L. Steele, "Data parallel algorithms", 1986."""
    x, step = input if dtype is None else input.to(dtype), 1
    while x.dim() and step < x.shape[dim]:
        kept = x.shape[dim] - step
        later = x.narrow(dim, step, kept) * x.narrow(dim, 0, kept)
        x = torch.cat([x.narrow(dim, 0, step), later], dim)
        step *= 2
    return x


# -------------------------------------------------------------------- of two tensors


def _broadcast(x: Any, y: Any) -> tuple[Any, Any]:
    """Both as tensors or jets of one shape."""
    like = x if isinstance(x, Tensor | Jet) else y
    x, y = (
        z if isinstance(z, Tensor | Jet) else torch.full((), z, dtype=like.dtype, device=like.device) for z in (x, y)
    )
    shape = broadcast(x, y)
    return x.expand(shape), y.expand(shape)


def atan2(input: Any, other: Any) -> Any:
    """An arctangent of whichever quotient is at most 1; constant at the origin."""
    y, x = _broadcast(input, other)
    right = x.abs() >= y.abs()
    origin = (x == 0) & (y == 0)
    denominator = torch.where(origin, 1.0, torch.where(right, x, y))
    angle: Any = torch.atan(torch.where(right, y, -x) / denominator)
    return torch.where(origin, 0.0, angle)


def hypot(input: Any, other: Any) -> Any:
    """The norm of a pair, of what is scaled so that nothing overflows."""
    pair: Any = torch.stack(_broadcast(input, other))
    scale = pair.value.detach().abs().amax(0)
    scale = torch.where((scale == 0) | scale.isinf(), 1.0, scale)
    return torch.linalg.vector_norm(pair / scale, 2, 0) * scale


def _times_logarithm(logarithm: Callable[[Any], Any], least: float) -> Callable[..., Any]:
    """``xlogy`` and ``xlog1py``: zero where the factor is zero; where both vary there, its slope is infinite."""

    def rule(input: Any, other: Any) -> Any:
        x, y = _broadcast(input, other)
        zero = (x == 0) & (y <= least)
        result = x * logarithm(torch.where(zero, 1.0, y))
        return _unbounded(result, x, y, zero, logarithm, least) if type(x) is type(y) is Jet else result

    return rule


def _unbounded(result: Any, x: Any, y: Any, zero: Tensor, logarithm: Callable[[Any], Any], least: float) -> Any:
    """Infinite where the product has rows at an edge of the logarithm, of their sign close to it, NaN where of none."""
    edge = Jet(torch.full_like(y.value, least + EDGE), y.coefficients, y.frame)
    close: Any = x * logarithm(edge)
    found: list[Tensor | None] = []
    for rows, sign, moved in zip(result.coefficients, close.coefficients, moved_in_both(x, x), strict=True):
        if rows is None or sign is None:
            found.append(rows)
            continue
        signed = torch.where(zero & (sign != 0), sign.sign() * math.inf, rows)
        lost = None if moved is None else zero & (sign == 0) & (moved != 0)
        found.append(signed if lost is None else torch.where(lost, math.nan, signed))
    return Jet(result.value, tuple(found), result.frame)


EDGE = 2.0**-20
"""So close to where a logarithm is infinite its higher derivatives outweigh the lower ones, in any precision."""


def install() -> None:
    """Enter the rules of this file."""
    enter({"var_mean": _with_mean(variance, torch.var_mean), "std_mean": _with_mean(deviation, torch.std_mean)})
    enter_valued(
        {
            "var": variance,
            "std": deviation,
            torch.linalg.vector_norm: vector_norm,
            c_torch.norm: norm,
            torch.norm: norm,
            torch.Tensor.norm: norm,
            "frobenius_norm": frobenius,
            torch.linalg.matrix_norm: matrix_norm,
            torch.linalg.norm: any_norm,
            "renorm": renorm,
            "cov": covariance,
            "corrcoef": correlation,
            "cdist": cdist,
            "pdist": pdist,
            "dist": distance,
            F.pairwise_distance: pairwise_distance,
            F.cosine_similarity: cosine_similarity,
            torch.group_norm: group_norm,
            torch.rms_norm: rms_norm,
            "nansum": nansum,
            "nanmean": nanmean,
            "prod": prod,
            "cumprod": cumprod,
            "atan2": atan2,
            "arctan2": atan2,
            "hypot": hypot,
            "xlogy": _times_logarithm(torch.log, 0.0),
            "xlog1py": _times_logarithm(torch.log1p, -1.0),
        }
    )

"""Random directions of which any sum over coordinates is an expected value: how each kind is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..api.coordinates import refuse_generator
from ..core.reasons import a_type
from ..errors import ArgumentError, ArgumentTypeError, UnsupportedOperationError
from .keywords import PROBES, Probe

ROTATED = ("gaussian", "sphere")
"""Kinds that are distributed alike along all directions."""

Draw = Callable[[tuple[int, ...], int, int, torch.Tensor, "torch.Generator | None"], torch.Tensor]


def _rademacher(
    batch: tuple[int, ...], count: int, size: int, like: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Signs, each as probable as the other."""
    shape, device = (*batch, count, size), _device(like, generator)
    signs = torch.randint(0, 2, shape, generator=generator, device=device, dtype=torch.int8)
    return signs.to(like.device).to(like.dtype).mul_(2).sub_(1)


def _gaussian(
    batch: tuple[int, ...], count: int, size: int, like: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Standard normal numbers."""
    shape, device = (*batch, count, size), _device(like, generator)
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _sphere(
    batch: tuple[int, ...], count: int, size: int, like: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Points of the sphere of radius ``sqrt(d)``, all alike."""
    normal = _gaussian(batch, count, size, like, generator)
    points: torch.Tensor = normal * (math.sqrt(size) / torch.linalg.vector_norm(normal, dim=-1, keepdim=True))
    return points


def _coordinate(
    batch: tuple[int, ...], count: int, size: int, like: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Unit vectors times ``sqrt(d)``, each coordinate as probable as any other."""
    shape, device = (*batch, count, 1), _device(like, generator)
    places = torch.randint(0, size, shape, generator=generator, device=device).to(like.device)
    return like.new_zeros(*batch, count, size).scatter(-1, places, math.sqrt(size))


def _orthogonal(
    batch: tuple[int, ...], count: int, size: int, like: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Vectors of length ``sqrt(d)`` at right angles to each other, up to ``d`` of them; then others."""
    whole = []
    for start in range(0, count, size):
        part = min(size, count - start)
        normal = _gaussian(batch, size, part, like, generator)
        found, triangle = torch.linalg.qr(normal)
        # Else the decomposition would choose signs, and they would not be distributed alike along all directions.
        signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(like.dtype)
        whole.append((found * signs.unsqueeze(-2)).mT * math.sqrt(size))
    return torch.cat(whole, -2)


DRAWS: dict[str, Draw] = {
    "rademacher": _rademacher,
    "gaussian": _gaussian,
    "sphere": _sphere,
    "coordinate": _coordinate,
    "orthogonal": _orthogonal,
}


def _device(like: torch.Tensor, generator: torch.Generator | None) -> torch.device:
    return like.device if generator is None else generator.device


def drawn(
    probe: str, x: torch.Tensor, batch_dims: int, count: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """So many probes of each sample, ``(*batch, count, *I)``."""
    batch, sample = tuple(x.shape[:batch_dims]), tuple(x.shape[batch_dims:])
    try:
        flat = DRAWS[probe](batch, count, math.prod(sample), x.detach(), generator)
    except RuntimeError as error:
        if "randomness" not in str(error):
            raise
        raise UnsupportedOperationError(
            "an estimate inside of torch.func.vmap draws probes, and vmap refuses random numbers; give that vmap "
            "randomness='different' (or 'same'), or pass probes that were drawn before, fixed=estimate.draw(..)"
        ) from None
    return flat.reshape(*batch, count, *sample)


def draw(
    x: torch.Tensor,
    probes: int,
    *,
    probe: Probe = "rademacher",
    generator: torch.Generator | None = None,
    batch_dims: int = 1,
) -> torch.Tensor:
    r"""Random probes for each sample, to be used more than once: ``fixed=`` of the estimates in this module.

    .. math:: \mathbb{E}[v v^T] = I

    An ODE solver asks for the derivative at many points of one trajectory, and its error control needs a function
    that is the same at each: draw once for a trajectory.

    Args:
        x: the input, ``(*batch, *I)``, for its shape, dtype and device.
        probes: how many for each sample.
        probe: ``"rademacher"`` (signs), ``"gaussian"``, ``"sphere"`` (of radius ``sqrt(d)``), ``"coordinate"`` (unit
            vectors times ``sqrt(d)``) or ``"orthogonal"`` (at right angles to each other).
        generator: what they are drawn by; torch's own if None.
        batch_dims: how many leading axes are sample axes.

    Returns:
        A tensor ``(*batch, probes, *I)`` of the dtype and device of ``x``.

    Raises:
        ArgumentError: a kind of probe that does not exist, or no number of them.
        ArgumentTypeError: ``x`` is no floating-point tensor.
        UnsupportedOperationError: inside ``torch.func.vmap`` without ``randomness``.

    Example:
        >>> import torch
        >>> from jacfunc import estimate
        >>> estimate.draw(torch.zeros(5, 3), 2).shape
        torch.Size([5, 2, 3])
    """
    refuse_probe(probe)
    refuse_count("probes", probes)
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise ArgumentTypeError(f"x is {a_type(x)}; pass the floating-point tensor that is differentiated by")
    if not isinstance(batch_dims, int) or isinstance(batch_dims, bool) or not 0 <= batch_dims <= x.dim():
        raise ArgumentError(f"batch_dims={batch_dims!r} is not the number of sample axes of x, 0 to {x.dim()}")
    refuse_generator(generator)
    return drawn(probe, x, batch_dims, probes, generator)


def refuse_probe(probe: object) -> None:
    """Refuse a kind of probes that does not exist."""
    if probe not in PROBES:
        meant = f", or did you mean probes={probe}?" if isinstance(probe, int) else ""
        raise ArgumentError(f"probe={probe!r} is unknown; choose one of {', '.join(map(repr, PROBES))}{meant}")


def refuse_count(name: str, count: object) -> None:
    """Refuse what is no number of probes."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ArgumentError(f"{name}={count!r} is not a number of probes, 1 or more")

"""The differential equations whose residual or training step is timed, written once for all.  Nothing here differentiates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Residual = Callable[[Any], tuple[torch.Tensor, ...]]
Fields = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
"""From the points to the value or derivative ``(N,)`` of each name."""

VISCOSITY, DIFFUSION = 0.01, 0.0001


@dataclass(frozen=True)
class Equation:
    """Its coordinates and unknowns, a letter each, what it names of their derivatives, and its residuals.

    ``rows`` are the Taylor coefficients that it needs, the value included: what forward propagation cannot do without,
    where derivatives that are only needed as a sum are one.  ``sums`` names those, and ``of_sums`` is the residuals of
    what is asked for so.
    """

    title: str
    inputs: str
    outputs: str
    wanted: str
    residual: Residual
    rows: int
    sums: str
    of_sums: Callable[..., tuple[torch.Tensor, ...]]

    def names(self) -> list[tuple[str, str, str]]:
        """Each name, its unknown, and the coordinates that it is differentiated by."""
        return [(name, *_parts(name)) for name in self.wanted.split()]

    def stacked(self, fields: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The residuals ``(N, number of equations)``."""
        return torch.stack(self.residual(_Named(fields)), dim=1)


class _Named:
    """The fields as attributes."""

    def __init__(self, fields: Mapping[str, torch.Tensor]) -> None:
        self.__dict__.update(fields)


def _parts(name: str) -> tuple[str, str]:
    unknown, _, coordinates = name.partition("_")
    return unknown, coordinates


def _navier_stokes(d: Any) -> tuple[torch.Tensor, ...]:
    return (
        d.u_t + d.u * d.u_x + d.v * d.u_y + d.p_x - VISCOSITY * (d.u_xx + d.u_yy),
        d.v_t + d.u * d.v_x + d.v * d.v_y + d.p_y - VISCOSITY * (d.v_xx + d.v_yy),
        d.u_x + d.v_y,
    )


def _navier_stokes_of_sums(
    u: torch.Tensor,
    v: torch.Tensor,
    u_x: torch.Tensor,
    u_y: torch.Tensor,
    v_x: torch.Tensor,
    v_y: torch.Tensor,
    along_x: torch.Tensor,
    along_y: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    return along_x + u * u_x + v * u_y, along_y + u * v_x + v * v_y, u_x + v_y


_TEN = "abcdefghij"
_SECONDS = [f"u_{letter * 2}" for letter in _TEN]

EQUATIONS = {
    "burgers": Equation(
        "Burgers",
        "tx",
        "u",
        "u u_t u_x u_xx",
        lambda d: (d.u_t + d.u * d.u_x - VISCOSITY * d.u_xx,),
        3,
        f"u u_x u_t-{VISCOSITY}*u_xx",
        lambda u, u_x, linear: (linear + u * u_x,),
    ),
    "navier-stokes": Equation(
        "Navier-Stokes 2-D",
        "txy",
        "uvp",
        "u v u_t u_x u_y u_xx u_yy v_t v_x v_y v_xx v_yy p_x p_y",
        _navier_stokes,
        4,
        f"u v u_x u_y v_x v_y u_t+p_x-{VISCOSITY}*u_xx-{VISCOSITY}*u_yy v_t+p_y-{VISCOSITY}*v_xx-{VISCOSITY}*v_yy",
        _navier_stokes_of_sums,
    ),
    "kuramoto-sivashinsky": Equation(
        "Kuramoto-Sivashinsky",
        "tx",
        "u",
        "u u_t u_x u_xx u_xxxx",
        lambda d: (d.u_t + d.u * d.u_x + d.u_xx + d.u_xxxx,),
        5,
        "u u_x u_t+u_xx+u_xxxx",
        lambda u, u_x, linear: (linear + u * u_x,),
    ),
    "poisson": Equation(
        "Poisson",
        _TEN,
        "u",
        " ".join(_SECONDS),
        lambda d: (sum(getattr(d, name) for name in _SECONDS) - 1.0,),
        12,
        "+".join(_SECONDS),
        lambda laplacian: (laplacian - 1.0,),
    ),
}
STEPS = tuple(EQUATIONS)
"""Those whose training step is timed; the next one is timed as a residual, beside derivatives of other networks."""
ALLEN_CAHN = "allen-cahn"
EQUATIONS[ALLEN_CAHN] = Equation(
    "Allen-Cahn",
    "tx",
    "u",
    "u u_t u_xx",
    lambda d: (d.u_t - DIFFUSION * d.u_xx + 5 * (d.u**3 - d.u),),
    3,
    f"u u_t-{DIFFUSION}*u_xx",
    lambda u, linear: (linear + 5 * (u**3 - u),),
)
KINDS = tuple(EQUATIONS)

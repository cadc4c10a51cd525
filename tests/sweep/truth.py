"""What the derivatives are: reverse mode of single samples row by row, and finite differences of that; nothing else.

No second derivative of torch's is used.  Every finite difference is central, extrapolated from three steps, and comes
with its own error: how far the two extrapolations that three steps allow are apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .cases import WIDTH, Case

Tensor = torch.Tensor

COARSE = dict.fromkeys(("nn.functional.hardsigmoid", "torch.nn.Hardsigmoid"), 1e-7)
"""torch's own first derivative of hardsigmoid multiplies by a sixth that is rounded to single precision."""
TOLERANCES = {
    "jacobian": 1e-8,
    "jacobian by p": 1e-5,
    "laplacian": 1e-5,
    "laplacian by p": 1e-3,
}
ORDERS = {"jacobian": 1, "jacobian by p": 2, "laplacian": 2, "laplacian by p": 3}
FIRST = 1e-6
"""What each quantity may be off, relative to its largest entry; and torch's first derivative from finite differences."""
FLOOR = 1e-3
"""What is smaller than this times the largest entry of the Jacobian counts as this large: once more smaller by the size
of the directions for each further derivative, which is how derivatives of higher order shrink with it."""


@dataclass
class Quantity:
    """A quantity of all samples, and its own error."""

    value: Tensor
    error: float
    allowed: float

    @property
    def resolved(self) -> bool:
        return self.error <= self.allowed


@dataclass
class Truth:
    """The four quantities, and what speaks against torch's first derivative, if anything does."""

    quantities: dict[str, Quantity]
    doubt: str | None

    @property
    def unresolved(self) -> list[str]:
        return [name for name, quantity in self.quantities.items() if not quantity.resolved]


def jacobian_of(case: Case, sample: int) -> Tensor:
    """Reverse mode of one sample, row by row."""
    return _value_and_jacobian(case, sample, case.p, case.x[sample])[1]


def _value_and_jacobian(case: Case, sample: int, p: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    y = case.single(sample, p, x)
    if not y.requires_grad:
        return y, y.new_zeros(len(y), len(x))
    rows = [torch.autograd.grad(y[i], x, retain_graph=True, allow_unused=True)[0] for i in range(len(y))]
    return y.detach(), torch.stack([torch.zeros_like(x) if row is None else row for row in rows])


def _extrapolated(difference: Callable[[float], Tensor], step: float) -> tuple[Tensor, Tensor]:
    coarse, middle, fine = (difference(step / 2**level) for level in range(3))
    first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    return second, (second - first).abs()


def _sample(case: Case, sample: int, step: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Every quantity of one sample with its error; ``differences`` is the Jacobian from values alone."""
    known: dict[tuple[float, int, float], tuple[Tensor, Tensor]] = {}

    def at(dp: float, axis: int, dx: float) -> tuple[Tensor, Tensor]:
        if (dp, axis, dx) not in known:
            moved = case.x[sample].clone()
            moved[axis] += dx
            known[dp, axis, dx] = _value_and_jacobian(case, sample, case.p + dp, moved)
        return known[dp, axis, dx]

    def values(h: float) -> Tensor:
        return torch.stack([(at(0, i, h)[0] - at(0, i, -h)[0]) / (2 * h) for i in range(WIDTH)], dim=1)

    def jacobian_by_p(h: float) -> Tensor:
        return (at(h, 0, 0)[1] - at(-h, 0, 0)[1]) / (2 * h)

    def laplacian(h: float, dp: float = 0) -> Tensor:
        return sum((at(dp, i, h)[1][:, i] - at(dp, i, -h)[1][:, i]) / (2 * h) for i in range(WIDTH))

    def laplacian_by_p(h: float) -> Tensor:
        return (laplacian(h, h) - laplacian(h, -h)) / (2 * h)

    jacobian = at(0, 0, 0)[1]
    return {
        "value": (at(0, 0, 0)[0], torch.zeros(())),
        "jacobian": (jacobian, torch.zeros_like(jacobian)),
        "differences": _extrapolated(values, step),
        "jacobian by p": _extrapolated(jacobian_by_p, step),
        "laplacian": _extrapolated(laplacian, step),
        "laplacian by p": _extrapolated(laplacian_by_p, step),
    }


def truth(case: Case, step: float) -> Truth:
    """The truth of every sample of a case."""
    samples = [_sample(case, sample, step) for sample in range(case.samples)]
    found = {
        name: tuple(torch.stack([sample[name][part] for sample in samples]) for part in (0, 1)) for name in samples[0]
    }
    scale = float(found["jacobian"][0].abs().max())
    rounding = 1e-12 * float(found["value"][0].abs().max())
    quantities = {}
    for name, tolerance in TOLERANCES.items():
        value, error = found[name]
        coarse = COARSE.get(case.template.name.rsplit(" ", 1)[0], 0.0) if name == "jacobian" else 0.0
        floor = FLOOR * scale * case.spread ** (ORDERS[name] - 1)
        allowed = max(tolerance, coarse) * max(floor, float(value.abs().max())) + rounding
        # not a number is not resolved either
        quantities[name] = Quantity(value, float(error.nan_to_num(nan=torch.inf).max()), allowed)
        if not value.isfinite().all():
            quantities[name].error = float("inf")
    return Truth(quantities, _doubt(found, scale, rounding))


def _doubt(found: dict[str, tuple[Tensor, ...]], scale: float, rounding: float) -> str | None:
    differences, error = found["differences"]
    if not differences.isfinite().all() or not found["jacobian"][0].isfinite().all():
        return "not finite"
    allowed = FIRST * max(scale, float(differences.abs().max())) + 1e3 * rounding
    if float(error.max()) > allowed:
        return "finite differences do not settle: a kink, a jump, or too steep"
    off = float((found["jacobian"][0] - differences).abs().max())
    if off > allowed:
        return f"first derivative disagrees with finite differences by {off / (allowed / FIRST):.1e}"
    return None

"""Mixed partial derivatives by nested reverse mode, one output after the other; no test lives here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

Index = tuple[int, ...]


class Rational(nn.Module):
    """Sums, quotients, integer powers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x**3 - 0.5 * x) / (1 + x**2) + 1 / (x.square() + 2)


class Elementwise(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sin": lambda: Elementwise(torch.sin),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "exp": lambda: Elementwise(lambda x: torch.exp(-0.3 * x)),
    "rational": Rational,
    "sigmoid": nn.Sigmoid,
    "gelu-tanh": lambda: nn.GELU("tanh"),
}


def network(activation: str, inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers in float64."""
    act = ACTIVATIONS[activation]
    return nn.Sequential(nn.Linear(inputs, 6), act(), nn.Linear(6, 5), act(), nn.Linear(5, outputs)).double()


def all_indices(dims: int, order: int) -> list[Index]:
    """Every multi-index up to an order, by order."""
    found = [index for index in itertools.product(range(order + 1), repeat=dims) if sum(index) <= order]
    return sorted(found, key=sum)


def truth(y: torch.Tensor, x: torch.Tensor, indices: Sequence[Index]) -> dict[Index, torch.Tensor]:
    """The partials of ``y (N,)`` by ``x (N, d)`` for a set that has, with each index, all below; with their graph."""
    found: dict[Index, torch.Tensor] = {}
    for index in indices:
        if not any(index):
            found[index] = y
            continue
        place = next(place for place, count in enumerate(index) if count)
        parent = found[(*index[:place], index[place] - 1, *index[place + 1 :])]
        (gradient,) = torch.autograd.grad(parent.sum(), x, create_graph=True, materialize_grads=True)
        found[index] = gradient[:, place]
    return found


def close(got: torch.Tensor, want: torch.Tensor, room: float = 1e-9) -> None:
    """Equal but for so much of the largest entry."""
    assert got.shape == want.shape
    size = want.detach().abs().max()
    assert (got - want).detach().abs().max() <= room * size + 1e-13, float((got - want).detach().abs().max() / size)

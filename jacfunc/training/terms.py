"""The terms of a loss and their points, which come in blocks: cut from tensors, or as an iterable gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..core.meshes import is_meshed, told
from ..core.reasons import a_type, name_of
from ..errors import ArgumentError, ArgumentTypeError, ShapeError

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Block:
    """Some of the points of a term: tensors with as many rows each, and the weights of these points, if there are."""

    points: tuple[torch.Tensor, ...]
    weights: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.points[0])

    def part(self, start: int, stop: int) -> Block:
        """Those from ``start`` to ``stop``."""
        weights = None if self.weights is None else self.weights[start:stop]
        return Block(tuple(tensor[start:stop] for tensor in self.points), weights)

    def mass(self) -> float:
        """What the mean divides by: the sum of the weights, the number of points where there are none."""
        return float(self.count if self.weights is None else self.weights.sum(dtype=_widest(self.weights)))


class Supply:
    """The points of a term in blocks, each once; ``whole`` is all of them where they are known before."""

    def __init__(self, whole: Block | None, blocks: Iterable[Any], name: str) -> None:
        self.whole, self.name = whole, name
        self._blocks: Iterator[Any] = iter(blocks)
        self._waiting, self._start, self._last = whole, 0, whole
        self._taken = 0

    def more(self) -> bool:
        """Whether there is another point."""
        while self._waiting is None or self._start >= self._waiting.count:
            if self.whole is not None:
                return False
            try:
                item = next(self._blocks)
            except StopIteration:
                return False
            self._waiting, self._start = read_block(item, f"block {self._taken} of {self.name}"), 0
            self._last, self._taken = self._waiting, self._taken + 1
        return True

    def take(self, size: int | None) -> Block:
        """The next points, ``size`` of them if there are as many in this block, all of it for None."""
        assert self._waiting is not None
        start, stop = self._start, self._waiting.count
        self._start = stop if size is None else min(stop, start + size)
        return self._waiting.part(start, self._start)

    def none(self) -> Block:
        """A block without points, for a rank that has no more; refused where their shapes were never seen."""
        if self._last is None:
            raise ArgumentError(
                f"{self.name} gave this rank no block, and what fully_shard has made has to run on all ranks alike; "
                "give each rank a block at least, which may be one without points"
            )
        return self._last.part(0, 0)


@dataclass(frozen=True)
class Term:
    """A loss, the factor of its sum or mean in the whole, its points, and what it is called in errors."""

    loss: Loss
    factor: float
    supply: Supply
    name: str


def told_apart(loss: Any, others: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The arguments as a list of ``(loss, points, weight)``, of which only the losses are checked."""
    if not isinstance(loss, tuple):
        if not others:
            raise ArgumentError("accumulate was given no points; pass them after loss, as in accumulate(loss, t, x)")
        points = others[0] if len(others) == 1 else others
        given: list[tuple[Any, ...]] = [(loss, points, 1.0)]
    else:
        given = [_three(term, place) for place, term in enumerate((loss, *others))]
    for place, (each, _, _) in enumerate(given):
        if not callable(each):
            name = "loss" if not isinstance(loss, tuple) else f"the loss of term {place}"
            raise ArgumentTypeError(
                f"{name} is {a_type(each)}; pass a function of the points that returns one number for each"
            )
    return given


def _three(term: Any, place: int) -> tuple[Any, ...]:
    if not isinstance(term, tuple) or len(term) not in {2, 3}:
        what = f"a tuple of {len(term)}" if isinstance(term, tuple) else a_type(term)
        raise ArgumentTypeError(
            f"term {place} is {what}; make it (loss, points) or (loss, points, weight), with several tensors of points "
            "in a tuple of their own"
        )
    return term if len(term) == 3 else (*term, 1.0)


def read_terms(given: list[tuple[Any, ...]], single: bool) -> list[Term]:
    """The terms, with their points looked at; refuses what cannot be meant."""
    terms = []
    for place, (loss, points, weight) in enumerate(given):
        name = "points" if single else f"the points of term {place}"
        factor, weights = _weight(weight, f"the weight of term {place}")
        terms.append(Term(loss, factor, _supply(points, weights, name), name_of(loss)))
    return terms


def _weight(weight: Any, name: str) -> tuple[float, torch.Tensor | None]:
    """A factor of the whole term, or a weight for each point."""
    if isinstance(weight, torch.Tensor) and weight.requires_grad:
        raise ArgumentError(f"{name} requires gradients, which it would not get; multiply by it inside of the loss")
    if isinstance(weight, torch.Tensor):
        if is_meshed(weight):
            raise ArgumentTypeError(f"{name} is {told(weight)}; pass its part on this rank, weight.to_local()")
        if weight.is_complex():
            raise ArgumentTypeError(f"{name} has {weight.dtype} numbers; pass real ones")
    if isinstance(weight, torch.Tensor) and weight.dim() == 1:
        return 1.0, weight
    if isinstance(weight, torch.Tensor) and weight.dim() == 0:
        weight = weight.item()
    if isinstance(weight, torch.Tensor):
        raise ShapeError(
            f"{name} has shape {tuple(weight.shape)}; pass a number, a factor of the term, or a tensor (n,), a weight "
            "for each point"
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ArgumentTypeError(f"{name} is {a_type(weight)}; pass a number or a tensor (n,)")
    if not math.isfinite(weight):
        raise ArgumentError(f"{name} is {weight}; pass a finite number")
    return float(weight), None


def _supply(points: Any, weights: torch.Tensor | None, name: str) -> Supply:
    tensors = points if isinstance(points, tuple) else (points,)
    if all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        block = read_block(tensors, name)
        if weights is not None and len(weights) != block.count:
            raise ShapeError(
                f"the weights of {name} have shape {tuple(weights.shape)} for {block.count} points; give one for each"
            )
        return Supply(Block(block.points, weights), (), name)
    if isinstance(points, str | bytes | dict | tuple) or not isinstance(points, Iterable):
        what = [type(tensor).__name__ for tensor in tensors]
        raise ArgumentTypeError(
            f"{name} are of type {', '.join(what)}; pass a tensor, several with as many rows each, or an iterable of "
            "such blocks, as a DataLoader is"
        )
    if weights is not None:
        raise ArgumentError(
            f"{name} come in blocks, whose order a tensor of weights cannot know; let every block bring its weights "
            'and multiply by them in the loss, with reduction="sum"'
        )
    return Supply(None, points, name)


def read_block(item: Any, name: str) -> Block:
    """The tensors of a block; refuses what is no tensor, has no rows, other numbers of them, or a graph."""
    tensors = tuple(item) if isinstance(item, tuple | list) else (item,)
    for place, tensor in enumerate(tensors):
        which = name if len(tensors) == 1 else f"tensor {place} of {name}"
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentTypeError(
                f"{which} is {a_type(tensor)}; a block is a tensor, or a tuple of tensors, of points in front"
            )
        if is_meshed(tensor):
            raise ArgumentTypeError(
                f"{which} is {told(tensor)}; pass the points of this rank, points.to_local(), and a module that "
                "DistributedDataParallel or fully_shard made"
            )
        if tensor.dim() == 0:
            raise ShapeError(f"{which} is a scalar; points are the rows of tensors, of shape (n, ..) each")
        if tensor.requires_grad:
            raise ArgumentError(
                f"{which} requires gradients, which points do not get; pass it detached, and where the loss "
                "differentiates by it itself, let it call requires_grad_() on its block; weights that are trained stay "
                "in the loss, weights[i], with their numbers i = torch.arange(n) as points"
            )
    sizes = [len(tensor) for tensor in tensors]
    if not sizes:
        raise ArgumentError(f"{name} has no tensors; give one at least")
    if len(set(sizes)) > 1:
        raise ShapeError(f"the tensors of {name} have {sizes} rows; give each as many, one for each point")
    return Block(tensors)


def check_values(values: Any, count: int, name: str) -> torch.Tensor:
    """What a loss returned for so many points; refuses all but one number for each, with a graph."""
    if not isinstance(values, torch.Tensor):
        raise ArgumentTypeError(f"{name} returned {a_type(values)}; return a tensor with one number for each point")
    if tuple(values.shape) != (count,):
        cause = "squeeze it" if values.numel() == count and values.dim() else "leave the mean or sum to reduction="
        raise ShapeError(
            f"{name} returned shape {tuple(values.shape)} for a block of {count} points, but one number for each was "
            f"expected, ({count},); {cause}"
        )
    if not values.is_floating_point():
        raise ArgumentTypeError(f"{name} returned {values.dtype} numbers, but real floating-point ones were expected")
    if not values.requires_grad:
        raise ArgumentError(
            f"{name} returned numbers without a graph, so there is nothing to accumulate; call it where gradients are "
            "enabled, with parameters that require them, and detach nothing on the way"
        )
    return values


def no_points(name: str) -> ArgumentError:
    """What is raised where no rank has a point."""
    return ArgumentError(
        f"{name} are none, on any rank; pass one at least (a generator that was used up before gives none)"
    )


def check_mass(mass: float, name: str) -> None:
    """Refuse weights that are not finite, whatever they are for."""
    if not math.isfinite(mass):
        raise ArgumentError(f"the weights of {name} add up to {mass:g}; pass finite ones")


def divisor(mass: float, name: str) -> float:
    """What the mean divides by, if it can."""
    if mass == 0:
        raise ArgumentError(
            f"the mean of {name} does not exist, for its weights add up to {mass:g} (1 for a point where none were "
            'given); pass points, other weights, or reduction="sum"'
        )
    return mass


def _widest(tensor: torch.Tensor) -> torch.dtype:
    """The dtype to add up in: float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def summed(values: torch.Tensor) -> torch.Tensor:
    """Their sum, added up in double precision where the device has it."""
    return values.detach().sum(dtype=_widest(values))

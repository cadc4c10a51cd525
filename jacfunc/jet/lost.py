"""Gradients of rows by what a norm is of, where that is zero and there are none: NaN by what moves it, and by no other.

A centre moves what is inside of a norm away from zero; a length that divides it does not, and gradients by it are those
of the rows.  NaN times zero is NaN, so that no cotangent of the vector could tell them apart: which leaves move it is
found out in the backward, by cotangents that are numbers, and NaN is handed to these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..core.levels import compiling, inside_jvp, inside_transform, inside_vmap
from ..core.torch_private import arguments_of, innermost, level_count, node_number
from .frame import Frame
from .jet import Jet

Tensor = torch.Tensor

CANCELLED = 2.0**12
"""Times the precision, beside all that was added up, below which a gradient is what rounding has left of zero."""


def lost_where(rows: Tensor, moved: Tensor, lost: Tensor) -> Tensor:
    """Rows, without gradients by what moves a norm where they are ``lost``; ``moved`` is of :func:`with_moved`."""
    function = _Lost if compiling() else _LostForward
    found: Tensor = function.apply(rows, moved, lost)  # type: ignore[no-untyped-call]
    return found


def moving_with(moves: Jet, vector: Tensor, dims: tuple[int, ...], keepdim: bool) -> Jet:
    """``moves`` of a root, whose value has in a graph what the vector inside of the norm moves with."""
    if not _in_a_graph(vector):
        return moves
    graph = _graph_of(vector, moves.frame)
    leaves = [] if graph is None else graph.leaves
    function = _Moved if compiling() else _MovedForward
    zeros = function.apply(vector, dims, keepdim, graph, *leaves)  # type: ignore[no-untyped-call]
    return Jet(moves.value + zeros.to(moves.value.dtype), moves.coefficients, moves.frame)


class _Lost(torch.autograd.Function):
    """The identity of rows, of which nothing is known where they are lost and what they depend on moves."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, moved: Tensor, lost: Tensor) -> Tensor:
        return rows.view_as(rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep where it is."""
        _, moved, lost = inputs
        ctx.save_for_backward(moved, lost)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        """Gradients by others depend on what is lost as well."""
        moved, lost = ctx.saved_tensors
        asked = (lost & (cotangent != 0).any(0)).to(moved.dtype)
        if torch.is_grad_enabled():
            cotangent = lost_where(cotangent, moved, lost)
        return cotangent, asked, None


class _LostForward(_Lost):
    """Also in forward mode, which Dynamo does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep where it is."""
        _Lost.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[2])

    @staticmethod
    def jvp(ctx: Any, rows: Tensor, moved: Tensor, lost: Any) -> Any:
        (where,) = ctx.saved_tensors
        return rows + torch.where(where & (moved != 0), math.nan, 0.0).to(rows.dtype)


class _Moved(torch.autograd.Function):
    """Zeros of the shape of a norm, whose gradient by what moves the vector is NaN where the cotangent is not zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(vector: Tensor, dims: tuple[int, ...], keepdim: bool, graph: _Graph | None, *leaves: Tensor) -> Tensor:
        return torch.zeros_like(vector.real if vector.is_complex() else vector).sum(dims, keepdim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep how the vector came about, not its numbers."""
        vector, ctx.dims, ctx.keepdim, ctx.graph, *_ = inputs
        ctx.shape, ctx.dtype = vector.shape, vector.dtype

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        asked = cotangent != 0
        if not ctx.keepdim:
            for dim in sorted(dim % len(ctx.shape) for dim in ctx.dims):
                asked = asked.unsqueeze(dim)
        asked = asked.expand(ctx.shape)
        graph: _Graph | None = ctx.graph
        moved = None if graph is None or graph.levels != _levels() else graph.moved(asked, ctx.dtype)
        if moved is None:  # all that the vector is made of
            count = 0 if graph is None else len(graph.leaves)
            return _nan_where(asked, ctx.dtype), None, None, None, *[None] * count
        return None, None, None, None, *moved


class _MovedForward(_Moved):
    """Also in forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, vector: Tensor, *others: Any) -> Any:
        moved = (vector != 0).any(ctx.dims, ctx.keepdim)
        return moved.to(vector.real.dtype if vector.is_complex() else vector.dtype)


def _nan_where(where: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(where, math.nan, 0.0).to(dtype)


def _nan_of(leaf: Tensor, where: Tensor) -> Tensor:
    """NaN whose gradients are NaN as well, and elsewhere zero."""
    return torch.where(where, leaf, 0.0) * torch.where(where, math.nan, 1.0).to(leaf.dtype)


def _in_a_graph(tensor: Tensor) -> bool:
    return tensor.requires_grad or (not compiling() and (innermost(tensor).requires_grad or inside_transform()))


# -------------------------------------------------------------------- which leaves move a vector

Edge = tuple[Any, int]
"""A node of autograd's graph, and which of its arguments."""


def _levels() -> int | None:
    """How many transforms of torch.func are around, each of which has graphs of its own; None if not all have any."""
    return None if inside_vmap() or inside_jvp() else level_count()


class _Graph(NamedTuple):
    """How a vector came about.

    ``nodes`` are those since the evaluation began, each before all that its results go to; ``ends`` what is beyond
    them, and ``leaves`` the tensors of those ends that accumulate gradients.  ``levels``: see :func:`_levels`.
    """

    start: Edge
    nodes: list[Any]
    ends: list[Any]
    leaves: list[Tensor]
    levels: int | None

    def moved(self, asked: Tensor, dtype: torch.dtype) -> list[Tensor] | None:
        """NaN where the leaves move the vector where that is asked, else zero; None where something else may."""
        try:
            with torch.no_grad():
                found = _pulled(self, _generic(asked).to(dtype))
        except (RuntimeError, TypeError, ValueError):
            return None
        gradients = []
        for node in self.ends:
            moves = [_is_left(*sums) for (end, _), sums in found.items() if end is node]
            if hasattr(node, "variable"):
                leaf = node.variable
                gradients.append(_nan_of(leaf, moves[0]) if moves else torch.zeros_like(leaf))
            elif any(bool(where.any()) for where in moves):
                return None
        return gradients


def _graph_of(vector: Tensor, frame: Frame) -> _Graph | None:
    """None where there is no graph that can be walked through."""
    levels = None if compiling() or frame.propagation.traced else _levels()
    if levels is None or vector.grad_fn is None:
        return None
    outermost = frame.propagation
    while outermost.within is not None:
        outermost = outermost.within.frame.propagation
    ends: dict[Any, None] = {}
    nodes: list[Any] = []
    # Depth first: a node is listed when all that its results go to are, so in the end the list is turned round.
    waiting, seen = [(vector.grad_fn, False)], set[Any]()
    while waiting:
        node, done = waiting.pop()
        if done:
            nodes.append(node)
        elif node not in seen:
            seen.add(node)
            if hasattr(node, "variable") or node_number(node) < outermost.began:
                ends[node] = None
                continue
            waiting.append((node, True))
            waiting += [(following, False) for following, _ in node.next_functions if following is not None]
    leaves = [node.variable for node in ends if hasattr(node, "variable")]
    return _Graph((vector.grad_fn, vector.output_nr), nodes[::-1], list(ends), leaves, levels)


Sums = tuple[Tensor, Tensor]
"""A cotangent, and the sum of the sizes of all that it is the sum of."""


def _pulled(graph: _Graph, cotangent: Tensor) -> dict[Edge, Sums]:
    """The cotangents of what is beyond the nodes; what torch's engine does, with sizes beside."""
    found: dict[Edge, Sums] = {graph.start: (cotangent, cotangent.abs())}
    for node in graph.nodes:
        own = [found.pop((node, place), None) for place in range(len(arguments_of(node)))]
        exact = _called(node, [None if sums is None else sums[0] for sums in own])
        # Of other signs, so that nothing cancels again.
        turned = _called(
            node, [None if sums is None else sums[1] * _generic(sums[1] != 0).sgn().to(sums[1].dtype) for sums in own]
        )
        for edge, one, other in zip(node.next_functions, exact, turned, strict=True):
            if edge[0] is None or one is None or other is None:
                continue
            expected = arguments_of(edge[0])[edge[1]]
            sums = _fitted(one, expected), _fitted(one.abs() + other.abs(), expected)
            before = found.get(edge)
            found[edge] = sums if before is None else (before[0] + sums[0], before[1] + sums[1])
    return found


def _called(node: Any, cotangents: list[Tensor | None]) -> Sequence[Tensor | None]:
    """What a node gives for each of those that its results go to."""
    if not hasattr(node, "apply"):
        result = node(*cotangents)
        return result if isinstance(result, tuple) else (result,)
    # A function in Python may know no None, and has results, None, for what is no tensor as well.
    given = [
        torch.zeros(argument.shape, dtype=argument.dtype, device=argument.device) if cotangent is None else cotangent
        for cotangent, argument in zip(cotangents, arguments_of(node), strict=True)
    ]
    result = node.apply(*given)
    found = result if isinstance(result, tuple) else (result,)
    edges = node.next_functions
    if len(found) == len(edges):
        return found
    there = [one for one in found if one is not None]
    alive = [place for place, (following, _) in enumerate(edges) if following is not None]
    places = dict(zip(range(len(edges)) if len(there) == len(edges) else alive, there, strict=True))
    return [places.get(place) for place in range(len(edges))]


def _fitted(cotangent: Tensor, expected: Any) -> Tensor:
    """As the engine hands it on: summed where it was broadcast, in the precision that is expected."""
    if cotangent.is_complex() and not expected.dtype.is_complex:
        cotangent = cotangent.real
    return cotangent.sum_to_size(expected.shape).to(expected.dtype)


def _generic(where: Tensor) -> Tensor:
    """Numbers of size one without symmetries, and of both signs, where that is asked, and else zero."""
    wave = torch.arange(1, where.numel() + 1, device=where.device, dtype=torch.float64).square().mul(0.7).sin()
    return torch.where(where, (wave + wave.sign()).reshape(where.shape), 0.0)


def _is_left(exact: Tensor, size: Tensor) -> Tensor:
    """Whether a sum is more than what rounding leaves of zero; NaN is."""
    return ~(exact.abs() <= CANCELLED * torch.finfo(exact.dtype).eps * size.abs())

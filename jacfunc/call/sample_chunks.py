"""Independent samples in blocks: which arguments are cut, how large a block is, and how the results are joined.

Every block is an ordinary call of the transform, on any route; what a call does is in ``transforms.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import caches, trees
from ..core.levels import inside_transform
from ..core.subclasses import dressed, undressed
from ..errors import ArgumentError, ShapeError, UnsupportedOperationError
from ..options import Options
from .evaluator import Outputs
from .independence import settle
from .positions import refuse_positions
from .quantity import Quantity
from .request import Request, requested
from .sizes import bytes_per_sample

LEAST = 16
"""Samples in an automatic block: below, the overhead of an operation outweighs what a cache saves."""

COUNTED = (2, 10)
"""Samples of the two forwards that tell how large one is."""

CHECKED = 24
"""Samples that show whether they influence each other, where a block is smaller."""


@dataclass(frozen=True)
class Blocks:
    """How the ``count`` samples of a call of ``function`` are cut: ``size`` at a time, of the arguments in ``cut``."""

    function: Callable[..., Any]
    options: Options
    count: int
    size: int
    cut: frozenset[int]

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        options: Options,
        quantity: Quantity,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        traced: bool = False,
    ) -> Blocks:
        """The blocks for these arguments, of which the quantity is computed; refuses what cannot be cut."""
        request = Request(function, options.whole, args, kwargs, traced=traced)
        if not request.batch:
            raise ArgumentError(
                f"sample_chunk_size={options.sample_chunk_size!r} with batch_dims=0, where no samples can be cut; "
                "leave it out"
            )
        cut = cut_arguments(request, options)
        size = options.sample_chunk_size
        if size == "auto":
            size = None if traced else _automatic(request, quantity, cut)
        count = request.batch[0]
        if isinstance(count, torch.SymInt):  # of any batch, while torch.export records
            if size is not None:
                raise UnsupportedOperationError(
                    f"sample_chunk_size={size!r} cuts the batch, which a program that torch.export records for any "
                    "number of samples cannot do; leave it out, or export a fixed number of samples"
                )
            return cls(function, options, 1, 1, cut)  # one block
        most = max(count, 1)
        return cls(function, options, count, min(size or most, most), cut)

    def __str__(self) -> str:
        number = len(self.starts())
        return f"{self.count} in {number} block{'s' if number != 1 else ''} of {self.size}"

    def starts(self) -> range:
        """The first sample of each block; one block of none where there are no samples."""
        return range(0, max(self.count, 1), self.size)

    def samples(self, args: Sequence[Any], start: int) -> tuple[Any, ...]:
        """The arguments of the block that begins at a sample."""
        return _samples(args, self.cut, start, start + self.size)

    def settle_independence(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check more samples than a small block has, and whether they are the same in blocks of other sizes."""
        if inside_transform():
            return
        if self.size < min(CHECKED, self.count):
            first = _samples(args, self.cut, 0, CHECKED)
            with requested(self.function, self.options.whole, first, kwargs) as request:
                settle(request)
        with requested(self.function, self.options, args, kwargs) as request:
            refuse_positions(request, self.size, lambda start, stop: self._part(request, start, stop))

    def _part(self, request: Request, start: int, stop: int) -> Request:
        """That of some of its samples."""
        args = _samples(request.args, self.cut, start, stop)
        return Request(request.function, request.options, args, request.kwargs)

    def joined(self, results: list[Any]) -> Any:
        """What all blocks together are; ``results`` is what the transform returned for each."""
        sizes = [min(self.size, self.count - start) for start in self.starts()]
        if not self.options.has_aux:
            return _concatenated(results, self.options.out_axis)
        derivatives = [result[:-1] for result in results]
        return (
            *_concatenated(derivatives, self.options.out_axis),
            _joined_aux([result[-1] for result in results], sizes),
        )


# -------------------------------------------------------------------- which arguments carry samples


def cut_arguments(request: Request, options: Options) -> frozenset[int]:
    """The positions of the arguments that carry samples; raises where ``in_dims`` says of one what it cannot be."""
    differentiated = {argument.position for argument in request.arguments}
    places = range(len(request.args))
    if options.in_dims is None:
        for place in places:
            given = place not in differentiated and place >= request.state_arguments
            if given and any(leaf.dim() for leaf in trees.tensors(request.args[place])):  # a number has no samples
                raise ArgumentError(
                    f"args[{place}] has tensors, and whether they carry samples is not known; say so with "
                    f"in_dims={_example(request, differentiated)} (0 for samples in front, None for shared)"
                )
        return frozenset(differentiated)
    return _told(request, options.in_dims, differentiated)


def with_added(request: Request, options: Options, added: int) -> tuple[int | None, ...] | None:
    """``in_dims`` for a function of so many arguments more, which carry samples; None where nothing is cut."""
    if options.in_dims is None and options.sample_chunk_size is None:
        return None
    cut = cut_arguments(request, options)
    return (*[0 if place in cut else None for place in range(len(request.args))], *[0] * added)


def _example(request: Request, differentiated: set[int]) -> tuple[int | None, ...]:
    """What ``in_dims`` may be: what is as long as the batch is likely to carry its samples."""

    def as_long(arg: Any) -> bool:
        shapes = [tuple(leaf.shape) for leaf in trees.tensors(arg)]
        return bool(shapes) and all(shape[: len(request.batch)] == request.batch for shape in shapes)

    return tuple(
        0 if place in differentiated or (place >= request.state_arguments and as_long(arg)) else None
        for place, arg in enumerate(request.args)
    )


def _told(request: Request, in_dims: int | tuple[int | None, ...], differentiated: set[int]) -> frozenset[int]:
    count, state = len(request.args), request.state_arguments
    dims = (None,) * state + (in_dims,) * (count - state) if isinstance(in_dims, int) else in_dims
    if len(dims) != count:
        raise ArgumentError(
            f"in_dims={in_dims!r} has {len(dims)} entries for {count} positional arguments; give each an entry, 0 "
            "where it carries samples and None where it is shared"
        )
    cut = frozenset(place for place, dim in enumerate(dims) if dim is not None)
    for place in sorted(differentiated - cut):
        raise ArgumentError(
            f"in_dims={in_dims!r} shares args[{place}], which is differentiated and so carries the samples; make its "
            "entry 0"
        )
    for place in sorted(cut):
        _check_cut(request, place, state)
    return cut


def _check_cut(request: Request, place: int, state: int) -> None:
    if place < state:
        raise ArgumentError(
            f"in_dims cuts args[{place}], the parameters (or buffers) of {request.function!r}, which carry no samples; "
            "make its entry None"
        )
    leaves, structure = trees.flatten(request.args[place])
    for leaf, path in zip(leaves, structure.paths(f"args[{place}]"), strict=True):
        if isinstance(leaf, torch.Tensor) and tuple(leaf.shape[: len(request.batch)]) != request.batch:
            raise ShapeError(
                f"{path} has shape {tuple(leaf.shape)}, and in_dims says that it carries samples, whose axes are "
                f"{request.batch}; make its entry None, or bring the samples to the front"
            )


def _samples(args: Sequence[Any], cut: frozenset[int], start: int, stop: int) -> tuple[Any, ...]:
    """The arguments of the samples from ``start`` to ``stop`` alone."""

    def part(leaf: torch.Tensor) -> torch.Tensor:
        return dressed(undressed(leaf)[start:stop], leaf)

    return tuple([trees.mapped(part, arg) if place in cut else arg for place, arg in enumerate(args)])


# -------------------------------------------------------------------- how large a block is


def _automatic(request: Request, quantity: Quantity, cut: frozenset[int]) -> int | None:
    """As many samples as keep one result of ``f`` and all its rows in the caches; None for all, on other devices."""
    options = request.options
    if request.leaves[0].device.type != "cpu" or request.batch[0] <= max(LEAST, *COUNTED):
        return None
    key, signature = (
        request.fingerprint.key,
        (request.signature, request.numbers(), options.argnums, options.batch_dims),
    )
    size: float | None = caches.SAMPLE_BYTES.get(key, signature)
    if size is None:
        size = _counted(request, cut)
        if request.fingerprint.watchable:
            caches.SAMPLE_BYTES.put(key, request.fingerprint.parts, signature, size)
    wanted = quantity.wanted(request, Outputs(trees.LEAF, ()))  # of whatever outputs
    rows = wanted.rows_of_jets(sum(map(math.prod, request.input_shapes)))
    if options.chunk_size is not None:
        rows = min(rows, quantity.order + options.chunk_size)
    return max(LEAST, int(cache_bytes() / max(size * rows, 1.0)))


def _counted(request: Request, cut: frozenset[int]) -> float:
    """The bytes of one sample, by two forwards of a few."""
    with requested(request.function, request.options, request.args, request.kwargs) as whole:
        few, many = (
            Request(whole.function, whole.options, _samples(whole.args, cut, 0, count), whole.kwargs)
            for count in COUNTED
        )
        return bytes_per_sample(few, many)


def cache_bytes() -> int:
    """The second-level caches of the cores that torch uses; a mebibyte each where the system does not say."""
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (AttributeError, ValueError, OSError):
        size = 0
    return (size if size > 0 else 2**20) * torch.get_num_threads()


# -------------------------------------------------------------------- what comes back


def _concatenated(results: list[Any], axis: int) -> Any:
    flat = [trees.flatten(result) for result in results]
    leaves = zip(*(leaves for leaves, _ in flat), strict=True)
    return flat[0][1].build([torch.cat(parts, axis) for parts in leaves])


def _joined_aux(parts: list[Any], sizes: list[int]) -> Any:
    flat = [trees.flatten(part) for part in parts]
    structure = flat[0][1]
    if any(other != structure for _, other in flat):
        raise ShapeError("aux is built in another way for one block of samples than for another; " + _AUX_WAY_OUT)
    paths = structure.paths("aux")
    leaves = zip(paths, zip(*(leaves for leaves, _ in flat), strict=True), strict=True)
    return structure.build([_joined_leaf(path, leaf, sizes) for path, leaf in leaves])


def _joined_leaf(path: str, parts: Sequence[Any], sizes: list[int]) -> Any:
    if not isinstance(parts[0], torch.Tensor):
        if any(part != parts[0] for part in parts):
            raise ShapeError(f"{path} is {parts[0]!r} for one block of samples and not for another; {_AUX_WAY_OUT}")
        return parts[0]
    for part, size in zip(parts, sizes, strict=True):
        if part.dim() == 0 or len(part) != size:
            raise ShapeError(
                f"{path} has shape {tuple(part.shape)} for a block of {size} samples, so its blocks cannot be joined; "
                f"{_AUX_WAY_OUT}"
            )
    return torch.cat(list(parts))


_AUX_WAY_OUT = "return aux with the samples in front, or leave out sample_chunk_size"

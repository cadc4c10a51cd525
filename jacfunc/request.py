"""What is wanted, checked: options, arguments flattened into leaves, shapes known.  Refuses before any work.

``Request.evaluate`` is the function as a route sees it, from the differentiated leaves to the output leaves.
Which route runs, and how, is decided in ``plan.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from . import trees
from .captured import Captured, tensor_signature
from .errors import ArgumentError, ArgumentTypeError, ShapeError
from .functional import FunctionalModule, LiveModule
from .levels import compiling, recording
from .slots import call_guarded

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]
Method = Literal["auto", "forward", "reverse"]
METHODS = ("auto", "forward", "reverse")


@dataclass(frozen=True)
class Options:
    """The keywords that all transforms share, checked when the transform is made."""

    argnums: int | tuple[int, ...] = -1
    batch_dims: int = 1
    method: Method = "auto"
    chunk_size: int | None = None
    has_aux: bool = False
    return_value: bool = False
    check: bool = True

    def __post_init__(self) -> None:
        numbers = self.argnums if isinstance(self.argnums, tuple) else (self.argnums,)
        if not numbers or not all(_is_int(number) for number in numbers):
            raise ArgumentTypeError(f"argnums={self.argnums!r} is not an int or a non-empty tuple of ints")
        if not _is_int(self.batch_dims) or self.batch_dims < 0:
            raise ArgumentError(f"batch_dims={self.batch_dims!r} is not the number of leading sample axes, 0 or more")
        if self.method not in METHODS:
            raise ArgumentError(f"method={self.method!r} is unknown; choose one of {', '.join(map(repr, METHODS))}")
        if self.chunk_size is not None and (not _is_int(self.chunk_size) or self.chunk_size < 1):
            raise ArgumentError(f"chunk_size={self.chunk_size!r} is not a number of rows, 1 or more, or None for all at once")
        for name in ("has_aux", "return_value", "check"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentTypeError(f"{name}={getattr(self, name)!r} is not a bool")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_function(f: Any) -> Callable[..., Any]:
    """``f`` itself, or a module as a function of its inputs alone."""
    if isinstance(f, nn.Module):
        return LiveModule(f)
    if not callable(f):
        raise ArgumentTypeError(f"f is a {type(f).__name__}; pass a function or an nn.Module")
    function: Callable[..., Any] = f
    return function


@dataclass(frozen=True)
class Outputs:
    """The outputs of one evaluation: how they are built, and what a plan depends on."""

    structure: trees.Structure
    shapes: tuple[Shape, ...]

    def paths(self) -> list[str]:
        """The name of every leaf."""
        return self.structure.paths("output")


class OutputsChanged(Exception):
    """The function gave outputs of other shapes than the remembered ones: plan again."""


@dataclass
class Argument:
    """One differentiated positional argument: its place in the call and its leaves among all leaves."""

    position: int
    structure: trees.Structure
    span: slice


@dataclass
class Request:
    """One call of a transform, checked."""

    function: Callable[..., Any]
    options: Options
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: Tensors = ()
    arguments: list[Argument] = field(default_factory=list)
    outputs: Outputs | None = None
    aux_structure: trees.Structure = trees.LEAF
    aux_leaves: list[Any] = field(default_factory=list)
    expected: Outputs | None = None

    def __post_init__(self) -> None:
        leaves: list[torch.Tensor] = []
        for position in self._positions():
            found, structure = trees.flatten(self.args[position])
            _check_input_leaves(found, structure, position, self.options.batch_dims)
            self.arguments.append(Argument(position, structure, slice(len(leaves), len(leaves) + len(found))))
            leaves += found
        self.leaves = tuple(leaves)
        self._check_batch()

    # ---------------------------------------------------------------- the arguments

    def _positions(self) -> Iterator[int]:
        count, seen = len(self.args), set()
        numbers = self.options.argnums if isinstance(self.options.argnums, tuple) else (self.options.argnums,)
        for number in numbers:
            position = number + count if number < 0 else number
            if not 0 <= position < count:
                raise ArgumentError(
                    f"argnums={number} selects nothing among the {count} positional arguments; "
                    "pass the tensor to differentiate by position, not by keyword"
                )
            if position in seen:
                raise ArgumentError(f"argnums={self.options.argnums} selects argument {position} twice; name each once")
            if position < self._state_arguments():
                raise ArgumentError(
                    f"argnums={number} selects the parameters (or buffers) of {self.function!r}, which carry no samples; "
                    "pass the input by position after them (for derivatives by parameters use torch.func.grad)"
                )
            seen.add(position)
            yield position

    def _state_arguments(self) -> int:
        function: Any = self.function
        while hasattr(function, "transformed"):
            function = function.transformed
        return function.state_arguments if isinstance(function, FunctionalModule) else 0

    def _check_batch(self) -> None:
        paths = self.input_paths
        for leaf, path in zip(self.leaves, paths(), strict=True):
            if tuple(leaf.shape[: self.options.batch_dims]) != self.batch:
                raise ShapeError(
                    f"{path} has sample axes {tuple(leaf.shape[: self.options.batch_dims])}, but {paths()[0]} has "
                    f"{self.batch}; all differentiated tensors need the same first {self.options.batch_dims} axes"
                )

    def input_paths(self) -> list[str]:
        """The name of every differentiated leaf."""
        return [path for argument in self.arguments for path in argument.structure.paths(f"args[{argument.position}]")]

    @property
    def batch(self) -> Shape:
        """The shape of the sample axes."""
        return tuple(self.leaves[0].shape[: self.options.batch_dims])

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """``I`` of every differentiated leaf."""
        return tuple(tuple(leaf.shape[self.options.batch_dims :]) for leaf in self.leaves)

    @cached_property
    def captured(self) -> Captured:
        """What the function is made of."""
        return Captured.by(self.function, self.batch)

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        """What the arguments look like, without the number of samples."""
        tree, structure = trees.flatten((self.args, self.kwargs))
        leaves = tuple(tensor_signature(t, self.batch) if isinstance(t, torch.Tensor) else _plain(t) for t in tree)
        return (structure, leaves, self.captured.training())

    # ---------------------------------------------------------------- the evaluation

    def evaluate(self, *leaves: torch.Tensor, others_copied: bool = False) -> tuple[Tensors, Tensors]:
        """Output leaves and aux tensors for these leaves in place of the differentiated ones.

        Copies go in, so that an in-place operation inside the function cannot reach the caller's tensors.
        """
        args = list(self.args)
        kwargs = self.kwargs
        if others_copied:
            first = self._state_arguments()
            args[first:] = trees.copied(args[first:])
            kwargs = trees.copied(kwargs)
        for argument in self.arguments:
            args[argument.position] = argument.structure.build([leaf.clone() for leaf in leaves[argument.span]])
        output = self._run(args, kwargs)
        aux: Tensors = ()
        if self.options.has_aux:
            output, aux = self._split_aux(output)
        flat, structure = trees.flatten(output)
        self._check_outputs(flat, structure)
        self.outputs = Outputs(structure, tuple(tuple(leaf.shape[self.options.batch_dims :]) for leaf in flat))
        if self.expected is not None and self.expected != self.outputs:
            raise OutputsChanged
        return tuple(flat), aux

    def _run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if compiling() or isinstance(self.function, FunctionalModule | LiveModule) or not self.captured.modules:
            return self.function(*args, **kwargs)
        return call_guarded(self.function, args, kwargs, self.captured.modules)

    def _split_aux(self, output: Any) -> tuple[Any, Tensors]:
        if not isinstance(output, tuple) or len(output) != 2:
            raise ArgumentTypeError(
                f"has_aux=True, but f returned a {type(output).__name__}; it must return a pair (output, aux)"
            )
        leaves, self.aux_structure = trees.flatten(output[1])
        self.aux_leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return output[0], tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    def aux(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The aux tree around these tensors."""
        remaining = iter(tensors)
        return self.aux_structure.build([next(remaining) if leaf is None else leaf for leaf in self.aux_leaves])

    def _check_outputs(self, leaves: Sequence[Any], structure: trees.Structure) -> None:
        for index, leaf in enumerate(leaves):
            problem = _output_problem(leaf, self.batch)
            if problem:
                path = structure.paths("output")[index]
                kind = ArgumentTypeError if problem.of_type else ShapeError
                hint = "" if problem.of_type or compiling() else _batch_first_hint(self.captured)
                raise kind(f"{path} {problem.text}{hint}")
        if not leaves:
            raise ArgumentTypeError("f returned no tensor; it must return a tensor or a tree of tensors")


@contextlib.contextmanager
def requested(function: Callable[..., Any], options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Request]:
    """A checked request, in a mode in which derivatives can be taken."""
    with recording() as left_inference:
        request = Request(function, options, args, kwargs)
        if not compiling() and (left_inference or any(tensor.is_inference() for tensor in request.leaves)):
            request = Request(function, options, trees.copied(args), trees.copied(kwargs))
        yield request


def _plain(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return (type(value), id(value))
    return (type(value), value)


def _check_input_leaves(leaves: Sequence[Any], structure: trees.Structure, position: int, batch_dims: int) -> None:
    if not leaves:
        raise ArgumentTypeError(f"args[{position}] holds no tensor; argnums must select a floating-point tensor or a tree of them")
    for index, leaf in enumerate(leaves):
        problem = _input_problem(leaf, batch_dims)
        if problem:
            path = structure.paths(f"args[{position}]")[index]
            raise (ArgumentTypeError if problem.of_type else ShapeError)(f"{path} {problem.text}")


@dataclass(frozen=True)
class _Problem:
    of_type: bool
    text: str


def _input_problem(leaf: Any, batch_dims: int) -> _Problem | None:
    if not isinstance(leaf, torch.Tensor):
        return _Problem(True, f"is a {type(leaf).__name__}, not a tensor; {_way_out(leaf)}")
    if leaf.is_complex():
        return _Problem(True, f"is complex ({leaf.dtype}); pass its real view (torch.view_as_real) instead")
    if not leaf.is_floating_point():
        return _Problem(True, f"has dtype {leaf.dtype}, by which nothing can be differentiated; convert it with .to(torch.float32)")
    if leaf.layout != torch.strided:
        return _Problem(True, f"has layout {leaf.layout}; convert it with .to_dense()")
    if leaf.dim() < batch_dims:
        return _Problem(False, f"has shape {tuple(leaf.shape)}, too few axes for batch_dims={batch_dims}; for one sample use batch_dims=0")
    return None


def _output_problem(leaf: Any, batch: Shape) -> _Problem | None:
    if not isinstance(leaf, torch.Tensor):
        return _Problem(True, f"is a {type(leaf).__name__}, not a tensor; return it as aux (has_aux=True), or {_way_out(leaf)}")
    if leaf.is_complex():
        return _Problem(True, f"is complex ({leaf.dtype}); return its real view (torch.view_as_real) instead")
    if not leaf.is_floating_point():
        return _Problem(True, f"has dtype {leaf.dtype}, which cannot be differentiated; return it as aux (has_aux=True)")
    shape = tuple(leaf.shape)
    if shape[: len(batch)] == batch:
        return None
    if not shape:
        return _Problem(False, f"is a scalar, but a batch of {batch} samples went in; return one value for each sample (do not reduce over the batch), or use batch_dims=0")
    return _Problem(False, f"has shape {shape}, whose first axes are not the batch {batch} of the input; return one result for each sample, or set batch_dims")


def _way_out(leaf: Any) -> str:
    if isinstance(leaf, bool | int | float | complex) or type(leaf).__module__ == "numpy":
        return "make it one with torch.as_tensor"
    name = type(leaf).__name__
    return f"make {name} a tree with optree.register_pytree_node({name}, flatten, unflatten, namespace={trees.NAMESPACE!r})"


def _batch_first_hint(captured: Captured) -> str:
    for module in captured.tree():
        if getattr(module, "batch_first", True) is False:
            return f" ({type(module).__name__} has batch_first=False: make it with batch_first=True)"
    return ""

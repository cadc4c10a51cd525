"""What is wanted, checked: options, arguments flattened into leaves, shapes known.  Refuses before any work.

``Request.evaluate`` is the function as a route sees it, from the differentiated leaves to the output leaves.
Which route runs, and how, is decided in ``plan.py``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..core import trees
from ..core.levels import compiling, fixed, inside_transform, recording
from ..core.subclasses import dressed_all, is_own, undressed
from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from ..evaluation.corrections import Beside, corrected, refuse_unseen
from ..evaluation.rng import GENERATORS, Draw
from ..evaluation.scripted import plainly
from ..jet import CannotFollowError, Jet
from ..jet.frame import Frame
from ..jet.values import replaced
from ..jet.within import value_within
from ..modules.fingerprint import Captured, tensor_signature
from ..modules.functional import FunctionalModule, LiveModule
from ..modules.swapping import call_guarded
from ..options import Options
from .refusals import Fits, check_inputs, check_outputs, other_arguments, refuse_classes, refuse_compiled, refuse_jets

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]


def as_function(f: Any) -> Callable[..., Any]:
    """``f`` itself, or a module as a function of its inputs alone."""
    if isinstance(f, nn.Module):
        return f if compiling() else LiveModule(f)  # a forward that writes to a buffer is refused while compiling
    if isinstance(f, type):
        raise ArgumentTypeError(f"f is the class {f.__name__}; pass an instance of it, {f.__name__}(...)")
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


class OutputsChangedError(Exception):
    """The function gave outputs of other shapes than the remembered ones: plan again."""


@dataclass
class Argument:
    """One differentiated positional argument, and its leaves among all; ``worn`` as they came in, of their classes."""

    position: int
    structure: trees.Structure
    span: slice
    worn: Tensors = ()

    def build(self, leaves: Sequence[Any]) -> Any:
        """The argument for f, its tensors of the classes that ``worn`` has, if any."""
        return self.structure.build(dressed_all(leaves, self.worn))


@dataclass
class Request:
    """One call of a transform, checked.

    ``batch`` is the shape of the sample axes, ``input_shapes`` is ``I`` of every differentiated leaf;
    ``differentiates`` is set where f itself takes ``torch.autograd.grad`` by its input, and so needs a graph,
    ``scripted`` where it calls scripted code;
    ``state_arguments`` are how many leading arguments are parameters (and buffers), not data; ``plan`` is that of an
    earlier call of the same kind (``fast_path.py``).  Inside a function that jets go through, ``within`` is their
    frame, ``given`` are the arguments with them, and ``args``, ``kwargs`` and ``leaves`` are values.
    """

    function: Callable[..., Any]
    options: Options
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    traced: bool = False
    leaves: Tensors = ()
    batch: Shape = ()
    input_shapes: tuple[Shape, ...] = ()
    arguments: list[Argument] = field(default_factory=list)
    outputs: Outputs | None = None
    aux_structure: trees.Structure | None = None
    aux_leaves: list[Any] = field(default_factory=list)
    expected: Outputs | None = None
    differentiates: bool = False
    scripted: bool = False
    state_arguments: int = 0
    plan: Any = None
    within: Frame | None = None
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    _captured: Captured | None = None
    _signature: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        self.state_arguments = _state_arguments(self.function)
        if self.state_arguments and self.args and type(self.args[0]) is torch.Tensor:
            raise ArgumentTypeError(
                f"args[0] is a Tensor, but {self.function!r} takes its parameters first; pass the dict of names to "
                "tensors that make_functional returned, and then the input"
            )
        leaves: list[torch.Tensor] = []
        for position in self._positions():
            found, structure = trees.flatten(self.args[position])
            refuse_jets(found)
            check_inputs(found, structure, position, self.options.batch_dims, self.instead)
            worn = tuple(found) if any(map(is_own, found)) else ()
            if worn and self.options.compile:
                refuse_compiled(found, structure.paths(f"args[{position}]"))
            self.arguments.append(Argument(position, structure, slice(len(leaves), len(leaves) + len(found)), worn))
            leaves += map(undressed, found) if worn else found
        self.leaves = tuple(leaves)
        axes = self.options.batch_dims
        self.batch = tuple(leaves[0].shape[:axes])
        self.input_shapes = tuple([self._sample_shape(leaf) for leaf in leaves])
        if len(leaves) > 1:
            self._check_batch()

    def without_arguments(self, plan: Any) -> Request:
        """What is the same in another call of its kind, and its plan."""
        kept = Request.__new__(Request)
        kept.__dict__.update(self.__dict__, args=(), kwargs={}, leaves=(), aux_leaves=[], aux_structure=None)
        kept.plan, kept.expected, kept.scripted, kept.differentiates = plan, plan.outputs, plan.scripted, False
        return kept

    def of(self, args: tuple[Any, ...]) -> Request:
        """That of another call of its kind, of which one argument is differentiated, a tensor."""
        again = Request.__new__(Request)
        again.__dict__.update(self.__dict__)
        again.args, again.leaves = args, (args[self.arguments[0].position],)
        return again

    # ---------------------------------------------------------------- the arguments

    def given_leaves(self) -> tuple[Any, ...]:
        """The differentiated leaves as they were given, jets among them."""
        args = self.args if self.given is None else self.given[0]
        return tuple([leaf for argument in self.arguments for leaf in trees.flatten(args[argument.position])[0]])

    def _positions(self) -> list[int]:
        count, positions = len(self.args), []
        for number in self.options.numbers:
            position = number + count if number < 0 else number
            if self.traced and position >= 0:  # torch.compile would let it vary after another transform's
                (position,) = fixed((position,))
            if not self.state_arguments <= position < count or position in positions:
                self._refuse_position(number, position, count)
            positions.append(position)
        return positions

    def _refuse_position(self, number: int, position: int, count: int) -> None:
        if not 0 <= position < count:
            raise ArgumentError(
                f"argnums={number} selects nothing among the {_counted(count)}; "
                "pass the tensor to differentiate by position, not by keyword"
            )
        if position >= self.state_arguments:
            raise ArgumentError(f"argnums={self.options.argnums} selects argument {position} twice; name each once")
        if count <= self.state_arguments:
            raise ArgumentError(
                f"argnums={number} selects the parameters (or buffers) of {self.function!r}: only "
                f"{_counted(count)} came in; pass the parameters and then the input, by position"
            )
        raise ArgumentError(
            f"argnums={number} selects the parameters (or buffers) of {self.function!r}, which carry no "
            "samples; pass the input by position after them, or use torch.func.grad"
        )

    def instead(self, fits: Fits) -> str:
        """The end of a sentence that refuses an argument: which others fit, to be selected by ``argnums``."""
        count = len(self.args)
        numbers = self.options.numbers
        alone = numbers[0] % count if len(numbers) == 1 else None  # one of several may fit by itself
        others = [number for number in range(self.state_arguments, count) if number != alone]
        return other_arguments(self.args, others, self.options.batch_dims, fits)

    def _check_batch(self) -> None:
        for index, leaf in enumerate(self.leaves):
            if tuple(leaf.shape[: self.options.batch_dims]) != self.batch:
                paths = self.input_paths()
                raise ShapeError(
                    f"{paths[index]} has sample axes {tuple(leaf.shape[: self.options.batch_dims])}, but {paths[0]} "
                    f"has {self.batch}; all differentiated tensors need the same first {self.options.batch_dims} axes"
                )

    def _sample_shape(self, tensor: Any) -> Shape:
        shape = tuple(tensor.shape[self.options.batch_dims :])
        return fixed(shape) if self.traced else shape

    @property
    def inference(self) -> bool:
        """Whether a tensor to differentiate by was made in inference mode."""
        return any(tensor.is_inference() for tensor in self.leaves)

    def input_paths(self) -> list[str]:
        """The name of every differentiated leaf."""
        return [path for argument in self.arguments for path in argument.structure.paths(f"args[{argument.position}]")]

    @property
    def captured(self) -> Captured:
        """What the function is made of."""
        if self._captured is None:
            self._captured = Captured.by(self.function, self.batch)
        return self._captured

    @property
    def signature(self) -> tuple[Any, ...]:
        """What the arguments look like, without the number of samples.

        The parameters of ``make_functional`` have the shapes of the module's own, which is part of what is captured.
        """
        if self._signature is None:
            given = self.args if not self.state_arguments else self.args[self.state_arguments :]
            parts = tuple([self._argument_signature(argument) for argument in given])
            named = self._argument_signature(self.kwargs) if self.kwargs else None
            own = self.function if isinstance(self.function, FunctionalModule) else self.captured
            self._signature = (parts, named, own.shape())
        return self._signature

    def _argument_signature(self, argument: Any) -> Hashable:
        if isinstance(argument, torch.Tensor):
            return tensor_signature(argument, self.batch)
        if type(argument) is dict and all(isinstance(value, torch.Tensor) for value in argument.values()):
            batch = self.batch
            return (tuple(argument), tuple([tensor_signature(value, batch) for value in argument.values()]))
        tree, structure = trees.flatten(argument)
        refuse_jets(tree)
        return (
            structure,
            *(tensor_signature(t, self.batch) if isinstance(t, torch.Tensor) else _plain(t) for t in tree),
        )

    def draw(self) -> Draw:
        """The state of every random generator that the function may use."""
        given = (leaf for leaf in trees.flatten((self.args, self.kwargs))[0] if isinstance(leaf, GENERATORS))
        return Draw.capture(self.leaves, {id(item): item for item in [*self.captured.generators(), *given]}.values())

    # ---------------------------------------------------------------- the evaluation

    def evaluate(
        self, *leaves: Any, others_copied: bool = False, followed: bool = False
    ) -> tuple[tuple[Any, ...], Tensors]:
        """Output leaves and aux tensors for these leaves in place of the differentiated ones.

        Copies go in, so that an in-place operation inside the function cannot reach the caller's tensors.  Jets, for
        which ``followed`` is set, are never written to, and bring the corrections of operations themselves.
        """
        if followed:
            return self._followed(leaves, others_copied)
        args = list(self.args)
        kwargs = self.kwargs
        if others_copied:
            first = self.state_arguments
            args[first:] = trees.copied(args[first:])
            kwargs = trees.copied(kwargs)
        for argument in self.arguments:
            args[argument.position] = argument.build([leaf.clone() for leaf in leaves[argument.span]])
        with self._corrections() as corrections:
            output = self._run(args, kwargs)
        aux: Tensors = ()
        if self.options.has_aux:
            output, aux = self._split_aux(output)
        found, structure = trees.flatten(output)
        check_outputs(found, structure, self.batch, self._modules, self.instead)
        flat = list(map(undressed, found))
        refuse_unseen(flat, corrections)
        self.outputs = Outputs(structure, tuple([self._sample_shape(leaf) for leaf in flat]))
        if self.expected is not None and self.expected != self.outputs:
            raise OutputsChangedError
        return tuple(flat), aux

    def _followed(self, jets: Sequence[Any], others_copied: bool) -> tuple[tuple[Any, ...], Tensors]:
        own, kwargs = self.given or (self.args, self.kwargs)
        args = list(own)
        if self.plan is None:  # else they are plain tensors, as of the earlier call
            refuse_classes((*args[self.state_arguments :], *kwargs.values()))
        copies: list[torch.Tensor] = []
        if others_copied:
            first = self.state_arguments
            args[first:], kwargs = trees.copied(args[first:]), trees.copied(kwargs)
            copies = trees.tensors((args[first:], kwargs))
        for argument in self.arguments:
            args[argument.position] = argument.structure.build(jets[argument.span])
        inside = inside_transform()
        if inside or (others_copied and not jets[0].propagation.quiet):  # what is without jets is differentiated too
            with self._corrections() if inside else Beside():
                output = self._followed_by_function(args, kwargs)
        else:
            output = self._followed_by_function(args, kwargs)
        if any(not copy.is_inference() and copy._version for copy in copies):
            raise CannotFollowError("an argument that is changed in place")
        aux: Tensors = ()
        if self.options.has_aux:
            output, aux = self._split_aux(output)
        expected = self.expected or self.outputs
        if type(output) is Jet and expected is not None and expected.structure is trees.LEAF:
            if tuple(output.shape) != (*self.batch, *expected.shapes[0]):
                raise OutputsChangedError
            self.outputs = expected
            return (output,), aux
        flat, structure = ([output], trees.LEAF) if type(output) is Jet else trees.flatten(output)
        if any(type(leaf) is not Jet and not isinstance(leaf, torch.Tensor) for leaf in flat):
            raise CannotFollowError("f returned something else for jets than for tensors")
        outputs = Outputs(structure, tuple([self._sample_shape(leaf) for leaf in flat]))
        batch = all(tuple(leaf.shape[: self.options.batch_dims]) == self.batch for leaf in flat)
        if outputs != expected or not batch:
            raise OutputsChangedError
        self.outputs = outputs
        return tuple(flat), aux

    def _followed_by_function(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if type(self.function) is FunctionalModule and not self.traced and not self.scripted:
            return self.function.followed(*args, **kwargs)
        return self._run(args, kwargs)

    def _corrections(self) -> contextlib.AbstractContextManager[Any]:
        # Plain layers have nothing to correct, and a compiled function would enter the mode at every call.
        alone = self.traced and getattr(self.function, "of_plain_layers", False)
        return contextlib.nullcontext() if alone else corrected()

    def first_values(self, draw: Draw) -> Tensors:
        """The outputs of a plain forward at the leaves of this call, from ``draw``."""
        try:
            return self.values(self.leaves)
        except RuntimeError as error:
            if "does not require grad" not in str(error) or inside_transform():
                raise
            draw.restore()
            self.differentiates = True
            return self.values(self.leaves)

    def values(self, leaves: Sequence[torch.Tensor]) -> Tensors:
        """The outputs of a plain forward at these leaves, without a graph, nothing of the caller's changed."""
        if self.differentiates:
            with torch.enable_grad():
                outputs, _ = self.evaluate(*(leaf.detach().requires_grad_() for leaf in leaves), others_copied=True)
            return tuple(output.detach() for output in outputs)
        with torch.no_grad():
            outputs, _ = self.evaluate(*(leaf.detach() for leaf in leaves), others_copied=True)
        return outputs

    def _modules(self) -> list[nn.Module]:
        return [] if self.traced else list(self.captured.tree())

    def _run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if not self.scripted:
            return self._guarded(args, kwargs)
        with plainly():
            return self._guarded(args, kwargs)

    def _guarded(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if compiling() or isinstance(self.function, FunctionalModule | LiveModule) or not self.captured.modules:
            return self.function(*args, **kwargs)
        return call_guarded(self.function, args, kwargs, self.captured.modules)

    def _split_aux(self, output: Any) -> tuple[Any, Tensors]:
        if not isinstance(output, tuple) or len(output) != 2:
            raise ArgumentTypeError(
                f"has_aux=True, but f returned a {type(output).__name__}; it must return a pair (output, aux)"
            )
        found, self.aux_structure = trees.flatten(output[1])
        leaves = [replaced(leaf, functools.partial(value_within, self.within)) for leaf in found]
        self.aux_leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return output[0], tuple(undressed(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))

    def aux(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The aux tree around these tensors."""
        assert self.aux_structure is not None
        remaining = iter(tensors)
        return self.aux_structure.build([next(remaining) if leaf is None else leaf for leaf in self.aux_leaves])


@contextlib.contextmanager
def requested(
    function: Callable[..., Any], options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Request]:
    """A checked request, in a mode in which derivatives can be taken."""
    with recording() as left_inference:
        request = Request(function, options, args, kwargs)
        if left_inference or request.inference:
            request = Request(function, options, trees.copied(args), trees.copied(kwargs))
        yield request


def _state_arguments(function: Any) -> int:
    while hasattr(function, "transformed"):
        function = function.transformed
    return function.state_arguments if isinstance(function, FunctionalModule) else 0


def _counted(count: int) -> str:
    return f"{count} positional argument{'' if count == 1 else 's'}"


def _plain(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return (type(value), id(value))
    return (type(value), value)

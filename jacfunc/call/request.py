"""What is wanted, checked: options, arguments flattened into leaves, shapes known.  Refuses before any work.

A request does not change, and evaluates nothing: that is ``evaluator.py``.  Which route runs is decided in ``plan.py``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ..core import trees
from ..core.levels import compiling, fixed, recording
from ..core.once import once
from ..core.reasons import a_type
from ..core.subclasses import dressed_all, is_own, undressed
from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from ..evaluation.rng import GENERATORS, RandomState
from ..jet.frame import Frame
from ..modules.fingerprint import Fingerprint, tensor_signature, unproxied
from ..modules.functional import FunctionalModule, LiveModule
from ..modules.wrappers import refuse_wrapper
from ..options import Options
from .refusals import Fits, check_inputs, other_arguments, refuse_compiled, refuse_jets

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]


def as_function(f: Any) -> Callable[..., Any]:
    """``f`` itself, or a module as a function of its inputs alone."""
    f = unproxied(f)
    if isinstance(f, nn.Module):
        if compiling():  # a forward that writes to a buffer is refused
            return f
        refuse_wrapper(f, "f")
        return LiveModule(f)
    if isinstance(f, type):
        raise ArgumentTypeError(f"f is the class {f.__name__}; pass an instance of it, {f.__name__}(...)")
    if isinstance(f, tuple) and f and isinstance(f[0], FunctionalModule):
        made = ", ".join(["params", "buffers"][: len(f) - 1])
        raise ArgumentTypeError(
            f"f is a tuple; make_functional returns (f, {made}), so write f, {made} = make_functional(...), and pass "
            f"{made} before the input"
        )
    if not callable(f):
        raise ArgumentTypeError(f"f is {a_type(f)}; pass a function or an nn.Module")
    function: Callable[..., Any] = f
    return function


class Argument(NamedTuple):
    """One differentiated positional argument, and its leaves among all; ``worn`` as they came in, of their classes."""

    position: int
    structure: trees.Structure
    span: slice
    worn: Tensors = ()

    def build(self, leaves: Sequence[Any]) -> Any:
        """The argument for f, its tensors of the classes that ``worn`` has, if any."""
        return self.structure.build(dressed_all(leaves, self.worn))


@dataclass(frozen=True, eq=False, init=False)
class Request:
    """One call of a transform, checked when it is made.

    Attributes:
        function: what is differentiated.
        options: the keywords of the transform.
        args: the positional arguments; values, inside a function that jets go through.
        kwargs: those by keyword.
        traced: whether ``torch.compile`` or its kin record the call.
        within: the frame of the jets that go through what this is a part of, if any do.
        given: the arguments with these jets in them.
        state_arguments: how many leading arguments are parameters (and buffers), not data.
        arguments: the differentiated arguments.
        leaves: all their leaves, plain tensors.
        batch: the shape of the sample axes.
        input_shapes: ``I`` of every differentiated leaf.
    """

    function: Callable[..., Any]
    options: Options
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    traced: bool
    within: Frame | None
    given: tuple[tuple[Any, ...], dict[str, Any]] | None
    state_arguments: int
    arguments: tuple[Argument, ...]
    leaves: Tensors
    batch: Shape
    input_shapes: tuple[Shape, ...]

    def __init__(
        self,
        function: Callable[..., Any],
        options: Options,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        traced: bool = False,
        within: Frame | None = None,
        given: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        own = self.__dict__  # written here only; as attributes of what is frozen they would take a small call's tenth
        own["function"], own["options"], own["args"], own["kwargs"] = function, options, args, kwargs
        own["traced"], own["within"], own["given"] = traced, within, given
        if fingerprint is not None:
            own["fingerprint"] = fingerprint
        own["state_arguments"] = state_arguments(function)
        if self.state_arguments and args and type(args[0]) is torch.Tensor:
            raise ArgumentTypeError(
                f"args[0] is a Tensor, but {function!r} takes its parameters first; pass the dict of names to "
                "tensors that make_functional returned, and then the input"
            )
        arguments: list[Argument] = []
        leaves: list[torch.Tensor] = []
        for position in self._positions():
            found, structure = trees.flatten(args[position])
            refuse_jets(found)
            check_inputs(found, structure, position, options.batch_dims, self.instead)
            worn = tuple(found) if any(map(is_own, found)) else ()
            if worn and options.compile:
                refuse_compiled(found, structure.paths(f"args[{position}]"))
            arguments.append(Argument(position, structure, slice(len(leaves), len(leaves) + len(found)), worn))
            leaves += map(undressed, found) if worn else found
        own["arguments"], own["leaves"] = tuple(arguments), tuple(leaves)
        own["batch"] = tuple(leaves[0].shape[: options.batch_dims])
        own["input_shapes"] = tuple([self.sample_shape(leaf) for leaf in leaves])
        if len(leaves) > 1:
            self._check_batch()

    def of_its_kind(self) -> Request:
        """What is the same in all calls of its kind, and keeps neither the function nor an argument alive."""
        another = object.__new__(Request)
        another.__dict__.update(self.__dict__, function=_gone, args=(), kwargs={}, leaves=())
        another.__dict__.pop("fingerprint", None)
        return another

    def of(
        self, function: Callable[..., Any], options: Options, args: tuple[Any, ...], fingerprint: Fingerprint
    ) -> Request:
        """That of another call of its kind, of which one argument is differentiated, a tensor; not checked again."""
        another = object.__new__(Request)
        own = another.__dict__
        own.update(self.__dict__)
        own["function"], own["options"], own["args"], own["fingerprint"] = function, options, args, fingerprint
        own["leaves"] = (args[self.arguments[0].position],)
        return another

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

    def beside(self, args: Sequence[Any]) -> list[Any]:
        """Of such arguments those that are not differentiated by, parameters in front."""
        positions = {argument.position for argument in self.arguments}
        return [item for place, item in enumerate(args) if place not in positions]

    def _refuse_position(self, number: int, position: int, count: int) -> None:
        if not count:
            before = "the parameters and then " if self.state_arguments else ""
            named = f" by position, only {' and '.join(self.kwargs)} by keyword" if self.kwargs else ""
            raise ArgumentError(f"no argument came in{named}; pass {before}the tensor to differentiate by position")
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

    def mapped(self) -> str:
        """How a function of one sample is written as one of the batch: ``in_dims`` for the arguments that came in."""
        positions = {argument.position for argument in self.arguments}
        count = len(self.args) - getattr(self.function, "added_arguments", 0)
        axes = [0 if place in positions or self._in_front(self.args[place]) else None for place in range(count)]
        return "torch.vmap(f)" if None not in axes else f"torch.vmap(f, in_dims=({', '.join(map(str, axes))}))"

    def _in_front(self, argument: Any) -> bool:
        """Whether an argument is a tensor with the batch in front."""
        return isinstance(argument, torch.Tensor) and tuple(argument.shape[: len(self.batch)]) == self.batch

    @property
    def of_module(self) -> bool:
        """Whether the function is a module."""
        return isinstance(self.function, FunctionalModule | LiveModule)

    def _check_batch(self) -> None:
        for index, leaf in enumerate(self.leaves):
            if tuple(leaf.shape[: self.options.batch_dims]) != self.batch:
                paths, found = self.input_paths(), tuple(leaf.shape[: self.options.batch_dims])
                one = [path for path, axes in ((paths[0], self.batch), (paths[index], found)) if set(axes) == {1}]
                expand = f"; expand {one[0]} if it is the same for all samples (t.expand(N, 1))" if one else ""
                raise ShapeError(
                    f"{paths[index]} has sample axes {found}, but {paths[0]} has {self.batch}; all differentiated "
                    f"tensors need the same first {self.options.batch_dims} axes{expand}"
                )

    def sample_shape(self, tensor: Any) -> Shape:
        """The shape of one sample of a tensor with the batch in front."""
        shape = tuple(tensor.shape[self.options.batch_dims :])
        return fixed(shape) if self.traced else shape

    @once
    def samples(self) -> int:
        """How many there are."""
        return math.prod(self.batch)

    @property
    def inference(self) -> bool:
        """Whether a tensor to differentiate by was made in inference mode."""
        return any(tensor.is_inference() for tensor in self.leaves)

    def input_paths(self) -> list[str]:
        """The name of every differentiated leaf."""
        return [path for argument in self.arguments for path in argument.structure.paths(f"args[{argument.position}]")]

    @once
    def fingerprint(self) -> Fingerprint:
        """What the function is made of."""
        return Fingerprint.by(self.function, self.batch)

    @once
    def signature(self) -> tuple[Any, ...]:
        """What the arguments look like, without the number of samples.

        The parameters of ``make_functional`` have the shapes of the module's own, which is part of the fingerprint.
        """
        given = self.args if not self.state_arguments else self.args[self.state_arguments :]
        parts = tuple([self._argument_signature(argument) for argument in given])
        named = self._argument_signature(self.kwargs) if self.kwargs else None
        own = self.function if isinstance(self.function, FunctionalModule) else self.fingerprint
        return (parts, named, own.shape())

    def numbers(self) -> tuple[object, ...]:
        """Numbers and strings, among the arguments and in the function, which signature and fingerprint leave out."""
        given = [leaf for leaf in trees.flatten((self.args, self.kwargs))[0] if type(leaf) is float]
        return (*given, *self.fingerprint.numbers)

    def look_again(self) -> None:
        """Forget what the arguments and the function look like: more of it is known now."""
        self.__dict__.pop("signature", None)

    @once
    def alone(self) -> bool:
        """Whether the function is an adapted module of plain layers, and nothing else runs in it."""
        return type(self.function) is FunctionalModule and self.signature[-1].alone is True

    @once
    def of_plain_layers(self) -> bool:
        """Whether the function is an adapted module of plain layers; asked once, since Dynamo traces all of it."""
        return isinstance(self.function, FunctionalModule) and self.function.of_plain_layers

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

    def random_state(self) -> RandomState:
        """The state of every random generator that the function may use."""
        given = (leaf for leaf in trees.flatten((self.args, self.kwargs))[0] if isinstance(leaf, GENERATORS))
        return RandomState.capture(
            self.leaves, {id(item): item for item in [*self.fingerprint.generators(), *given]}.values()
        )


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


def _gone(*args: Any, **kwargs: Any) -> Any:
    """In place of the function of a request that stands for all of its kind."""
    raise NotImplementedError


def state_arguments(function: Any) -> int:
    """How many leading arguments of a function are parameters (and buffers)."""
    while hasattr(function, "transformed"):
        function = function.transformed
    return function.state_arguments if isinstance(function, FunctionalModule) else 0


def _counted(count: int) -> str:
    return f"{count} positional argument{'' if count == 1 else 's'}"


def _plain(value: Any) -> Any:
    if type(value) is float:  # what runs tells those apart that matter; others may say how large an output is
        return float
    try:
        hash(value)
    except TypeError:
        return (type(value), id(value))
    return (type(value), value)

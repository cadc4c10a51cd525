"""What no leaf of an argument or output may be, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.masked import MaskedTensor

from ..core import trees
from ..core.levels import compiling, inside_vmap
from ..core.meshes import is_meshed
from ..core.nodes import NAMESPACE
from ..core.reasons import a_type
from ..core.subclasses import is_own
from ..errors import ArgumentTypeError, JacfuncError, ShapeError
from ..evaluation.rng import replayable
from ..jet import CannotFollowError, Jet

Shape = tuple[int, ...]
Modules = Callable[[], Sequence[nn.Module]]
Problem = tuple[type[JacfuncError], str]
"""The class of an error, and what it says after the path of the leaf."""
Fits = Callable[[trees.Structure, list[Shape]], bool]
"""Whether an argument, by its structure and the shapes of its leaves, would have been right."""
Instead = Callable[[Fits], str]
"""The end of a sentence: which other arguments fit."""


class Requested(Protocol):
    """What was asked for: the part of a request that is told of outputs."""

    @property
    def batch(self) -> Shape:
        """The shape of the sample axes."""

    def instead(self, fits: Fits) -> str:
        """The end of a sentence: which other arguments fit."""

    def mapped(self) -> str:
        """How a function of one sample is written as one of the batch."""


class JetsGivenError(CannotFollowError):
    """Jets where tensors were expected, which another transform sends through the function that this one is in."""


def refuse_jets(leaves: Sequence[Any]) -> None:
    """Refuse jets."""
    for leaf in leaves:
        if type(leaf) is Jet:
            raise JetsGivenError("a transform inside a function that jets go through")


def check_inputs(
    leaves: Sequence[Any], structure: trees.Structure, position: int, batch_dims: int, instead: Instead
) -> None:
    """Refuse an argument to differentiate by that is no tree of floating-point tensors with sample axes."""
    root = f"args[{position}]"
    if not leaves:
        raise ArgumentTypeError(
            f"{root} holds no tensor; argnums must select a tree of floating-point tensors{instead(_any_tree)}"
        )
    for leaf in leaves:
        if _input_problem(leaf, batch_dims) is not None:
            _refuse_first(leaves, structure, root, lambda leaf: _input_problem(leaf, batch_dims), instead(_any_tree))


def other_arguments(args: Sequence[Any], numbers: Sequence[int], batch_dims: int, fits: Fits) -> str:
    """The end of a sentence about arguments that cannot be differentiated by: those of ``numbers`` that can."""
    told = []
    for number in numbers:
        leaves, structure = trees.flatten(args[number])
        usable = leaves and all(_input_problem(leaf, batch_dims) is None for leaf in leaves)
        shapes = [tuple(leaf.shape) for leaf in leaves] if usable else []
        if usable and _of_samples(args[number], shapes, batch_dims) and fits(structure, shapes):
            shape = f"of shape {tuple(leaves[0].shape)}" if structure is trees.LEAF else f"({a_type(args[number])})"
            told.append(f"argnums={number} to differentiate by args[{number}] {shape}")
    return f", or pass {', or '.join(told)}" if told else ""


def _of_samples(argument: Any, shapes: Sequence[Shape], batch_dims: int) -> bool:
    """Whether an argument may carry samples: a dict mostly holds parameters, and samples lie in front everywhere."""
    return not isinstance(argument, Mapping) and len({shape[:batch_dims] for shape in shapes}) == 1


def _any_tree(structure: trees.Structure, shapes: list[Shape]) -> bool:
    return True


def refuse_classes(arguments: Sequence[Any]) -> None:
    """Let no jet stand for a tensor of a class of another library, nor meet one, which would not be asked."""
    if compiling():
        return
    for argument in arguments:
        if type(argument) is not torch.Tensor:
            for tensor in trees.tensors(argument):
                if is_own(tensor):
                    raise CannotFollowError(f"an argument of a class of its own ({type(tensor).__name__})")


def refuse_compiled(leaves: Sequence[Any], paths: Sequence[str]) -> None:
    """Refuse to compile for tensors of a class of another library, which Dynamo cannot make."""
    for leaf, path in zip(leaves, paths, strict=True):
        if is_own(leaf):
            raise ArgumentTypeError(
                f"{path} is {a_type(leaf)}, a class that torch.compile cannot give to f; pass the plain tensor, "
                "x.as_subclass(torch.Tensor), or leave compile=True out"
            )


def check_outputs(leaves: Sequence[Any], structure: trees.Structure, request: Requested, modules: Modules) -> None:
    """Refuse an output that is no tree of floating-point tensors with the batch in front."""
    if not leaves:
        raise ArgumentTypeError("f returned no tensor; it must return a tensor or a tree of tensors")
    others = any(_output_problem(leaf, request, modules) is None for leaf in leaves)
    wanted_only = ", or return only what is wanted, as in lambda x: f(x)[0]" if others else ""
    _refuse_first(leaves, structure, "output", lambda leaf: _output_problem(leaf, request, modules), wanted_only)


def _refuse_first(
    leaves: Sequence[Any],
    structure: trees.Structure,
    root: str,
    problem_of: Callable[[Any], Problem | None],
    advice: str = "",
) -> None:
    for index, leaf in enumerate(leaves):
        problem = problem_of(leaf)
        if problem is not None:
            kind, text = problem
            raise kind(f"{structure.paths(root)[index]} {text}{advice}")


CONVERT = "convert it with .to(torch.float32), or if it holds indices (token ids) differentiate by their embeddings"


def _input_problem(leaf: Any, batch_dims: int) -> Problem | None:
    if not isinstance(leaf, torch.Tensor):
        return ArgumentTypeError, (f"is {a_type(leaf)}, not a tensor; {_way_out(leaf)}")
    if (problem := _form_problem(leaf, "pass", CONVERT)) is not None:
        return problem
    if leaf.dim() < batch_dims:
        return ShapeError, (
            f"has shape {tuple(leaf.shape)}, too few axes for batch_dims={batch_dims}; {_around_hint()}for one sample "
            "use batch_dims=0" + ", if all samples share it expand it (t.expand(N))" * (leaf.dim() == 0)
        )
    return None


def _form_problem(leaf: torch.Tensor, hand: str, convert: str) -> Problem | None:
    """What no tensor may be that is differentiated or differentiated by."""
    text = None
    if leaf.is_complex():
        text = f"is complex ({leaf.dtype}); {hand} its real view (torch.view_as_real) instead"
    elif not leaf.is_floating_point():
        text = f"has dtype {leaf.dtype}, which cannot be differentiated; {convert}"
    elif leaf.dtype.itemsize == 1:
        text = f"has dtype {leaf.dtype}, which has no arithmetic; convert it with .to(torch.float16)"
    elif leaf.is_nested:
        text = "is a nested tensor; convert it with .to_padded_tensor(0.0)"
    elif is_meshed(leaf):  # the doors of transforms took it local; what came around them did not
        text = f"is a DTensor; {hand} this rank's own part of it (to_local()), or all of it (full_tensor())"
    elif type(leaf) is MaskedTensor:
        text = "is a masked tensor; convert it with .to_tensor(0.0)"
    elif leaf.layout != torch.strided:
        text = f"has layout {leaf.layout}; convert it with .to_dense()"
    elif leaf.device.type != "cpu":
        text = _device_problem(leaf.device, hand)
    return None if text is None else (ArgumentTypeError, text)


def _device_problem(device: torch.device, hand: str) -> str | None:
    if device.type == "meta":
        return f"is on the meta device and has no values; {hand} one on a real device"
    if replayable(device):
        return None
    return (
        f"is on device {str(device)!r}, whose random state torch can neither read nor set "
        f"(torch.{device.type}.get_rng_state and set_rng_state), so that no draw can be had again; "
        f"{hand} one on another device"
    )


def _output_problem(leaf: Any, request: Requested, modules: Modules) -> Problem | None:
    refuse_jets([leaf])
    if not isinstance(leaf, torch.Tensor):
        return ArgumentTypeError, (
            f"is {a_type(leaf)}, not a tensor; return it as aux (has_aux=True), or {_way_out(leaf)}"
        )
    if (problem := _form_problem(leaf, "return", "return it as aux (has_aux=True)")) is not None:
        return problem
    shape, batch = tuple(leaf.shape), request.batch
    if shape[: len(batch)] == batch:
        return None
    if not shape:
        return ShapeError, (
            f"is a scalar, but a batch of {batch} samples went in; {_around_hint()}return one value for each sample "
            f"instead of reducing over the batch{_one_sample_hint(request)}, or use batch_dims=0 for one sample"
        )
    # Inside a vmap, f has the wrong batch: another argument would give other numbers.
    others = "" if _around_hint() else request.instead(_in_front_of(shape[: len(batch)]))
    return ShapeError, (
        f"has shape {shape}, whose first axes are not the batch {batch} of the input; {_around_hint()}return one "
        f"result for each sample{_batch_first_hint(modules())}{_one_sample_hint(request)}, or "
        f"{'x[None] or batch_dims=0 for one sample' if len(batch) == 1 else 'set batch_dims'}"
        f"{_later_axis_hint(shape, batch)}{_segments_hint(shape, batch)}{others}"
    )


def _in_front_of(axes: Shape) -> Fits:
    return lambda _, inputs: all(own[: len(axes)] == axes for own in inputs)


def _around_hint() -> str:
    """For ``torch.vmap`` around a transform, as it is around ``torch.func.jacfwd``."""
    if compiling() or not inside_vmap():
        return ""
    return "drop the torch.vmap around this call if x is the batch there (a transform takes the whole batch), or "


def _one_sample_hint(request: Requested) -> str:
    """For functions as they are written for ``torch.func`` and JAX."""
    return f", or pass {request.mapped()} if f is a function of one sample" if len(request.batch) == 1 else ""


def _later_axis_hint(shape: Shape, batch: Shape) -> str:
    if len(batch) == 1 and batch[0] > 1 and batch[0] in shape:
        return f", or out_dims={shape.index(batch[0])} for samples that lie on a later axis"
    return ""


def _segments_hint(shape: Shape, batch: Shape) -> str:
    if len(batch) == 1 and 1 < shape[0] < batch[0] and shape[1:] in ((), (1,)):
        return ", or segments= (where a transform takes it) if each result is that of several rows, as of a molecule"
    return ""


def _way_out(leaf: Any) -> str:
    if isinstance(leaf, bool | int | float | complex) or type(leaf).__module__ == "numpy":
        return "make it one with torch.as_tensor"
    if isinstance(leaf, str | bytes):
        return "select a tensor with argnums"
    name = type(leaf).__name__
    if is_dataclass(leaf):
        return f"make {name} a tree with torch.export.register_dataclass({name})"
    register = f"optree.register_pytree_node({name}, flatten, unflatten, namespace={NAMESPACE!r})"
    return f"make {name} a tree with {register}"


def not_batch_first(module: nn.Module) -> bool:
    """Whether a recurrent or attention module takes its sequence axis first."""
    return getattr(module, "batch_first", True) is False


def _batch_first_hint(modules: Sequence[nn.Module]) -> str:
    for module in modules:
        if not_batch_first(module):
            return f" ({type(module).__name__} has batch_first=False: make it with batch_first=True)"
    return ""

"""Tensors of a device mesh (``DTensor``) at the door: inside there is what lies on this rank, and no other.

Samples are independent, so the derivatives of a rank's own samples are its part of all of them.  The arguments are
taken to be local, the transform runs as on any tensors, and its results are of the mesh again: no collective, neither
forward nor backward.  What all ranks have alike, such as parameters, gets from each the gradient of its own samples, a
DTensor that is ``Partial`` (``training/reducing.py`` adds it up).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..core import caches, trees
from ..core.levels import compiling, inside_transform
from ..core.meshes import DTENSOR, MODULES, any_meshed, is_meshed, told
from ..core.torch_private import DYNAMO
from ..core.warned import warn
from ..errors import ArgumentError, ArgumentTypeError, UnreducedGradientsWarning
from ..evaluation import checkpoint
from ..modules.fingerprint import Fingerprint
from ..modules.strangers import trained
from ..modules.swapping import Inventory, call_with, held, locked
from ..modules.wrappers import kind_of, refuse_wrappers, running
from ..options import Options

Call = Callable[..., Any]


def meshed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is to be made on this rank's own part of its arguments; to be asked where nothing is traced."""
    return DTENSOR in MODULES and any_meshed(args, kwargs)


def on_own_samples(
    transform: Any,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    numbers: tuple[int, ...] | None = None,
    beside: frozenset[int] = frozenset(),
) -> Any:
    r"""The result of a transform for arguments of a device mesh, of the mesh as well.

    .. math:: (D f)(x)_n = (D f)(x_{\mathrm{own}})_{n - n_0}, \qquad
        \nabla_\theta L = \sum_{\mathrm{ranks}} \nabla_\theta L_{\mathrm{own}}

    ``numbers`` are the differentiated arguments, by default those of the options; ``beside``: arguments that lie as
    these do, if they are cut at all.

    Raises:
        ArgumentTypeError: tensors of a mesh beside others where both carry samples, or a plain batch.
        ArgumentError: samples that are not cut along the first axis, or something else that is cut.
    """
    if compiling():
        raise ArgumentTypeError(
            "DTensors came in while torch.compile traces, which cannot take their local part; call the transform "
            "outside of what is compiled, or give it compile=True"
        )
    if inside_transform():
        refuse_meshed(
            args, kwargs, "torch.func (grad, vmap, jvp) has no derivative of taking its local part; use .backward()"
        )
    run: Call = _run
    if DYNAMO in MODULES:  # whose frame around this one may have been given up
        run = torch.compiler.disable(_run)  # type: ignore[no-untyped-call]
    return run(transform, options, args, kwargs, numbers or options.numbers, beside)


def _run(
    transform: Any,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    numbers: tuple[int, ...],
    beside: frozenset[int],
) -> Any:
    count = len(args)
    refuse_wrappers(Fingerprint.by(transform.transformed, ()).tree())
    own = {number % count for number in numbers if -count <= number < count}
    lie = _Lie.of(args, kwargs, own, options)
    local = _Local(lie)
    samples = own | _carrying(options, count, own)
    open_ = _open(transform, lie, args, kwargs)
    if open_:
        refuse_cut_samples((args, kwargs))
    given = tuple([local.argument(item, f"args[{at}]", at in samples, at in beside) for at, item in enumerate(args)])
    named = {name: local.argument(item, name, False, False) for name, item in kwargs.items()}
    call = _with_local_modules(transform, options, local)
    before, caches.ACCUMULATING.warned = caches.ACCUMULATING.warned, True
    try:
        with nullcontext() if call is transform else locked():
            result = call(*given, **named)
    finally:
        caches.ACCUMULATING.warned = before
    if open_:
        _warn_of_plain(result)
    return lie.whole(result, options)


def refuse_cut_samples(given: Any) -> None:
    """Inside of a wrapper refuse samples that are cut over ranks: their mean is that of all, and it takes one more."""
    cut: list[Any] = [each for each in trees.tensors(given) if is_meshed(each) and _is_cut(each)]
    around = running() if cut else []
    if around:
        raise ArgumentTypeError(
            f"the points are {told(cut[0])} inside of the forward of {kind_of(around[0])}, which adds up gradients of "
            "this rank's own points, while a loss of DTensors is that of all ranks; give it the rank's own points "
            "(x.to_local()), or leave the wrapper out (distribute_module(net, mesh), and reduce_gradients of "
            "jacfunc.training)"
        )


def _is_cut(tensor: Any) -> bool:
    return any(placement.is_shard() for placement in tensor.placements)


def _open(transform: Any, lie: _Lie, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it is to be asked who adds up gradients: at a first call with such arguments, in training."""
    if not lie.cut or not torch.is_grad_enabled() or caches.ACCUMULATING.now:
        return False
    made = Fingerprint.by(transform, ())
    signature = tuple([type(each) for each in trees.tensors((args, kwargs)) if each.requires_grad])
    if caches.WARNED.meshed.get(made.key, signature):
        return False
    if made.watchable:
        caches.WARNED.meshed.put(made.key, made.parts, signature, True)
    return True


def _warn_of_plain(result: Any) -> None:
    """Warn of what is trained and is no DTensor, whose gradient is that of the rank's own samples."""
    plain = [leaf for leaf in trained(result) if not is_meshed(leaf)]
    if plain:
        warn(
            f"the batch is cut over ranks, but {len(plain)} tensor{'s' * (len(plain) > 1)} trained by it "
            f"{'are plain' if len(plain) > 1 else 'is plain'} (one of shape {tuple(plain[0].shape)}), so their "
            "gradients will be of this rank's own samples, and nobody adds them up; make them DTensors "
            "(distribute_module(net, mesh)) and call jacfunc.training.reduce_gradients, or add them up by hand "
            "(torch.distributed.all_reduce) and filter this warning",
            UnreducedGradientsWarning,
        )


def refuse_meshed(args: Sequence[Any], kwargs: dict[str, Any], why: str) -> None:
    """Refuse a tensor of a mesh, one of which is among the arguments."""
    path, tensor = next(each for each in _all_named(args, kwargs) if is_meshed(each[1]))
    raise ArgumentTypeError(f"{path} is {told(tensor)}, but {why}; pass plain tensors (x.full_tensor())")


def _carrying(options: Options, count: int, own: set[int]) -> set[int]:
    """The arguments that ``in_dims`` says carry samples."""
    dims = options.in_dims
    return {at for at, dim in enumerate(dims) if dim == 0 and at < count} if isinstance(dims, tuple) else set()


# -------------------------------------------------------------------- how samples lie


@dataclass(frozen=True)
class _Lie:
    """How the ``count`` samples lie on a mesh, and what ``shared`` tensors there get for a gradient."""

    mesh: Any
    placements: tuple[Any, ...]
    shared: tuple[Any, ...]
    count: int
    path: str

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: dict[str, Any], own: set[int], options: Options) -> _Lie:
        """From the first differentiated tensor; refuses those that lie otherwise than the rank's own samples."""
        named = [each for at in sorted(own) for each in _named(args[at], f"args[{at}]")]
        first = next((each for each in named if is_meshed(each[1])), None)
        if first is None:
            _refuse_plain_batch(named, args, kwargs)
        path, tensor = first  # type: ignore[misc]  # the line before has raised
        for placement in tensor.placements:
            _refuse_placement(path, tensor, placement, options)
        module = MODULES[DTENSOR]
        shared = tuple([module.Partial() if p.is_shard() else p for p in tensor.placements])
        count = tensor.shape[0] if tensor.dim() else 1
        return cls(tensor.device_mesh, tuple(tensor.placements), shared, count, path)

    @property
    def cut(self) -> bool:
        """Whether other ranks have other samples."""
        return _is_cut(self)

    def whole(self, result: Any, options: Options) -> Any:
        """What the transform returned for the rank's own samples, as its part of the whole; aux is the rank's own."""
        if not options.has_aux:
            return trees.mapped(partial(self._joined, axis=options.out_axis), result)
        *others, aux = result
        return (*[trees.mapped(partial(self._joined, axis=options.out_axis), each) for each in others], aux)

    def _joined(self, tensor: torch.Tensor, axis: int) -> Any:
        module, shape = MODULES[DTENSOR], list(tensor.shape)
        placements = [module.Shard(axis) if p.is_shard() else p for p in self.placements]
        if self.cut:
            shape[axis] = self.count
        # Of the whole as it would be in one piece: ranks with fewer samples, or none, do not know it by themselves.
        stride = torch.empty(shape, device="meta").stride()
        own = tensor.contiguous()
        return module.DTensor.from_local(
            own, self.mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
        )


def _named(tree: Any, root: str) -> list[tuple[str, Any]]:
    leaves, structure = trees.flatten(tree)
    return list(zip(structure.paths(root), leaves, strict=True))


def _all_named(args: Sequence[Any], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    given = [(f"args[{at}]", item) for at, item in enumerate(args)]
    return [each for root, item in (*given, *kwargs.items()) for each in _named(item, root)]


def _refuse_plain_batch(named: list[tuple[str, Any]], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    path, tensor = next(each for each in _all_named(args, kwargs) if is_meshed(each[1]))
    batch = named[0][0] if named else "what is differentiated"
    raise ArgumentTypeError(
        f"{path} is {told(tensor)}, but {batch} is a plain tensor; pass the batch as a DTensor with placements "
        "[Shard(0)] (torch.distributed.tensor.distribute_tensor), or the parameters as plain tensors (.full_tensor()); "
        "of a module that fully_shard has sharded, compute the derivative inside of its forward (see jacfunc.nn)"
    )


def _refuse_placement(path: str, tensor: Any, placement: Any, options: Options) -> None:
    """Refuse samples that are not cut between one and the next."""
    module = MODULES[DTENSOR]
    if type(placement) is module.Replicate or (placement == module.Shard(0) and options.batch_dims):
        return
    if placement.is_partial():
        raise ArgumentError(
            f"{path} is {told(tensor)}, which ranks have yet to add up; pass x.redistribute(placements=[Shard(0)])"
        )
    if placement == module.Shard(0):
        raise ArgumentError(
            f"{path} is {told(tensor)}, but with batch_dims=0 it is one sample, which cannot be cut; pass "
            "x.redistribute(placements=[Replicate()]) or x.full_tensor()"
        )
    raise ArgumentError(
        f"{path} is {told(tensor)}, but samples are cut along their first axis only; pass "
        "x.redistribute(placements=[Shard(0)]) or x.full_tensor()"
    )


# -------------------------------------------------------------------- what lies on this rank


@dataclass(frozen=True)
class _Local:
    """The part of each tensor that this rank has, once for each tensor, in the graph."""

    lie: _Lie
    known: dict[int, tuple[Any, torch.Tensor]] = field(default_factory=dict)

    def argument(self, tree: Any, path: str, samples: bool, beside: bool) -> Any:
        """An argument with its tensors local; itself where none is of the mesh."""
        if not samples and not any(map(is_meshed, trees.tensors(tree))):
            return tree
        leaves, structure = trees.flatten(tree)
        paths = structure.paths(path)
        return structure.build(
            [self._leaf(leaf, path, samples, beside) for leaf, path in zip(leaves, paths, strict=True)]
        )

    def _leaf(self, leaf: Any, path: str, samples: bool, beside: bool) -> Any:
        if not is_meshed(leaf):
            if samples and isinstance(leaf, torch.Tensor):
                raise ArgumentTypeError(
                    f"{path} is a plain tensor, but {self.lie.path} is a DTensor, and both carry samples; pass both as "
                    "DTensors with placements [Shard(0)], or both as plain tensors (x.full_tensor())"
                )
            return leaf
        return self.of(leaf, path, samples or (beside and leaf.placements == self.lie.placements))

    def of(self, tensor: Any, path: str, samples: bool = False) -> torch.Tensor:
        """What this rank has of a tensor; refuses one of another mesh, or that lies otherwise than it must."""
        lie = self.lie
        if id(tensor) not in self.known:
            if tensor.device_mesh != lie.mesh:
                raise ArgumentError(
                    f"{path} is on the device mesh {tensor.device_mesh}, but {lie.path} on {lie.mesh}; put both on one"
                )
            if samples and tuple(tensor.placements) != lie.placements:
                raise ArgumentError(
                    f"{path} is {told(tensor)}, but {lie.path} lies otherwise, and both carry samples; redistribute "
                    "one as the other, x.redistribute(placements=other.placements)"
                )
            if not samples and not all(placement.is_replicate() for placement in tensor.placements):
                raise ArgumentError(
                    f"{path} is {told(tensor)}, but f runs on the samples of this rank and needs all of it; pass "
                    "x.redistribute(placements=[Replicate()]) or x.full_tensor(), or say with in_dims that it carries "
                    "samples"
                )
            gradient = lie.placements if samples else lie.shared
            own = tensor.to_local(grad_placements=gradient)
            if own.requires_grad and not samples:
                # One that is laid out otherwise is copied by autograd, which torch 2.11 adds up for on the way.
                own.register_hook(torch.Tensor.contiguous)
            self.known[id(tensor)] = tensor, own
        return self.known[id(tensor)][1]

    def slots(self, slots: Sequence[Any], kind: str) -> dict[str, torch.Tensor]:
        """What a module is to hold for a call in place of its tensors, by their names."""
        found = held(slots)
        return {
            name: self.of(tensor, f"{kind} {name!r}, which f uses,") if is_meshed(tensor) else tensor
            for name, tensor in found.items()
        }


def _with_local_modules(transform: Any, options: Options, local: _Local) -> Call:
    """The transform while the modules in its function hold what this rank has of their tensors."""
    function = transform.transformed
    within = Fingerprint.by(transform, ()).modules + Fingerprint.by(function, ()).hidden
    call: Call = transform
    for module in within:
        inventory = Inventory.remembered(module)
        holds = [*held(inventory.parameters).values(), *held(inventory.buffers).values()]
        if not any(map(is_meshed, holds)):
            continue
        if options.compile and getattr(function, "state_arguments", 0) == 0:
            raise ArgumentTypeError(
                f"{type(module).__name__}, which f uses, has DTensors for parameters, which compile=True cannot "
                "exchange; pass them as arguments (f, params = make_functional(module)), or leave compile=True out"
            )
        parameters = local.slots(inventory.parameters, "the parameter")
        buffers = local.slots(inventory.buffers, "the buffer")
        call = partial(_holding, call, inventory, parameters, buffers)
    return call


def _again(function: Call, inventory: Inventory, parameters: Any, buffers: Any, /, *args: Any, **kwargs: Any) -> Any:
    with locked():
        return call_with(function, args, kwargs, inventory, parameters, buffers)


def _holding(call: Call, inventory: Inventory, parameters: Any, buffers: Any, /, *args: Any, **kwargs: Any) -> Any:
    # Whoever calls checkpoint: what runs again in the backward finds these tensors, and not those of the mesh.
    checkpoint.begin(lambda function: partial(_again, function, inventory, parameters, buffers))
    try:
        return call_with(call, args, kwargs, inventory, parameters, buffers)
    finally:
        checkpoint.end()

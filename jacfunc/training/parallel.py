"""Processes that share the points: which wrappers a loss runs, over whom its gradients are added up, and when.

Under ``DistributedDataParallel`` no block is reduced by the wrapper: the sums of all of them are, at the end, by one
collective that ranks with fewer blocks or none take part in as well.  What ``fully_shard`` made reduces by itself in
the last block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from ..core import caches, ranks
from ..core.meshes import is_meshed, told
from ..core.reasons import a_type
from ..core.torch_private import ready_to_run, sharded_groups, unsharded
from ..errors import ArgumentError, ArgumentTypeError, JacfuncError, UnsupportedOperationError
from ..modules.fingerprint import Fingerprint
from ..modules.wrappers import of_fsdp

ALONE = "alone"
"""What is passed as ``group`` for gradients of this rank only."""


@dataclass(frozen=True)
class Parallel:
    """What the losses run: wrappers, and parameters that this package reduces, in an order that all ranks share.

    ``groups`` are those over which numbers are added up, one after the other; empty for one process.  ``generators``
    are random generators of the losses' own.
    """

    groups: tuple[Any, ...] = ()
    wrapped: tuple[Any, ...] = ()
    sharding: tuple[Any, ...] = ()
    parameters: tuple[torch.Tensor, ...] = ()
    generators: tuple[Any, ...] = ()

    @classmethod
    def of(cls, losses: Sequence[Callable[..., Any]], group: Any, extra: Sequence[Any]) -> Parallel:
        """What is found in the losses and said by the user; refuses what cannot be told or reduced."""
        prints = [Fingerprint.by(loss, ()) for loss in losses]
        named = [module for module in extra if isinstance(module, nn.Module)]
        found = [module for each in prints for module in each.tree()]
        found += [module for root in named for module in root.modules()]
        modules = list({id(module): module for module in found}.values())
        wrapped, sharding = _wrappers(modules)
        sharded = {
            id(each.sharded_param) for one in sharding for group_ in sharded_groups(one) for each in group_.fsdp_params
        }
        sharded |= {id(each) for one in sharding for group_ in sharded_groups(one) for each in unsharded(group_)}
        leaves: list[torch.Tensor] = []
        for module in modules:
            leaves += module.parameters(recurse=False)
        leaves += [tensor for tensor in extra if isinstance(tensor, torch.Tensor)]
        parameters = {id(leaf): leaf for leaf in leaves if leaf.requires_grad and id(leaf) not in sharded}
        groups = _groups_of(group, wrapped, sharding)
        meshed = [leaf for leaf in parameters.values() if is_meshed(leaf)]
        if meshed and groups:
            raise UnsupportedOperationError(
                f"a parameter of shape {tuple(meshed[0].shape)} is {told(meshed[0])} that no fully_shard made, whose "
                "gradient accumulate does not add up; wrap the module by DistributedDataParallel or fully_shard, or "
                'pass group="alone"'
            )
        return cls(
            groups,
            tuple(wrapped),
            tuple(sharding),
            tuple(parameters.values()),
            tuple(generator for each in prints for generator in each.generators()),
        )

    def check_nothing_pending(self) -> None:
        """Refuse gradients that ``fully_shard`` holds since an earlier backward, which would be scaled with ours."""
        if any(_pending(group) for module in self.sharding for group in sharded_groups(module)):
            raise ArgumentError(
                "the module of fully_shard holds gradients of an earlier backward that are not reduced, by "
                "set_requires_gradient_sync(False); call accumulate in place of all backwards of a step, or let the "
                "last of the others reduce them before"
            )

    def averaged(self) -> list[torch.Tensor]:
        """The parameters of which ``DistributedDataParallel`` would reduce what is in ``.grad`` too."""
        found = {id(each) for ddp in self.wrapped for each in ddp.module.parameters()}
        return [parameter for parameter in self.parameters if id(parameter) in found]

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """Each of the numbers, added up over all ranks."""
        device = self.parameters[0].device if self.parameters else self._device()
        for group in self.groups:
            numbers = ranks.summed(numbers, device, group)
        return list(numbers)

    def any(self, answer: bool) -> bool:
        """Whether the answer is yes on any rank."""
        return self.summed([float(answer)])[0] > 0

    def raise_together(self, error: BaseException | None, numbers: Sequence[float]) -> list[float]:
        """The numbers added up; where there is an error on any rank it is raised there, and told on the others."""
        *total, failed = self.summed([*(numbers if error is None else [0.0] * len(numbers)), float(error is not None)])
        if error is not None:
            raise error
        if failed:
            raise JacfuncError("accumulate failed on another rank, which says why; no gradient was changed on any")
        return total

    def ranks(self) -> int:
        """How many processes share the points."""
        return math.prod(ranks.count(group) for group in self.groups)

    @property
    def rank(self) -> int:
        """The number of this process among those that share points."""
        return distributed.get_rank() if self.groups else 0

    def sharded(self) -> dict[int, tuple[torch.Tensor, float]]:
        """The parameters that ``fully_shard`` reduces, and what it divides their gradients by."""
        found = {}
        for module in self.sharding:
            for group in sharded_groups(module):
                divisor = group.gradient_divide_factor
                for each in group.fsdp_params:
                    mesh = each.sharded_param.device_mesh
                    found[id(each.sharded_param)] = (each.sharded_param, float(divisor or mesh.size()))
        return found

    def whole(self) -> set[int]:
        """The parameters that stand for sharded ones while a block runs, whose ``.grad`` is not ours."""
        return {id(each) for module in self.sharding for group in sharded_groups(module) for each in unsharded(group)}

    def reduce_next(self, wanted: bool) -> None:
        """Let what ``fully_shard`` made reduce its gradients in the next backward, or not yet."""
        for module in self.sharding:
            module.set_requires_gradient_sync(wanted, recurse=False)

    def forget(self) -> None:
        """Drop gradients that ``fully_shard`` holds and has not reduced."""
        for module in self.sharding:
            for group in sharded_groups(module):
                for each in group.fsdp_params:
                    each.unsharded_accumulated_grad = None
                for parameter in unsharded(group):
                    parameter.grad = None

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While it lasts, no wrapper reduces by itself; all that a forward does with other ranks is done before."""
        before = [[group.reduce_grads for group in sharded_groups(module)] for module in self.sharding]
        with ExitStack() as stack:
            # What is sharded runs on all ranks alike, and an error in it cannot be told in the end.
            stack.enter_context(_exchanged(caches.ACCUMULATING, "now", not self.sharding))
            for ddp in self.wrapped:
                ready_to_run(ddp)
                stack.enter_context(ddp.no_sync())
                stack.enter_context(_exchanged(ddp, "require_forward_param_sync", False))
                # Or the first backward of a static graph would reduce in spite of no_sync.
                stack.enter_context(_exchanged(ddp, "static_graph", False))
            try:
                yield
            finally:
                for module, wanted in zip(self.sharding, before, strict=True):
                    module.set_requires_gradient_sync(all(wanted), recurse=False)

    def _device(self) -> torch.device | str:
        for leaf, _ in self.sharded().values():
            return leaf.device
        return "cpu"


# -------------------------------------------------------------------- what is found in losses


def _wrappers(modules: Sequence[nn.Module]) -> tuple[list[Any], list[Any]]:
    """Those of ``DistributedDataParallel``, and what ``fully_shard`` made."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [], []
    if any(isinstance(module, of_fsdp("FullyShardedDataParallel")) for module in modules):
        raise UnsupportedOperationError(
            "the loss runs a FullyShardedDataParallel, which shards in a way that accumulate does not know; use "
            "torch.distributed.fsdp.fully_shard"
        )
    wrapped = [module for module in modules if isinstance(module, nn.parallel.DistributedDataParallel)]
    return wrapped, [module for module in modules if isinstance(module, of_fsdp("FSDPModule"))]


def _groups_of(group: Any, wrapped: Sequence[Any], sharding: Sequence[Any]) -> tuple[Any, ...]:
    """The process groups to add up over: those of the wrappers, or that of the user."""
    several = ranks.count() > 1
    found = [(ddp.process_group,) for ddp in wrapped]
    found += [
        _mesh_groups(each.sharded_param)
        for one in sharding
        for part in sharded_groups(one)
        for each in part.fsdp_params
    ]
    different = {tuple(tuple(distributed.get_process_group_ranks(one)) for one in groups) for groups in found}
    if group is not None:
        if found:
            raise ArgumentError("group was given, but the loss runs wrappers that have one; leave it out")
        return () if group == ALONE or not several else (group,)
    if len(different) > 1:
        raise UnsupportedOperationError(
            f"the losses run modules of {len(different)} different process groups, over which one mean does not exist; "
            "wrap them by one group, or accumulate the losses one by one"
        )
    if not found and several:
        raise ArgumentError(
            f"there are {ranks.count()} ranks, and no module that DistributedDataParallel or fully_shard made was "
            "found in the loss; pass it as modules=[..], or group=torch.distributed.group.WORLD to add up over all "
            'ranks without one, or group="alone" for the points and gradients of this rank (in a LightningModule the '
            "wrapped module is self.trainer.strategy.model)"
        )
    return found[0] if found else ()


def _mesh_groups(parameter: Any) -> tuple[Any, ...]:
    mesh, places = parameter.device_mesh, parameter.placements
    if mesh.ndim == 1 or (mesh.ndim == 2 and places[0].is_replicate() and places[1].is_shard()):
        return tuple(mesh.get_group(axis) for axis in range(mesh.ndim))
    raise UnsupportedOperationError(
        f"a parameter is placed by {places} on a mesh of {mesh.ndim} axes, as tensor-parallel ones are, and which "
        "ranks share points is not known; use fully_shard on a mesh of its own"
    )


def check_group(group: Any) -> None:
    """Refuse what is no process group, ``"alone"`` or None."""
    known = group is None or (isinstance(group, str) and group == ALONE)
    if not known and not (distributed.is_available() and isinstance(group, distributed.ProcessGroup)):
        what = repr(group) if isinstance(group, str | int) else a_type(group)
        raise ArgumentError(f'group={what} is not known; pass a process group, "alone" or None')


def is_extra(item: Any) -> bool:
    """Whether it can be one of the modules and tensors that a loss trains."""
    return isinstance(item, nn.Module | torch.Tensor)


def check_extra(modules: Any) -> Sequence[Any]:
    """What the user says that the losses run, a sequence of modules and tensors."""
    if not isinstance(modules, list | tuple) or not all(map(is_extra, modules)):
        raise ArgumentTypeError(f"modules={modules!r} is no list of modules and tensors; pass modules=[net]")
    return modules


def _pending(group: Any) -> bool:
    kept = any(each.unsharded_accumulated_grad is not None for each in group.fsdp_params)
    return kept or any(parameter.grad is not None for parameter in unsharded(group))


@contextmanager
def _exchanged(item: Any, name: str, value: Any) -> Iterator[None]:
    found = getattr(item, name)
    setattr(item, name, value)
    try:
        yield
    finally:
        setattr(item, name, found)

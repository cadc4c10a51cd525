"""Gradients of parameters on a device mesh, which each rank has of its own samples, added up over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed

from ..core.meshes import DTENSOR, MODULES, is_meshed
from ..core.reasons import a_type
from ..errors import ArgumentTypeError

Group = tuple[Any, torch.dtype, torch.device]


def reduce_gradients(parameters: Iterable[torch.Tensor]) -> None:
    r"""Add up the gradients of replicated parameters over all ranks, where each rank has those of its own samples.

    .. math:: \nabla_\theta L = \sum_{r} \nabla_\theta L_r

    Derivatives of a batch ``Shard(0)`` leave ``.grad`` of a parameter ``Replicate()`` with the placement ``Partial()``,
    since no collective runs in the backward.  After this it is ``Replicate()``, as an optimiser needs it.  All
    gradients of one mesh, dtype and device travel together, by one all-reduce.

    Args:
        parameters: those of a module.  Gradients that are not ``Partial`` stay as they are, plain ones too.  A rank
            that has no gradient of a parameter, as one without samples, adds zero to that of the others; on a mesh of
            several axes, where each gradient travels by itself, every rank needs one.

    Raises:
        ArgumentTypeError: an entry of ``parameters`` is no tensor.

    Every rank has to call it with the same parameters in the same order.

    Example:
        >>> import torch
        >>> from jacfunc.training import reduce_gradients
        >>> net = torch.nn.Linear(2, 1)
        >>> reduce_gradients(net.parameters())  # of no mesh: nothing to add up
    """
    groups: dict[Group, list[Any]] = {}
    for parameter in parameters:
        if not isinstance(parameter, torch.Tensor):
            raise ArgumentTypeError(
                f"parameters has {a_type(parameter)} in it; pass tensors, as module.parameters() has them"
            )
        if is_meshed(parameter) and parameter.requires_grad:
            group = (parameter.device_mesh, parameter.dtype, parameter.device)  # type: ignore[attr-defined]
            groups.setdefault(group, []).append(parameter)
    for (mesh, dtype, device), members in groups.items():
        if mesh.ndim == 1:
            _reduce_together(mesh, dtype, device, members)
        else:
            for parameter in members:
                _reduce_alone(parameter)


def _reduce_together(mesh: Any, dtype: torch.dtype, device: torch.device, parameters: Sequence[Any]) -> None:
    """Add up the partial gradients of parameters by one all-reduce."""
    own = [_partial(parameter.grad) for parameter in parameters]
    # Beside the numbers, on how many ranks each gradient is partial: one that no rank has is none afterwards too.
    asked = torch.tensor([each is not None for each in own], dtype=dtype, device=device)
    filled = [
        parameter.to_local().new_zeros(parameter.to_local().numel()) if each is None else each.reshape(-1)
        for parameter, each in zip(parameters, own, strict=True)
    ]
    total = torch.cat([asked, *(each.detach().to(dtype) for each in filled)])
    distributed.all_reduce(total, group=mesh.get_group())
    sums = torch.split(total[len(parameters) :], [each.numel() for each in filled])
    for parameter, number, flat in zip(parameters, total[: len(parameters)].tolist(), sums, strict=True):
        if number:
            reduced = flat.reshape(parameter.to_local().shape).clone()  # else each would keep all of them alive
            parameter.grad = MODULES[DTENSOR].DTensor.from_local(
                reduced, mesh, [MODULES[DTENSOR].Replicate()], run_check=False
            )


def _partial(gradient: Any) -> torch.Tensor | None:
    """What this rank has of a gradient that is to be added up; None of another one."""
    if not is_meshed(gradient) or gradient.placements[0] != MODULES[DTENSOR].Partial():
        return None
    own: torch.Tensor = gradient.to_local()
    return own


def _reduce_alone(parameter: Any) -> None:
    """Add up a gradient along every axis of a mesh along which it is partial."""
    if is_meshed(parameter.grad) and any(placement.is_partial() for placement in parameter.grad.placements):
        whole = [MODULES[DTENSOR].Replicate() if p.is_partial() else p for p in parameter.grad.placements]
        parameter.grad = parameter.grad.redistribute(placements=whole)

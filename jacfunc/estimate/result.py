"""What an estimate is: the number, how far it may be off, and of how many probes it was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optree
import torch

from ..core.nodes import NAMESPACE
from ..core.torch_private import register_tree


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimate by random probes; a tree of its two tensors, for ``torch.func``, ``torch.compile`` and ``optree``.

    Attributes:
        estimate: the number, which carries gradients; its expected value is what it is an estimate of.
        standard_error: how far that is off, about two times in three at most; NaN of a single probe.  It carries no
            gradient.
        probes: how many products with the Jacobian (or the Hessian) of each sample it took.
    """

    estimate: torch.Tensor
    standard_error: torch.Tensor
    probes: int

    @classmethod
    def of_terms(cls, terms: torch.Tensor, exact: torch.Tensor | None = None, probes: int | None = None) -> Estimate:
        """The mean over independent terms, which lie along the last axis, beside what is known exactly."""
        mean, count = terms.mean(-1), terms.shape[-1]
        own = terms.detach()
        error = own.std(-1) / math.sqrt(count) if count > 1 else torch.full_like(own[..., 0], math.nan)
        return cls(mean if exact is None else exact + mean, error, count if probes is None else probes)

    @classmethod
    def merged(cls, parts: Sequence[Estimate]) -> Estimate:
        """The estimate of the probes of several, each of two or more if there are several."""
        if len(parts) == 1:
            return parts[0]
        probes = sum(part.probes for part in parts)
        mean = torch.stack([part.estimate * (part.probes / probes) for part in parts]).sum(0)
        squares = torch.zeros_like(parts[0].standard_error)
        for part in parts:  # the squares of what each term is off, within its part and between the parts
            within = part.standard_error.square() * (part.probes * (part.probes - 1))
            squares = squares + within + part.probes * (part.estimate.detach() - mean.detach()).square()
        return cls(mean, (squares / (probes * (probes - 1))).sqrt(), probes)

    if not TYPE_CHECKING:  # which knows what there is

        def __getattr__(self, name: str) -> object:
            told = f"{type(self).__name__!r} object has no attribute {name!r}"
            of_tensors = name[0] != "_" and hasattr(torch.Tensor, name)
            raise AttributeError(f"{told}; the tensor is its .estimate" if of_tensors else told)

    def reshaped(self, shape: tuple[int, ...]) -> Estimate:
        """With both tensors in another shape."""
        return Estimate(self.estimate.reshape(shape), self.standard_error.reshape(shape), self.probes)


def _flatten(estimate: Estimate) -> tuple[list[Any], int]:
    return [estimate.estimate, estimate.standard_error], estimate.probes


def _unflatten(leaves: Any, probes: int) -> Estimate:
    estimate, standard_error = leaves
    return Estimate(estimate, standard_error, probes)


register_tree(Estimate, _flatten, _unflatten, serialized_type_name="jacfunc.Estimate")
optree.register_pytree_node(
    Estimate,  # type: ignore[arg-type]  # which is no collection
    _flatten,  # type: ignore[arg-type]
    lambda probes, leaves: _unflatten(leaves, probes),  # type: ignore[arg-type,return-value]
    namespace=NAMESPACE,
)

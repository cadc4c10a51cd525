"""A known call of a small network, replayed: its arithmetic alone, without request, route, jets and results on the way.

What a plan was found for is asked at each call as before (``fast_path.py``); a replay is kept beside the plan where
nothing but layers runs in it (``jet/stacked.py``), and gives the numbers that the plan would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..core import caches
from ..core.torch_private import mode_count
from ..jet.stacked import DTYPES, Network, small, tensors_of, undisturbed
from ..modules.functional import FunctionalModule
from ..options import Options
from .plan import Plan
from .request import Request


class Replay(NamedTuple):
    """The network of a call, and how wide its output is; ``alone``: the one result is all that is returned."""

    network: Network
    width: int
    alone: bool

    @classmethod
    def of(cls, request: Request, plan: Plan) -> Replay | None:
        """That of a call that went by this plan, where there is one."""
        function, options, findings = request.function, request.options, plan.findings
        picked = plan.quantity.picked
        if picked is None or type(function) is not FunctionalModule or not request.alone or not function.chain:
            return None
        if len(request.args) != 2 or findings.undifferentiable or findings.programs or not _plain(options):
            return None
        (value,) = request.leaves
        if not (plan.strategy.route.on_jets and plan.strategy.vectorised) :
            return None
        if value.dim() != 2 or value.dtype not in DTYPES or len(plan.outputs.shapes[0]) != 1:
            return None
        wanted = picked(plan.wanted, plan.outputs, value)
        if wanted is None:
            return None
        functions = small(function.chain, request.args[0], wanted.layout, len(value))
        if functions is None or len(functions) == len(function.chain):
            return None
        network = Network(wanted.layout, wanted.rows, functions, value.new_ones(1, 1, 1), wanted.picks)
        return cls(network, plan.outputs.shapes[0][0], wanted.alone)

    def again(self, function: FunctionalModule, params: Mapping[str, torch.Tensor], value: torch.Tensor) -> Any:
        """The results for these parameters and this input; None where something else has to give them."""
        if caches.AROUND.recorder is not None or mode_count() or not undisturbed():
            return None
        function.check(params)
        tensors: Any = tensors_of(function.chain, params, value)
        if tensors is None or tensors[-2].shape[0] != self.width:
            return None
        results = self.network.of(value, tensors)
        return results[0] if self.alone else results


def _plain(options: Options) -> bool:
    """Whether what is returned is the derivative alone, of all samples and rows at once, samples in front."""
    beside = options.return_value or options.has_aux or options.in_dims is not None or options.out_axis
    whole = options.chunk_size is None and options.batch_dims == 1
    return whole and not beside and isinstance(options.argnums, int)

"""A known call of a small network, replayed: its arithmetic alone, without request, route, jets and results on the way.

What a plan was found for is asked at each call as before (``fast_path.py``); a replay is kept beside the plan where
nothing but layers runs in it (``jet/stacked.py``), and gives the numbers that the plan would.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..core import caches
from ..core.torch_private import mode_count
from ..jet.network import Network
from ..jet.stacked import DTYPES, Layer, small, tensors_of, undisturbed
from ..modules.functional import FunctionalModule, LiveModule
from ..options import Options
from .plan import Plan
from .request import Request


class Replay(NamedTuple):
    """The network of a call, of which layers, and how wide its output is; ``alone``: the one result is all there is."""

    network: Network
    chain: list[Layer]
    width: int
    alone: bool

    @classmethod
    def of(cls, request: Request, plan: Plan) -> Replay | None:
        """That of a call that went by this plan, where there is one."""
        function, findings, picked = _adapted(request.function), plan.findings, plan.quantity.picked
        if function is None or not function.of_plain_layers or picked is None or not _is_plain(request):
            return None
        by_jets = plan.strategy.route.on_jets and plan.strategy.vectorised
        known = all(program.proved for program in findings.programs) and not findings.opaque
        if not (by_jets and known) or findings.undifferentiable or len(plan.outputs.shapes[0]) != 1:
            return None
        (value,) = request.leaves
        wanted = picked(plan.wanted, plan.outputs, value)
        functions = wanted and small(function.chain, function.parameters(), wanted.layout, len(value))
        if wanted is None or not functions or len(functions) == len(function.chain):
            return None
        network = Network(wanted.layout, wanted.rows, functions, value.new_ones(1, 1, 1), wanted.picks)
        return cls(network, function.chain, plan.outputs.shapes[0][0], wanted.alone)

    def again(self, function: Any, *args: Any) -> Any:
        """The results of a function for these arguments; None where something else has to give them."""
        if caches.AROUND.recorder is not None or mode_count() or not undisturbed():
            return None
        if type(function) is LiveModule:
            function = function.function
            if not function.of_plain_layers:  # which the kind of a call says of adapted modules only
                return None
            params, value = function.parameters(), args[0]
        else:
            params, value = args
            function.check(params)
        if function.chain != self.chain:  # the same modules in another order
            return None
        tensors: Any = tensors_of(self.chain, params, value)
        if tensors is None or tensors[-2].shape[0] != self.width:
            return None
        results = self.network.of(value, tensors)
        return results[0] if self.alone else results


def _adapted(function: Any) -> FunctionalModule | None:
    """The adapter of a module that is all that a function is."""
    adapter = function.function if type(function) is LiveModule else function
    return adapter if type(adapter) is FunctionalModule else None


def alone(options: Options) -> bool:
    """Whether the derivative alone is returned, by one argument, of all samples and rows at once; asked at each call.

    A plan, and so a replay, may have been found by a transform that returns something else beside.
    """
    if options.return_value or options.has_aux or options.in_dims is not None or options.out_dims:
        return False
    return options.chunk_size is None and options.batch_dims == 1 and type(options.argnums) is int


def _is_plain(request: Request) -> bool:
    """Whether a call is by the one argument beside parameters, a matrix of samples."""
    value, count = request.leaves[0], 1 + request.state_arguments
    return alone(request.options) and len(request.args) == count and value.dim() == 2 and value.dtype in DTYPES

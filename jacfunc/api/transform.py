"""What a transform is: a function of the same arguments that ``explain`` can ask about; and how one is made.

Arguments are checked in ``request.py``, the route is chosen in ``plan.py``.  Which transforms there are is in
``transforms.py`` and its neighbours.
"""

# What a transform returns is told by the overloads of who makes it, from the type of f; below here nothing knows it.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Generic

import torch
from torch import nn

from ..call.compiled import call_compiled
from ..call.entrance import Entrance
from ..call.fast_path import NOTHING, Known, known_call, remember_call
from ..call.inside import followed
from ..call.known import Ran
from ..call.plan import Plan
from ..call.quantity import Quantity
from ..call.refusals import JetsGivenError
from ..call.request import Request, as_function, requested
from ..call.run import run
from ..call.sample_chunks import Blocks, cut_arguments
from ..core.keywords_only import keywords_only
from ..core.levels import tracing
from ..core.reasons import add_note, name_of
from ..core.type_variables import TypeVar
from ..errors import JacfuncError
from ..keywords import Keywords
from ..modules.functional import FunctionalModule
from ..options import Options
from .calling import Uncalled
from .meshed import meshed, on_own_samples
from .places import in_front, put_back

IN_BLOCKS = (
    "jacfunc: raised inside f on a block of samples, by sample_chunk_size; a tensor of all samples that f closes over, "
    "or that came as a keyword, is not cut into blocks: pass it before x, with in_dims=(0, 0)"
)

F = TypeVar("F", bound=Callable[..., Any])

Network = nn.Module | FunctionalModule
"""What may return anything, for a type checker; its output is taken for a tensor where nothing else is declared."""
Y = TypeVar("Y", default=torch.Tensor)
"""The output of a function: a tensor or a tree, which its derivative by a tensor is too."""
X = TypeVar("X", default=Any)
"""What a function returns beside its output."""
Result_co = TypeVar("Result_co", covariant=True, default=Any)
"""What a transform returns when it is called."""


@dataclass(frozen=True, eq=False)
class Transform(Entrance, Uncalled, Generic[Result_co]):
    """A function of the same arguments as ``f`` that returns a derivative of it."""

    transformed: Callable[..., Any]
    quantity: Quantity
    options: Options

    def __call__(self, *args: Any, **kwargs: Any) -> Result_co:
        """The derivative of ``f`` at its arguments."""
        traced = tracing()
        if not traced and meshed(args, kwargs):
            return on_own_samples(self, self.options, args, kwargs)
        return self.here(args, kwargs, traced)

    def here(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:  # noqa: PLR0911  # in order
        """The derivative at arguments that are tensors of this process alone; ``traced``: it is recorded."""
        if self.options.sample_chunk_size is not None:
            return self._in_blocks(args, kwargs, traced)
        if self.options.compile and not traced:
            return call_compiled(self, args, kwargs)
        if traced:  # which cannot trace a question about inference mode
            return self.traced(self.transformed, args, kwargs)
        try:
            if not torch.is_inference_mode_enabled():
                known = known_call(self, args, kwargs)
                if known.results is not None:
                    return known.results
                request, plan = known.call or (
                    Request(self.transformed, self.options, args, kwargs, fingerprint=known.fingerprint),
                    None,
                )
                if plan is not None or not request.inference:
                    return self._result(request, plan, known)
            with requested(self.transformed, self.options, args, kwargs) as request:
                return self._result(request)
        except JetsGivenError:
            pass
        return followed(self, args, kwargs)

    def traced(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], known: Plan | None = None
    ) -> Any:
        """The result for another function while ``torch.compile`` traces, by the plan that is known if there is one."""
        return self.outcome(Request(function, self.options, args, kwargs, traced=True), known)[0]

    def _result(self, request: Request, plan: Plan | None = None, known: Known = NOTHING) -> Any:
        result, found = self.outcome(request, plan)
        if known.kind is not None and found is not plan:
            remember_call(known, request, found)
        return result

    def outcome(self, request: Request, known: Plan | None = None) -> tuple[Any, Plan]:
        """The result for a request, by the plan that is known if there is one, and how it was computed."""
        return self.noted(request, known)[:2]

    def noted(self, request: Request, known: Plan | None = None) -> tuple[Any, Plan, Ran]:
        """As :meth:`outcome`, and which of the known programs ran, or the one that is known from now on."""
        if self.options.in_dims is not None:
            cut_arguments(request, self.options)
        outcome, plan = run(request, self.quantity, known)
        result = self.quantity.assemble(request, outcome)
        parts = result if self.quantity.gradient else (result,)
        results = [put_back(part, self.options, request.traced) for part in parts]
        if self.options.return_value:
            values = [put_back(value, self.options, request.traced) for value in outcome.evaluation.outputs]
            results.append(outcome.outputs.structure.build(values))
        if self.options.has_aux:
            results.append(outcome.build_aux(outcome.evaluation.aux))
        return (results[0] if len(results) == 1 else tuple(results)), plan, outcome.ran

    def _in_blocks(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        try:
            return self._by_blocks(args, kwargs, traced)
        except (RuntimeError, IndexError, ValueError) as error:
            if not traced and not isinstance(error, JacfuncError):
                add_note(error, IN_BLOCKS)
            raise

    def _by_blocks(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        whole = replace(self, options=self.options.whole)
        blocks = Blocks.of(self.transformed, self.options, self.quantity, args, kwargs, traced)
        if len(blocks.starts()) == 1:
            return whole(*args, **kwargs)
        if not traced:
            blocks.settle_independence(args, kwargs)
        return blocks.joined([whole(*blocks.samples(args, start), **kwargs) for start in blocks.starts()])

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own: itself, and these."""
        return self, args

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.quantity.identity, self.options.argnums, self.options.batch_dims, self.transformed)

    def __repr__(self) -> str:
        gradient = ["return_gradient=True"] if self.quantity.gradient else []
        told = [name_of(self.transformed), *gradient, *self.options.changed()]
        return f"{self.quantity.name}({', '.join(told)})"


def with_signature(transform: F) -> F:
    """Show the keywords that all transforms share, after its own, where ``help`` looks for them."""
    given = inspect.signature(transform, eval_str=False)
    own = [parameter for parameter in given.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    shared = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
        for option in fields(Options)
        if option.init
    ]
    made = keywords_only(transform)
    made.__signature__ = given.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return made


def transform_of(quantity: Quantity, f: Callable[..., Any], keywords: Keywords) -> Transform:
    """The transform of ``f`` that computes a quantity."""
    options = Options.of(quantity.name, keywords)
    return Transform(in_front(as_function(f), options), quantity, options)

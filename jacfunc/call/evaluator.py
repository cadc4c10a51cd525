"""The function of a request, evaluated: from the differentiated leaves to the output leaves, on tensors and on jets.

An evaluator belongs to one call.  What it finds out by evaluating (how outputs and aux are built, that scripted code is
called, that the function needs a graph of its own) only it writes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..core import trees
from ..core.levels import compiling, inside_transform, inside_vmap
from ..core.reasons import a_type, first_line
from ..core.subclasses import undressed
from ..core.unasked import unasked
from ..errors import ArgumentTypeError, JacfuncError, UnsupportedOperationError
from ..evaluation.corrections import Beside, corrected, records, refuse_unseen
from ..evaluation.program import Program
from ..evaluation.recorder import Recorder
from ..evaluation.rng import RandomState
from ..evaluation.sample_axis import Prover
from ..evaluation.scripted import plainly
from ..jet import CannotFollowError, Jet
from ..jet.values import replaced
from ..jet.within import value_within
from ..modules.attributes import as_they_were
from ..modules.functional import FunctionalModule, LiveModule
from ..modules.hidden import ModuleUsedError, Watch, watched
from ..modules.swapping import call_guarded
from ..routes.points import REFUSED
from .among_ranks import looked_at
from .refusals import check_outputs, refuse_classes
from .request import Request, Shape

Tensors = tuple[torch.Tensor, ...]


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


class ModulesFoundError(OutputsChangedError):
    """Modules ran in the function that were not known to: what is known is of another one."""


class _AgainError(Exception):
    """A module was used that is known from now on: look once more."""


USED = 256
"""How many modules a look may find that are used without being called, one at a time."""


class Evaluator:
    """The function of one request.

    Attributes:
        request: whose function it is.
        expected: the outputs that a plan was made for; others raise, so that another one is made.
        scripted: whether the function calls scripted code, which then is run operation by operation.
        differentiates: whether it takes ``torch.autograd.grad`` by its input itself, and so needs a graph.
        outputs: those of the last evaluation.
        recorder: who notes what runs in the next ones, or compares it with what is known; nobody if None.
        looked_at: the program of the last plain forward that was looked at.
    """

    differentiates = False
    recorder: Recorder | None = None
    _aux_structure: trees.Structure | None = None
    _aux_leaves: Sequence[Any] = ()

    def __init__(
        self,
        request: Request,
        expected: Outputs | None = None,
        scripted: bool = False,
        looked_at: Program | None = None,
    ) -> None:
        self.request = request
        self.expected = self.outputs = expected
        self.scripted = scripted
        self.looked_at = looked_at

    # ---------------------------------------------------------------- on tensors

    def evaluate(self, *leaves: torch.Tensor, others_copied: bool = False) -> tuple[Tensors, Tensors]:
        """Output leaves and aux tensors for these leaves in place of the differentiated ones.

        Copies go in, so that an in-place operation inside the function cannot reach the caller's tensors.
        """
        request = self.request
        args = list(request.args)
        kwargs = request.kwargs
        if others_copied:
            first = request.state_arguments
            args[first:] = trees.copied(args[first:])
            kwargs = trees.copied(kwargs)
        recorder = self.recorder
        context = self._corrections(recorder)  # of now: what is made from here on may be written to
        for argument in request.arguments:
            args[argument.position] = argument.build([leaf.clone() for leaf in leaves[argument.span]])
        inputs = None if recorder is None else (self._leaves(args), *self._others(args, kwargs))
        with context as corrections:
            if not records(corrections, recorder):
                recorder = None
            if recorder is not None and inputs is not None:
                recorder.begin(*inputs)
            output = self._run(args, kwargs)
        aux: Tensors = ()
        if request.options.has_aux:
            output, aux = self._split_aux(output)
        found, structure = trees.flatten(output)
        check_outputs(found, structure, request, self._modules)
        flat = list(map(undressed, found))
        refuse_unseen(flat, corrections)
        if recorder is not None:
            recorder.end(found)
        self.outputs = Outputs(structure, tuple([request.sample_shape(leaf) for leaf in flat]))
        if self.expected is not None and self.expected != self.outputs:
            raise OutputsChangedError
        return tuple(flat), aux

    def _leaves(self, args: Sequence[Any]) -> list[Any]:
        """The differentiated leaves of these arguments."""
        return [leaf for argument in self.request.arguments for leaf in trees.flatten(args[argument.position])[0]]

    def _others(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """The parameters that a functional module is given, and the tensors of the other arguments."""
        request = self.request
        first = request.state_arguments
        parameters = [leaf for given in args[:first] for leaf in given.values()] if first else []
        if len(args) == first + len(request.arguments) and not kwargs:
            return parameters, []
        others = request.beside(args)[first:]
        return parameters, trees.tensors((others, kwargs))

    def note(self, recorder: Recorder | None) -> None:
        """Have evaluations noted by the recorder from now on; by nobody, if None."""
        self.recorder = recorder

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """A context in which nothing is noted, and nobody warned: of what runs at other values, or to verify."""
        recorder, self.recorder = self.recorder, None
        try:
            with unasked():
                yield
        finally:
            self.recorder = recorder

    def values(self, leaves: Sequence[torch.Tensor]) -> Tensors:
        """The outputs of a plain forward at these leaves, without a graph, nothing of the caller's changed."""
        if self.differentiates:
            with torch.enable_grad():
                outputs, _ = self.evaluate(*(leaf.detach().requires_grad_() for leaf in leaves), others_copied=True)
            return tuple(output.detach() for output in outputs)
        with torch.no_grad(), as_they_were(self._modules(), self.request.function):
            outputs, _ = self.evaluate(*(leaf.detach() for leaf in leaves), others_copied=True)
        return outputs

    def first_values(self, state: RandomState) -> Tensors:
        """The outputs of a plain forward at the leaves of the request, from ``state``."""
        try:
            return self.values(self.request.leaves)
        except RuntimeError as error:
            if "does not require grad" not in str(error) or inside_transform():
                raise
            state.restore()
            self.differentiates = True
            return self.values(self.request.leaves)

    def look(self, state: RandomState) -> tuple[Tensors, bool]:
        """The outputs of a plain forward, and whether it drew random numbers; refuses what is no batch of samples."""
        with looked_at(self.request):
            for _ in range(USED):
                with contextlib.suppress(_AgainError):
                    return self._look(state)
        raise UnsupportedOperationError(
            f"f uses more than {USED} modules that it neither closes over nor calls; call them, or close over them"
        )

    def _look(self, state: RandomState) -> tuple[Tensors, bool]:
        self.expected = None
        fingerprint = self.request.fingerprint
        self.recorder = prover = None if self.request.alone or inside_vmap() else Prover(self.request.samples)
        watch: Watch | None = None
        try:
            with plainly() as called, watched(fingerprint, used=not self.request.of_plain_layers) as watch:
                values = self.first_values(state)
            self.scripted = self.scripted or called()
            self.looked_at = None if prover is None else prover.proved(lambda: self._elsewhere(state))
            return values, not state.is_now()
        except ModuleUsedError:
            if watch is None or watch.used is None:  # for an evaluation around this one
                raise
            raise _AgainError from None
        except RuntimeError as error:
            if inside_transform() and not isinstance(error, JacfuncError):
                raise UnsupportedOperationError(
                    f"f cannot run inside the surrounding torch.func transform ({first_line(error)}); take its "
                    "derivative outside of it, or replace that operation"
                ) from error
            raise
        finally:
            if watch is not None and watch.found:
                self.request.look_again()
            self.recorder = None
            state.restore()

    def _elsewhere(self, state: RandomState) -> Program | None:
        """What the function does for other samples, if it takes them."""
        self.recorder = recorder = Recorder(self.request.samples)
        ends = state.now()
        state.restore()
        with contextlib.suppress(*REFUSED), unasked():
            self.values([0.75 * leaf.flip(0) for leaf in self.request.leaves])
        ends.restore()
        return recorder.program

    # ---------------------------------------------------------------- on jets

    def propagate(self, jets: Sequence[Jet], others_copied: bool = False) -> tuple[tuple[Any, ...], Tensors]:
        """Output leaves, jets or constant tensors, and aux tensors for these jets in place of the leaves.

        Jets are never written to, and bring the corrections of operations themselves.
        """
        request = self.request
        own, kwargs = request.given or (request.args, request.kwargs)
        args = list(own)
        inside = inside_transform()
        recorder = self.recorder if request.within is None else None
        if others_copied or inside or request.traced:  # else they are of the classes that they were of before
            refuse_classes((*args[request.state_arguments :], *kwargs.values()))
        copies: list[torch.Tensor] = []
        if others_copied:
            first = request.state_arguments
            args[first:], kwargs = trees.copied(args[first:]), trees.copied(kwargs)
            copies = trees.tensors((args[first:], kwargs))
        for argument in request.arguments:
            args[argument.position] = argument.structure.build(jets[argument.span])
        if recorder is not None:
            propagation = jets[0].propagation
            propagation.recorder = recorder
            recorder.begin(jets, *self._others(args, kwargs), on_jets=True)
        if inside or (others_copied and not jets[0].propagation.quiet):  # what is without jets is differentiated too
            with self._corrections() if inside else Beside(self._given()):
                output = self._followed(args, kwargs)
        else:
            output = self._followed(args, kwargs)
        if any(not copy.is_inference() and copy._version for copy in copies):
            raise CannotFollowError("an argument that is changed in place")
        aux: Tensors = ()
        if request.options.has_aux:
            output, aux = self._split_aux(output)
        outputs = self._checked(output)
        if recorder is not None:
            recorder.end(outputs)
        return outputs, aux

    def _checked(self, output: Any) -> tuple[Any, ...]:
        """The leaves of an output, if they are those that a plain forward gave."""
        request, expected = self.request, self.expected or self.outputs
        if type(output) is Jet and expected is not None and expected.structure is trees.LEAF:
            if tuple(output.shape) != (*request.batch, *expected.shapes[0]):
                raise OutputsChangedError
            self.outputs = expected
            return (output,)
        flat, structure = ([output], trees.LEAF) if type(output) is Jet else trees.flatten(output)
        if any(type(leaf) is not Jet and not isinstance(leaf, torch.Tensor) for leaf in flat):
            raise CannotFollowError("f returned something else for jets than for tensors")
        outputs = Outputs(structure, tuple([request.sample_shape(leaf) for leaf in flat]))
        batch = all(tuple(leaf.shape[: request.options.batch_dims]) == request.batch for leaf in flat)
        if outputs != expected or not batch:
            raise OutputsChangedError
        self.outputs = outputs
        return tuple(flat)

    def _followed(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        request = self.request
        if not (request.traced or self.scripted) and request.alone:
            assert isinstance(request.function, FunctionalModule)
            return request.function.followed(*args, **kwargs)
        return self._run(args, kwargs)

    # ---------------------------------------------------------------- either way

    def aux(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The aux tree around these tensors."""
        assert self._aux_structure is not None
        remaining = iter(tensors)
        return self._aux_structure.build([next(remaining) if leaf is None else leaf for leaf in self._aux_leaves])

    def _corrections(self, recorder: Recorder | None = None) -> contextlib.AbstractContextManager[Any]:
        # Plain layers have nothing to correct, and a compiled function would enter the mode at every call.
        alone = self.request.traced and self.request.of_plain_layers
        return contextlib.nullcontext() if alone else corrected(recorder, self._given())

    def _given(self) -> Sequence[dict[str, torch.Tensor]]:
        """The parameters of the caller's that the function is given."""
        request = self.request
        return request.args[: request.state_arguments]

    def _modules(self) -> list[nn.Module]:
        return [] if self.request.traced else list(self.request.fingerprint.tree())

    def _run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if not self.scripted:
            return self._guarded(args, kwargs)
        with plainly():
            return self._guarded(args, kwargs)

    def _guarded(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        function = self.request.function
        if compiling():
            return function(*args, **kwargs)
        fingerprint = self.request.fingerprint
        guards_itself = isinstance(function, FunctionalModule | LiveModule)
        own = [] if guards_itself else fingerprint.modules
        if fingerprint.hidden:
            return self._watched(args, kwargs, own)
        return call_guarded(function, args, kwargs, own) if own else function(*args, **kwargs)

    def _watched(self, args: Sequence[Any], kwargs: dict[str, Any], own: list[nn.Module]) -> Any:
        """Where modules were found that ran without being known to, there may be others now."""
        fingerprint, state = self.request.fingerprint, self.request.random_state()
        modules = [*own, *fingerprint.hidden]
        try:
            with watched(fingerprint, fingerprint.used) as watch:
                result = call_guarded(self.request.function, args, kwargs, modules)
        except ModuleUsedError:
            if watch.used is None or self.expected is None:
                raise
        if watch.found and self.expected is not None:
            self.request.look_again()
            state.restore()
            raise ModulesFoundError
        return result

    def _split_aux(self, output: Any) -> tuple[Any, Tensors]:
        if not isinstance(output, tuple) or len(output) != 2:
            raise ArgumentTypeError(
                f"has_aux=True, but f returned {a_type(output)}; it must return a pair (output, aux)"
            )
        found, self._aux_structure = trees.flatten(output[1])
        leaves = [replaced(leaf, functools.partial(value_within, self.request.within)) for leaf in found]
        self._aux_leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return output[0], tuple(undressed(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))

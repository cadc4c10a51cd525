"""Do samples influence each other?  A few more forwards of the batch find out, once for a program.

Each of ``k`` forwards replaces some samples by neighbours and by outliers, always by the same values.  The samples are
cut at random into ``2**k - 1`` groups, one for each choice of the forwards in which a sample is replaced; the output of
a sample may not move between two evaluations that give it the same value.  Two samples of different groups are told
apart, whichever depends on which: with two forwards and three groups with probability 2/3, with three 6/7.  What a
probe cannot see is a coupling that is inactive at the data (``relu(x.mean() - 3)`` far from its kink) or one that stays
inside each group; the documentation says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import NamedTuple

import torch

from ..core import caches, trees
from ..core.levels import inside_vmap, one_of
from ..core.torch_private import BatchNorm, outside_transforms
from ..core.unasked import unasked
from ..core.warned import warn
from ..errors import CoupledSamplesError, IndependenceWarning
from ..evaluation.program import PROGRAMS, Program
from ..evaluation.rng import RandomState, replaying
from ..modules.fingerprint import Fingerprint
from ..routes.points import REFUSED
from .evaluator import Evaluator
from .notes import noted
from .probes import Evaluated, Moved, differ, evaluated, moved, probes_of, replaced_in
from .refusals import not_batch_first
from .request import Request, requested
from .rounding import may_be_rounding, noise_of


class Independence(StrEnum):
    """What is known of a function: whether its samples influence each other."""

    CHECKED = "checked: no sample influences another"
    UNCHECKED = "not checked: check=False"
    ONE_SAMPLE = "nothing to check: at most one sample"
    UNSEEN = "not checked: f cannot be run outside of the torch.func.vmap around it"
    TRACED = "not checked: values cannot be looked at under torch.compile and torch.export"
    BLIND = "not decided: no output is finite"
    UNDECIDED = "not decided: f failed on the replaced samples or is not reproducible"


FORWARDS, WITHOUT_PROOF, AFTER_REFUSAL = 2, 3, 20
"""With how many forwards a program is probed that is proved to be independent, that is not, and that was refused."""
AGAIN = -1
"""In place of how often a program was found again: it was refused since."""

OVER_THE_BATCH = (
    "a mean, softmax, sort, cumsum or norm over the batch axis, BatchNorm in training mode, or attention or an RNN "
    "that is not batch_first"
)
SHARED_STEPS = (
    "for so small a change a step size or a stopping test that all samples share, as an adaptive ODE solver (dopri5) "
    "takes it from a norm over the batch: take a solver with fixed steps (rk4), or {tolerance} for derivatives with "
    "the steps as they are"
)
SMALL = 1e-2
"""A change beside the output that is rather a tolerance than an influence."""

Tensors = Sequence[torch.Tensor]


class Decided(NamedTuple):
    """What was found of a function, and the programs that it was found of."""

    finding: Independence
    programs: tuple[Program, ...]

    def of(self, program: Program | None) -> bool:
        """Whether it was found of this program, as far as there is one."""
        return program is None or any(known.covers(program) for known in self.programs)


def standing(request: Request, program: Program | None = None) -> Independence | None:
    """What is known of the independence without any work, of a program if given; None when it has to be found out."""
    if not request.options.check:
        return Independence.UNCHECKED
    if not several(request):
        return Independence.ONE_SAMPLE
    known = _decided(request)
    if known is None and inside_vmap():
        return Independence.UNSEEN
    return known.finding if known is not None and known.of(program) else None


def _decided(request: Request) -> Decided | None:
    known: Decided | None = caches.INDEPENDENT.get(request.fingerprint.key, _signature(request))
    return known


def decided(evaluator: Evaluator, outputs: Tensors, state: RandomState) -> tuple[Independence, bool]:
    """What is known of the program that was looked at, or a check finds; and whether it holds whatever the numbers."""
    request, program = evaluator.request, evaluator.looked_at
    finding = standing(request, program)
    if finding is Independence.UNSEEN:
        finding = _of_one(request)
    if finding is None or (finding is Independence.CHECKED and program is not None and _due(request, program)):
        finding = check(evaluator, outputs, state)
    proved = program is not None and program.proved
    return finding, proved or finding in (Independence.UNCHECKED, Independence.ONE_SAMPLE)


def _of_one(request: Request) -> Independence:
    """What a check finds of the first of those that a ``vmap`` maps over, outside of all transforms."""
    args, kwargs = trees.mapped(one_of, request.args), trees.mapped(one_of, request.kwargs)
    with outside_transforms():
        try:
            with requested(request.function, request.options, args, kwargs) as own, _looking(own) as looked:
                return check(*looked)
        except CoupledSamplesError as error:
            around = (
                "a transform takes the whole batch, so drop the torch.vmap around this call if x is the batch there"
            )
            raise CoupledSamplesError(f"{error} ({around})") from None
        except REFUSED:  # as where it closes over something that is mapped over
            return Independence.UNSEEN


def _due(request: Request, program: Program) -> bool:
    """Whether a program that is found again, though its plan is not settled, is to be checked once more."""
    known = _decided(request)
    again = () if program.proved or known is None else known.programs
    found = next((each for each in again if each.covers(program)), None)
    if found is None:
        return False
    caches.FOLLOWED[found] = count = max(caches.FOLLOWED.get(found, 0), 0) + 1
    return caches.due(count)


def several(request: Request) -> bool:
    """Whether there are samples that could influence each other."""
    batch = request.batch
    return (batch[0] if len(batch) == 1 else math.prod(batch)) > 1


def _signature(request: Request) -> object:
    options = request.options
    return (request.signature, options.argnums, options.batch_dims, options.has_aux, options.check_tolerance)


def check(evaluator: Evaluator, outputs: Tensors, state: RandomState, forwards: int | None = None) -> Independence:
    """Probe the function around ``outputs``, its values at the request's leaves, and remember the finding.

    A coupling of two samples is missed once in ``2**forwards - 1`` times.
    """
    request, program = evaluator.request, evaluator.looked_at
    with replaying(state):
        finding = _probed(evaluator, outputs, state, forwards or _forwards(request, program))
    if not _any_finite(outputs):
        return Independence.BLIND
    _remember(request, finding, program)
    return finding


def _probed(evaluator: Evaluator, outputs: Tensors, state: RandomState, forwards: int) -> Independence:
    """What so many forwards with replaced samples find."""
    replaced = replaced_in(math.prod(evaluator.request.batch), forwards)
    probes = probes_of(evaluator, replaced, state)
    if isinstance(probes, str):
        _warn(probes)
        return Independence.UNDECIDED
    tolerance = evaluator.request.options.tolerance
    first = moved([outputs, *(probe.outputs for probe in probes)], replaced, tolerance)
    if first is None or _only_rounding(evaluator, first, outputs, probes, replaced, state):
        return Independence.CHECKED
    again = evaluated(evaluator, evaluator.request.leaves, state)
    ends = [*(probe.end for probe in probes), *_ends_elsewhere(evaluator, state, again.end)]
    doubt = _doubt(outputs, again, ends, len(replaced))
    if doubt is None:
        _remember_refused(evaluator.request, evaluator.looked_at)
        raise CoupledSamplesError(_message(evaluator, first, outputs))
    _warn(doubt)
    return Independence.UNDECIDED


def _only_rounding(
    evaluator: Evaluator,
    first: Moved,
    outputs: Tensors,
    probes: Sequence[Evaluated],
    replaced: torch.Tensor,
    state: RandomState,
) -> bool:
    """Whether what moved is no more than rounding, beside outliers and where others are neighbours."""
    request = evaluator.request
    own = Evaluated(request.leaves, tuple(outputs), state)
    if not may_be_rounding(evaluator, own, first.change, state):
        return False
    tolerance = request.options.tolerance
    for found in (probes, probes_of(evaluator, replaced, state, inside=True)):
        if isinstance(found, str):
            return False
        evaluations = [own, *found]
        noise = noise_of(evaluator, evaluations, state)
        if noise is None or moved([each.outputs for each in evaluations], replaced, tolerance, noise) is not None:
            return False
    return True


def _is_small(first: Moved, outputs: Tensors) -> bool:
    return first.change < SMALL * float(outputs[first.leaf].detach().abs().nan_to_num(0.0, 0.0, 0.0).max())


def _forwards(request: Request, program: Program | None) -> int:
    if program is None or program.proved:
        return FORWARDS
    refused: tuple[Program, ...] = caches.REFUSED.get(request.fingerprint.key, _signature(request)) or ()
    return AFTER_REFUSAL if any(known.covers(program) for known in refused) else WITHOUT_PROOF


def _remember_refused(request: Request, program: Program | None) -> None:
    """Also drop what was found before, by any transform: a look may have missed by chance what showed now."""
    key, signature = request.fingerprint.key, _signature(request)
    caches.distrust(key)
    if program is not None:
        before = caches.REFUSED.get(key, signature) or ()
        caches.REFUSED.put(key, request.fingerprint.parts, signature, (program, *before)[:PROGRAMS])


def look_again(request: Request, program: Program) -> None:
    """Check the program of a known call once more, at calls 2, 3, 5, 9 and so on, if it is not proved.

    A parameter may have turned a coupling on since, or the data may show one that it did not show before.
    """
    count = caches.FOLLOWED.get(program, 0)
    if count == AGAIN:  # it was refused: nothing is returned before it has passed for sure
        confirm(request, AFTER_REFUSAL)
        count = 0
    caches.FOLLOWED[program] = count = count + 1
    if not caches.due(count):
        return
    try:
        confirm(request, FORWARDS)
    except CoupledSamplesError as error:
        caches.FOLLOWED[program] = AGAIN
        since = f"it showed at a later look, so what the last {count // 2 + 1} calls returned may be wrong"
        raise CoupledSamplesError(f"{error} ({since})") from None


def _remember(request: Request, finding: Independence, program: Program | None) -> None:
    before = _decided(request)
    known = () if before is None or before.finding is not finding else before.programs
    programs = () if program is None else (program, *known)[:PROGRAMS]
    key, parts = request.fingerprint.key, request.fingerprint.parts
    caches.INDEPENDENT.put(key, parts, _signature(request), Decided(finding, programs))


def _ends_elsewhere(evaluator: Evaluator, state: RandomState, end: RandomState) -> Iterator[RandomState]:
    """Where the generators stand after values of one sign: the probes may draw equally many numbers by chance."""
    if end.same_as(state):  # nothing is drawn
        return
    for sign in (1, -1):
        leaves = [sign * (leaf.detach().abs() + 1) for leaf in evaluator.request.leaves]
        try:
            yield evaluated(evaluator, leaves, state).end
        except REFUSED:
            continue  # values that the function refuses say nothing


def _doubt(outputs: Tensors, again: Evaluated, ends: Sequence[RandomState], count: int) -> str | None:
    """Why an output that moved proves nothing: the function is not the same at two evaluations."""
    if differ(outputs, again.outputs, count):
        return "gives other values when it is evaluated again under the same random state"
    if not all(map(again.end.same_as, ends)):
        return "draws more random numbers for some values than for others (rrelu, Gamma)"
    return None


def _any_finite(outputs: Tensors) -> bool:
    return any(bool(output.isfinite().any()) for output in outputs) or not any(output.numel() for output in outputs)


@contextmanager
def _looking(request: Request, once_more: bool = False) -> Iterator[tuple[Evaluator, Tensors, RandomState]]:
    """After a look at what the function does now: its evaluator, its outputs, and the draw that they are of.

    ``once_more``: a call evaluates it there as well, and warns of what there is to warn of.
    """
    with noted("check_independent", request):
        evaluator, state = Evaluator(request), request.random_state()
        with unasked() if once_more else nullcontext():
            outputs, _ = evaluator.look(state)
        yield evaluator, outputs, state


def confirm(request: Request, forwards: int | None = None) -> None:
    """Look at what the function does now, and check it: if that is new, or by so many forwards beside a call."""
    with _looking(request, once_more=forwards is not None) as looked:
        if forwards is None:
            decided(*looked)
        else:
            check(*looked, forwards)


def settle(request: Request) -> None:
    """Check samples that a call sees in small blocks, which may show nothing: at each call, unless they are proved."""
    if not request.options.check or not several(request):
        return
    with _looking(request, once_more=True) as looked:
        program = looked[0].looked_at
        if program is None or not program.proved or standing(request, program) is None:
            check(*looked)


def probe_now(request: Request) -> bool:
    """Check whatever was found before; True unless the samples are coupled."""
    with _looking(request) as looked:
        return not several(request) or check(*looked) is Independence.CHECKED


def _message(evaluator: Evaluator, first: Moved, outputs: Tensors) -> str:
    request = evaluator.request
    path = evaluator.outputs.paths()[first.leaf] if evaluator.outputs else "output"
    index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(first.sample), request.batch))
    given = request.options.check_tolerance
    allowed = "" if given is None else f", and check_tolerance={given:g}"
    size, usual = "", OVER_THE_BATCH
    if first.relative < SMALL and _is_small(first, outputs):
        size = f" ({first.relative:.2g} of its size{allowed})"
        # A hundred times what was found, for others may move by more, and at later calls.
        proposed = min(10.0 ** math.ceil(math.log10(first.relative) + 2), 0.1)
        usual = SHARED_STEPS.format(tolerance=f"check_tolerance={proposed:.0e}")
    cause = _module_at_fault(request.fingerprint) or usual
    numbers = all(shape == () for shape in request.input_shapes)
    may_be = _may_be_of_one(request, cause)
    of_one = f"{request.mapped()} if f is a function of one sample, " if may_be and not request.of_module else ""
    one = "x[None] or batch_dims=0" if may_be else "batch_dims=0"
    one_sample = f"{one} if the input is one sample, or " if may_be or numbers else ""
    return (
        f"{path}[{index}] changed by {first.change:.2g}{size} when only other samples of the batch were replaced, so "
        f"its per-sample derivatives do not exist; the usual cause is {cause}; make every output depend on its "
        f"own sample alone, or pass {of_one}{one_sample}check=False if this is meant"
    )


def _may_be_of_one(request: Request, cause: str) -> bool:
    """Whether f, or the input, may be of one sample, as for ``torch.func``: nothing else is known to be the cause."""
    return cause is OVER_THE_BATCH and request.options.batch_dims == 1 and any(request.input_shapes)


def refuse_layers(request: Request) -> None:
    """Refuse layers that couple samples, all that can be told of a function whose values cannot be looked at."""
    cause = _module_at_fault(request.fingerprint) if request.options.check else None
    if cause is not None:
        raise CoupledSamplesError(
            f"per-sample derivatives do not exist through {cause}; or pass check=False if this is meant"
        )


def _module_at_fault(fingerprint: Fingerprint) -> str | None:
    """A layer that couples samples, and the way out."""
    for root in (*fingerprint.modules, *fingerprint.hidden):
        for name, module in root.named_modules():
            kind, called = type(module).__name__, f" {name!r}" if name else ""
            if isinstance(module, BatchNorm) and (module.training or module.running_mean is None):
                return f"{kind}{called} using statistics of the batch: {_way_out_of_the_batch(module)}"
            if not_batch_first(module):
                return f"{kind}{called} with batch_first=False: make it with batch_first=True"
    return None


def _way_out_of_the_batch(module: BatchNorm) -> str:
    return "call .eval() on it" if module.running_mean is not None else "make it with track_running_stats=True"


def _warn(what: str) -> None:
    warn(
        f"f {what}, so whether its samples are independent could not be tested; pass check=False if they are",
        IndependenceWarning,
    )

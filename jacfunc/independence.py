"""Do samples influence each other?  Two more forwards of the batch find out, once for a function and signature.

Half of the samples, drawn at random, are replaced by others and by outliers, then the other half; no output of a
kept sample may move.  What a probe cannot see is a coupling that is inactive at the data (``relu(x.mean() - 3)``
far from its kink) or one that stays inside each half; the documentation says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from . import caches
from .captured import Captured
from .errors import CoupledSamplesError, IndependenceWarning, JacfuncError
from .levels import inside_vmap
from .refusals import not_batch_first
from .request import Request
from .rng import Draw, replaying

CHECKED = "checked: no sample influences another"
UNCHECKED = "not checked: check=False"
ONE_SAMPLE = "nothing to check: at most one sample"
UNSEEN = "not checked: values cannot be looked at under torch.func.vmap"
TRACED = "not checked: values cannot be looked at under torch.compile"
UNDECIDED = "not decided: f failed on the replaced samples or is not reproducible"

SEED = 20190613
ROUNDING = 64

Tensors = Sequence[torch.Tensor]


def standing(request: Request) -> str | None:
    """What is known of the independence without any work; None when it has to be found out."""
    if not request.options.check:
        return UNCHECKED
    if math.prod(request.batch) < 2:
        return ONE_SAMPLE
    known: str | None = caches.INDEPENDENT.get(request.captured.key, _signature(request))
    if known is None and inside_vmap():
        return UNSEEN
    return known


def _signature(request: Request) -> object:
    return (request.signature, request.options.argnums, request.options.batch_dims, request.options.has_aux)


def check(request: Request, outputs: Tensors, draw: Draw) -> str:
    """Probe the function around ``outputs``, its values at the request's leaves, and remember the finding."""
    count = math.prod(request.batch)
    generator = torch.Generator().manual_seed(SEED)
    replaced = _half(count, generator)
    finding = CHECKED
    for mask in (replaced, ~replaced):
        probed = _probe(request, mask, draw, generator)
        if probed is None:
            finding = UNDECIDED
            break
        moved = _first_moved(outputs, probed, ~mask, len(request.batch))
        if moved is not None:
            again = evaluated(request, request.leaves, draw)
            if _first_moved(outputs, again, ~mask, len(request.batch)) is None:
                raise CoupledSamplesError(_message(request, *moved))
            _warn("gives other values when it is evaluated again under the same random state")
            finding = UNDECIDED
            break
    if request.captured.rememberable:
        caches.INDEPENDENT.put(request.captured.key, request.captured.parts, _signature(request), finding)
    return finding


def probe_now(request: Request) -> bool:
    """Check whatever was found before; True unless the samples are coupled."""
    draw = Draw.capture(request.leaves)
    outputs = evaluated(request, request.leaves, draw)
    return math.prod(request.batch) < 2 or check(request, outputs, draw) == CHECKED


def evaluated(request: Request, leaves: Tensors, draw: Draw) -> tuple[torch.Tensor, ...]:
    """The outputs at these leaves, without a graph, from one random draw, nothing of the caller's changed."""
    with torch.no_grad(), replaying(draw):
        outputs, _ = request.evaluate(*(leaf.detach() for leaf in leaves), others_copied=True)
    return outputs


def _half(count: int, generator: torch.Generator) -> torch.Tensor:
    """A random half as a mask: one of every two neighbours is in it, and of three samples the ends lie apart."""
    first = torch.randint(2, ((count + 1) // 2,), generator=generator).bool()
    if count % 2:
        first[-1] = ~first[0]
    return torch.stack([first, ~first], dim=1).reshape(-1)[:count]


def _probe(request: Request, mask: torch.Tensor, draw: Draw, generator: torch.Generator) -> Tensors | None:
    """Outputs with the masked samples replaced; None if the function refuses all replacements."""
    state = generator.get_state()
    for outliers in (True, False):
        generator.set_state(state)
        leaves = [_replaced(leaf.detach(), len(request.batch), mask, outliers, generator) for leaf in request.leaves]
        try:
            return evaluated(request, leaves, draw)
        except JacfuncError:
            raise
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = f"failed when some samples were replaced by others of the batch ({type(error).__name__}: {error})"
    _warn(reason)
    return None


def _replaced(
    leaf: torch.Tensor, batch_dims: int, mask: torch.Tensor, outliers: bool, generator: torch.Generator
) -> torch.Tensor:
    """The leaf with other values in the masked samples: those of other samples, outliers above and below."""
    count = len(mask)
    flat = leaf.reshape(count, -1)
    others = torch.roll(torch.arange(count), 1)
    values = flat[others.to(leaf.device)].clone()
    if outliers:
        # Uneven sizes, so that outliers above and below cannot cancel in a mean.
        size = torch.empty(values.shape).uniform_(5, 15, generator=generator)
        kind = torch.arange(count).div(2, rounding_mode="floor") % 3
        direction = (torch.tensor([1.0, -0.3, 0.0])[kind] * torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0))[
            :, None
        ]
        spread = (flat.amax(0) - flat.amin(0)).nan_to_num(1.0, 1.0, 1.0).clamp(min=1e-2) + flat.abs().mean(
            0
        ).nan_to_num(1.0, 1.0, 1.0)
        values = values + (size * direction).to(values) * spread
    return torch.where(mask.to(leaf.device)[:, None], values, flat).reshape(leaf.shape)


def _first_moved(before: Tensors, after: Tensors, kept: torch.Tensor, batch_dims: int) -> tuple[int, int, float] | None:
    """The first output leaf and sample among the kept ones that moved beyond rounding, and by how much."""
    for leaf, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.shape != new.shape:
            return leaf, int(kept.nonzero()[0]), float("nan")
        a, b = (t.detach().reshape(len(kept), -1).to("cpu", torch.float64)[kept] for t in (old, new))
        if not a.numel():
            continue
        size = a.abs().nan_to_num(0.0, 0.0, 0.0)
        scale = torch.maximum(size.amax(1, keepdim=True), size.mean())
        same = (a == b) | (a.isnan() & b.isnan())
        moved = ~same & ~((a - b).abs() <= ROUNDING * torch.finfo(old.dtype).eps * scale)
        if moved.any():
            row = int(moved.any(1).nonzero()[0])
            return leaf, int(kept.nonzero()[row]), float((a - b)[row].abs().max())
    return None


def _message(request: Request, leaf: int, sample: int, change: float) -> str:
    path = request.outputs.paths()[leaf] if request.outputs else "output"
    index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(sample), request.batch))
    cause = _cause(request.captured)
    return (
        f"{path}[{index}] changed by {change:.2g} when only other samples of the batch were replaced, so its "
        f"per-sample derivatives do not exist; the usual cause is {cause}; make every output depend on its "
        "own sample alone, or pass check=False if this is meant"
    )


def _cause(captured: Captured) -> str:
    for root in captured.modules:
        for name, module in root.named_modules():
            kind, called = type(module).__name__, f" {name!r}" if name else ""
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
                return f"{kind}{called} using statistics of the batch: call .eval() on it"
            if not_batch_first(module):
                return f"{kind}{called} with batch_first=False: make it with batch_first=True"
    return (
        "a mean, softmax, sort, cumsum or norm over the batch axis, BatchNorm in training mode, or attention or an RNN "
        "that is not batch_first"
    )


def _warn(what: str) -> None:
    warnings.warn(
        f"f {what}, so whether its samples are independent could not be tested; pass check=False if they are",
        IndependenceWarning,
        stacklevel=2,
    )

"""The transforms against the truth: what each of them gives on each route."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from jacfunc import batch_jac, diag_jac, laplacian
from jacfunc.core import caches
from jacfunc.errors import JacfuncError

from .cases import WIDTH, Case, Template, layout_of, make_case, seed_of, templates
from .served import served
from .truth import Quantity, Truth, jacobian_of, truth

Tensor = torch.Tensor

TRANSFORMS = {"batch_jac": batch_jac, "diag_jac": diag_jac, "laplacian": laplacian}
METHODS = ("auto", "taylor", "forward", "reverse")
TRIES = ((0.25, 0.02), (0.15, 0.004), (0.05, 0.02), (0.02, 0.01), (0.005, 0.02), (0.001, 0.05), (0.0002, 0.05))
FOLDED = ((0.1, 0.02), (0.02, 0.01), (0.002, 0.05))
"""Size of the directions and largest step of the differences; the next is tried where a kink or an edge is met, at last
with the inputs folded into (0, 1): some of torch's own samples lie where the function is not a number."""
PATIENCE = 80.0
"""Seconds after which no further sample of an operation is begun."""


def judged(name: str) -> Iterator[dict[str, Any]]:
    """The records of an entry: one of ``{"filter": reason}``, or one for each case."""
    start = time.monotonic()
    for number, (index, template) in enumerate(templates(name)):
        if isinstance(template, str):
            yield {"filter": template}
            continue
        if time.monotonic() - start > PATIENCE:
            return
        layout = layout_of(template)
        # Both forms where there is a batched one, for the first sample; then in turn.
        forms = {0: [None, layout]}.get(number, [layout if number % 2 else None]) if layout else [None]
        for form in forms:
            yield {"sample": index, "form": _form(form), **_judged_case(template, form)}


def _form(layout: tuple[str, str] | None) -> str:
    return "single" if layout is None else f"batch, {layout[0]} of {layout[1]}"


def _judged_case(template: Template, layout: tuple[str, str] | None) -> dict[str, Any]:
    case, known, why = _settled(template, layout)
    if case is None or known is None:
        return {"unjudged": {"all": why}, "outcomes": {}}
    unjudged = dict.fromkeys(known.unresolved, "the differences do not settle: a kink, or too steep")
    outcomes = {
        f"{transform} {method}": _outcome(case, known, transform, method)
        for transform in TRANSFORMS
        for method in METHODS
    }
    coarse = _in_coarser_dtypes(case, known)
    return {"unjudged": unjudged, "outcomes": outcomes, "served": served(case), "coarse": coarse}


COARSER = {torch.float32: (1e-3, 0.05), torch.bfloat16: (0.2, None)}
"""The error allowed there, relative to the largest entry: of a first derivative; of what is beyond it."""


def _in_coarser_dtypes(case: Case, known: Truth) -> dict[str, dict[str, str]]:
    """The outcomes of ``auto`` where the operation itself runs in another dtype: of the value, and of all."""
    found = {}
    for dtype, (first, beyond) in COARSER.items():
        coarse = replace(case, template=replace(case.template, dtype=dtype))
        found[str(dtype)] = {name: _coarse_outcome(coarse, known, name, first, beyond) for name in TRANSFORMS}
    return found


def _coarse_outcome(case: Case, known: Truth, transform: str, first: float, beyond: float | None) -> str:
    quantity = "laplacian" if transform == "laplacian" else "jacobian"
    room = beyond if transform == "laplacian" else first
    true = known.quantities[quantity]
    part = (lambda t: t.diagonal(dim1=-2, dim2=-1)) if transform == "diag_jac" else (lambda t: t)
    if room is None or not true.resolved or not _carries(case, known, first):
        return "unjudged"
    torch.manual_seed(case.seed)
    try:
        found = TRANSFORMS[transform](case.function(), batch_dims=case.batch_dims)(case.p, case.point).detach()
    except JacfuncError:
        return "refused"
    except Exception as error:
        return f"foreign: {_told(error)}"
    wanted = part(true.value) if case.batch_dims else part(true.value)[0]
    off = float((found - wanted).abs().max())
    scale = max(float(true.value.abs().max()), float(known.quantities["jacobian"].value.abs().max()))
    rounding = torch.finfo(case.template.dtype).eps * float(case.single(0, case.p, case.x[0]).detach().abs().max())
    return "right" if off <= room * scale + 2 * true.error + rounding else f"wrong by {off / max(scale, 1e-300):.1e}"


def _carries(case: Case, known: Truth, room: float) -> bool:
    """Whether torch's own reverse mode of one sample has the Jacobian in this dtype, to a tenth of what is allowed."""
    try:
        found = [jacobian_of(case, sample) for sample in range(case.samples)]
    except Exception:
        return False
    true = known.quantities["jacobian"].value
    return bool((torch.stack(found) - true).abs().max() <= 0.1 * room * true.abs().max())


def _settled(template: Template, layout: tuple[str, str] | None) -> tuple[Case | None, Truth | None, str]:
    """The first point at which every quantity is resolved, or else the one with most."""
    best: tuple[Case | None, Truth | None] = (None, None)
    whys = []
    for attempt, (spread, step) in enumerate(TRIES + FOLDED):
        folded = attempt >= len(TRIES)
        if folded and (best[1] is not None or any("disagrees" in why for why in whys)):
            break
        try:
            case = make_case(template, layout, spread, attempt, folded)
            known = truth(case, step)
        except Exception as error:
            whys.append(f"torch's own first derivative raises {_told(error)}")
            continue
        if known.doubt is not None:
            whys.append(known.doubt)
            continue
        if best[1] is None or len(known.unresolved) < len(best[1].unresolved):
            best = (case, known)
        if not known.unresolved:
            break
    # Another point may lie outside of the domain: a doubt about a derivative says more than an error there.
    return *best, max(whys, key=lambda why: "disagrees" in why, default="")


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _outcome(case: Case, known: Truth, transform: str, method: str) -> dict[str, Any]:
    """Of the value and of the gradient by ``p``: right, wrong, refused, foreign or unjudged."""
    caches.PLANS.clear()
    caches.FAST_CALLS.clear()
    caches.INDEPENDENT.clear()
    quantity = "laplacian" if transform == "laplacian" else "jacobian"
    part = (lambda t: t.diagonal(dim1=-2, dim2=-1)) if transform == "diag_jac" else (lambda t: t)
    p = case.p.clone().requires_grad_()
    torch.manual_seed(case.seed)
    try:
        derivative = TRANSFORMS[transform](case.function(), batch_dims=case.batch_dims, method=method)(p, case.point)
    except Exception as error:
        raised = _raised(error)
        return {"value": raised, "gradient": raised}
    true = known.quantities[quantity]
    value = _compared(derivative.detach(), part(true.value), true, case)
    return {"value": value, "gradient": _gradient(case, derivative, p, part, known.quantities[f"{quantity} by p"])}


def _gradient(case: Case, derivative: Tensor, p: Tensor, part: Any, true: Quantity) -> dict[str, Any]:
    weights = torch.randn(
        derivative.shape, generator=torch.Generator().manual_seed(seed_of(case.template.name)), dtype=torch.float64
    )
    try:
        if derivative.requires_grad:
            (weights * derivative).sum().backward()
    except Exception as error:
        return _raised(error)
    found = torch.zeros_like(p) if p.grad is None else p.grad
    wanted = (part(true.value).reshape(weights.shape) * weights).sum()
    off = float((found - wanted).abs())
    room = float(weights.abs().sum())  # every entry may be off by what one entry may
    return _verdict(off, true, room)


def _compared(found: Tensor, wanted: Tensor, true: Quantity, case: Case) -> dict[str, Any]:
    wanted = wanted if case.batch_dims else wanted[0]
    if found.shape != wanted.shape:
        return {"outcome": "wrong", "error": f"shape {tuple(found.shape)} for {tuple(wanted.shape)}"}
    return _verdict(float((found - wanted).abs().max()), true, 1.0)


def _verdict(off: float, true: Quantity, room: float) -> dict[str, Any]:
    if not true.resolved:
        return {"outcome": "unjudged"}
    if off <= room * (true.allowed + 2 * true.error):
        return {"outcome": "right"}
    if math.isnan(off):
        return {"outcome": "wrong", "error": "nan"}
    size = float(true.value.abs().max())
    return {"outcome": "wrong", "error": off / size if size else off, "largest entry": size}


def _raised(error: BaseException) -> dict[str, Any]:
    return {"outcome": "refused" if isinstance(error, JacfuncError) else "foreign", "message": _told(error)}


assert WIDTH == 3  # the judged shapes above: diag_jac wants input and output of the same shape

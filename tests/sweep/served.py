"""What the Taylor route serves by rules of its own: of an entry of the databases, and of the operations in networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from networks import NETWORKS

from jacfunc import explain, laplacian
from jacfunc.core import caches
from jacfunc.jet import Jet, dispatch
from jacfunc.jet.fallback import name_of

from .cases import Case, Template, make_case, operations, templates

OWN, ALONE, OTHER = "own rules", "an operation alone", "another route"


def served(case: Case) -> str:
    """How the Laplacian of a case goes by ``method="taylor"``: by rules, with operations alone, or not at all."""
    transform = laplacian(case.function(), batch_dims=case.batch_dims, method="taylor")
    caches.PLANS.clear()
    caches.FAST_CALLS.clear()
    torch.manual_seed(case.seed)
    try:
        plan = explain(transform)(case.p, case.point).plan
    except Exception:
        return OTHER
    if plan.route != "taylor":
        return OTHER
    return f"{ALONE}: {', '.join(plan.findings.notes)}" if plan.findings.notes else OWN


# -------------------------------------------------------------------- the operations of networks


@dataclass
class Met:
    """Names of operations that were handed over to jets, and of those that no rule took."""

    called: set[str] = field(default_factory=set)
    without: set[str] = field(default_factory=set)
    on: bool = True
    stopped: bool = False


@contextmanager
def _watched() -> Iterator[Met]:
    met, apply = Met(), dispatch.apply

    def watching(function: Any, args: Any, kwargs: Any) -> Any:
        name = name_of(function)
        if met.on and name != "__get__":
            met.called.add(name)
        try:
            result = apply(function, args, kwargs)
        except Exception:
            if met.on and not met.stopped:  # the innermost operation
                met.without.add(name)
                met.stopped = True
            raise
        slow = next((jet.propagation.slow for jet in _jets(args)), {})
        if met.on:
            met.without |= set(slow)
        return result

    with mock.patch.object(dispatch, "apply", watching):
        yield met


def _jets(args: Any) -> list[Jet]:
    return [item for item in args if type(item) is Jet]


def networks_served(modules: str = "torch.nn") -> tuple[set[str], set[str]]:
    """The operations that the networks of ``networks.py`` and torch.nn's modules call, and those without a rule."""
    called, without = set(), set()
    for run in (*_networks(), *_modules(modules)):
        caches.PLANS.clear()
        caches.FAST_CALLS.clear()
        with _watched() as met, suppress(Exception):  # what no route can do still says what it called
            run(met)
        called |= met.called
        without |= met.without
    return called, without


def _networks() -> Iterator[Callable[[Met], Any]]:
    for network in NETWORKS.values():
        module = network.build()
        x = torch.rand(2, *network.sample, dtype=torch.float64)
        yield lambda met, module=module, x=x: laplacian(module, method="taylor", check=False)(x)


def _modules(modules: str) -> Iterator[Callable[[Met], Any]]:
    for name in operations():
        if not name.startswith(modules):
            continue
        for _, template in templates(name):
            case = None if isinstance(template, str) else _near(template)
            if case is not None:
                yield lambda met, case=case: _run(met, case)


def _near(template: Template) -> Case | None:
    """A case close to the sample, or with inputs folded into (0, 1) where only these are taken."""
    for folded in (False, True):
        with suppress(RuntimeError):
            return make_case(template, None, 0.02, 0, folded)
    return None


def _run(met: Met, case: Case) -> None:
    """The Laplacian of a case, watched inside of the module only."""
    call, met.on = case.template.call, False

    def inside(*args: Any, **kwargs: Any) -> Any:
        met.on = True
        try:
            return call(*args, **kwargs)
        finally:
            met.on = False

    case.template.call = inside
    try:
        laplacian(case.function(), batch_dims=0, method="taylor")(case.p, case.point)
    finally:
        case.template.call = call

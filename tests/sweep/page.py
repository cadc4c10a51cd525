"""The page ``docs/operations.md`` from the outcomes of a sweep, and the counting behind it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from .cases import LARGEST, SAMPLES
from .judge import COARSER, METHODS, TRANSFORMS, TRIES
from .served import ALONE, OTHER, OWN
from .truth import COARSE, FIRST, TOLERANCES

Records = list[dict[str, Any]]

ROUTES = [f"{transform} {method}" for transform in TRANSFORMS for method in METHODS]
ORDER = ("wrong", "foreign", "refused", "right", "unjudged")
"""The worst first; an entry has the worst outcome of its cases, unjudged only if nothing was judged."""
PARTS = ("value", "gradient")


def filtered(records: Records) -> str | None:
    """Why nothing of an entry was tried, or None."""
    reasons = [record["filter"] for record in records if "filter" in record]
    return reasons[0] if reasons and len(reasons) == len(records) else None


def verdicts(records: Records, route: str) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Every (case, part, verdict) of a route."""
    return [
        (record, part, record["outcomes"][route][part])
        for record in records
        for part in PARTS
        if route in record.get("outcomes", {})
    ]


def worst(records: Records, route: str) -> str:
    """The worst outcome that an entry has on a route."""
    found = {verdict["outcome"] for _, _, verdict in verdicts(records, route)}
    return next((outcome for outcome in ORDER if outcome in found), "unjudged")


def is_right(records: Records, method: str | None = None) -> bool:
    """Whether everything that was judged is right on every route, or on those of one method."""
    routes = [route for route in ROUTES if method is None or route.endswith(method)]
    return all(worst(records, route) == "right" for route in routes)


def problems(records: Records, routes: list[str]) -> dict[str, list[str]]:
    """What is not right, each kind with the routes (for a wrong number: and the parts) that it was met on."""
    found: dict[str, list[str]] = defaultdict(list)
    for route in routes:
        for _, part, verdict in verdicts(records, route):
            if verdict["outcome"] == "wrong":
                told, where = "wrong", f"{route} {part}"
            elif verdict["outcome"] in ("refused", "foreign"):
                told, where = f"{verdict['outcome']}: {cause(verdict['message'])}", route
            else:
                continue
            if where not in found[told]:
                found[told].append(where)
    return found


def largest_error(records: Records, route: str, part: str) -> str:
    """Of the wrong numbers of one route, relative to the largest entry."""
    errors = [
        str(verdict["error"])
        for _, judged_part, verdict in verdicts(records, route)
        if judged_part == part and verdict["outcome"] == "wrong"
    ]
    told = [error for error in errors if not re.fullmatch(r"[0-9.e+-]+|inf", error)]
    return told[0] if told else format(max(map(float, errors)), ".0e")


def cause(message: str) -> str:
    """A message without what is always said: which class, which transform, what to do."""
    message = re.sub(r"^UnsupportedOperationError: \w+ cannot differentiate .*? \(no route: ", "(", message)
    message = re.sub(r"; (use method|replace that|take this).*$", "", message)
    return re.sub(r"0x[0-9a-f]+", "0x...", message)[:230].strip()


# -------------------------------------------------------------------- the page


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    return "\n".join([*_introduction(found), *_counts(found), *_exceptions(found), *_lists(found)]) + "\n"


def _judged(found: dict[str, Any]) -> dict[str, Records]:
    return {name: records for name, records in found["entries"].items() if filtered(records) is None}


def _introduction(found: dict[str, Any]) -> Iterator[str]:
    dtypes = "; ".join(
        f"{str(dtype).removeprefix('torch.')} {first:g} for a first derivative, "
        + ("no second one" if beyond is None else f"{beyond:g} for a Laplacian")
        for dtype, (first, beyond) in COARSER.items()
    )
    tolerances = ", ".join(f"{name} {tolerance:g}" for name, tolerance in TOLERANCES.items())
    yield f"""# Operations

<!-- generated: cd tests && python -m sweep -->

Every operation of torch's own test database (`op_db`) and every module of `module_db`, through `batch_jac`, `diag_jac`
and `laplacian` with `method="auto"`, `"taylor"`, `"forward"` and `"reverse"`; torch {found["torch"]}, float64, on the CPU.
Written by `python -m sweep`, run from `tests/`.

**What is judged.** Up to {SAMPLES} samples of each entry, spread over its list, with at most {LARGEST} input elements.
All real inputs that want a gradient, parameters of a module among them, move in three random directions with the three
numbers `x` and in a fourth with one parameter `p`; all outputs that are differentiable are projected to three numbers
(complex ones as real and imaginary part). That is `g(p, x)` from R^3 to R^3. Where three samples joined along an axis
give what they give apart, to 1e-12, the batch of three is judged as well (`batch_dims=1`), otherwise `batch_dims=0`.

**Filter.** An entry is left out if it has no autograd, no float64 on the CPU, no sample with a real strided input that
wants a gradient, no differentiable strided output, or gives different values from the same random state. Random
operations stay in: the state is set before each call.

**Truth.** The Jacobian is reverse mode of one sample, row by row, and must agree with central differences of the
function to {FIRST:g}; everything else is a central difference of that Jacobian, extrapolated from three steps, with its own
error. No second derivative of torch's is used. Tolerances relative to the largest entry:
{tolerances} ({max(COARSE.values()):g} for hardsigmoid, whose own first derivative in torch is a sixth in single precision), plus twice the error of the difference. The value and the gradient by `p` of each transform (by `.backward()`) are judged apart.

**Dtypes.** The same values are computed once more with the operation itself in float32 and in bfloat16, by `auto`, where
torch's own reverse mode of one sample carries the Jacobian to a tenth of what is allowed: {dtypes}.

**Kinks.** Where the differences do not settle (a kink, a jump, an edge of the domain), the point, the size of the
directions and the step are changed, {len(TRIES) - 1} times, then the inputs are folded into (0, 1) by |v| / (1 + |v|),
where some of torch's own samples have no finite value; what still does not settle is unjudged. So is what torch's first
derivative and the differences of the function disagree about: no truth there.
"""


def _counts(found: dict[str, Any]) -> Iterator[str]:
    judged = _judged(found)
    cases = sum(bool(record.get("outcomes")) for records in judged.values() for record in records)
    left_out = len(found["entries"]) - len(judged)
    yield f"## Counts\n\n{len(judged)} entries, {cases} judged cases; {left_out} entries are left out by the filter.\n"
    yield (
        "An entry counts with its worst outcome.\n\n| route | " + " | ".join(ORDER) + " |\n|---|" + "---|" * len(ORDER)
    )
    for route in ROUTES:
        outcomes = [worst(records, route) for records in judged.values()]
        yield f"| `{route}` | " + " | ".join(str(outcomes.count(outcome)) for outcome in ORDER) + " |"
    yield f"""
{_coarse(judged)}

{_served(found, judged)}

*right*: value and gradient as the truth. *refused*: a `JacfuncError`. *foreign*: any other exception, from the transform
or from `.backward()` through its result. *wrong*: a number that is not the derivative.
"""


def how_served(records: Records) -> str:
    """How the Taylor route takes an entry: by the worst of its cases."""
    found = {record["served"].partition(":")[0] for record in records if "served" in record}
    return next((kind for kind in (OTHER, ALONE, OWN) if kind in found), OTHER)


def _served(found: dict[str, Any], judged: dict[str, Records]) -> str:
    """How many entries the Taylor route takes how, and the operations of networks."""
    kinds = {name: how_served(records) for name, records in judged.items()}
    rows = []
    for kind in (OWN, ALONE, OTHER):
        names = [f"`{name}`" for name, served in kinds.items() if served == kind]
        told = "" if kind == OWN else ", ".join(names)
        rows.append(f"| {kind} | {len(names)} | {told} |")
    called, without = found["networks"]["called"], found["networks"]["without"]
    return (
        'The Laplacian with `method="taylor"` goes by\n\n| | entries | |\n|---|---|---|\n' + "\n".join(rows) + "\n\n"
        f"The networks of `tests/networks.py` and the modules of torch.nn call {len(called)} operations with jets, of which "
        f"{len(called) - len(without)} have rules ({1 - len(without) / max(len(called), 1):.0%}); without: "
        f"{', '.join(f'`{name}`' for name in without) or 'none'}."
    )


def _coarse(judged: dict[str, Records]) -> str:
    """How many entries are what in the coarser dtypes."""
    told = []
    for dtype in COARSER:
        for transform in TRANSFORMS:
            kinds = [coarse_worst(records, str(dtype), transform) for records in judged.values()]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ORDER if kinds.count(kind))
            told.append(f"| `{transform} auto`, {str(dtype).removeprefix('torch.')} | {counts} |")
    return "| in a coarser dtype | entries |\n|---|---|\n" + "\n".join(told)


def coarse_worst(records: Records, dtype: str, transform: str) -> str:
    """The worst outcome that an entry has there."""
    found = {record["coarse"][dtype][transform].split()[0].rstrip(":") for record in records if "coarse" in record}
    return next((outcome for outcome in ORDER if outcome in found), "unjudged")


def _exceptions(found: dict[str, Any]) -> Iterator[str]:
    automatic = [route for route in ROUTES if route.endswith("auto")]
    forced = [route for route in ROUTES if not route.endswith("auto")]
    yield "## Not right with `method='auto'`\n\nThe error of a wrong number is relative to the largest entry.\n"
    yield f"| entry | {' | '.join(TRANSFORMS)} | message |\n|---|---|---|---|---|"
    for name, records in _judged(found).items():
        messages = [told.partition(": ")[2] for told in problems(records, automatic) if told != "wrong"]
        if {worst(records, route) for route in automatic} - {"right", "unjudged"}:
            cells = [_told(records, route) for route in automatic]
            yield f"| `{name}` | {' | '.join(cells)} | {_cell('; '.join(messages))} |"
    yield ""
    yield from _by_problem(found, "## Not right with a method that was asked for", forced)


def _told(records: Records, route: str) -> str:
    """The outcomes of a route: once if value and gradient share it."""
    by_part = {}
    for part in PARTS:
        found = {verdict["outcome"] for _, judged_part, verdict in verdicts(records, route) if judged_part == part}
        outcome = next((outcome for outcome in ORDER if outcome in found), "unjudged")
        by_part[part] = f"wrong {largest_error(records, route, part)}" if outcome == "wrong" else outcome
    if len(set(by_part.values())) == 1:
        return by_part["value"]
    return ", ".join(f"{part} {outcome}" for part, outcome in by_part.items())


def _by_problem(found: dict[str, Any], title: str, routes: list[str]) -> Iterator[str]:
    """One line for each problem that some entries share on the same routes."""
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, records in _judged(found).items():
        for told, where in problems(records, routes).items():
            shared[told, _routes(where)].append(f"`{name}`")
    yield f"{title}\n"
    if not shared:
        yield "Nothing.\n"
        return
    yield "| outcome | on | operations |\n|---|---|---|"
    for (told, where), names in sorted(shared.items(), key=lambda item: (ORDER.index(item[0][0].split(":")[0]), item)):
        yield f"| {_cell(told)} | {where} | {', '.join(names)} |"
    yield ""


def _routes(where: list[str]) -> str:
    """``batch_jac, diag_jac (auto)`` and not every pair."""
    by_method: dict[str, list[str]] = defaultdict(list)
    for route in where:
        transform, _, rest = route.partition(" ")
        by_method[rest].append(transform)
    return "; ".join(f"{', '.join(transforms)} ({method})" for method, transforms in by_method.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "\\<").replace("*", "\\*")


def _lists(found: dict[str, Any]) -> Iterator[str]:
    judged = _judged(found)
    partly: dict[str, list[str]] = defaultdict(list)
    for name, records in judged.items():
        for reason, count in unjudged(records).items():
            partly[reason].append(f"`{name}` ({count} of {len(records)})")
    yield "## Unjudged\n\n| quantity and reason | entries, in how many of their cases |\n|---|---|"
    for reason, names in sorted(partly.items()):
        yield f"| {_cell(reason)} | {', '.join(names)} |"
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, records in found["entries"].items():
        if reason := filtered(records):
            left_out[reason].append(f"`{name}`")
    yield "\n## Left out by the filter\n\n| reason | entries |\n|---|---|"
    for reason, names in sorted(left_out.items()):
        yield f"| {_cell(reason)} | {', '.join(names)} |"
    right = [f"`{name}`" for name, records in judged.items() if is_right(records)]
    yield f"\n## Right on every route\n\n{len(right)} entries: {', '.join(right)}."


def unjudged(records: Records) -> dict[str, int]:
    """What of an entry was not judged and why, with the number of cases."""
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        if "broken" in record:
            counts[f"all: {record['broken']}"] += 1
        if "filter" in record:
            continue
        for name, why in record.get("unjudged", {}).items():
            counts[f"{name}: {re.sub(r' by [0-9.e+-]+$', '', why)}"] += 1
    return counts

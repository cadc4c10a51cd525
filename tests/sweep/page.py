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
MEANING = """- *right*: value and gradient are those of the truth.
- *refused*: jacfunc raises one of its own errors, a `JacfuncError`.
- *foreign*: any other exception, from the transform or from `.backward()` through its result.
- *wrong*: a number that is not the derivative.
- *unjudged*: there is no truth to compare with."""


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
    yield f"""# Which PyTorch operations are right

<!-- generated: cd tests && python -m sweep -->

Every operation of PyTorch's own test database (`op_db`) and every module of its `module_db` was differentiated by jacfunc
and compared with a truth. If you wonder whether an operation in your network is right, search this page for its name.

Each is tried in `batch_jac`, `diag_jac` and `laplacian`, with `method="auto"`, `"taylor"`, `"forward"` and `"reverse"`;
torch {found["torch"]}, float64, on the CPU. `python -m sweep`, run from `tests/`, writes this page.

## How an operation is judged

**Samples.** Up to {SAMPLES} samples of each entry are taken, spread over its list in the database, with at most {LARGEST}
input elements.

**The function.** All real inputs that want a gradient take part, also the parameters of a module. They move in three random
directions by three numbers `x`, and in a fourth direction by one parameter `p`. All differentiable outputs are projected to
three numbers; complex outputs count as real and imaginary part. The result is a function `g(p, x)` from R^3 to R^3.

**Batches.** If three samples, joined along an axis, give the same as three samples apart (to 1e-12), the batch of three is
judged as well (`batch_dims=1`). Otherwise a single sample is judged (`batch_dims=0`).

**Truth.** The Jacobian is reverse mode of one sample, row by row. It must agree with central differences of the function to
{FIRST:g}. Everything beyond is a central difference of that Jacobian, extrapolated from three steps, with an estimate of its
error. No second derivative of PyTorch is used.

**Tolerances**, relative to the largest entry: {tolerances}, plus twice the error of the difference. For the Jacobian of hardsigmoid it is
{max(COARSE.values()):g}, since its own first derivative in PyTorch has a sixth in single precision. The value of each
transform and its gradient by `p` (by `.backward()`) are judged separately.

**Dtypes.** The same is computed once more with the operation in float32 and in bfloat16, by `auto`, if PyTorch's own reverse
mode of one sample keeps the Jacobian to a tenth of the tolerance. The tolerances are {dtypes}.

**Kinks.** If the differences do not settle (at a kink, a jump, or the edge of the domain), the point, the size of the
directions and the step are changed, {len(TRIES) - 1} times. Then the inputs are mapped into (0, 1) by |v| / (1 + |v|), since
some of PyTorch's own samples lie where the function has no finite value. What still does not settle is *unjudged*. If
PyTorch's first derivative and the differences of the function disagree, there is no truth, and the case is unjudged too.

**Filter.** Entries are left out if they have no autograd, no float64 on the CPU, no sample with a real strided input that
wants a gradient, no differentiable strided output, or other values from the same random state. Random operations stay in:
the random state is set before each call.
"""


def _counts(found: dict[str, Any]) -> Iterator[str]:
    judged = _judged(found)
    cases = sum(bool(record.get("outcomes")) for records in judged.values() for record in records)
    left_out = len(found["entries"]) - len(judged)
    yield f"## Counts\n\n{len(judged)} entries, {cases} judged cases; {left_out} entries are left out by the filter.\n"
    yield f"""{MEANING}

An entry counts with its worst outcome:

| route | {" | ".join(ORDER)} |
|---|{"---|" * len(ORDER)}"""
    for route in ROUTES:
        outcomes = [worst(records, route) for records in judged.values()]
        yield f"| `{route}` | " + " | ".join(str(outcomes.count(outcome)) for outcome in ORDER) + " |"
    yield f"""
{_coarse(judged)}

{_served(found, judged)}
"""


def how_served(records: Records) -> str:
    """How the Taylor route takes an entry: by the worst of its cases."""
    found = {record["served"].partition(":")[0] for record in records if "served" in record}
    return next((kind for kind in (OTHER, ALONE, OWN) if kind in found), OTHER)


def _served(found: dict[str, Any], judged: dict[str, Records]) -> str:
    """How many entries the Taylor route takes how, and the operations of networks."""
    kinds = {name: how_served(records) for name, records in judged.items()}
    rows, lists = [], []
    for kind in (OWN, ALONE, OTHER):
        names = [f"`{name}`" for name, served in kinds.items() if served == kind]
        rows.append(f"| {kind} | {len(names)} |")
        if kind != OWN and names:
            lists.append(f"- {kind}: {', '.join(names)}")
    called, without = found["networks"]["called"], found["networks"]["without"]
    return (
        'How the Laplacian with `method="taylor"` treats an operation: by rules for it (*own rules*), by the forward route for\n'
        "this operation only (*an operation alone*), or by another route for the whole function (*another route*):\n\n"
        "| way | entries |\n|---|---|\n" + "\n".join([*rows, "", *lists]) + "\n\n"
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
    return "| in single or half precision | entries |\n|---|---|\n" + "\n".join(told)


def coarse_worst(records: Records, dtype: str, transform: str) -> str:
    """The worst outcome that an entry has there."""
    found = {record["coarse"][dtype][transform].split()[0].rstrip(":") for record in records if "coarse" in record}
    return next((outcome for outcome in ORDER if outcome in found), "unjudged")


def _exceptions(found: dict[str, Any]) -> Iterator[str]:
    automatic = [route for route in ROUTES if route.endswith("auto")]
    forced = [route for route in ROUTES if not route.endswith("auto")]
    yield "## Not right with `method='auto'`\n\nThe error of a wrong number is relative to the largest entry.\n"
    yield f"| entry | {' | '.join(TRANSFORMS)} |\n|---|---|---|---|"
    said: dict[str, list[str]] = defaultdict(list)
    for name, records in _judged(found).items():
        messages = [told.partition(": ")[2] for told in problems(records, automatic) if told != "wrong"]
        if {worst(records, route) for route in automatic} - {"right", "unjudged"}:
            cells = [_told(records, route) for route in automatic]
            yield f"| `{name}` | {' | '.join(cells)} |"
            for message in messages:
                said[message].append(f"`{name}`")
    yield ""
    yield from (f"- {', '.join(names)}: {_plain(message)}" for message, names in said.items())
    yield ""
    yield from _by_problem(found, "## Not right with a fixed method", forced)


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
    for (told, where), names in sorted(shared.items(), key=lambda item: (ORDER.index(item[0][0].split(":")[0]), item)):
        yield f"- {', '.join(names)}, on {where}: {_plain(told)}"
    yield ""


def _routes(where: list[str]) -> str:
    """``batch_jac, diag_jac (auto)`` and not every pair."""
    by_method: dict[str, list[str]] = defaultdict(list)
    for route in where:
        transform, _, rest = route.partition(" ")
        by_method[rest].append(transform)
    return "; ".join(f"{', '.join(transforms)} ({method})" for method, transforms in by_method.items())


def _plain(text: str) -> str:
    """A message as text of a page, on one line."""
    return text.replace("\n", " ").replace("<", "\\<").replace("*", "\\*")


def _lists(found: dict[str, Any]) -> Iterator[str]:
    judged = _judged(found)
    partly: dict[str, list[str]] = defaultdict(list)
    for name, records in judged.items():
        for reason, count in unjudged(records).items():
            partly[reason].append(f"`{name}` ({count} of {len(records)})")
    yield "## Unjudged\n\nThe quantity, the reason, and the entries, in how many of their cases:\n"
    for reason, names in sorted(partly.items()):
        yield f"- {_plain(reason)}: {', '.join(names)}"
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, records in found["entries"].items():
        if reason := filtered(records):
            left_out[reason].append(f"`{name}`")
    yield "\n## Left out by the filter\n"
    for reason, names in sorted(left_out.items()):
        yield f"- {_plain(reason)}: {', '.join(names)}"
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

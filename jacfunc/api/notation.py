"""The subscript notation of partial derivatives, ``"u u_t u_xx"``, and of their sums, ``"u_t-0.1*u_xx"``; its refusals.

Only strings and multi-indices live here; no tensor, no function.  Every error repeats the string as it was written and
points at the token that it is about.
"""

from __future__ import annotations

import keyword
import math
import re
import unicodedata
from dataclasses import dataclass

from ..core.caches import computed_once
from ..core.levels import compiling
from ..core.reasons import a_type
from ..errors import ArgumentTypeError, NotationError, UnsupportedOperationError
from ..jet.layout import Index, Terms
from .spelling import instead_of_product, meant, quotient

LONGEST = 64
"""Characters of a subscript: nobody means a derivative of such an order, and splitting it takes time."""

SUM = re.compile(r"[^\s,]+(?:(?:\s+(?=[+*-])|(?<=[+*-])\s+)[^\s,]+)*")
"""A name, or a sum, in which there may be spaces around operators."""
TERM = re.compile(
    r"\s*(?P<signs>(?:[+-]\s*)*)(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*)?(?P<name>[^\s+*-]+)"
)
"""A number and a name, with all signs before them."""


@dataclass(frozen=True)
class Name:
    """One partial derivative: how it was written, the place of its output, and how often by each input."""

    written: str
    output: int
    index: Index

    @property
    def parts(self) -> tuple[tuple[int, Terms], ...]:
        """As that of a sum."""
        return ((self.output, ((self.index, 1.0),)),)


@dataclass(frozen=True)
class Combined:
    """A sum of partial derivatives times numbers: how it was written, and for each output the derivatives of it."""

    written: str
    parts: tuple[tuple[int, Terms], ...]

    @property
    def output(self) -> int:
        """The place of its first output."""
        return self.parts[0][0]


COMPONENTS = re.compile(r"([^\s,\[\]]+)\[(:|[1-9][0-9]*)\]")
"""A name, and in brackets of how many components it is, or of all that there are."""
ALL = -1
"""In place of a number of components: all that there are."""


@dataclass(frozen=True)
class Variables:
    """The names of inputs and of outputs, checked: identifiers, each for one thing.

    ``components``: for each output how many it has, along a last axis; None for one number without such an axis.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    components: tuple[int | None, ...]

    @property
    def written(self) -> str:
        """The outputs as they were written."""
        counts = [None if count is None else ":" if count == ALL else str(count) for count in self.components]
        named = zip(self.outputs, counts, strict=True)
        return " ".join([name if count is None else f"{name}[{count}]" for name, count in named])

    @classmethod
    def of(cls, inputs: str, outputs: str) -> Variables:
        """From strings of names apart by spaces or commas."""
        if compiling():
            raise UnsupportedOperationError(
                "names of derivatives cannot be read while torch.compile or a strict torch.export traces; call "
                "partials or residual once before, and only its result in what is traced"
            )
        inputs, outputs = _text("inputs", inputs), _text("outputs", outputs)
        found = [COMPONENTS.fullmatch(token) for token, _ in _tokens(outputs)]
        components = tuple([None if match is None else ALL if match[2] == ":" else int(match[2]) for match in found])
        tokens = zip(_tokens(outputs), found, strict=True)
        outputs = " ".join([token if match is None else match[1] for (token, _), match in tokens])
        variables = cls(_listed("inputs", inputs), _listed("outputs", outputs), components)
        for name in variables.outputs:
            if name in variables.inputs:
                raise NotationError(
                    f"{name!r} is both an input (inputs={inputs!r}) and an output (outputs={outputs!r}); give one of "
                    "them another name" + _pointer(outputs, _place(outputs, name), name)
                )
        for name in variables.inputs:
            for reading in _readings(variables, name):
                raise NotationError(
                    f"{name!r} is an input (inputs={inputs!r}) and can be read as {_told(variables, reading)} as well; "
                    "give the input another name" + _pointer(inputs, _place(inputs, name), name)
                )
        return variables

    def name(self, token: str) -> Name | Combined:
        """What a token such as ``u_xx`` means."""
        return _meaning(self, token, token, 0)

    def names(self, wanted: str) -> tuple[Name | Combined, ...]:
        """What the tokens of a string mean, in order."""
        return _names(self, _text("wanted", wanted))


def _listed(argument: str, text: str) -> tuple[str, ...]:
    tokens = _tokens(text)
    if not tokens:
        raise NotationError(f'{argument}={text!r} names nothing; write names apart by spaces, as in {argument}="t x"')
    seen: list[str] = []
    for token, at in tokens:
        problem = None
        if not token.isidentifier() or keyword.iskeyword(token):
            problem = "is no name that Python takes for an attribute"
            if "[" in token and argument == "outputs":
                problem = "is no name with components in brackets, as in 'u[3]', or 'u[:]' for all that there are"
        elif token.startswith("_") or token.endswith("_"):
            problem = "begins or ends with an underscore, which stands before a subscript"
        elif token in seen:
            problem = "is there twice"
        if problem is not None:
            raise NotationError(
                f"{token!r} in {argument}={text!r} {problem}; choose another name" + _pointer(text, at, token)
            )
        seen.append(token)
    return tuple(seen)


def _text(argument: str, text: object) -> str:
    """The string in the normal form that Python gives attributes, where a letter in italics is the letter."""
    if not isinstance(text, str):
        raise ArgumentTypeError(
            f"{argument} is {a_type(text)}; pass one string with names apart by spaces, as in "
            f'{argument}="{"u u_t u_xx" if argument == "wanted" else "t x"}"'
        )
    return unicodedata.normalize("NFKC", text)


def _tokens(text: str) -> list[tuple[str, int]]:
    """Tokens and where they stand."""
    return [(match.group(), match.start()) for match in re.finditer(r"[^\s,]+", text)]


def _place(text: str, name: str) -> int:
    """Where a name stands in a string, as a token of its own."""
    return next(at for token, at in _tokens(text) if token == name)


def _pointer(text: str, at: int, token: str) -> str:
    """The string again, with a line that points at the token."""
    flat = re.sub(r"\s", " ", text)
    return f"\n    {flat}\n    {' ' * at}{'^' * len(token)}"


@computed_once(1024)
def _names(variables: Variables, wanted: str) -> tuple[Name | Combined, ...]:
    tokens = [(match.group(), match.start()) for match in SUM.finditer(wanted)]
    if not tokens:
        raise NotationError(f'wanted={wanted!r} asks for nothing; write partial derivatives, as in "u u_t u_xx"')
    names: list[Name | Combined] = []
    for token, at in tokens:
        name = _meaning(variables, token, wanted, at)
        if any(name.written == other.written for other in names):
            raise NotationError(
                f"{token!r} is asked for twice in {wanted!r}; name it once" + _pointer(wanted, at, token)
            )
        names.append(name)
    return tuple(names)


def without_spaces(written: str) -> str:
    """How a name or a sum is looked up."""
    return re.sub(r"\s*([+*-])\s*", r"\1", written.strip())


def _meaning(variables: Variables, token: str, within: str, at: int) -> Name | Combined:
    """What a name or a sum means, which stands at a place within a longer string."""
    if not any(operator in token for operator in "+-*"):
        return _name(variables, token, within, at)
    parts: dict[int, dict[Index, float]] = {}
    place = 0
    while place < len(token):
        name, number, place = _term(variables, token, place, within, at)
        terms = parts.setdefault(name.output, {})
        terms[name.index] = terms.get(name.index, 0.0) + number
    kept = {output: tuple([term for term in terms.items() if term[1]]) for output, terms in parts.items()}
    if not any(kept.values()):
        raise NotationError(f"{token!r} is zero; leave it out" + _pointer(within, at, token))
    if not all(math.isfinite(number) for terms in kept.values() for _, number in terms):
        raise NotationError(f"numbers of {token!r} add up to infinity; take smaller ones" + _pointer(within, at, token))
    return Combined(without_spaces(token), tuple([(output, terms) for output, terms in kept.items() if terms]))


def _term(variables: Variables, token: str, place: int, within: str, at: int) -> tuple[Name, float, int]:
    """The term of a sum that begins at a place of it: the name, the number in front, and where it ends."""
    match = TERM.match(token, place)
    if match is None or (place and not match["signs"]):
        rest = token[place:]
        raise NotationError(
            f"{rest.strip()!r} is no term of the sum {token!r}"
            + instead_of_product(without_spaces(token[:place]), without_spaces(rest))
            + _pointer(within, at + place, rest)
        )
    number = float(match["number"] or 1) * (-1) ** match["signs"].count("-")
    if not math.isfinite(number):
        raise NotationError(
            f"{match['number']} is larger than any number of floating point; take a smaller one"
            + _pointer(within, at + match.start("number"), match["number"])
        )
    return _name(variables, match["name"], within, at + match.start("name")), number, match.end()


@computed_once(4096)
def _name(variables: Variables, token: str, within: str, at: int) -> Name:
    readings = _readings(variables, token)
    if len(readings) == 1:
        return readings[0]
    if readings:
        listed = "; or ".join(_told(variables, reading) for reading in readings)
        problem = (
            f"{token!r} can be read in {len(readings)} ways: {listed}; rename an input or output so that one is left"
        )
    else:
        problem = _problem(variables, token)
        proposed = meant(token, variables.inputs, variables.outputs, lambda name: len(_readings(variables, name)) == 1)
        problem = f"{problem}{proposed or quotient(token)}"
    where = "" if within == token else f" (in {within!r})"
    raise NotationError(problem + where + _pointer(within, at, token))


def _readings(variables: Variables, token: str) -> list[Name]:
    """Every meaning of a token: an output, or an output, an underscore and inputs one after the other."""
    found: dict[tuple[int, Index], Name] = {}
    for place, output in enumerate(variables.outputs):
        if token == output:
            index = (0,) * len(variables.inputs)
            found[place, index] = Name(token, place, index)
        elif token.startswith(f"{output}_") and len(token) - len(output) <= LONGEST:
            for index in _subscripts(variables.inputs, token[len(output) + 1 :]):
                found[place, index] = Name(token, place, index)
    return list(found.values())


def _subscripts(inputs: tuple[str, ...], subscript: str) -> list[Index]:
    """Every way to split a subscript into inputs, as multi-indices; underscores may stand between inputs."""
    none = (0,) * len(inputs)
    ways: list[dict[Index, None]] = [{none: None}, *({} for _ in subscript)]  # by where the rest begins
    for at in range(len(subscript)):
        start = at + 1 if subscript[at] == "_" and at > 0 else at
        for index in ways[at]:
            for place, name in enumerate(inputs):
                if subscript.startswith(name, start):
                    counted = (*index[:place], index[place] + 1, *index[place + 1 :])
                    ways[start + len(name)][counted] = None
    return [index for index in ways[-1] if index != none]


def _told(variables: Variables, name: Name) -> str:
    """A reading in words."""
    times = {1: "once", 2: "twice"}
    by = " and ".join(
        f"{times.get(count, f'{count} times')} by {variables.inputs[place]!r}"
        for place, count in enumerate(name.index)
        if count
    )
    return f"{variables.outputs[name.output]!r}{' ' + by if by else ' itself'}"


def _problem(variables: Variables, token: str) -> str:
    """Why a token has no meaning."""
    inputs, outputs = ", ".join(map(repr, variables.inputs)), ", ".join(map(repr, variables.outputs))
    if token in variables.inputs:
        return (
            f"{token!r} is an input, which every result has as an attribute; ask for outputs ({outputs}) "
            "and their derivatives"
        )
    if token[0].isdigit() or token[0] == ".":
        return (
            f"{token!r} begins with a number; between a number and a name is *, as in 0.1*{variables.outputs[0]}_"
            f"{variables.inputs[0]}, and a number by itself is added in Python"
        )
    if "(" in token or ")" in token or token == "Parameter":  # which a tensor in an f-string leaves
        return (
            f"{token!r} is no name; a sum has plain numbers in front of names, and all else is written in Python, as "
            "coefficients to be trained are"
        )
    heads = [output for output in variables.outputs if token.startswith(f"{output}_")]
    if not heads:
        return (
            f"{token!r} names no output; it begins with one of {outputs}, as in "
            f"{variables.outputs[0]}_{variables.inputs[0]}"
        )
    head = max(heads, key=len)
    subscript = token[len(head) + 1 :]
    if len(subscript) >= LONGEST:
        return f"{token!r} has a subscript of {len(subscript)} characters; at most {LONGEST - 1} are read"
    return f"{token!r} has the subscript {subscript!r}, which is not made of inputs ({inputs})"

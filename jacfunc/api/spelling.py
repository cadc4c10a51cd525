"""What was probably meant by a name of a derivative that cannot be read: other notations put into this one.

Strings only; whether a proposal can be read is asked of ``notation.py``, so none is made that cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
ORDER = "write names, each with a number in front if any"


def meant(token: str, inputs: Sequence[str], outputs: Sequence[str], readable: Callable[[str], bool]) -> str:
    """The end of a sentence about a token that has no meaning: the name that it resembles, or nothing."""
    number = re.match(NUMBER, token)
    front = f"{number[0]}*" if number else ""
    for name in _proposals(token[len(number[0]) :] if number else token, inputs, outputs):
        if name != token and readable(name):
            return f"; did you mean {front + name!r}?"
    return ""


def instead_of_product(before: str, rest: str) -> str:
    """The end of a sentence about what follows a term of a sum without a sign: a product or a power."""
    before = re.split(r"(?<![eE])[+-]", before)[-1]
    alone = re.sub(rf"^{NUMBER}\*", "", before)
    if number := re.fullmatch(rf"\*({NUMBER})", re.split(r"(?<![eE])[+-]", rest)[0]):
        return f"; {ORDER}; did you mean '{number[1]}*{before}'?"
    if not rest.startswith("*"):
        return f"; {ORDER}, as in u_t-0.1*u_xx"
    other = re.split(r"[+-]", rest)[0]
    product = f"d.{alone}{other}" if other.startswith("**") else f"d.{alone}*d.{other[1:]}"
    return f"; {ORDER}, and products of tensors in Python, as {product}"


def quotient(token: str) -> str:
    """The end of a sentence about a name with a quotient or a power in it, or nothing."""
    found = re.fullmatch(rf"([^/^]+)(/|\^)({NUMBER}|[^/^]+)", token)
    if found is None or token.startswith(("d", "∂")):
        return ""
    name, operator, other = found.groups()
    if operator == "/" and re.fullmatch(NUMBER, other) and float(other):
        return f"; did you mean '{1 / float(other):.12g}*{name}'?"
    other = other if re.fullmatch(NUMBER, other) else f"d.{other}"
    return (
        f"; ask for {name!r} and compute with tensors in Python, as d.{name}{'**' if operator == '^' else '/'}{other}"
    )


def _proposals(token: str, inputs: Sequence[str], outputs: Sequence[str]) -> Iterator[str]:
    """Names that a token may stand for, the likeliest first."""
    plain = re.sub(r"[{}\\$]", "", token).replace(".", "_").replace("∂", "d").replace("partial", "d")
    for spelt in dict.fromkeys([plain, _cased(plain, [*outputs, *inputs])]):
        yield from _of_leibniz(spelt, inputs, outputs)
        joined = re.sub("_+", "_", spelt).strip("_")
        yield joined
        yield _spelt_out(joined, inputs)
        for output in sorted(outputs, key=len, reverse=True):
            if joined.startswith(output):
                rest = joined[len(output) :].lstrip("_")
                yield from (f"{output}_{rest}", f"{output}_{_spelt_out(rest, inputs)}")
                yield f"{output}_{re.sub(f'd(?={_any(inputs)})', '', _spelt_out(rest, inputs))}"


def _of_leibniz(token: str, inputs: Sequence[str], outputs: Sequence[str]) -> Iterator[str]:
    """``d2u_dx2``, ``d^2u/dx^2``, ``dudx`` and the like."""
    by = rf"d({_any(inputs)})\^?(\d?)"
    found = re.fullmatch(rf"d\^?\d*_?({_any(outputs)})[_/]?((?:{by}_?)+)", token)
    if found is not None:
        yield f"{found[1]}_{''.join(name * int(times or 1) for name, times in re.findall(by, found[2]))}"


def _spelt_out(subscript: str, inputs: Sequence[str]) -> str:
    """With ``xx`` for ``x2``, ``x^2`` and ``2x``."""
    name = f"({_any(inputs)})"
    subscript = re.sub(rf"{name}_?\^?([1-9])(?!\d)", lambda found: found[1] * int(found[2]), subscript)
    return re.sub(rf"(?<!\d)([1-9]){name}", lambda found: found[2] * int(found[1]), subscript)


def _cased(token: str, names: Sequence[str]) -> str:
    """The token with the letters of names as they are in names."""
    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), _as_in(names), token, flags=re.I)


def _as_in(names: Sequence[str]) -> Callable[[re.Match[str]], str]:
    spelt = {name.lower(): name for name in names}
    return lambda found: spelt.get(found[0].lower(), found[0])


def _any(names: Sequence[str]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))

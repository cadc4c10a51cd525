"""The keywords that all transforms share, and their refusal; what they do lives with those who read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

from .errors import ArgumentError, ArgumentTypeError
from .keywords import InDims, Keywords, Method

METHODS = ("auto", "taylor", "forward", "reverse")

SAMPLE_AXES = ("batch_dims", "sample_chunk_size", "in_dims", "out_dims")
"""The keywords that say where samples lie, and how they are cut."""


def check_flag(name: str, value: object) -> None:
    """Refuse a keyword that is neither True nor False."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(f"{name}={value!r} is not a bool")


@dataclass(frozen=True)
class Options:
    """The keywords of one transform, checked when it is made.

    Attributes:
        argnums: which positional arguments to differentiate by; the last one by default.
        batch_dims: how many leading axes are sample axes; 0 for one sample.
        method: ``"auto"`` picks the cheapest route that the operations inside ``f`` allow.
        chunk_size: at most so many rows in flight, which bounds memory; None for all at once.
        sample_chunk_size: at most so many samples at a time, block by block, which bounds memory in the number of
            samples; ``"auto"`` for as many as the caches of a CPU hold, None for all at once.
        in_dims: which positional arguments carry samples, as in ``torch.vmap``: an entry each, 0 or None (shared), or
            0 for all but the parameters of :func:`make_functional`.  Keyword arguments are shared.
        out_dims: the axis of the outputs that the samples lie on, None for the first; 1 for trajectories ``(T, N, d)``.
            Results have them on the same axis.
        has_aux: ``f`` returns ``(output, aux)``; aux comes last in the result.
        return_value: also return the output of ``f``.
        check: find out, once, whether samples influence each other, and refuse if so.
        check_tolerance: by which part of its size a number of the output may move when other samples are replaced,
            before that counts as an influence (of its own size, or that of most samples where this is larger); for
            solvers whose steps all samples share (dopri5).  None for rounding alone.
        compile: run under ``torch.compile``, compiled once for a function and a kind of arguments; the first call takes
            seconds, and is compared with an eager one.
    """

    argnums: int | tuple[int, ...] = -1
    batch_dims: int = 1
    method: Method = "auto"
    chunk_size: int | None = None
    sample_chunk_size: int | Literal["auto"] | None = None
    in_dims: InDims = None
    out_dims: int | None = None
    has_aux: bool = False
    return_value: bool = False
    check: bool = True
    check_tolerance: float | None = None
    compile: bool = False
    numbers: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The selected arguments, as a tuple also where ``argnums`` is an int."""
    planned: tuple[object, ...] = field(init=False, repr=False, compare=False)
    """What a plan depends on."""

    @classmethod
    def of(cls, name: str, keywords: Keywords) -> Options:
        """The options of the transform ``name``."""
        for keyword in keywords:
            if keyword not in Keywords.__annotations__:
                raise ArgumentTypeError(no_keyword(name, keyword, SHARED))
        return cls(**{keyword: _exact(value) for keyword, value in keywords.items()})

    def changed(self) -> list[str]:
        """The keywords that are not as by default, as they are written."""
        defaults = Options()
        named = ((option.name, getattr(self, option.name)) for option in fields(self) if option.init)
        return [f"{name}={value!r}" for name, value in named if value != getattr(defaults, name)]

    @property
    def eager(self) -> Options:
        """These options without ``torch.compile``."""
        return replace(self, compile=False)

    @property
    def whole(self) -> Options:
        """These options for all samples at once."""
        return replace(self, sample_chunk_size=None, in_dims=None)

    @property
    def out_axis(self) -> int:
        """The axis of the outputs that the samples lie on, or how many axes lie before it."""
        return self.out_dims or 0

    @property
    def tolerance(self) -> float:
        """The part of its size by which an output may move, beyond rounding."""
        return self.check_tolerance or 0.0

    def refuse(self, names: Iterable[str], beside: str, why: str) -> None:
        """Refuse keywords that are not as by default ``beside`` something that has no use for them."""
        for name in names:
            value = getattr(self, name)
            if value != getattr(Options(), name):
                raise ArgumentError(f"{beside} with {name}={value!r}: {why}; leave it out")

    def __post_init__(self) -> None:
        # Once for a transform, as every call asks for them; a frozen dataclass has no other way.
        object.__setattr__(self, "numbers", self.argnums if isinstance(self.argnums, tuple) else (self.argnums,))
        named = ("argnums", "batch_dims", "method", "chunk_size", "out_dims", "has_aux", "check", "check_tolerance")
        object.__setattr__(self, "planned", tuple([getattr(self, name) for name in named]))
        if not self.numbers or not all(_is_int(number) for number in self.numbers):
            way = f"; write it as {tuple(self.argnums)}" if isinstance(self.argnums, list) and self.argnums else ""
            raise ArgumentTypeError(f"argnums={self.argnums!r} is not an int or a non-empty tuple of ints{way}")
        if not _is_int(self.batch_dims) or self.batch_dims < 0:
            raise ArgumentError(f"batch_dims={self.batch_dims!r} is not the number of leading sample axes, 0 or more")
        if self.method not in METHODS:
            raise ArgumentError(f"method={self.method!r} is unknown; choose one of {', '.join(map(repr, METHODS))}")
        if self.chunk_size is not None and (not _is_int(self.chunk_size) or self.chunk_size < 1):
            raise ArgumentError(
                f"chunk_size={self.chunk_size!r} is not a number of rows, 1 or more, or None for all at once"
            )
        size, dims = self.sample_chunk_size, self.in_dims
        if size is not None and size != "auto" and (not _is_int(size) or size < 1):
            raise ArgumentError(
                f"sample_chunk_size={size!r} is not a number of samples, 1 or more, 'auto', or None for all at once"
            )
        entries = dims if isinstance(dims, tuple) else (dims,)
        if not all(entry is None or (_is_int(entry) and entry == 0) for entry in entries):
            raise ArgumentError(
                f"in_dims={dims!r} is not 0 (samples in front), None (shared), or a tuple with one of these for each "
                "positional argument; move the sample axis to the front"
            )
        if self.out_dims is not None and (not _is_int(self.out_dims) or self.out_dims < 0):
            raise ArgumentError(
                f"out_dims={self.out_dims!r} is not the axis of the outputs that the samples lie on, 0 or more; None "
                "for the first"
            )
        if self.out_dims and self.batch_dims != 1:
            raise ArgumentError(
                f"out_dims={self.out_dims} with batch_dims={self.batch_dims}; samples lie on one axis, so leave "
                "batch_dims out"
            )
        for name in ("has_aux", "return_value", "check", "compile"):
            check_flag(name, getattr(self, name))
        part = self.check_tolerance
        if part is not None and (not isinstance(part, int | float) or isinstance(part, bool) or not 0 <= part < 1):
            raise ArgumentError(
                f"check_tolerance={part!r} is not a part of the size of an output, from 0 to below 1, as 1e-4; or None "
                "for rounding alone"
            )


SHARED = tuple([option.name for option in fields(Options) if option.init])
"""The names of the keywords that all transforms share."""


def no_keyword(name: str, keyword: str, known: Sequence[str]) -> str:
    """The sentence about a keyword that ``name`` does not have, with the one that it resembles and those it has."""
    close = closest(keyword, (*known, *OF_OTHERS))
    if close not in known and close:
        called = "" if close == keyword else f" as {close!r}"
        return f"{name} has no keyword {keyword!r}, which {OF_OTHERS[close]} have{called}; it takes {', '.join(known)}"
    meant = f"did you mean {close!r}? It" if close else "it"
    if keyword in NEEDLESS:
        meant = f"nothing has to be said in its place, so leave it out; {meant}"
    return f"{name} has no keyword {keyword!r}; {meant} takes {', '.join(known)}"


ELSEWHERE = {
    "in_axes": "in_dims",
    "out_axes": "out_dims",
    "mode": "method",
    "strategy": "method",
    "jit": "compile",
    "batch_size": "sample_chunk_size",
    "max_batch_size": "sample_chunk_size",
    "disable_autograd_tracking": "snapshot",
}
"""The names that keywords have in JAX, in functorch and in torch.autograd's own functions."""

OF_OTHERS = {
    "return_gradient": "laplacian and hessian",
    "grid": "partials and residual",
    **dict.fromkeys(("probes", "probe", "estimator", "tolerance", "fixed"), "the functions of jacfunc.estimate"),
}
"""Keywords that some transforms have and others do not, and which have them."""


NEEDLESS = ("randomness", "create_graph", "retain_graph", "vectorize", "strict")
"""Keywords of torch's own functions that a transform has no need of."""


def closest(name: str, known: Sequence[str]) -> str:
    """The known name that one resembles, or that other libraries call so, or nothing."""
    from difflib import get_close_matches  # for errors alone

    if ELSEWHERE.get(name) in known:
        return ELSEWHERE[name]
    within = [each for each in known if name in each.split("_") or each in name.split("_")]
    return next(iter([*within, *get_close_matches(name.lower(), known, 1, 0.65)]), "")


def _exact(value: Any) -> Any:
    """With an int or a float for a number of another kind, such as numpy's."""
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, tuple):
        return tuple([_exact(item) for item in value])
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

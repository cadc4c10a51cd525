"""The keywords of transforms as types: their names, values and meaning, as editors show them while a call is written.

A type checker tells from ``return_value``, ``has_aux`` and ``argnums`` what a transform returns.  So there is a class
for each result, and each transform says in its overloads which class gives what.  :class:`Options` says more of what
the keywords do, and checks their values.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict

import torch

Method = Literal["auto", "taylor", "forward", "reverse"]

InDims = int | tuple[int | None, ...] | None


# -------------------------------------------------------------------- single keywords


class _Shared(TypedDict, total=False):
    """Those that never change the type of a result."""

    batch_dims: int
    """How many leading axes are sample axes; 0 for one sample."""
    method: Method
    """``"auto"`` takes the cheapest route that ``f`` allows; ``"taylor"``, ``"forward"``, ``"reverse"`` ask for one."""
    chunk_size: int | None
    """At most so many rows in flight, which bounds memory; None for all at once."""
    sample_chunk_size: int | Literal["auto"] | None
    """At most so many samples at a time; ``"auto"`` for as many as caches hold, None for all at once."""
    in_dims: InDims
    """Which positional arguments carry samples, as in ``torch.vmap``: 0 or None for each."""
    out_dims: int | None
    """The axis of the outputs that the samples lie on; None for the first."""
    check: bool
    """Find out, once, whether samples influence each other, and refuse if so."""
    check_tolerance: float | None
    """By which part of its size an output may move in that check; None for rounding alone."""
    compile: bool
    """Run under ``torch.compile``, compiled once."""


class _ByOne(TypedDict, total=False):
    argnums: int
    """Which positional arguments to differentiate by; the last one by default."""


class _BySeveral(TypedDict, total=False):
    argnums: Required[tuple[int, ...]]
    """Which positional arguments to differentiate by; the last one by default."""


class _ByAny(TypedDict, total=False):
    argnums: int | tuple[int, ...]
    """Which positional arguments to differentiate by; the last one by default."""


class _NoAux(TypedDict, total=False):
    has_aux: Literal[False]
    """``f`` returns ``(output, aux)``; aux comes last in the result."""


class _Aux(TypedDict):
    has_aux: Literal[True]
    """``f`` returns ``(output, aux)``; aux comes last in the result."""


class _NoValue(TypedDict, total=False):
    return_value: Literal[False]
    """Also return the output of ``f``, after the derivative."""


class _Value(TypedDict):
    return_value: Literal[True]
    """Also return the output of ``f``, after the derivative."""


class _Whichever(TypedDict, total=False):
    has_aux: bool
    """``f`` returns ``(output, aux)``; aux comes last in the result."""
    return_value: bool
    """Also return the output of ``f``, after the derivative."""


class _Segments(TypedDict, total=False):
    segments: torch.Tensor | None
    """For ragged samples: the number of the segment of each row, ``(R,)``."""


class _Sparsity(TypedDict, total=False):
    sparsity: Any
    """A pattern of the Jacobian, or ``"auto"`` for it to be found: few passes for a Jacobian that is mostly zero."""


class _Coordinates(TypedDict, total=False):
    coordinates: torch.Tensor | None
    """The coordinates to differentiate by, ``(k,)``."""


class _Drawn(TypedDict, total=False):
    coordinates: torch.Tensor | int | None
    """The coordinates of which the sum is estimated, ``(k,)``, or how many are to be drawn."""
    generator: torch.Generator | None
    """What they are drawn by, if a number of them was given."""


class _Names(TypedDict, total=False):
    inputs: Required[str]
    """A name for each coordinate, as in ``"t x"``."""
    outputs: Required[str]
    """A name for each output, as in ``"u v p"``."""
    grid: bool
    """Each coordinate has points of its own, and ``f`` returns its outputs at all combinations of them."""


# -------------------------------------------------------------------- of transforms that take all but segments


class Alone(_Shared, _ByOne, _NoAux, _NoValue):
    """For the derivative alone."""


class Value(_Shared, _ByOne, _NoAux, _Value):
    """For ``(derivative, value)``."""


class Aux(_Shared, _ByOne, _Aux, _NoValue):
    """For ``(derivative, aux)``."""


class Both(_Shared, _ByOne, _Aux, _Value):
    """For ``(derivative, value, aux)``."""


class Keywords(_Shared, _ByAny, _Whichever):
    """Whichever of them, where a checker cannot tell what is returned."""


# -------------------------------------------------------------------- of transforms that take segments too


class RowsAlone(Alone, _Segments):
    """For the derivative alone."""


class RowsValue(Value, _Segments):
    """For ``(derivative, value)``."""


class RowsAux(Aux, _Segments):
    """For ``(derivative, aux)``."""


class RowsBoth(Both, _Segments):
    """For ``(derivative, value, aux)``."""


class RowsSeveral(_Shared, _BySeveral, _NoAux, _NoValue, _Segments):
    """For the derivatives by several arguments, in a tuple."""


class RowsKeywords(Keywords, _Segments):
    """Whichever of them."""


# -------------------------------------------------------------------- of those that take a pattern or coordinates too


class SparseAlone(RowsAlone, _Sparsity, _Coordinates):
    """For the derivative alone."""


class SparseValue(RowsValue, _Sparsity, _Coordinates):
    """For ``(derivative, value)``."""


class SparseAux(RowsAux, _Sparsity, _Coordinates):
    """For ``(derivative, aux)``."""


class SparseBoth(RowsBoth, _Sparsity, _Coordinates):
    """For ``(derivative, value, aux)``."""


class SparseKeywords(RowsKeywords, _Sparsity, _Coordinates):
    """Whichever of them."""


# -------------------------------------------------------------------- of those that are sums over coordinates


class SumAlone(RowsAlone, _Sparsity, _Drawn):
    """For the derivative alone."""


class SumValue(RowsValue, _Sparsity, _Drawn):
    """For ``(derivative, value)``."""


class SumAux(RowsAux, _Sparsity, _Drawn):
    """For ``(derivative, aux)``."""


class SumBoth(RowsBoth, _Sparsity, _Drawn):
    """For ``(derivative, value, aux)``."""


class SumKeywords(RowsKeywords, _Sparsity, _Drawn):
    """Whichever of them."""


# -------------------------------------------------------------------- of derivatives by name


class NamedAlone(_Shared, _ByAny, _NoAux, _NoValue, _Names):
    """For the derivatives alone."""


class NamedValue(_Shared, _ByAny, _NoAux, _Value, _Names):
    """For ``(derivatives, value)``."""


class NamedAux(_Shared, _ByAny, _Aux, _NoValue, _Names):
    """For ``(derivatives, aux)``."""


class NamedBoth(_Shared, _ByAny, _Aux, _Value, _Names):
    """For ``(derivatives, value, aux)``."""


# Two, neither of which fits a call without these keywords: mypy gives up on a lambda that several overloads take.


class NamedPerhapsValue(_Shared, _ByAny, _Names, total=False):
    """For a ``return_value`` that a checker does not know."""

    return_value: Required[bool]
    """Also return the output of ``f``, after the derivative."""
    has_aux: bool
    """``f`` returns ``(output, aux)``; aux comes last in the result."""


class NamedPerhapsAux(_Shared, _ByAny, _Names, total=False):
    """For a ``has_aux`` that a checker does not know."""

    return_value: bool
    """Also return the output of ``f``, after the derivative."""
    has_aux: Required[bool]
    """``f`` returns ``(output, aux)``; aux comes last in the result."""


# -------------------------------------------------------------------- of those where an input may be a vector


class VectorAlone(NamedAlone, _Drawn):
    """For the derivatives alone."""


class VectorValue(NamedValue, _Drawn):
    """For ``(derivatives, value)``."""


class VectorAux(NamedAux, _Drawn):
    """For ``(derivatives, aux)``."""


class VectorBoth(NamedBoth, _Drawn):
    """For ``(derivatives, value, aux)``."""


class VectorPerhapsValue(NamedPerhapsValue, _Drawn):
    """For a ``return_value`` that a checker does not know."""


class VectorPerhapsAux(NamedPerhapsAux, _Drawn):
    """For a ``has_aux`` that a checker does not know."""

r"""A function of a few coordinates of its input, all others fixed, whose derivatives are those by the coordinates.

.. math:: g(s) = f(x + \sum_r s_r e_{c_r})_C

Its input ``s`` has an entry for each chosen coordinate ``c_r``, and its output is that of ``f``, or the chosen
entries ``C`` of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core.reasons import a_type, name_of
from ..errors import ShapeError
from ..jet import Jet
from ..jet.chosen import chosen_of, with_chosen
from ..jet.dispatch import apply
from ..jet.pending import PendingLayer
from ..jet.registry import add


def placed(x: torch.Tensor, steps: Any, places: torch.Tensor) -> Any:
    """``x`` with ``steps``, ``(*batch, k)``, added at some coordinates of each sample, ``(k,)``."""
    if isinstance(steps, Jet):
        return apply(placed, (x, steps, places), {})
    return x + _spread(steps, x, places)


def _spread(steps: Any, x: Any, places: torch.Tensor) -> Any:
    """The steps at their places, zeros elsewhere, in the shape of ``x``.

    By a product, which is right in every mode: compiled by inductor the tangent of ``index_add`` is not
    (``findings/compiled_tangent_of_index_add.sh``).
    """
    size = x.shape[steps.dim() - 1 :].numel()
    hot = (places[:, None] == torch.arange(size, device=x.device)).to(x.dtype)
    return torch.matmul(steps, hot).reshape(x.shape)


def _placed(x: Any, steps: Jet, places: torch.Tensor) -> Any:
    """The rule: of a sample of one axis only the entries at these places move."""
    if type(x) is Jet or x.dim() != steps.dim():
        return x + _spread(steps, x, places)
    entries = Jet(x.index_select(-1, places), steps._coefficients, steps.frame)
    return with_chosen(x, entries, places)


def entries_at(output: Any, places: torch.Tensor, batch_dims: int) -> Any:
    """The entries of each sample of an output at some places, ``(*batch, k)``."""
    if isinstance(output, Jet):
        if type(output.pending) is PendingLayer and output.dim() == batch_dims + 1:
            return _of_layer(output, places, batch_dims)  # not by apply, which multiplies the layer out
        return apply(entries_at, (output, places, batch_dims), {})
    return output.reshape(*output.shape[:batch_dims], output.shape[batch_dims:].numel()).index_select(-1, places)


def _of_layer(output: Jet, places: torch.Tensor, batch_dims: int) -> Any:
    """Of a last linear layer only these rows of the weight are multiplied."""
    recorder = output.propagation.recorder

    def taken() -> Jet:
        source, weight, bias, _ = output.unchanged_layer()
        return Jet.linear(
            source, weight.index_select(0, places), None if bias is None else bias.index_select(0, places)
        )

    if recorder is None or recorder.busy:
        return taken()
    return recorder.step(entries_at, (output, places, batch_dims), {}, taken)


def _entries_at(output: Jet, places: torch.Tensor, batch_dims: int) -> Any:
    """The rule: those of what moves at the same places alone are what moves."""
    own = chosen_of(output)
    if own is not None and own.places is places:
        return own.entries
    flat = output.reshape(*output.shape[:batch_dims], output.shape[batch_dims:].numel())  # type: ignore[attr-defined]
    return torch.index_select(flat, -1, places)


add(_placed, placed)
add(_entries_at, entries_at)


@dataclass(frozen=True, eq=False, repr=False)
class AtCoordinates:
    """``f`` at ``x`` with steps at some coordinates, as a function of the steps, which come last.

    Attributes:
        transformed: the function ``f``.
        number: which of its arguments is ``x``.
        batch_dims: how many sample axes there are.
        picks: whether its output is that of the same coordinates alone, where it has several.
        has_aux: whether ``f`` returns an aux as well.
        keeps_value: whether the whole output of ``f`` is to come first in the aux.
        places: the coordinates, where they do not come as an argument.
    """

    holds_outside = True  # no field
    added_arguments = 1
    transformed: Callable[..., Any]
    number: int
    batch_dims: int
    picks: bool
    has_aux: bool
    keeps_value: bool
    places: torch.Tensor | None = None

    def __call__(self, *args: Any, jacfunc_places: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """The outputs of ``f``, and an aux if there is one to keep."""
        places = self.places if jacfunc_places is None else jacfunc_places
        assert places is not None
        own, steps = list(args[:-1]), args[-1]  # a starred target is a tuple to Dynamo of torch 2.11
        own[self.number] = placed(own[self.number], steps, places)
        result = self.transformed(*own, **kwargs)
        if not (self.picks or self.keeps_value):
            return result
        output, *aux = result if self.has_aux else (result,)
        picked = self._picked(output, own[self.number].shape, places) if self.picks else output
        if self.keeps_value:
            return picked, (output, *aux)
        return (picked, *aux) if aux else picked

    def _picked(self, output: Any, shape: torch.Size, places: torch.Tensor) -> Any:
        if not isinstance(output, torch.Tensor | Jet):
            raise ShapeError(f"coordinates= takes a function that returns one tensor, but f returned {a_type(output)}")
        sample, input = output.shape[self.batch_dims :], shape[self.batch_dims :]
        if sample.numel() == 1:
            return output
        if sample != input:
            raise ShapeError(
                f"coordinates= of a diagonal takes an output of the shape of the input, {tuple(input)}, or one number, "
                f"but a sample of the output has shape {tuple(sample)}; take batch_jac, or leave coordinates out"
            )
        return entries_at(output, places, self.batch_dims)

    def __repr__(self) -> str:
        return name_of(self.transformed)

    def _fingerprint(self) -> tuple[object, ...]:
        return ("coordinates", self.transformed, self.number, self.batch_dims, self.picks, self.keeps_value)

"""``estimate.directional``: any differential operator of the notation, of derivatives along a few random directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch

from ..api.laplacian import laplacian as exact_laplacian
from ..call.quantity import Outcome, PartialsOf, Quantity
from ..call.request import Request
from ..core.caches import computed_once
from ..core.reasons import a_type
from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from ..jet.multiindices import MultiIndices, index_of
from .contractions import WHOLE, Contraction, factor, read
from .estimator import Estimator
from .keywords import EstimateKeywords, Method
from .maps import At
from .probing import with_keywords
from .result import Estimate
from .transforms import made

ONLY: tuple[Method, ...] = ("hutchinson",)


@computed_once(64)
def _powers(order: int, count: int) -> MultiIndices:
    """The derivatives of this order along each of so many directions."""
    return MultiIndices.around([index_of((place,) * order, count) for place in range(count)])


def _stacked(order: int, request: Request, outcome: Outcome) -> torch.Tensor:
    if len(outcome.outputs.shapes) != 1:
        raise ShapeError(
            f"estimate.directional takes a function of one output tensor, but f returned "
            f"{len(outcome.outputs.shapes)}; join them along the last axis"
        )
    count = request.input_shapes[0][0]
    return torch.stack([outcome.results[0, index_of((place,) * order, count)] for place in range(count)], -1)


@computed_once(16)
def _along(order: int) -> Quantity:
    """Derivatives of this order of every output, along each direction: ``(*batch, *O, P)``."""

    def wanted(request: Request) -> MultiIndices:
        return _powers(order, request.input_shapes[0][0])

    def stacked(request: Request, outcome: Outcome) -> torch.Tensor:
        return _stacked(order, request, outcome)

    return Quantity("estimate", order, PartialsOf(wanted), stacked, key=("powers", order))


@dataclass(frozen=True)
class Whole:
    """An operator over all coordinates, by the derivatives along probes."""

    operator: str

    def __call__(self, made: Estimator, at: At, tests: torch.Tensor) -> Estimate:
        """The estimate of these test vectors."""
        terms = at.along(_along(WHOLE[self.operator]), tests)
        return Estimate.of_terms(terms * factor(self.operator, made.probing.probe, at.size))


@dataclass(frozen=True)
class Drawn:
    """An operator that is a sum over few directions, of which some are drawn."""

    parts: tuple[Contraction, ...]

    def __call__(self, made: Estimator, at: At, tests: torch.Tensor) -> Estimate:
        """The estimate of so many directions as there are test vectors, which only count."""
        batch, count = at.request.batch, tests.shape[-2]
        named = len(self.parts[0].directions[0])
        if at.size != named:
            raise ShapeError(
                f"inputs names {named} coordinates, but a sample of the input has {at.size} elements; name each"
            )
        terms: torch.Tensor | None = None
        for part in self.parts:
            directions, factors = part.drawn(batch, count, at.x, made.probing.generator)
            found = _of_output(at.along(_along(part.order), directions), part.output, len(batch))
            found = found * factors.reshape(*batch, *[1] * (found.dim() - len(batch) - 1), count)
            terms = found if terms is None else terms + found
        assert terms is not None
        return Estimate.of_terms(terms)


def _of_output(found: torch.Tensor, output: int | None, batch_dims: int) -> torch.Tensor:
    """Of ``(*batch, *O, P)`` those of one output along the last axis."""
    if output is None:
        return found
    if found.dim() < batch_dims + 2 or found.shape[-2] <= output:
        raise ShapeError(
            f"outputs names more than {output}, but f returned samples of shape {tuple(found.shape[batch_dims:-1])}; "
            "put them along the last axis"
        )
    return found[..., output, :]


@with_keywords
def directional(
    f: Callable[..., Any],
    operator: str,
    *,
    inputs: str | None = None,
    outputs: str = "u",
    **keywords: Unpack[EstimateKeywords],
) -> Estimator:
    r"""An estimate of a differential operator, of derivatives along a few random directions.

    .. math:: L u = \sum_j w_j \, D^k u(v_j, \ldots, v_j) = W \, \mathbb{E}_j[\pm D^k u(v_j, \ldots, v_j)], \qquad
        W = \sum_j |w_j|

    An operator that is written in the notation of :func:`jacfunc.partials` is a sum over directions, mixed derivatives
    too; ``probes`` of them are drawn, each as often as its weight says.  One over all coordinates is an average over
    random directions.  Each costs one propagation of as many rows as its order, whatever the number of coordinates.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, d)`` to ``y`` of shape ``(N, *O)``; with several
            ``outputs`` they lie along the last axis.
        operator: ``"laplacian"`` or ``"biharmonic"``, over all coordinates; or a derivative, or a sum of some times
            numbers, such as ``"u_xx + 0.5*u_xxyy"``.
        inputs: a name for each coordinate, for an operator that is a sum.
        outputs: a name for each output.
        **keywords: those of :func:`jacfunc.estimate.divergence`, of which ``estimator`` is ``"hutchinson"``.  For
            ``"biharmonic"`` the ``probe`` is ``"sphere"`` (the default) or ``"gaussian"``; a sum leaves no choice.

    Returns:
        A function of the same arguments as ``f``, as for :func:`jacfunc.estimate.divergence`, with an estimate of shape
        ``(N, *O)``, or without the last axis where there are several ``outputs``.

    Raises:
        ArgumentError: an operator that is none, or a kind of probe that does not fit it.
        ShapeError: other numbers of coordinates or outputs than have names.
        JacfuncError: as :func:`jacfunc.estimate.divergence`.

    Example:
        >>> import torch
        >>> from jacfunc import estimate
        >>> f = lambda x: x[:, 0] ** 2 * x[:, 1]
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> estimate.directional(f, "u_xx", inputs="x y", probes=1)(x).estimate
        tensor([4.])
        >>> both = estimate.directional(f, "u_xy + u_xx", inputs="x y", probes=999)(x)
        >>> bool((both.estimate - 6).abs() < 6 * both.standard_error)
        True
    """
    if not isinstance(operator, str):
        raise ArgumentTypeError(f"operator is {a_type(operator)}; pass a string, as 'laplacian' or 'u_xx + u_yy'")
    if inputs is None:
        if operator not in WHOLE:
            raise ArgumentError(
                f"operator={operator!r} is none over all coordinates ({', '.join(map(repr, WHOLE))}); for a sum of "
                "derivatives pass a name for each coordinate, as in inputs='x y'"
            )
        if operator == "biharmonic":
            keywords = {"probe": "sphere", **keywords}
            factor(operator, keywords["probe"], 1)
        exact = exact_laplacian if operator == "laplacian" else None  # to explain that takes all fourth derivatives
        whole = Whole(operator)
        return replace(
            made("directional", f, keywords, ONLY, whole, quantity=_along(WHOLE[operator]), exact=exact),
            what=repr(operator),
        )
    if keywords.get("probe", "rademacher") != "rademacher" or keywords.get("fixed") is not None:
        raise ArgumentError(f"probe= or fixed= with operator={operator!r}, whose directions are its own; leave it out")
    drawn = Drawn(read(operator, inputs, outputs))
    quantity = _along(max(part.order for part in drawn.parts))
    return replace(made("directional", f, keywords, ONLY, drawn, quantity=quantity), what=repr(operator))

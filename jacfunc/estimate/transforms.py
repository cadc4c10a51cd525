"""The estimates there are: each says which products it is made of, and by which methods.

What all of them are is in ``estimator.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Unpack

import torch

from ..api import transforms
from ..api.laplacian import laplacian as exact_laplacian
from ..call.quantity import Quantity
from ..call.request import as_function
from ..errors import ArgumentError
from ..options import Options
from .estimator import Compute, Estimator
from .keywords import EstimateKeywords, Method
from .maps import ALONG, TWICE, At, Maps
from .methods import (
    diagonal_by_hutch,
    diagonal_by_hutchinson,
    diagonal_by_xdiag,
    trace_by_hutch,
    trace_by_hutchinson,
    trace_by_xtrace,
)
from .probes import ROTATED
from .probing import Probing, with_keywords
from .result import Estimate

TRACES: tuple[Method, ...] = ("hutchinson", "hutch++", "xtrace")
DIAGONALS: tuple[Method, ...] = ("hutchinson", "hutch++", "xdiag")


def _forward(made: Estimator, at: At) -> Callable[[torch.Tensor], torch.Tensor]:
    """Products with the matrix, which is refused if it is not square."""

    def products(rows: torch.Tensor) -> torch.Tensor:
        result = at.forward(rows)
        at.refuse_unless_square(made.name, result)
        return result

    return products


def _trace(made: Estimator, at: At, tests: torch.Tensor) -> Estimate:
    """That of a matrix whose products there are."""
    forward, how = _forward(made, at), made.probing
    if how.estimator == "hutch++":
        return trace_by_hutch(forward, tests)
    if how.estimator == "xtrace":
        return trace_by_xtrace(forward, tests, how.probe in ROTATED)
    return trace_by_hutchinson(forward, tests)


def _curvature(made: Estimator, at: At, tests: torch.Tensor) -> Estimate:
    """The sum of second derivatives of every output, along test vectors."""
    return Estimate.of_terms(at.curved(tests))


def _diagonal(made: Estimator, at: At, tests: torch.Tensor) -> Estimate:
    """The diagonal of a matrix whose products there are, in the shape of the input."""
    forward, how = _forward(made, at), made.probing
    if how.estimator == "hutch++":
        found = diagonal_by_hutch(forward, at.backward, tests)
    elif how.estimator == "xdiag":
        found = diagonal_by_xdiag(forward, at.backward, tests)
    else:
        found = diagonal_by_hutchinson(forward, tests)
    return found.reshaped((*at.request.batch, *at.request.input_shapes[0]))


def made(
    name: str,
    f: Callable[..., Any],
    keywords: EstimateKeywords,
    estimators: tuple[Method, ...],
    compute: Compute,
    of_gradient: bool = False,
    quantity: Quantity = ALONG,
    exact: Callable[..., Any] | None = None,
) -> Estimator:
    """The estimate of this name, by one of these methods."""
    own = [each.name for each in fields(Probing)]
    probing = Probing(**{key: value for key, value in keywords.items() if key in own})  # type: ignore[arg-type]
    shared: Any = {key: value for key, value in keywords.items() if key not in own}
    options = Options.of(f"estimate.{name}", shared)
    options.refuse(("out_dims",), f"estimate.{name}", "probes are of samples that lie on the first axes")
    if len(options.numbers) != 1:
        raise ArgumentError(f"argnums={options.argnums} selects several arguments; probes are those of one")
    if of_gradient:
        options.refuse(("return_value",), f"estimate.{name}", "what is differentiated again is the gradient")
    probing.refuse(name, estimators)
    function, maps = as_function(f), Maps(as_function(f), options, of_gradient)
    known = None if exact is None else exact(f, **shared)
    return Estimator(name, function, options, probing, maps, compute, quantity, known)


@with_keywords
def divergence(f: Callable[..., Any], **keywords: Unpack[EstimateKeywords]) -> Estimator:
    r"""An estimate of the divergence of each sample, of a few products with its Jacobian.

    .. math:: \nabla \cdot f = \mathbb{E}[v^T J v], \qquad \mathbb{E}[v v^T] = I

    Args:
        f: a function or an ``nn.Module`` whose output has the shape of its input, one tensor each.
        **keywords: those of :func:`jacfunc.diag_jac` (``argnums`` is an int, there is no ``out_dims``), and what all
            estimates share:

            - ``probes``: how many products with the matrix of each sample; or leave it to ``tolerance`` or ``fixed``.
            - ``probe="rademacher"``: how test vectors are drawn: ``"rademacher"`` (signs), ``"gaussian"``,
              ``"sphere"``, ``"coordinate"`` (unit vectors), or ``"orthogonal"`` (at right angles to each other: errors
              are smaller than the standard error says).
            - ``estimator="hutchinson"``, or one that finds the part of the matrix that most of the result is in first,
              which helps where its singular values decay: ``"hutch++"``, ``"xtrace"`` for traces, ``"xdiag"`` for
              diagonals (with products with the transposed matrix).
            - ``tolerance``: the standard error that every number is to have, as far as a pilot of 10 probes tells.  The
              estimate is made of others: one that stops when it looks good is biased.
            - ``max_probes=10_000``: at most so many for that.
            - ``generator``: what they are drawn by; torch's own if None.
            - ``fixed``: test vectors for every call, as :func:`draw` makes them, for ODE solvers.  ``"xtrace"`` and
              ``"xdiag"`` use the first half of them, ``"hutch++"`` the first and the last third.
            - ``squared_residual=False``: two independent estimates, for the loss ``(a - g) * (b - g)``: the square of
              one has its variance on top of the square that is meant.
            - ``progress=False``: a bar of the probes that are done, where they are so many that they are drawn in parts
              (of 2**25 numbers; it needs tqdm).

    Returns:
        A function of the same arguments as ``f`` that returns an :class:`Estimate`: ``estimate`` and
        ``standard_error`` of shape ``(N,)`` and the dtype of ``x``, and ``probes``.  With ``squared_residual`` it is a
        pair of them; a value and an aux that are asked for come after, in a tuple.

    Raises:
        ArgumentError: an estimator, a kind or a number of probes that cannot be meant, or a tolerance that
            ``max_probes`` probes do not reach; it says how far they get.
        ShapeError: the output has another shape than the input.
        UnsupportedOperationError: inside ``torch.func.vmap`` without ``randomness``.
        JacfuncError: as :func:`jacfunc.diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import estimate
        >>> x = torch.ones(2, 1000)
        >>> found = estimate.divergence(lambda x: x**2, probes=4)(x)
        >>> found.estimate  # signs are exact where the Jacobian is diagonal
        tensor([2000., 2000.])
        >>> found.standard_error
        tensor([0., 0.])
    """
    return made("divergence", f, keywords, TRACES, _trace, exact=transforms.divergence)


@with_keywords
def laplacian(f: Callable[..., Any], **keywords: Unpack[EstimateKeywords]) -> Estimator:
    r"""An estimate of the Laplacian of every output, of its second derivatives along a few directions.

    .. math:: \Delta y_{no} = \mathbb{E}[v^T H_{no} v], \qquad \mathbb{E}[v v^T] = I

    Directions are as long as a sample, and each sample has its own: ``(N, probes, d)`` numbers.  In a loss of a network
    that begins with a linear layer ``jacfunc.laplacian(f, coordinates=k)`` needs none of them.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``.
        **keywords: those of :func:`divergence`; ``"hutch++"`` and ``"xtrace"`` are for one number a
            sample, without ``return_value``.

    Returns:
        A function of the same arguments as ``f``, as for :func:`divergence`, with an estimate of shape ``(N, *O)``.

    Raises:
        ShapeError: an ``estimator`` other than ``"hutchinson"`` for several outputs a sample.
        JacfuncError: as :func:`divergence`.

    Example:
        >>> import torch
        >>> from jacfunc import estimate
        >>> f = lambda x: x.square().sum(dim=1)
        >>> estimate.laplacian(f, probes=4)(torch.ones(2, 1000)).estimate
        tensor([2000., 2000.])
    """
    if keywords.get("estimator", "hutchinson") == "hutchinson":
        return made("laplacian", f, keywords, TRACES, _curvature, quantity=TWICE, exact=exact_laplacian)
    return made("laplacian", f, keywords, TRACES, _trace, of_gradient=True, exact=exact_laplacian)


@with_keywords
def diag_jac(f: Callable[..., Any], **keywords: Unpack[EstimateKeywords]) -> Estimator:
    r"""An estimate of the diagonal of each sample's Jacobian, of a few products with it.

    .. math:: D_{nb} = \mathbb{E}[v_b (J v)_b], \qquad \mathbb{E}[v v^T] = I

    Args:
        f: a function or an ``nn.Module`` whose output has the shape of its input, one tensor each.
        **keywords: those of :func:`divergence`.

    Returns:
        A function of the same arguments as ``f``, as for :func:`divergence`, with an estimate of shape ``(N, *I)``.

    Raises:
        ShapeError: the output has another shape than the input.
        JacfuncError: as :func:`divergence`.

    Example:
        >>> import torch
        >>> from jacfunc import estimate
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> estimate.diag_jac(lambda x: x**2, probes=1)(x).estimate
        tensor([[2., 4.]])
    """
    return made("diag_jac", f, keywords, DIAGONALS, _diagonal, exact=transforms.diag_jac)


@with_keywords
def hess_diag(f: Callable[..., Any], **keywords: Unpack[EstimateKeywords]) -> Estimator:
    r"""An estimate of the diagonal of each sample's Hessian, of a few products with it.

    .. math:: H_{ni} = \mathbb{E}[v_i (H v)_i], \qquad \mathbb{E}[v v^T] = I

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to one number a sample, ``(N,)`` or ``(N, 1)``.
        **keywords: those of :func:`divergence`, without ``return_value``.

    Returns:
        A function of the same arguments as ``f``, as for :func:`divergence`, with an estimate of shape ``(N, *I)``.

    Raises:
        ShapeError: several outputs a sample.
        JacfuncError: as :func:`divergence`.

    Example:
        >>> import torch
        >>> from jacfunc import estimate
        >>> f = lambda x: x.pow(3).sum(dim=1)
        >>> estimate.hess_diag(f, probes=1)(torch.tensor([[1.0, 2.0]])).estimate
        tensor([[ 6., 12.]])
    """
    return made("hess_diag", f, keywords, DIAGONALS, _diagonal, of_gradient=True, exact=transforms.hess_diag)

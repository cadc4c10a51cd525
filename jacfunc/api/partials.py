"""``partials``: named mixed partial derivatives, at points or on a product grid.

What a name means is in ``notation.py``, what is returned in ``named.py``; the transform inside is like any other
(``transforms.py``), and its routes are chosen in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Unpack, overload

import torch
from torch import Tensor

from ..call.request import as_function
from ..errors import ArgumentError
from ..keywords import Keywords, VectorAlone, VectorAux, VectorBoth, VectorPerhapsAux, VectorPerhapsValue, VectorValue
from ..options import Options, check_flag
from .asked import Asked
from .coordinates import CoordinatesLike
from .derivatives import Derivatives
from .grids import made_on_grid
from .named import Partials
from .notation import Variables
from .places import in_front
from .transform import Transform, X, Y, with_signature
from .vectors import made_on_vectors, without_vectors


def made(
    function: Callable[..., Any], wanted: str, variables: Variables, options: Options, grid: bool = False
) -> Partials[Any]:
    """The transform for these names, of a function and options that are checked."""
    if grid:
        return made_on_grid(function, wanted, variables, options)
    asked = Asked(variables, variables.names(wanted), options.out_axis)
    numbers = tuple(range(-len(variables.inputs), 0))
    computed = asked.quantity()

    def transform(options: Options) -> Transform:
        return Transform(in_front(function, options), computed, options)

    separate = options if len(numbers) == 1 else replace(options, argnums=numbers)
    return Partials(transform(options), transform(separate), asked, wanted)


@overload
def partials(f: Callable[[Tensor], Any], wanted: str, **keywords: Unpack[VectorAlone]) -> Partials: ...
@overload
def partials(f: Callable[..., Any], wanted: str, **keywords: Unpack[VectorAlone]) -> Partials: ...
@overload
def partials(f: Callable[..., Y], wanted: str, **keywords: Unpack[VectorValue]) -> Partials[tuple[Derivatives, Y]]: ...
@overload
def partials(
    f: Callable[..., tuple[Any, X]], wanted: str, **keywords: Unpack[VectorAux]
) -> Partials[tuple[Derivatives, X]]: ...
@overload
def partials(
    f: Callable[..., tuple[Y, X]], wanted: str, **keywords: Unpack[VectorBoth]
) -> Partials[tuple[Derivatives, Y, X]]: ...
@overload
def partials(f: Callable[..., Any], wanted: str, **keywords: Unpack[VectorPerhapsValue]) -> Partials[Any]: ...
@overload
def partials(f: Callable[..., Any], wanted: str, **keywords: Unpack[VectorPerhapsAux]) -> Partials[Any]: ...
@with_signature
def partials(
    f: Callable[..., Any],
    wanted: str,
    *,
    inputs: str,
    outputs: str,
    grid: bool = False,
    coordinates: CoordinatesLike | None = None,
    generator: torch.Generator | None = None,
    **keywords: Unpack[Keywords],
) -> Partials[Any]:
    r"""Partial derivatives by name, mixed and of any order, from one propagation through ``f``.

    .. math:: \texttt{u\_txx} = \frac{\partial^3 u}{\partial t \, \partial x^2}, \qquad u = f(\theta, (t, x))

    A name is that of an output, or an output, an underscore and the inputs that it is differentiated by.  A sum of
    names, each with a number in front if any (``"u_t-0.1*u_xx"``), is one derivative as well.  All come from one
    Taylor propagation of exactly the derivatives below those asked for (the smallest downward-closed set of
    multi-indices), which costs about as many plain forwards as there are in it, the value included.

    Args:
        f: a function or an ``nn.Module``.  It takes coordinates, as one tensor ``(N, d)`` or as d separate last
            arguments ``(N,)`` or ``(N, 1)`` (or others, by ``argnums``).  It returns ``(N, m)``, ``(N,)`` where m is
            1, or a tuple or a dict by name of m tensors ``(N,)`` or ``(N, 1)``.
        wanted: names apart by spaces, as in ``"u u_t u_x u_xx"``, or by commas; beside an operator spaces mean nothing.
        inputs: a name for each coordinate, as in ``"t x"``.  One may be a vector, ``"t x[1000]"``, of coordinates that
            lie side by side in one tensor; then ``u_xx`` is the sum of the second derivatives by each, the Laplacian.
        outputs: a name for each output, as in ``"u v p"``; one of several components has their number in brackets, as
            in ``"u[101] p"``, or ``"u[:]"`` for all that there are.
        grid: each coordinate has points of its own, d last arguments ``(N_i,)`` or ``(N_i, 1)``, and ``f`` returns its
            outputs at all combinations of them, ``(N_1, .., N_d)`` or ``(N_1, .., N_d, m)``, as separable networks do.
        coordinates: estimate these sums by ``k`` of the vector's ``n`` coordinates, times ``n / k``: which, ``(k,)``,
            counted within the vector, or how many, to be drawn at each call, as for :func:`laplacian`.
        generator: what they are drawn by; torch's own if None.
        **keywords: those of :func:`diag_jac`.  ``chunk_size`` bounds the rows, at the price of more evaluations of
            ``f``.  ``out_dims=1`` is for operator learning, where all functions share the points: coordinates
            ``(P, d)`` and outputs ``(F, P, m)``.

    Returns:
        A function of the same arguments as ``f``.  Its result, :class:`Derivatives`, unpacks in the order asked for and
        has every name as an attribute, the inputs too: tensors ``(N,)``, those of an output of components ``(N, 101)``,
        with ``out_dims=1`` ``(F, P)`` (the inputs ``(P,)``).  Derivatives have the dtype of the input, values that of
        the output.  What an output does not depend on gives zeros.  With ``return_value=True`` it is
        ``(derivatives, value)``, aux comes last.  On a grid tensors are ``(N_1, .., N_d)``, and the inputs are shaped
        so that they broadcast against them.

    Raises:
        NotationError: a name that cannot be read, or in several ways; the message points at it.
        ShapeError: another number of coordinates or outputs than names; outputs without the samples in their place.
        JacfuncError: as :func:`diag_jac`.

    Warns:
        PrecisionWarning: the dtype can hardly carry so high an order; says how large the error is to be expected.

    Example:
        >>> import torch
        >>> from jacfunc import partials
        >>> tx = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> f = lambda tx: tx[:, 0] * tx[:, 1] ** 2
        >>> u, u_t, u_xx = partials(f, "u u_t u_xx", inputs="t x", outputs="u")(tx)
        >>> u_t
        tensor([ 4., 16.])
        >>> u_xx
        tensor([2., 6.])

    The propagation is multivariate Taylor arithmetic (A. Griewank and A. Walther, "Evaluating Derivatives", 2008,
    chapter 13).
    """
    check_flag("grid", grid)
    options = Options.of("partials", keywords)
    plain, sizes = without_vectors(inputs)
    if sizes:
        if grid:
            raise ArgumentError("grid=True with a vector among the inputs; leave one of them out")
        return made_on_vectors(as_function(f), wanted, plain, sizes, outputs, options, coordinates, generator)
    if coordinates is not None or generator is not None:
        raise ArgumentError("coordinates= without a vector among the inputs; write it as in inputs='t x[1000]'")
    return made(as_function(f), wanted, Variables.of(inputs, outputs), options, grid)

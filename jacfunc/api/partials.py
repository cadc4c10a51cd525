"""``partials``: named mixed partial derivatives, as a transform whose results are put under their names.

What a name means is in ``notation.py``, the object that comes back in ``derivatives.py``; the transform inside is like
any other (``transforms.py``), and its routes are chosen in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

import torch

from ..call.entrance import Entrance
from ..call.request import as_function
from ..core import trees
from ..core.levels import tracing
from ..core.reasons import name_of
from ..core.subclasses import undressed
from ..errors import ArgumentError, ShapeError
from ..jet import Jet
from ..options import Keywords, Options
from ..routes.collect import owned
from .asked import Asked
from .calling import Uncalled, keywords_only
from .derivatives import Derivatives
from .notation import Variables
from .transforms import Transform

# -------------------------------------------------------------------- points that all functions share


@dataclass(frozen=True, eq=False)
class PointsInFront:
    """A function whose outputs have their sample axis at a later place, with that axis moved to the front."""

    transformed: Callable[..., Any]
    axis: int
    number: int
    has_aux: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The derivatives of ``f`` at its arguments, by name."""
        result = self.transformed(*args, **kwargs)
        count = trees.flatten(args[self.number])[0][0].shape[0]
        if self.has_aux and isinstance(result, tuple) and len(result) == 2:
            return self._moved(result[0], count), result[1]
        return self._moved(result, count)

    def _moved(self, output: Any, count: int) -> Any:
        leaves, structure = trees.flatten(output)
        for leaf, path in zip(leaves, structure.paths("output"), strict=True):
            shape = tuple(getattr(leaf, "shape", ()))
            if len(shape) <= self.axis or shape[self.axis] != count:
                raise ShapeError(
                    f"{path} has shape {shape}, but out_dims={self.axis} says that its axis {self.axis} has "
                    f"the {count} "
                    "points; set out_dims to the axis that they lie on"
                )
        return structure.build([leaf.movedim(self.axis, 0) for leaf in leaves])

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.axis, self.number, self.has_aux, self.transformed)

    def __repr__(self) -> str:
        return name_of(self.transformed)


# -------------------------------------------------------------------- the public function


@dataclass(frozen=True, eq=False)
class Partials(Entrance, Uncalled):
    """A function of the same arguments as ``f`` that returns its :class:`Derivatives`, asked for by name.

    ``transform`` is of one tensor with all coordinates, ``separate`` of a tensor for each.
    """

    transform: Transform
    separate: Transform
    asked: Asked
    written: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The derivatives of ``f`` at its arguments, by name."""
        transform = self.chosen(args)
        result = transform(*args, **kwargs)
        options = transform.options
        if not (options.return_value or options.has_aux):
            return self.named(result, options, args)
        fields, *others = result
        if options.return_value and self.asked.axis:
            leaves, structure = trees.flatten(others[0])
            others[0] = structure.build([self._moved_back(leaf) for leaf in leaves])
        return (self.named(fields, options, args), *others)

    def chosen(self, args: Sequence[Any]) -> Transform:
        """The transform for these arguments: that of separate tensors where the last one has a single coordinate."""
        options = self.transform.options
        last = args[-1] if args else None
        if options.argnums != -1 or len(self.asked.variables.inputs) == 1 or not isinstance(last, torch.Tensor | Jet):
            return self.transform
        shape = tuple(last.shape[options.batch_dims :])
        return self.separate if shape in ((), (1,)) else self.transform

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        return self.chosen(args), args

    def named(self, fields: Sequence[torch.Tensor], options: Options, args: Sequence[Any]) -> Derivatives:
        """The tensors under their names, and the inputs beside them."""
        if self.asked.axis:
            fields = [self._moved_back(field) for field in fields]
        names = [name.written for name in self.asked.names]
        inputs = zip(self.asked.variables.inputs, coordinates(args, options), strict=True)
        return Derivatives(names, fields, list(inputs))

    def _results(self) -> tuple[str, ...]:
        return (*(name.written for name in self.asked.names), *self.asked.variables.inputs)

    @property
    def transformed(self) -> Callable[..., Any]:
        """The function that it is a derivative of."""
        return self.transform.transformed

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.transform, self.separate)

    def _moved_back(self, tensor: torch.Tensor) -> torch.Tensor:
        own = partial(owned, traced=tracing())
        moved: torch.Tensor = trees.mapped(own, tensor.movedim(0, self.asked.axis))  # or a jet, which owns nothing
        return moved

    def __repr__(self) -> str:
        return f"partials({name_of(self.transform.transformed)}, {self.written!r}, {_told(self.asked, self.transform)})"


def coordinates(args: Sequence[Any], options: Options) -> list[torch.Tensor]:
    """Each coordinate of the inputs, with the shape of the sample axes."""
    found: list[torch.Tensor] = []
    for number in options.numbers:
        for leaf in map(undressed, trees.flatten(args[number])[0]):
            separate = leaf.dim() == options.batch_dims
            found += [leaf] if separate else [leaf[..., place] for place in range(leaf.shape[-1])]
    return found


def _told(asked: Asked, transform: Transform) -> str:
    variables = asked.variables
    changed = [f"out_dims={asked.axis}"] if asked.axis else []
    named = [f"inputs={' '.join(variables.inputs)!r}", f"outputs={' '.join(variables.outputs)!r}"]
    return ", ".join([*named, *changed, *transform.options.changed()])


def made(
    function: Callable[..., Any], wanted: str, variables: Variables, options: Options, out_dims: int | None
) -> Partials:
    """The transform for these names, of a function and options that are checked."""
    axis = _axis(out_dims, options)
    asked = Asked(variables, variables.names(wanted), axis)
    numbers = tuple(range(-len(variables.inputs), 0))
    computed = asked.quantity()

    def transform(options: Options) -> Transform:
        moved = PointsInFront(function, axis, options.numbers[0], options.has_aux) if axis else function
        return Transform(moved, computed, options)

    separate = options if len(numbers) == 1 else replace(options, argnums=numbers)
    return Partials(transform(options), transform(separate), asked, wanted)


def _axis(out_dims: int | None, options: Options) -> int:
    if out_dims is None:
        return 0
    if not isinstance(out_dims, int) or isinstance(out_dims, bool) or out_dims < 0:
        raise ArgumentError(
            f"out_dims={out_dims!r} is not the axis of the outputs that the samples lie on, 0 or more; None "
            "for the first"
        )
    if out_dims and options.batch_dims != 1:
        raise ArgumentError(
            f"out_dims={out_dims} with batch_dims={options.batch_dims}; points lie on one axis, so leave batch_dims out"
        )
    return out_dims


@keywords_only
def partials(
    f: Callable[..., Any],
    wanted: str,
    *,
    inputs: str,
    outputs: str,
    out_dims: int | None = None,
    **keywords: Unpack[Keywords],
) -> Partials:
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
        inputs: a name for each coordinate, as in ``"t x"``.
        outputs: a name for each output, as in ``"u v p"``.
        out_dims: the axis of the outputs that the samples lie on, None for the first.  For operator learning, where
            all functions share the points: coordinates ``(P, d)`` and outputs ``(F, P, m)`` have ``out_dims=1``.
        **keywords: those of :func:`diag_jac`.  ``chunk_size`` bounds the rows, at the price of more evaluations of
            ``f``.

    Returns:
        A function of the same arguments as ``f``.  Its result, :class:`Derivatives`, unpacks in the order asked for and
        has every name as an attribute, the inputs too: tensors ``(N,)``, with ``out_dims=1`` ``(F, P)`` (the inputs
        ``(P,)``).  Derivatives have the dtype of the input, values that of the output.  What an output does not depend
        on gives zeros.  With ``return_value=True`` it is ``(derivatives, value)``, aux comes last.

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
        >>> u, u_t, u_xx = partials(lambda tx: tx[:, 0] * tx[:, 1] ** 2, "u u_t u_xx", inputs="t x", outputs="u")(tx)
        >>> u_t
        tensor([ 4., 16.])
        >>> u_xx
        tensor([2., 6.])

    The propagation is multivariate Taylor arithmetic (A. Griewank and A. Walther, "Evaluating Derivatives", 2008,
    chapter 13).
    """
    options = Options.of("partials", keywords)
    return made(as_function(f), wanted, Variables.of(inputs, outputs), options, out_dims)

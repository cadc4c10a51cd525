"""``partials``: named mixed partial derivatives, as a transform whose results are put under their names.

What a name means is in ``notation.py``, the object that comes back in ``derivatives.py``; the transform inside is like
any other (``transforms.py``), and its routes are chosen in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch

from ..call.entrance import Entrance
from ..call.request import as_function
from ..core import trees
from ..core.reasons import name_of
from ..core.subclasses import undressed
from ..jet import Jet
from ..options import Keywords, Options
from .asked import Asked
from .calling import Uncalled, keywords_only
from .derivatives import Derivatives
from .notation import Variables
from .places import in_front
from .transforms import Transform


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
    named = [f"inputs={' '.join(variables.inputs)!r}", f"outputs={variables.written!r}"]
    return ", ".join([*named, *transform.options.changed()])


def made(function: Callable[..., Any], wanted: str, variables: Variables, options: Options) -> Partials:
    """The transform for these names, of a function and options that are checked."""
    asked = Asked(variables, variables.names(wanted), options.out_axis)
    numbers = tuple(range(-len(variables.inputs), 0))
    computed = asked.quantity()

    def transform(options: Options) -> Transform:
        return Transform(in_front(function, options), computed, options)

    separate = options if len(numbers) == 1 else replace(options, argnums=numbers)
    return Partials(transform(options), transform(separate), asked, wanted)


@keywords_only
def partials(
    f: Callable[..., Any],
    wanted: str,
    *,
    inputs: str,
    outputs: str,
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
        outputs: a name for each output, as in ``"u v p"``; one of several components has their number in brackets, as
            in ``"u[101] p"``, or ``"u[:]"`` for all that there are.
        **keywords: those of :func:`diag_jac`.  ``chunk_size`` bounds the rows, at the price of more evaluations of
            ``f``.  ``out_dims=1`` is for operator learning, where all functions share the points: coordinates
            ``(P, d)`` and outputs ``(F, P, m)``.

    Returns:
        A function of the same arguments as ``f``.  Its result, :class:`Derivatives`, unpacks in the order asked for and
        has every name as an attribute, the inputs too: tensors ``(N,)``, those of an output of components ``(N, 101)``,
        with ``out_dims=1`` ``(F, P)`` (the inputs ``(P,)``).  Derivatives have the dtype of the input, values that of
        the output.  What an output does not depend on gives zeros.  With ``return_value=True`` it is
        ``(derivatives, value)``, aux comes last.

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
    return made(as_function(f), wanted, Variables.of(inputs, outputs), options)

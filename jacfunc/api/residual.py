"""``residual``: an equation as a function of named derivatives, which finds out by itself which ones it reads.

The derivatives come from ``partials.py``; here is only what the equation reads, and what it may return.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, Unpack, overload

import torch
from torch import Tensor

from ..call.entrance import Entrance
from ..call.inside import values
from ..call.request import as_function, requested
from ..core import caches
from ..core.levels import compiling, exporting, tracing, untraced
from ..core.reasons import a_type, add_note, name_of
from ..core.type_variables import TypeVar
from ..core.unasked import unasked
from ..errors import ArgumentTypeError, NotationError, ShapeError, UnsupportedOperationError
from ..evaluation.rng import replaying
from ..jet import Jet
from ..keywords import Keywords, NamedAlone, NamedAux, NamedBoth, NamedPerhapsAux, NamedPerhapsValue, NamedValue
from ..modules.strangers import refuse_strangers
from ..options import Options, check_flag
from .calling import Uncalled
from .derivatives import Derivatives
from .meshed import meshed, on_own_samples, refuse_meshed
from .named import Partials, are_separate
from .notation import Variables
from .partials import made
from .transform import Result_co, Transform, X, Y, with_signature

R = TypeVar("R", default=Tensor)
"""What an equation returns: a residual, or a tuple of them."""
Equation = Callable[[Derivatives], R]

FIRST_CALL = (
    "which derivatives a residual reads is found out at its first call, which torch.compile and torch.export cannot "
    "trace; call it once before"
)

KEPT = 4
"""Calls that read something new, for which a name that is not read is still computed."""


class UnreadError(BaseException):
    """A name that the propagation did not compute; no ``except Exception`` of the equation's is about it."""


class Reading(Derivatives):
    """What an equation is given: a name that is not there interrupts it, and is ``_unread`` even if it goes on."""

    _unread: str | None = None

    @classmethod
    def of(cls, derivatives: Derivatives) -> Reading:
        """With the same tensors."""
        if not compiling():
            reading = object.__new__(cls)
            reading.__dict__.update(derivatives.__dict__)
            return reading
        inputs = [(name, getattr(derivatives, name)) for name in derivatives._inputs]
        return cls(derivatives._names, list(derivatives), inputs)

    def __getattr__(self, name: str) -> torch.Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        self._unread = name
        raise UnreadError(name)


class NotedReading(Reading):
    """Derivatives where a name was missing before: what is read is noted, to tell what is not read any more."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("_"):
            vars(self).setdefault("_noted", set()).add(name)
        return found


class DryReading(Derivatives):
    """What it is given in the dry run: values of outputs stand for all their derivatives, and ``_read`` is noted.

    Each is a copy, since what an equation does to it in place must not be seen by anyone.
    """

    def __init__(self, values: Derivatives, variables: Variables) -> None:
        super().__init__((), (), [(name, getattr(values, name).clone()) for name in values._inputs])
        self._values, self._variables = list(values), variables
        self._read: list[str] = []

    def __getattr__(self, name: str) -> torch.Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        output = self._variables.name(name).output
        self._read.append(name)
        return self._values[output].clone()


class Residual(Entrance, Uncalled, Generic[Result_co]):
    """A function of the same arguments as ``f`` that returns the residual of an equation for every sample.

    ``names`` is what the equation was seen to read so far, so it is ``()`` before the first call.  Where it reads new
    ones time and again, as with a number in them that changes, those that were not read in the last ``KEPT`` of such
    calls are forgotten.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        equation: Equation[Any],
        variables: Variables,
        options: Options,
        grid: bool,
    ) -> None:
        self.transformed, self.equation, self.variables = f, equation, variables
        self.options, self.grid = options, grid
        self.names: tuple[str, ...] = ()
        self._growths = 0
        self._last_read: dict[str, int] = {}
        self._partials: Partials[Any] | None = None
        self._judged = False

    def __call__(self, *args: Any, **kwargs: Any) -> Result_co:
        """The residual of the equation at the arguments of ``f``."""
        traced = tracing()
        if not traced:
            if meshed(args, kwargs):
                return self._on_own_samples(args, kwargs)  # type: ignore[no-any-return]
            if not self._judged:
                return self._judge(args, kwargs)
        elif self._partials is None and compiling() and not exporting():
            return untraced(self._judge, FIRST_CALL, args, kwargs)  # type: ignore[no-any-return]
        return self._result(args, kwargs, traced)

    def _judge(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result_co:
        """What is computed, and whether a wrapper around knows all that it trains: asked at the first such call."""
        result = self._result(args, kwargs)
        refuse_strangers(result, (args, kwargs), self)
        self._judged = torch.is_grad_enabled() and not caches.ACCUMULATING.now
        return result

    def _result(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool = True) -> Result_co:
        partials, kind = self._known(args, kwargs), Reading
        while True:
            derivatives, others = self._computed(partials, args, kwargs, traced)
            reading = kind.of(derivatives)
            try:
                result = self.equation(reading) if traced and tracing() else self._told(reading)
            except UnreadError:
                if reading._unread is None:  # it is the name of another residual, around this one
                    raise
            if reading._unread is not None:
                self._growths += kind is Reading
                partials, kind = self._read((reading._unread,)), NotedReading
                continue
            if kind is NotedReading:
                noted = [name for name in vars(reading).get("_noted", ()) if name in self._last_read]
                self._last_read.update(dict.fromkeys(noted, self._growths))
            _check(result, list(derivatives), self._axes())
            return (result, *others) if others else result  # type: ignore[return-value]

    def _told(self, reading: Reading) -> Any:
        """What the equation returns; if it raises, the error says which shape the names have."""
        try:
            return self.equation(reading)
        except Exception as error:
            shapes = " and ".join(f"{name} of shape {tuple(reading[name].shape)}" for name in reading._names)
            add_note(
                error, f"jacfunc: raised inside the equation of residual({name_of(self.transformed)}), with {shapes}"
            )
            raise

    def _on_own_samples(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.grid:
            refuse_meshed(args, kwargs, "the points of a grid belong to all samples at once")
        count = len(self.variables.inputs)
        separate = are_separate(args, self.options, count)
        return on_own_samples(self, self.options, args, kwargs, tuple(range(-count, 0)) if separate else None)

    @property
    def looked_at(self) -> bool:
        """Whether it is known what the equation reads, without which nothing can be traced."""
        return self._partials is not None

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        return self._known(args, kwargs).resolved(args, kwargs)

    def _known(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Partials[Any]:
        """What the equation was seen to read; at the first call it is looked at."""
        if self._partials is None:
            if tracing():
                raise UnsupportedOperationError(FIRST_CALL)
            return self._read(self._dry_run(*values(args, kwargs)))
        return self._partials

    def _read(self, names: tuple[str, ...]) -> Partials[Any]:
        """Compute these too from now on."""
        if tracing():
            raise UnsupportedOperationError(
                f"the equation reads {' and '.join(names)}, which it did not when it was called before "
                "torch.compile or torch.export traced it; call it once more outside, so that it does"
            )
        for name in names:
            self.variables.name(name)
        self._last_read.update(dict.fromkeys(names, self._growths))
        self._last_read = {name: at for name, at in self._last_read.items() if at >= self._growths - KEPT}
        self.names = tuple(self._last_read)
        wanted = ", ".join(self.names or self.variables.outputs)
        self._partials = made(self.transformed, wanted, self.variables, self.options, self.grid)
        return self._partials

    def _computed(
        self, partials: Partials[Any], args: Any, kwargs: Any, traced: bool = True
    ) -> tuple[Derivatives, tuple[Any, ...]]:
        result = partials(*args, **kwargs) if traced else partials.here(args, kwargs)
        if isinstance(result, Derivatives):
            return result, ()
        derivatives, *others = result
        return derivatives, tuple(others)

    def _dry_run(self, args: Any, kwargs: Any) -> tuple[str, ...]:
        """The names that the equation reads where the values of outputs stand for their derivatives as well."""
        names, options = " ".join(self.variables.outputs), self.options.eager
        values = made(self.transformed, names, self.variables, options, self.grid)
        transform, own = values.resolved(args, kwargs)
        with (
            torch.no_grad(),
            requested(transform.transformed, transform.options, own, kwargs) as request,
            replaying(request.random_state()),
        ):
            derivatives, _ = self._computed(values, args, kwargs)
            state = request.random_state()
        dry = DryReading(derivatives, self.variables)
        with replaying(state), unasked():  # the equation may draw too
            try:
                self.equation(dry)
            except NotationError:
                raise
            except Exception:  # of numbers that are none: what else it reads shows when it has the right ones
                pass
        return tuple(dry._read)

    def _axes(self) -> int:
        """How many axes a number for each sample has."""
        return len(self.variables.inputs) if self.grid else self.options.out_axis + self.options.batch_dims

    def _fingerprint(self) -> tuple[object, ...]:
        options, names = self.options, (*self.variables.inputs, self.variables.written)
        return (
            self.transformed,
            self.equation,
            names,
            self.grid,
            options.out_dims,
            options.argnums,
            options.batch_dims,
        )

    def __repr__(self) -> str:
        variables = self.variables
        return (
            f"residual({name_of(self.transformed)}, {name_of(self.equation)}, "
            f"inputs={' '.join(variables.inputs)!r}, outputs={variables.written!r})"
        )


def _check_takes_one(equation: Equation[Any]) -> None:
    """Refuse an equation that cannot be called with the derivatives alone."""
    try:
        signature = inspect.signature(equation)
    except (TypeError, ValueError):  # of what is not written in Python
        return
    try:
        signature.bind(None)
    except TypeError:
        raise ArgumentTypeError(
            f"equation takes {signature}, but is called with one argument, the derivatives, which have the inputs as "
            "attributes as well; write it as lambda d: d.u_t - d.u_xx, and close over what else it needs"
        ) from None


def _check(result: Any, derivatives: Sequence[torch.Tensor], axes: int) -> None:
    """Refuse what is not one number for each sample, or for each component of an output, or a tuple of such tensors."""
    expected = tuple(derivatives[0].shape[:axes])
    parts = list(result) if isinstance(result, tuple | list) else [result]
    if not parts:
        raise ArgumentTypeError("the equation returned an empty tuple; return the residual of each sample")
    for place, part in enumerate(parts):
        which = "the residual" if len(parts) == 1 else f"residual {place}"
        if not isinstance(part, (torch.Tensor, Jet)):
            raise ArgumentTypeError(
                f"{which} is {a_type(part)}; return a tensor of shape {expected}, or a tuple of them"
            )
        if tuple(part.shape) != expected and not any(part.shape == each.shape for each in derivatives):
            raise ShapeError(
                f"{which} has shape {tuple(part.shape)}, but one number for each sample was expected, "
                f"{expected}; {_cause(tuple(part.shape), expected)}"
            )


def _cause(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What usually makes a residual of this shape."""
    several = "for several equations return a tuple, a tensor for each"
    if len(shape) < len(expected):
        return "reduce it outside of the residual"
    if len(shape) == len(expected):
        joined = expected and expected[0] and shape[0] > expected[0] and shape[0] % expected[0] == 0
        return several if joined else "select samples outside of the residual, or inside by torch.where"
    if shape[: len(expected)] == expected and shape[-1] > 1 and shape[-1] != expected[-1]:
        return several
    return "something beside the names has an axis more, such as (N, 1), which broadcasts: drop it with [:, 0]"


@overload
def residual(f: Callable[[Tensor], Any], equation: Equation[R], **keywords: Unpack[NamedAlone]) -> Residual[R]: ...
@overload
def residual(f: Callable[..., Any], equation: Equation[R], **keywords: Unpack[NamedAlone]) -> Residual[R]: ...
@overload
def residual(f: Callable[..., Y], equation: Equation[R], **keywords: Unpack[NamedValue]) -> Residual[tuple[R, Y]]: ...
@overload
def residual(
    f: Callable[..., tuple[Any, X]], equation: Equation[R], **keywords: Unpack[NamedAux]
) -> Residual[tuple[R, X]]: ...
@overload
def residual(
    f: Callable[..., tuple[Y, X]], equation: Equation[R], **keywords: Unpack[NamedBoth]
) -> Residual[tuple[R, Y, X]]: ...
@overload
def residual(
    f: Callable[..., Any], equation: Equation[Any], **keywords: Unpack[NamedPerhapsValue]
) -> Residual[Any]: ...
@overload
def residual(f: Callable[..., Any], equation: Equation[Any], **keywords: Unpack[NamedPerhapsAux]) -> Residual[Any]: ...
@with_signature
def residual(
    f: Callable[..., Any],
    equation: Equation[Any],
    *,
    inputs: str,
    outputs: str,
    grid: bool = False,
    **keywords: Unpack[Keywords],
) -> Residual[Any]:
    r"""The residual of a differential equation, written as a function of named derivatives.

    .. math:: r_n = F(t_n, x_n, u_n, \partial_t u_n, \partial_x^2 u_n, \dots), \qquad u = f(\theta, (t, x))

    Which derivatives it reads is found out by a dry run, in which values of outputs stand for all derivatives; they
    come from one propagation, as in :func:`partials`.  A name that appears later, in another branch, is computed by a
    new propagation, and from then on together with the others.

    Args:
        f: as for :func:`partials`.
        equation: a function of ``d`` that returns a tensor ``(N,)`` or a tuple of them.  Every name of a derivative,
            of an output and of an input is an attribute of ``d``, a tensor ``(N,)``.  It is called once more the
            first time.
        inputs: a name for each coordinate, as in ``"t x"``.
        outputs: a name for each output, as in ``"u v p"``.
        grid: as for :func:`partials`; the shape is then ``(N_1, .., N_d)`` in place of ``(N,)``.
        **keywords: as for :func:`partials`; with ``out_dims=1`` the shape is ``(F, P)`` in place of ``(N,)``.

    Returns:
        A function of the same arguments as ``f`` that returns what ``equation`` does.  With ``return_value=True`` the
        value follows, aux comes last.

    Raises:
        ShapeError: a residual that is not ``(N,)``: where ``(N,)`` meets ``(N, 1)`` it would be ``(N, N)``.
        NotationError: ``equation`` reads a name that means nothing.
        JacfuncError: as :func:`partials`.

    Example:
        >>> import torch
        >>> from jacfunc import residual
        >>> f = lambda tx: torch.exp(-tx[:, :1]) * torch.sin(tx[:, 1:])
        >>> heat = residual(f, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")
        >>> heat(torch.rand(3, 2)).abs() < 1e-6
        tensor([True, True, True])
    """
    if not callable(equation):
        raise ArgumentTypeError(
            f"equation is {a_type(equation)}; pass a function of the derivatives, as in lambda d: d.u_t - d.u_xx"
        )
    check_flag("grid", grid)
    options, variables = Options.of("residual", keywords), Variables.of(inputs, outputs)
    _check_takes_one(equation)
    return Residual(as_function(f), equation, variables, options, grid)

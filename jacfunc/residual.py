"""``residual``: an equation as a function of named derivatives, which finds out by itself which ones it reads.

The derivatives come from ``partials.py``; here is only what the equation reads, and what it may return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch

from .combinations import evaluated
from .derivatives import Derivatives
from .errors import ArgumentTypeError, NotationError, ShapeError, UnsupportedOperationError
from .levels import inside_vmap, tracing
from .notation import Variables
from .options import Keywords, Options
from .partials import Combined, Partials, made
from .readings import CombinedReading, DryReading, Needs, Reading, UnreadError, same_results
from .request import as_function, requested
from .rng import Draw, replaying
from .transforms import Transform

Equation = Callable[[Any], Any]


class Residual:
    """A function of the same arguments as ``f`` that returns the residual of an equation for every sample.

    ``names`` is what the equation was seen to read so far.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        equation: Equation,
        variables: Variables,
        options: Options,
        out_dims: int | None,
    ) -> None:
        self.transformed, self.equation, self.variables = f, equation, variables
        self.options, self.out_dims = options, out_dims
        self.names: tuple[str, ...] = ()
        self._partials: Partials | None = None
        self._combined: tuple[Partials, Needs] | None = None
        self._trial: tuple[Partials, Needs] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._look(args, kwargs)
        draw = self._draw_before_trial(args, kwargs)
        result, derivatives, others = self._evaluated(args, kwargs)
        _check(result, next(iter(derivatives)))
        if draw is not None:
            self._try(draw, args, kwargs, result, derivatives)
        return (result, *others) if others else result

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        self._look(args, kwargs)
        combined = self._combined or self._trial
        return (combined[0] if combined else self._separate()).resolved(args, kwargs)

    def _evaluated(self, args: Any, kwargs: Any) -> tuple[Any, Derivatives, tuple[Any, ...]]:
        """The result of the equation, the derivatives that it was given, and what comes with them."""
        while True:
            # In inference mode nothing tells whether a tensor was changed in place.
            combined = None if not tracing() and torch.is_inference_mode_enabled() else self._combined
            derivatives, others = self._computed(combined[0] if combined else self._separate(), args, kwargs)
            found = self._by_combinations(derivatives, combined[1]) if combined else self._by_names(derivatives)
            if found is not None:
                return found[0], derivatives, others
            self._combined = None

    def _by_names(self, derivatives: Derivatives) -> tuple[Any] | None:
        """The result of the equation; None where it reads another name, which is computed from now on."""
        reading = Reading.of(derivatives)
        result = None
        try:
            result = self.equation(reading)
        except UnreadError:
            if reading._unread is None:  # it is the name of another residual, around this one
                raise
        if reading._unread is None:
            return (result,)
        self._read((reading._unread,))
        return None

    def _by_combinations(self, derivatives: Derivatives, needs: Needs) -> tuple[Any] | None:
        """The same of an equation that was seen to need combinations; None where tensors are what it is to be given."""
        reading = CombinedReading(derivatives, needs)
        result = None
        try:
            result = evaluated(self.equation(reading))
        except UnreadError:
            if not reading._refused:
                raise
        except Exception:  # of a function that takes tensors only, or of its own, which it then raises again
            reading._refused = True
        reading._over = True
        return None if reading._refused or reading._changed else (result,)

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """At the first call find out what the equation reads."""
        if self._partials is not None:
            return
        if tracing():
            raise UnsupportedOperationError(
                "which derivatives a residual reads is found out at its first call, which torch.compile cannot trace; "
                "call it once before"
            )
        dry, finished = self._dry_run(args, kwargs)
        self._read(tuple(dry._read))
        if finished and not dry._refused and self.options.method in ("auto", "taylor"):
            needs = Needs.of(dry)
            partials = self._made(needs.alone, needs.combined) if needs.combined else None
            if partials is not None and partials.asked.indices.sums and self.options.chunk_size is None:
                self._trial = (partials, needs)

    def _draw_before_trial(self, args: Any, kwargs: Any) -> Draw | None:
        """The random draw of a call after which combinations are to be tried; None where they are not, or cannot be."""
        if self._trial is None or tracing() or inside_vmap() or torch.is_inference_mode_enabled():
            return None
        transform, own = self._separate().resolved(args, kwargs)
        with requested(transform.transformed, transform.options, own, kwargs) as request:
            return request.draw()

    def _try(self, draw: Draw, args: Any, kwargs: Any, expected: Any, derivatives: Derivatives) -> None:
        """Compute combinations from now on if the equation has the same result with them, whatever it asks of them."""
        assert self._trial is not None
        (partials, needs), self._trial = self._trial, None
        with torch.no_grad(), replaying(draw):
            combined, _ = self._computed(partials, args, kwargs)
            found = self._by_combinations(combined, needs)
        if found is not None and same_results(found[0], expected, list(derivatives)):
            self._combined = (partials, needs)

    def _separate(self) -> Partials:
        assert self._partials is not None
        return self._partials

    def _read(self, names: tuple[str, ...]) -> None:
        """Compute these too from now on."""
        for name in names:
            self.variables.name(name)
        self.names = (*self.names, *(name for name in dict.fromkeys(names) if name not in self.names))
        self._partials = self._made(self.names or self.variables.outputs)

    def _made(self, names: Sequence[str], combined: tuple[Combined, ...] = ()) -> Partials:
        return made(self.transformed, " ".join(names), self.variables, self.options, self.out_dims, combined)

    def _computed(self, partials: Partials, args: Any, kwargs: Any) -> tuple[Derivatives, tuple[Any, ...]]:
        result = partials(*args, **kwargs)
        if isinstance(result, Derivatives):
            return result, ()
        derivatives, *others = result
        return derivatives, tuple(others)

    def _dry_run(self, args: Any, kwargs: Any) -> tuple[DryReading, bool]:
        """What it reads where the values of outputs stand for their derivatives, and whether it came through."""
        values = self._made(self.variables.outputs)
        transform, own = values.resolved(args, kwargs)
        with (
            torch.no_grad(),
            requested(transform.transformed, transform.options, own, kwargs) as request,
            replaying(request.draw()),
        ):
            derivatives, _ = self._computed(values, args, kwargs)
        dry = DryReading(derivatives, self.variables)
        try:
            evaluated(self.equation(dry))
        except NotationError:
            raise
        except Exception:  # of numbers that are none: what else it reads shows when it has the right ones
            return dry, False
        return dry, True

    def _captured(self) -> tuple[object, ...]:
        names = (*self.variables.inputs, None, *self.variables.outputs)
        return (self.transformed, self.equation, names, self.out_dims, self.options.argnums, self.options.batch_dims)

    def __repr__(self) -> str:
        variables = self.variables
        f = getattr(self.transformed, "__name__", None) or repr(self.transformed)
        return (
            f"residual({f}, {getattr(self.equation, '__name__', None) or repr(self.equation)}, "
            f"inputs={' '.join(variables.inputs)!r}, outputs={' '.join(variables.outputs)!r})"
        )


def _check(result: Any, like: torch.Tensor) -> None:
    """Refuse what is not one number for each sample, or a tuple of such tensors."""
    parts = list(result) if isinstance(result, tuple | list) else [result]
    if not parts:
        raise ArgumentTypeError("the equation returned an empty tuple; return the residual of each sample")
    for place, part in enumerate(parts):
        which = "the residual" if len(parts) == 1 else f"residual {place}"
        if not isinstance(part, torch.Tensor):
            raise ArgumentTypeError(
                f"{which} is a {type(part).__name__}; return a tensor of shape {tuple(like.shape)}, or a tuple of them"
            )
        if part.shape != like.shape:
            raise ShapeError(
                f"{which} has shape {tuple(part.shape)}, but one number for each sample was expected, "
                f"{tuple(like.shape)}; {_cause(part, like)}"
            )


def _cause(part: torch.Tensor, like: torch.Tensor) -> str:
    """What usually makes a residual of such a shape."""
    if part.dim() < like.dim():
        return "reduce it outside of the residual"
    if part.dim() == like.dim():
        return "select samples outside of the residual, or inside by torch.where"
    return "something beside the names has an axis more, such as (N, 1), which broadcasts: drop it with [:, 0]"


def residual(
    f: Callable[..., Any],
    equation: Equation,
    *,
    inputs: str,
    outputs: str,
    out_dims: int | None = None,
    **keywords: Unpack[Keywords],
) -> Residual:
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
        out_dims: as for :func:`partials`; the shape is then ``(F, P)`` in place of ``(N,)``.
        **keywords: those of :func:`diag_jac`.

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
            f"equation is a {type(equation).__name__}; pass a function of the derivatives, as in lambda d: "
            "d.u_t - d.u_xx"
        )
    options = Options.of("residual", keywords)
    return Residual(as_function(f), equation, Variables.of(inputs, outputs), options, out_dims)

"""What ``partials`` makes: a transform whose results are put under their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch

from ..call.entrance import Entrance
from ..call.request import state_arguments
from ..core import trees
from ..core.reasons import name_of
from ..core.subclasses import undressed
from ..core.type_variables import TypeVar
from ..errors import ShapeError
from ..jet import Jet
from ..options import Options
from .asked import Asked
from .calling import Uncalled
from .derivatives import Derivatives
from .transform import Transform

Named_co = TypeVar("Named_co", covariant=True, default=Derivatives)
"""What ``partials`` returns when it is called: derivatives by name, perhaps in a tuple with the value and aux."""


@dataclass(frozen=True, eq=False)
class Partials(Entrance, Uncalled, Generic[Named_co]):
    """A function of the same arguments as ``f`` that returns its :class:`Derivatives`, asked for by name.

    ``transform`` is of one tensor with all coordinates, ``separate`` of a tensor for each.
    """

    transform: Transform
    separate: Transform
    asked: Asked
    written: str

    def __call__(self, *args: Any, **kwargs: Any) -> Named_co:
        """The derivatives of ``f`` at its arguments, by name."""
        transform, own = self.resolved(args, kwargs)
        return self._named(transform, transform(*own, **kwargs), args)

    def here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Named_co:
        """The derivatives at arguments that are tensors of this process alone, of a call that nobody records."""
        transform, own = self.resolved(args, kwargs)
        return self._named(transform, transform.here(own, kwargs, traced=False), args)

    def _named(self, transform: Transform, result: Any, args: tuple[Any, ...]) -> Named_co:
        """The derivatives, and the value and aux beside them if these were asked for."""
        options = transform.options
        if not (options.return_value or options.has_aux):
            return self.named(result, options, args)  # type: ignore[return-value]
        fields, *others = result
        return (self.named(fields, options, args), *others)  # type: ignore[return-value]

    def chosen(self, args: Sequence[Any]) -> Transform:
        """The transform for these arguments: that of separate tensors where the last one has a single coordinate."""
        separate = are_separate(args, self.transform.options, len(self.asked.variables.inputs))
        if separate:
            self._refuse_few(args)
        return self.separate if separate else self.transform

    def _refuse_few(self, args: Sequence[Any]) -> None:
        """Refuse fewer arguments than coordinates: a single point, or one column of them."""
        count, given = len(self.asked.variables.inputs), len(args) - state_arguments(self.transformed)
        if given >= count:
            self._refuse_lengths(args[-count:])
            return
        axes, shape = self.transform.options.batch_dims, tuple(args[-1].shape)
        wanted = f"({', '.join(['N'] * axes + [str(count)])}{',' * (not axes)})"
        one_point = ", and one point as x[None], or with batch_dims=0" if shape == (count,) and axes == 1 else ""
        raise ShapeError(
            f"args[{len(args) - 1}] has shape {shape}, so it was read as one of {count} separate coordinates, of which "
            f"{given} came in; pass one tensor of shape {wanted}, or all {count} separately{one_point}"
        )

    def _refuse_lengths(self, coordinates: Sequence[Any]) -> None:
        """Refuse coordinates of different numbers of points, which may be meant as those of a grid."""
        axes, names = self.transform.options.batch_dims, self.asked.variables.inputs
        found = [tuple(each.shape[:axes]) for each in coordinates if isinstance(each, torch.Tensor)]
        if len(set(found)) > 1 and len(found) == len(names):
            told = ", ".join(f"{name!r} {shape}" for name, shape in zip(names, found, strict=True))
            alone = next((f"{name}.expand(N)" for name, shape in zip(names, found, strict=True) if shape == ()), None)
            raise ShapeError(
                f"the coordinates have different numbers of points ({told}); pass as many of each"
                f"{f' ({alone})' * (alone is not None)}, or grid=True for the derivatives at all their combinations"
            )

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        return self.chosen(args), args

    def named(self, fields: Sequence[torch.Tensor], options: Options, args: Sequence[Any]) -> Derivatives:
        """The tensors under their names, and the inputs beside them."""
        names, inputs = self.asked.written, self.asked.variables.inputs
        return Derivatives.put_together(names, fields, inputs, self.coordinates(args, options))

    def coordinates(self, args: Sequence[Any], options: Options) -> list[torch.Tensor]:
        """Each coordinate of the inputs, with the shape of the sample axes; copies, which may be changed in place."""
        found: list[torch.Tensor] = []
        for number in options.numbers:
            for leaf in map(undressed, trees.flatten(args[number])[0]):
                own = leaf.clone() if type(leaf) is torch.Tensor else leaf
                separate = own.dim() == options.batch_dims
                if separate:
                    found.append(own)
                elif type(own) is not torch.Tensor or own.requires_grad:  # in place no unbound column may be changed
                    found += [own[..., place] for place in range(own.shape[-1])]
                else:
                    found += own.unbind(-1)
        return found

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


def are_separate(args: Sequence[Any], options: Options, count: int) -> bool:
    """Whether so many coordinates are as many arguments, the last ones, each with a single coordinate."""
    last = args[-1] if args else None
    if options.argnums != -1 or count == 1 or not isinstance(last, (torch.Tensor, Jet)):
        return False
    return tuple(last.shape[options.batch_dims :]) in ((), (1,))


def _told(asked: Asked, transform: Transform) -> str:
    variables = asked.variables
    named = [f"inputs={' '.join(variables.inputs)!r}", f"outputs={variables.written!r}"]
    return ", ".join([*named, *transform.options.changed()])

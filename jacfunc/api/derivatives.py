"""What ``partials`` returns: tensors that unpack in the order asked for and have names; how trees take it apart.

How the tensors are computed is in ``partials.py``; what a name means in ``notation.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import optree
import torch

from ..core.levels import compiling
from ..core.nodes import NAMESPACE
from ..core.torch_private import register_tree
from .notation import without_spaces


class Derivatives:
    """Partial derivatives as ``partials`` returns them.

    They unpack in the order that they were asked for, and each is an attribute under the name that it was written by,
    or ``d[name]`` where the name is in a string, or a sum.
    The inputs are attributes too, but no part of the unpacking.  It is a tree of all of them, for ``torch.func``,
    ``torch.compile`` and ``optree`` (namespace ``"jacfunc"``).

    Example:
        >>> import torch
        >>> from jacfunc import partials
        >>> f = lambda tx: tx[:, :1] * tx[:, 1:] ** 2
        >>> d = partials(f, "u u_xx", inputs="t x", outputs="u")(torch.ones(2, 2))
        >>> u, u_xx = d
        >>> d.u_xx
        tensor([2., 2.])
        >>> d.t
        tensor([1., 1.])
    """

    # Names are attributes of the object itself, so any of them works: no method has one without an underscore in front.

    def __init__(self, names: Sequence[str], fields: Sequence[Any], inputs: Sequence[tuple[str, Any]]) -> None:
        self._names = tuple(names)
        self._inputs = tuple([name for name, _ in inputs])
        for name, tensor in inputs:
            setattr(self, name, tensor)
        for name, tensor in zip(names, fields, strict=True):
            setattr(self, name, tensor)

    @classmethod
    def put_together(
        cls, names: tuple[str, ...], fields: Sequence[Any], inputs: tuple[str, ...], coordinates: Sequence[Any]
    ) -> Derivatives:
        """These fields and coordinates by their names, in the time of a small call."""
        if compiling():  # which cannot trace it
            return cls(names, fields, list(zip(inputs, coordinates, strict=True)))
        made = object.__new__(cls)
        own = made.__dict__
        own["_names"], own["_inputs"] = names, inputs
        own.update(zip(inputs, coordinates, strict=True))
        own.update(zip(names, fields, strict=True))
        return made

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([getattr(self, name) for name in self._names])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> torch.Tensor:
        if isinstance(name, str) and not name.startswith("_"):
            found: torch.Tensor = getattr(self, without_spaces(name))
            return found
        raise TypeError(f"derivatives are found by name, as in d['{self._names[0]}'], not by {name!r}; or unpack them")

    def __getattr__(self, name: str) -> torch.Tensor:
        # Only for what is not there.
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"{name!r} was not asked for; there are {', '.join(self._names)} and the inputs {', '.join(self._inputs)}"
        )

    def __repr__(self) -> str:
        shown = [f"{name}={tuple(getattr(self, name).shape)}" for name in self._names]
        return f"Derivatives({', '.join(shown)}; {', '.join(self._inputs)})"


Context = tuple[type[Derivatives], tuple[str, ...], tuple[str, ...]]


def _flatten(derivatives: Derivatives) -> tuple[list[Any], Context]:
    names = (*derivatives._names, *derivatives._inputs)
    return [getattr(derivatives, name) for name in names], (
        type(derivatives),
        derivatives._names,
        derivatives._inputs,
    )


def _unflatten(leaves: Any, context: Context) -> Derivatives:
    kind, names, inputs = context
    leaves = list(leaves)
    return kind(names, leaves[: len(names)], list(zip(inputs, leaves[len(names) :], strict=True)))


register_tree(Derivatives, _flatten, _unflatten, serialized_type_name="jacfunc.Derivatives")
optree.register_pytree_node(
    Derivatives,  # type: ignore[arg-type]  # whose iteration leaves the inputs out
    _flatten,  # type: ignore[arg-type]
    lambda context, leaves: _unflatten(leaves, context),  # type: ignore[arg-type,return-value]
    namespace=NAMESPACE,
)

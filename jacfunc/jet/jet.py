"""The number that carries its derivatives: a value and, for each order, a stack of coefficient rows.

A jet stands where a tensor would: ``dispatch.py`` gives it ``__torch_function__``, so that torch hands over every
operation on it, and the methods of a tensor.  It is no ``Tensor`` subclass (``docs/design.md``).  What the rows mean
is in ``layout.py`` and ``frame.py``; what an operation does with them is in ``rules/``.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..core.levels import compiling
from . import gemm
from .frame import CannotFollowError, Frame, OneHot, Propagation
from .pending import Ended, PendingLayer, PendingWrite, versions_of
from .windows import windows_of

Tensor = torch.Tensor
Coefficients = tuple[Tensor | None, ...]


_OPERATORS = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "power": operator.pow,
}


class LengthError(CannotFollowError, TypeError):
    """A number has no length; ``torch.tensor`` asks for it as well, and has no other way to be told."""


class Jet:
    """``value`` of any shape ``S``, and ``coefficients[k - 1]`` of shape ``(rows, *S)`` for each order k.

    A coefficient is None where it is zero, and may have axes of size 1 where it is the same along an axis of the value;
    the first of an input may be ``OneHot``, that of an image ``Windows``, until somebody looks at it.
    ``kin`` are the jets that may be views of the same numbers, itself included, weakly: while another lives, none may
    change in place, but for ``x[i] += y``, where one is a view by an index of the other (``origin``).
    ``activated`` is what it is the activation of, where a compiled graph may join that with the next linear layer.
    ``pending`` is what has to be done before the numbers can be used, if anything (``pending.py``); ``root`` is what is
    known of them where a norm is zero (``root.py``).
    """

    __slots__ = (
        "__weakref__",
        "_coefficients",
        "_frame",
        "_value",
        "activated",
        "kin",
        "origin",
        "pending",
        "root",
    )

    def __init__(self, value: Tensor | None, coefficients: Coefficients, frame: Frame) -> None:
        self._value = value
        self._coefficients: tuple[Any, ...] = coefficients
        self._frame = frame
        self.pending: PendingLayer | PendingWrite | Ended | None = None
        self.kin: list[Any] | None = None
        self.origin: tuple[Jet, Any] | None = None
        self.activated: Any = None
        self.root: Any = None

    @classmethod
    def linear(cls, source: Jet, weight: Tensor, bias: Tensor | None) -> Jet:
        """``source @ weight.T + bias``, when it is needed."""
        value = source.value  # once and for all: the source itself may change in place
        jet = cls(None, (), source.frame)
        kept = cls(value, source.coefficients if windows_of(source) else source._coefficients, jet.frame)
        kept.activated = source.activated
        versions = None if jet.propagation.traced else versions_of(weight, bias)
        jet.pending = PendingLayer(kept, weight, bias, versions)
        return jet

    @classmethod
    def multiplied(cls, source: Jet, weight: Tensor, bias: Tensor | None) -> Jet:
        """``source @ weight.T + bias`` at once, where all of it is needed next."""
        frame = source.frame
        jet = cls(gemm.linear(source.value, weight, bias), (), frame)
        jet._have(source, weight, _rows(source, weight))
        return jet

    @property
    def value(self) -> Tensor:
        """What the tensor would be."""
        if self.pending is not None:
            self._layer()
            if self._value is None and self._frame.propagation.traced and compiling() and self._multiply_out_at_once():
                return self._value  # type: ignore[return-value]
            if self._value is None:  # the rows may never be asked for
                source, weight, bias, _ = self.unchanged_layer()
                self._value = gemm.linear(source.value, weight, bias)
        return self._value  # type: ignore[return-value]  # only pending jets have none

    @property
    def coefficients(self) -> Coefficients:
        """The rows of each order, from the first."""
        if self.pending is not None:
            self._multiply_out()
        rows = self._coefficients
        if rows and type(rows[0]) is OneHot:
            rows = self._coefficients = (self.propagation.identity(rows[0].size, self.value), *rows[1:])
        elif rows and hasattr(rows[0], "spread"):
            rows = self._coefficients = rows[0].spread(self._value)
        return rows

    def apart(self) -> tuple[Any, ...]:
        """The rows, as a product takes them best."""
        return (self.activated and self.activated.row_by_row()) or self._coefficients

    @property
    def frame(self) -> Frame:
        """What the rows are relative to; for a pending layer it is only known once that is multiplied out."""
        if type(self.pending) is PendingLayer:
            self._multiply_out()
        return self._frame

    @property
    def propagation(self) -> Propagation:
        """The evaluation that it belongs to."""
        return self._frame.propagation

    def _layer(self) -> PendingLayer:
        """The layer that is pending; anything else that may be cannot be waited for."""
        pending = self.pending
        if type(pending) is not PendingLayer:
            raise CannotFollowError("an operation in place on a view")
        return pending

    def unchanged_layer(self) -> PendingLayer:
        """The layer that is pending; raises where it would be computed with other numbers than those of its time."""
        layer = self._layer()
        if layer.versions is not None and layer.versions != versions_of(layer.weight, layer.bias):
            raise CannotFollowError("a weight that is changed in place after its linear layer")
        return layer

    def _multiply_out(self) -> None:
        source, weight, _, _ = self._layer()
        if self._value is None:
            self._value = self.value
            if self.pending is None:  # the rows were multiplied with it
                return
        else:
            self.unchanged_layer()
        self._have(source, weight, _rows(source, weight))

    def _have(self, source: Jet, weight: Tensor, rows: Coefficients) -> None:
        """Have these rows from now on, of a layer that is multiplied out."""
        self.pending, self._frame, self._coefficients = None, source.frame, rows
        _narrow(self, source, weight)

    def _multiply_out_at_once(self) -> bool:
        source, weight, bias, _ = self._layer()
        found = _at_once(source, weight)
        if found is None:
            return False
        value, rows = found
        self._value = value if bias is None else value + bias
        self._have(source, weight, rows)
        return True

    def like(self, value: Tensor, coefficients: Coefficients) -> Jet:
        """Another jet of the same frame."""
        return Jet(value, coefficients, self.frame)

    def full(self, order: int) -> Tensor | None:
        """The rows of an order in the shape ``(rows, *S)``; None for zero."""
        rows = self.coefficients[order - 1]
        if rows is None or rows.shape[1:] == self.value.shape:
            return rows
        return rows.expand(rows.shape[0], *self.value.shape)

    def move(self, other: Jet) -> None:
        """Be the same numbers in another frame."""
        self._value, self._coefficients, self._frame = other.value, other.coefficients, other.frame
        self.activated, self.root = None, other.root

    def become(self, other: Jet) -> Jet:
        """Be another jet from now on: what an operation in place does."""
        if self.kin is not None and not self._alone_or_lent():
            raise CannotFollowError("an operation in place on a view, or on what a view was taken of")
        self.move(other)
        self.pending = None
        return self

    def seen_by(self, view: Jet, index: Any = None) -> Jet:
        """Remember that another jet may be a view of this one, by an index of numbers and slices."""
        kept = _strongly if compiling() else weakref.ref
        if self.kin is None:
            self.kin = [kept(self)]
        self.kin.append(kept(view))
        view.kin = self.kin
        if index is not None:
            view.origin = (self, index)
        return view

    def _alone_or_lent(self) -> bool:
        """Whether no other view lives, or only what this is a view of, which then waits to have it written back."""
        assert self.kin is not None
        self.kin[:] = [kept for kept in self.kin if kept() is not None]
        others = [jet for jet in (kept() for kept in self.kin) if jet is not self]
        if not others:
            return True
        if self.origin is None or len(others) > 1 or others[0] is not self.origin[0]:
            return False
        source, index = self.origin
        if source.pending is None:
            source.pending = PendingWrite(Jet(source._value, source._coefficients, source._frame), self, index)
        return type(source.pending) is PendingWrite and source.pending.view is self

    def takes_back(self, view: Any, index: Any) -> bool:
        """Before an item is assigned: whether it is the view that changed in place, as in ``x[i] += y``."""
        pending = self.pending
        if type(pending) is not PendingWrite or pending.view is not view or pending.index != index:
            return False
        self.pending, self.kin = None, None
        self.move(pending.before)
        return True

    def end(self) -> None:
        """Be of no further use: in torch this would still be a view of what it was written to."""
        self.pending = Ended()

    # ---------------------------------------------------------------- what does not need the numbers

    @property
    def shape(self) -> torch.Size:
        """As of the tensor."""
        pending = self.pending
        if type(pending) is PendingLayer:
            return torch.Size((*pending.source.shape[:-1], pending.weight.shape[0]))
        shape: torch.Size = self._representative.shape
        return shape

    @property
    def dtype(self) -> torch.dtype:
        """As of the tensor."""
        result: torch.dtype = self._representative.dtype
        return result

    @property
    def device(self) -> torch.device:
        """As of the tensor."""
        result: torch.device = self._representative.device
        return result

    @property
    def _representative(self) -> Any:
        """A tensor of its dtype and device, and but for a layer of its shape, without anything multiplied out."""
        pending = self.pending
        if type(pending) is PendingLayer:
            return pending.weight
        return pending.before._value if type(pending) is PendingWrite else self._value

    @property
    def ndim(self) -> int:
        """As of the tensor."""
        return len(self.shape)

    def dim(self) -> int:
        """As of the tensor."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """As of the tensor."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """As of the tensor."""
        return self.shape.numel()

    nelement = numel

    def __len__(self) -> int:
        if not self.shape:
            raise LengthError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.unbind(self))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Jet({tuple(self.shape)}, rows={self._frame.layout.sizes})"

    __hash__ = object.__hash__

    # ---------------------------------------------------------------- what leaves the propagation

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __index__(self) -> int:
        return self.value.__index__()

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def item(self) -> Any:
        """The number, a constant from now on."""
        return self.value.item()

    def tolist(self) -> Any:
        """The numbers, constants from now on."""
        return self.value.tolist()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise CannotFollowError("a conversion to numpy")

    numpy = __array__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """A number of numpy on the left of an operator; whatever else numpy would do cannot be followed."""
        operation = _OPERATORS.get(ufunc.__name__)
        plain = all(type(item) is Jet or isinstance(item, np.generic) for item in inputs)
        if operation is None or method != "__call__" or kwargs or not plain:
            raise CannotFollowError(f"{ufunc.__name__} of numpy")
        return operation(*(item if type(item) is Jet else item.item() for item in inputs))

    def __deepcopy__(self, memory: Any) -> Any:
        raise CannotFollowError("a copy of a tensor by copy or pickle")

    def __reduce_ex__(self, _: Any) -> Any:
        raise CannotFollowError("a copy of a tensor by copy or pickle")


def _strongly(jet: Jet) -> Callable[[], Jet]:
    """For ``torch.compile``, which does not see what dies."""
    return lambda: jet


def _rows(source: Jet, weight: Tensor) -> Coefficients:
    """Of every order, those of ``source`` times ``weight.T``."""
    return tuple([multiplied(source, weight, rows) for rows in source.apart()])


def _at_once(source: Jet, weight: Tensor) -> tuple[Tensor, Coefficients] | None:
    """Value and rows of ``source`` times ``weight.T`` where one product, or one node of a graph, is for all of them."""
    value, propagation = source.value, source.propagation
    for rows in source._coefficients:
        if rows is None or type(rows) is OneHot or propagation.is_identity(rows) or rows.shape[1:] != value.shape:
            return None
    if propagation.scale_of(source._coefficients[0]) is not None or not gemm.by_operator(value, weight):
        return None
    if source.activated is not None:
        found: tuple[Tensor, Coefficients] | None = source.activated.multiplied(weight)
        if found is not None:
            return found
    together = gemm.put_together([value.unsqueeze(0), *source.apart()])
    if len(together) > 1:
        return None
    product, *products = gemm.taken_apart([gemm.multiplied(together[0], weight)], source.frame.layout.sizes)
    return product.squeeze(0), tuple(products)


def multiplied(source: Jet, weight: Tensor, rows: Any) -> Tensor | None:
    """Rows of ``source`` times ``weight.T``."""
    if rows is None:
        return None
    if source.propagation.is_identity(rows):
        return gemm.written(weight.t()).unsqueeze(1)
    scale = source.propagation.scale_of(rows)
    if scale is not None and scale.dim() == 2:  # (samples, size)
        return gemm.written(weight.t()).unsqueeze(1) * scale.t().contiguous().unsqueeze(2)
    full = rows if rows.shape[-1] == weight.shape[1] else rows.expand(*rows.shape[:-1], weight.shape[1])
    return gemm.linear(full, weight)


def _narrow(jet: Jet, source: Jet, weight: Tensor) -> None:
    """Begin a new frame at a layer that is narrower than the rows in flight."""
    frame, propagation = source.frame, source.propagation
    rows = jet._coefficients[0]
    narrow = rows is not None and propagation.narrowing and frame.blocks is None and 2 * len(weight) <= len(rows)
    if not narrow or len(propagation.batch) != 1 or len(jet.shape) != 2 or jet.shape[0] != propagation.batch[0]:
        return
    assert rows is not None
    if frame.layout.order == 1:
        jet._frame = frame.narrowed(rows)
        jet._coefficients = (propagation.identity(weight.shape[0], rows),)
    elif frame.layout.total and frame.parent is None:
        first, second = source._coefficients
        if first is not None and second is None and propagation.is_identity(first):
            jet._frame = frame.changed(weight)
            jet._coefficients = (propagation.identity(weight.shape[0], rows), None)

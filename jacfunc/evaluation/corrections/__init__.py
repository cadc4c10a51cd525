"""The operations whose derivatives torch gets wrong or lacks, and what runs in their place: one table.

``corrected()`` watches the calls that a function makes and exchanges those in the table.  An entry either computes the
same from primitives whose derivatives of every order are right, with torch's own value (``expansion.py``), or refuses.
Since the primitives are what is recorded, a derivative that is taken again from outside is right as well.  What torch
does inside scripted or C++ code is not seen; which route may take an operation is decided in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...core import caches, torch_private
from ...core.levels import compiling, inside_function, inside_transform
from ...core.torch_private import (
    Functions,
    are_classes_told,
    constant_in_traces,
    data_getter,
    handed_to_modes,
    is_forward_mode_on,
    level_count,
    modes,
    set_forward_mode,
    set_grad,
)
from ...core.torch_private import c_nn as _nn
from ...core.torch_private import operators as _ops
from ...errors import UnsupportedOperationError
from ..checkpoint import begin, end, within
from ..recorder import Recorder
from . import algebra, attention, convolution, draws, elementwise, losses, norms, selection, special
from .expansion import constant, in_place, refusing
from .foreign import SMOOTH, is_foreign, refuse_constants, refusing_zeros
from .unseen import Access, data_of, refuse_overwritten
from .written import Writes, is_watched
from .zero_norms import refuse_zeros


@dataclass(frozen=True)
class Entry:
    """One operation: under which Python functions it is called, what replaces it, and why."""

    name: str
    functions: Functions
    instead: Callable[..., Any]
    why: str
    issue: int | None = None

    def __str__(self) -> str:
        source = f" (pytorch issue {self.issue})" if self.issue else ""
        return f"{self.name} is computed from simpler operations: {self.why}{source}"


FORGETS = "torch's second derivative takes the statistics of the input for constants"
NO_FLASH = "torch's flash kernel has neither a forward mode nor a second derivative"
NAN_AT_EDGE = "torch's second derivative is NaN at zero"
ZERO_AT_ZERO = "torch's third or fourth derivative is zero at zero"
INNERMOST = "torch's is constant for the innermost transform only"
OVERFLOWS = "torch's second derivative is NaN where an exponential overflows"
NO_SECOND = "torch has no second derivative of it"
NO_DERIVATIVE = "torch has no derivative of it and takes it for a constant"
LACKS = "torch has no derivative of it"
NAN_THIRD = "torch's third derivative is NaN"
DENSE = "keep the tensor dense, or make it sparse outside of the transform"
SCATTER = "use torch.index_add or torch.scatter_reduce"


def forms(*names: str) -> Functions:
    """What torch has by these names: functions, methods and operators; some versions lack one or another."""
    places = (torch, torch.special, torch.linalg, torch.Tensor, F, _nn)
    found = [getattr(place, name) for name in names for place in places if hasattr(place, name)]
    return *found, *_ops(*(name for name in names if hasattr(torch.ops.aten, name)))


def with_in_place(name: str, instead: Callable[..., Any], why: str, *others: str) -> tuple[Entry, Entry]:
    """An operation of this name and others, and the same written to its first argument."""
    names = (name, *others)
    written = forms(*(f"{name}_" for name in names))
    return Entry(name, forms(*names), instead, why), Entry(name, written, partial(in_place, instead), why)


def refused(name: str, functions: Functions, way_out: str, why: str = NO_SECOND) -> list[Entry]:
    """An operation under several names, each of which refuses to be differentiated."""
    return [Entry(name, (function,), partial(refusing, function, name, way_out), why) for function in functions]


def sparse_mm(*args: Any, **kwargs: Any) -> Any:
    """For ``torch.sparse.mm``, which has a second derivative for the sum only."""
    if len(args) + len(kwargs) == 2:
        return torch.sparse.mm(*args, **kwargs)
    return refusing(torch.sparse.mm, "sparse.mm with reduce=", SCATTER, *args, **kwargs)


NATIVE: Functions = (*forms("native_batch_norm"), *torch_private.BATCH_NORMS)
UNIQUE: Functions = (*torch_private.UNIQUE, *_ops("unique_dim", "unique_consecutive", "unique_dim_consecutive"))
# By Dynamo's name for it as well.
DATA: Functions = (torch.Tensor.data.__get__, data_getter)  # type: ignore[attr-defined]
ENTRIES = (
    Entry("layer_norm", forms("layer_norm"), norms.layer_norm, FORGETS, 196700),
    Entry("native_layer_norm", forms("native_layer_norm"), norms.native_layer_norm, FORGETS, 196700),
    Entry("batch_norm", forms("batch_norm"), partial(norms.other_order, norms.batch_norm), FORGETS, 196699),
    Entry("batch_norm", (F.batch_norm,), norms.batch_norm, FORGETS, 196699),
    Entry("instance_norm", forms("instance_norm"), partial(norms.other_order, norms.instance_norm), FORGETS, 196699),
    Entry("instance_norm", (F.instance_norm,), norms.instance_norm, FORGETS, 196699),
    *(
        Entry("native_batch_norm", (native,), partial(norms.native_batch_norm, native), FORGETS, 196699)
        for native in NATIVE
    ),
    Entry("native_batch_norm", torch_private.INDEXED_BATCH_NORMS, norms.indexed_batch_norm, FORGETS, 196699),
    Entry("scaled_dot_product_attention", forms("scaled_dot_product_attention"), attention.attention, NO_FLASH),
    Entry("scaled_dot_product_attention", torch_private.FLASH_ATTENTION, attention.flash_attention, NO_FLASH),
    Entry("scaled_dot_product_attention", (F.multi_head_attention_forward,), attention.multi_head_attention, NO_FLASH),
    Entry("data", DATA, constant, INNERMOST),
    *refused("detach_", forms("detach_"), "use detach, which makes another tensor", INNERMOST),
    *with_in_place("hardsigmoid", elementwise.hardsigmoid, NO_SECOND),
    *with_in_place("mish", elementwise.mish, OVERFLOWS),
    *with_in_place("celu", elementwise.celu, "torch has 1 / alpha of its derivative in single precision"),
    Entry("prelu", forms("prelu"), elementwise.prelu, "torch's pushforward at zero is not that of its backward"),
    Entry("polar", forms("polar"), elementwise.polar, "torch's derivative by a negative length has the wrong sign"),
    *with_in_place("gelu", elementwise.gelu, "torch's derivatives of higher order are NaN from 9 or 13 on"),
    *with_in_place("sinc", special.sinc, "torch's is NaN at zero", "special_sinc"),
    *with_in_place("i0", special.i0, ZERO_AT_ZERO, "special_i0"),
    Entry("i1", forms("i1", "special_i1"), special.i1, ZERO_AT_ZERO),
    *(
        Entry(name, forms(name, f"special_{name}"), getattr(special, name),
              "torch's derivatives lose their digits to a difference, near zero or far out")
        for name in ("i0e", "i1e", "erfcx", "log_ndtr")
    ),
    *with_in_place("gammainc", special.gammainc, NAN_AT_EDGE, "igamma", "special_gammainc"),
    *with_in_place("gammaincc", special.gammaincc, NAN_AT_EDGE, "igammac", "special_gammaincc"),
    Entry("unique", forms("unique"), selection.unique, LACKS),
    Entry("unique", forms("unique_consecutive"), selection.unique_consecutive, LACKS),
    *(
        Entry("unique", (other,), partial(refusing, other, "unique by another name", "use torch.unique"), LACKS)
        for other in UNIQUE
    ),
    Entry("logaddexp", forms("logaddexp"), elementwise.logaddexp, OVERFLOWS),
    Entry("logcumsumexp", forms("logcumsumexp"), elementwise.logcumsumexp,
          "torch's backward has no derivative where a cotangent is zero"),
    Entry("det", forms("det", "linalg_det"), algebra.det, NAN_THIRD, 192540),
    Entry("det", torch_private.DET, algebra.private_det, NAN_THIRD, 192540),
    Entry("cdist", (*forms("cdist"), *torch_private.CDIST), algebra.cdist,
          f"{NO_SECOND}, and vmap over the first is wrong"),
    Entry("pdist", (*forms("pdist"), *torch_private.PDIST), algebra.pdist, NO_SECOND),
    *(
        Entry("conv_transpose", forms(native.__name__), partial(convolution.conv_transpose, native, axes),
              "with output padding torch's backward has no derivative by input and weight together")
        for axes, native in enumerate((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), 1)
    ),
    Entry("multi_margin_loss", forms("multi_margin_loss"), losses.numbered_multi_margin, NO_SECOND),
    Entry("multi_margin_loss", (F.multi_margin_loss,), losses.multi_margin_loss, NO_SECOND),
    Entry("multilabel_margin_loss", forms("multilabel_margin_loss"), losses.numbered_multilabel_margin, NO_SECOND),
    Entry("multilabel_margin_loss", (F.multilabel_margin_loss,), losses.multilabel_margin_loss, NO_SECOND),
    Entry("linear_cross_entropy", forms("linear_cross_entropy"), losses.linear_cross_entropy,
          "torch takes the backward of its chunks for a constant"),
    Entry("embedding_bag", forms("embedding_bag"), losses.direct_embedding_bag, NO_SECOND),
    Entry("embedding_bag", (F.embedding_bag,), losses.embedding_bag, NO_SECOND),
    Entry("embedding_bag", torch_private.EMBEDDING_BAG, losses.private_embedding_bag, NO_SECOND),
    *refused("to_sparse", (*forms("to_sparse"), *torch_private.TO_SPARSE), DENSE),
    *refused("sparse_coo_tensor", forms("sparse_coo_tensor"), DENSE),
    *refused("ctc_loss", (*forms("ctc_loss"), *torch_private.CTC_LOSS), "write its recursion with torch.logaddexp"),
    Entry("sparse.mm", (torch.sparse.mm, *torch_private.SPARSE_MM), sparse_mm, NO_SECOND),
    Entry("_standard_gamma", torch_private.GAMMA, draws.standard_gamma, NO_SECOND),
    *(
        Entry(name, (smooth,), partial(refusing_zeros, smooth, name), NO_DERIVATIVE)
        for name in SMOOTH for smooth in forms(name, f"special_{name}")
    ),
    *refused("segment_reduce", forms("segment_reduce"), SCATTER),
)  # fmt: skip
"""Of two entries for one function the later one holds."""

TABLE: Mapping[Any, Entry] = {function: entry for entry in ENTRIES for function in entry.functions}


Given = Sequence[Mapping[str, Any]]
"""Parameters that a function is given, by name."""

PLAIN = frozenset([torch.Tensor, torch.nn.Parameter])


class Corrections(TorchFunctionMode):
    """While active, exchanges the operations of the table."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Jets have rules, and among them what the table has.
        if func in TABLE and "out" not in kwargs and all([issubclass(kind, torch.Tensor) for kind in types]):  # noqa: C419  # for Dynamo
            return self.exchanged(TABLE[func], args, kwargs)
        if func is torch.Tensor.unflatten and compiling():  # whose super() Dynamo cannot trace under a mode
            func = torch.unflatten
        return func(*args, **kwargs)

    def exchanged(self, entry: Entry, args: Any, kwargs: Any) -> Any:
        """The result of what the table has instead of the operation."""
        return entry.instead(*args, **kwargs)


def unpatched(func: Any) -> Any:
    """The method of tensors that has run, where a mode is told of what a user has put in its place.

    Torch asks for a method by its name: what was put there and calls the old method would be called by that once more.
    """
    if type(func) is FunctionType and not (func.__module__ or "").startswith("torch"):
        name = next((name for name, method in vars(torch.Tensor).items() if method is func), "")
        return PYTHON_METHODS.get(name) or getattr(torch.Tensor.__base__, name, func)
    return func


PYTHON_METHODS = {name: method for name, method in vars(torch.Tensor).items() if isinstance(method, FunctionType)}
"""Methods of tensors that are none in C, as they are when this is imported."""


class Noting(Corrections):
    """Also keeps the entries that it met, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.met: dict[str, Entry] = {}

    def exchanged(self, entry: Entry, args: Any, kwargs: Any) -> Any:
        """What replaces the operation, and a note that it was met."""
        self.met[entry.name] = entry
        return super().exchanged(entry, args, kwargs)


class _Evaluation(Corrections):
    """The mode of one evaluation, which holds as well for what is checkpointed in it and runs again.

    An inner ``no_grad`` is constant for forward mode too, which torch has go through it.
    """

    def __init__(self, recorder: Recorder | None, given: Given) -> None:
        super().__init__()
        self.recorder = recorder
        self.accesses: list[Access] = []
        self.writes = Writes(given)

    def __enter__(self) -> Any:
        begin(partial(within, corrected))
        self.levels, self.entered = inside_transform(), level_count()
        self.pushes, self.told_off = is_forward_mode_on(), caches.AROUND.told_off
        self.noted_by, caches.AROUND.recorder = caches.AROUND.recorder, self.recorder
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        recorder = self.recorder
        if recorder is None or recorder.busy or compiling() or caches.AROUND.unnoted:
            return self._run(func, types, args, kwargs)
        return recorder.step(func, args, kwargs or {}, self._run, func, types, args, kwargs)

    def _run(self, func: Any, types: Any, args: Any, kwargs: Any, allowed: bool = False) -> Any:
        func = unpatched(func)
        name = getattr(func, "__name__", "")
        if not allowed and is_watched(func, name, args, kwargs) and not compiling():
            return self.writes.run(
                self.recorder, name, func, args, kwargs or {}, self._run, func, types, args, kwargs, True
            )
        if not PLAIN.issuperset(types) and are_classes_told() and all(issubclass(kind, torch.Tensor) for kind in types):
            return self._by_class(func, types, args, kwargs or {})
        if func is set_grad and not inside_function():  # for whose forward torch has both off
            caches.AROUND.told_off = not args[0]
            set_forward_mode(self.pushes and args[0])
        if func is F.l1_loss and not compiling():
            losses.refuse_lost_weight()
        if is_foreign(func):
            result = func(*args, **(kwargs or {}))
            refuse_constants(func, args, kwargs or {}, result)
            return result
        if func in DATA and not self.levels and not inside_transform():
            return data_of(args[0], self.accesses)
        result = super().__torch_function__(func, types, args, kwargs)
        refuse_zeros(func, args, kwargs, result, self.entered)
        return result

    def _by_class(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What the first class that knows makes of it; the operations that it calls come by here again."""
        super().__enter__()  # type: ignore[no-untyped-call]
        try:
            results = (kind.__torch_function__(func, types, args, kwargs) for kind in types)
            return next((result for result in results if result is not NotImplemented), NotImplemented)
        finally:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: object) -> None:
        set_forward_mode(self.pushes)
        caches.AROUND.told_off = self.told_off
        caches.AROUND.recorder = self.noted_by
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        end()


class _Inner:
    """The mode of an evaluation for one that is inside of it, with another recorder and other parameters meanwhile."""

    def __init__(self, mode: _Evaluation, recorder: Recorder | None, given: Given) -> None:
        self.mode, self.recorder, self.given = mode, recorder, given

    def __enter__(self) -> _Evaluation:
        mode = self.mode
        self.before = mode.recorder, caches.AROUND.recorder, mode.writes.given, mode.entered
        mode.entered = level_count()
        mode.recorder = caches.AROUND.recorder = self.recorder
        mode.writes.given = (*mode.writes.given, *self.given)
        return mode

    def __exit__(self, *raised: object) -> None:
        self.mode.recorder, caches.AROUND.recorder, self.mode.writes.given, self.mode.entered = self.before


class Beside(TorchFunctionMode):
    """While jets go through a function: refuses what it computes of other tensors and torch has no derivative of.

    Nothing is exchanged there, since torch's first derivatives are right, but for these.
    """

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.writes = Writes(given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        func = unpatched(func)
        name = getattr(func, "__name__", "")
        if is_watched(func, name, args, kwargs):
            return self.writes.run(None, name, func, args, kwargs, self._allowed, func, args, kwargs)
        return self._allowed(func, args, kwargs)

    def _allowed(self, func: Any, args: Any, kwargs: Any) -> Any:
        entry = TABLE.get(func)
        if entry is not None and entry.why in (LACKS, NO_DERIVATIVE):
            given = (*args, *kwargs.values())
            if torch.is_grad_enabled() and any(isinstance(item, torch.Tensor) and item.requires_grad for item in given):
                raise UnsupportedOperationError(f"{entry.name} of what is differentiated later: {entry.why}")
        return func(*args, **kwargs)


@constant_in_traces
def _hand_over() -> bool:
    """Let Dynamo hand all of the table to a mode, as torch does, and jets; run while it traces, not traced itself.

    It goes by a list that torch has for its tests, which lacks what these leave out, such as ``F.hardsigmoid``.
    """
    handed_to_modes().update(TABLE, (F.tanh, F.sigmoid))
    return True


def corrected(recorder: Recorder | None = None, given: Given = ()) -> AbstractContextManager[Any]:
    """A context in which the operations of the table are exchanged; once, also inside another one.

    It notes what runs with the ``recorder``, and refuses writes to parameters, those in ``given`` among them.
    """
    if compiling():  # which can trace neither the question nor a checkpoint
        _hand_over()
        return Corrections()
    around = next((mode for mode in modes() if isinstance(mode, Corrections)), None)
    if around is None:
        return _Evaluation(recorder, given)
    return _Inner(around, recorder, given) if isinstance(around, _Evaluation) else nullcontext(around)


def records(corrections: Any, recorder: Recorder | None) -> bool:
    """Whether a context notes what runs with this recorder."""
    return recorder is not None and isinstance(corrections, _Evaluation) and corrections.recorder is recorder


def refuse_unseen(outputs: Sequence[Any], corrections: Any) -> None:
    """Refuse a graph of an evaluation in which what a backward needs was overwritten through ``.data``."""
    if isinstance(corrections, _Evaluation) and corrections.accesses:
        refuse_overwritten(outputs, corrections.accesses)

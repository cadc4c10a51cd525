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
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...core import caches, torch_private
from ...core.levels import classes_asked, compiling, inside_function, inside_transform
from ...core.torch_private import (
    Functions,
    constant_in_traces,
    data_getter,
    handed_to_modes,
    is_forward_mode_on,
    modes,
    set_forward_mode,
    set_grad,
)
from ...core.torch_private import c_nn as _nn
from ...core.torch_private import operators as _ops
from ...errors import UnsupportedOperationError
from ..checkpoint import begin, end
from . import algebra, attention, convolution, draws, elementwise, losses, norms, selection, special
from .expansion import constant, in_place, refusing
from .foreign import SMOOTH, is_foreign, refuse_constants, refusing_zeros
from .unseen import Access, data_of, refuse_overwritten


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
ANOTHER = "use detach, which makes another tensor"
NAN_AT_ZERO = "torch's is NaN at zero"
NAN_BEYOND = "torch's derivatives of higher order are NaN from 9 or 13 on"
SINGLE = "torch has 1 / alpha of its derivative in single precision"
CANCELS = "torch's derivatives lose their digits to a difference, near zero or far out"
NAN_AT_EDGE = "torch's second derivative is NaN at zero"
ZERO_AT_ZERO = "torch's third or fourth derivative is zero at zero"
NO_ZERO = "torch's backward has no derivative where a cotangent is zero"
INNERMOST = "torch's is constant for the innermost transform only"
OVERFLOWS = "torch's second derivative is NaN where an exponential overflows"
NO_SECOND = "torch has no second derivative of it"
NO_DERIVATIVE = "torch has no derivative of it and takes it for a constant"
NO_SECOND_OR_VMAP = f"{NO_SECOND}, and vmap over the first is wrong"
LACKS = "torch has no derivative of it"
NAN_THIRD = "torch's third derivative is NaN"
CONSTANT_CHUNKS = "torch takes the backward of its chunks for a constant"
DENSE = "keep the tensor dense, or make it sparse outside of the transform"
NO_PADDING = "with output padding torch's backward has no derivative by input and weight together"
UNROLL = "write its recursion with torch.logaddexp"
SCATTER = "use torch.index_add or torch.scatter_reduce"


def sparse_mm(*args: Any, **kwargs: Any) -> Any:
    """For ``torch.sparse.mm``, which has a second derivative for the sum only."""
    if len(args) + len(kwargs) == 2:
        return torch.sparse.mm(*args, **kwargs)
    return refusing(torch.sparse.mm, "sparse.mm with reduce=", SCATTER)(*args, **kwargs)


# Older versions of torch do not have it.
LINEAR_CROSS_ENTROPY = (F.linear_cross_entropy,) if hasattr(F, "linear_cross_entropy") else ()
detach_ = torch.Tensor.detach_
coo = torch.sparse_coo_tensor
sdpa = F.scaled_dot_product_attention
batch_norm, instance_norm = norms.other_order(norms.batch_norm), norms.other_order(norms.instance_norm)
NATIVE: Functions = (torch.native_batch_norm, *_ops("native_batch_norm"), *torch_private.BATCH_NORMS)
INDEXED, FLASH = torch_private.INDEXED_BATCH_NORMS, torch_private.FLASH_ATTENTION
SPARSE: Functions = (torch.Tensor.to_sparse, *_ops("to_sparse"), *torch_private.TO_SPARSE)
CTC: Functions = (F.ctc_loss, torch.ctc_loss, *_ops("ctc_loss"), *torch_private.CTC_LOSS)
SPECIAL: Mapping[str, Functions] = {
    name: (getattr(torch.special, name), *_ops(f"special_{name}")) for name in SMOOTH if hasattr(torch.special, name)
}
SCALED: Mapping[str, Functions] = {
    name: (getattr(torch.special, name), *_ops(f"special_{name}")) for name in ("i0e", "i1e", "erfcx", "log_ndtr")
}
INCOMPLETE: Functions = (torch.special.gammainc, torch.igamma, torch.Tensor.igamma)
COMPLEMENT: Functions = (torch.special.gammaincc, torch.igammac, torch.Tensor.igammac)
CONSECUTIVE: Functions = (torch.unique_consecutive, torch.Tensor.unique_consecutive)
UNIQUE: Functions = (*torch_private.UNIQUE, *_ops("unique_dim", "unique_consecutive", "unique_dim_consecutive"))
SEGMENT: Functions = (torch.segment_reduce, *_ops("segment_reduce"))
DIRECT_BAGS: Functions = (torch.embedding_bag, *_ops("embedding_bag"))
MULTI_MARGIN, MULTILABEL_MARGIN = _nn.multi_margin_loss, _nn.multilabel_margin_loss
# By Dynamo's name for it as well.
DATA: Functions = (torch.Tensor.data.__get__, data_getter)  # type: ignore[attr-defined]
hardsigmoid_, mish_, celu_ = in_place(elementwise.hardsigmoid), in_place(elementwise.mish), in_place(elementwise.celu)
gelu_, sinc_, i0_ = in_place(elementwise.gelu), in_place(special.sinc), in_place(special.i0)
igamma_, igammac_ = in_place(special.gammainc), in_place(special.gammaincc)
TRANSPOSED = [(getattr(torch, f"conv_transpose{axes}d"), axes) for axes in (1, 2, 3)]
ENTRIES = (
    Entry("layer_norm", (F.layer_norm, torch.layer_norm, *_ops("layer_norm")), norms.layer_norm, FORGETS, 196700),
    Entry("native_layer_norm", (torch.native_layer_norm,), norms.native_layer_norm, FORGETS, 196700),
    Entry("native_layer_norm", _ops("native_layer_norm"), norms.native_layer_norm, FORGETS, 196700),
    Entry("batch_norm", (F.batch_norm,), norms.batch_norm, FORGETS, 196699),
    Entry("batch_norm", (torch.batch_norm, *_ops("batch_norm")), batch_norm, FORGETS, 196699),
    Entry("instance_norm", (F.instance_norm,), norms.instance_norm, FORGETS, 196699),
    Entry("instance_norm", (torch.instance_norm, *_ops("instance_norm")), instance_norm, FORGETS, 196699),
    *(Entry("native_batch_norm", (native,), norms.native_batch_norm(native), FORGETS, 196699) for native in NATIVE),
    Entry("native_batch_norm", INDEXED, norms.indexed_batch_norm, FORGETS, 196699),
    Entry("scaled_dot_product_attention", (sdpa, *_ops("scaled_dot_product_attention")), attention.attention, NO_FLASH),
    Entry("scaled_dot_product_attention", FLASH, attention.flash_attention, NO_FLASH),
    Entry("scaled_dot_product_attention", (F.multi_head_attention_forward,), attention.multi_head_attention, NO_FLASH),
    Entry("data", DATA, constant, INNERMOST),
    Entry("detach_", (detach_, torch.detach_, *_ops("detach_")), refusing(detach_, "detach_", ANOTHER), INNERMOST),
    Entry("hardsigmoid", (F.hardsigmoid, _nn.hardsigmoid, *_ops("hardsigmoid")), elementwise.hardsigmoid, NO_SECOND),
    Entry("hardsigmoid", (_nn.hardsigmoid_, *_ops("hardsigmoid_")), hardsigmoid_, NO_SECOND),
    Entry("mish", (F.mish, _nn.mish, *_ops("mish")), elementwise.mish, OVERFLOWS),
    Entry("mish", (_nn.mish_, *_ops("mish_")), mish_, OVERFLOWS),
    Entry("celu", (F.celu, torch.celu, *_ops("celu")), elementwise.celu, SINGLE),
    Entry("celu", (torch.celu_, *_ops("celu_")), celu_, SINGLE),
    Entry("gelu", (_nn.gelu, *_ops("gelu")), elementwise.gelu, NAN_BEYOND),
    Entry("gelu", _ops("gelu_"), gelu_, NAN_BEYOND),
    Entry("sinc", (torch.sinc, torch.special.sinc, torch.Tensor.sinc), special.sinc, NAN_AT_ZERO),
    Entry("sinc", _ops("sinc", "special_sinc"), special.sinc, NAN_AT_ZERO),
    Entry("sinc", (torch.sinc_, torch.Tensor.sinc_, *_ops("sinc_")), sinc_, NAN_AT_ZERO),
    Entry("i0", (torch.i0, torch.special.i0, torch.Tensor.i0), special.i0, ZERO_AT_ZERO),
    Entry("i0", _ops("i0", "special_i0"), special.i0, ZERO_AT_ZERO),
    Entry("i0", (torch.i0_, torch.Tensor.i0_, *_ops("i0_")), i0_, ZERO_AT_ZERO),
    Entry("i1", (torch.special.i1, *_ops("special_i1")), special.i1, ZERO_AT_ZERO),
    *(Entry(name, SCALED[name], getattr(special, name), CANCELS) for name in SCALED),
    Entry("gammainc", (*INCOMPLETE, *_ops("igamma", "special_gammainc")), special.gammainc, NAN_AT_EDGE),
    Entry("gammainc", (torch.Tensor.igamma_, *_ops("igamma_")), igamma_, NAN_AT_EDGE),
    Entry("gammaincc", (*COMPLEMENT, *_ops("igammac", "special_gammaincc")), special.gammaincc, NAN_AT_EDGE),
    Entry("gammaincc", (torch.Tensor.igammac_, *_ops("igammac_")), igammac_, NAN_AT_EDGE),
    Entry("unique", (torch.unique, torch.Tensor.unique), selection.unique, LACKS),
    Entry("unique", CONSECUTIVE, selection.unique_consecutive, LACKS),
    *(Entry("unique", (u,), refusing(u, "unique by another name", "use torch.unique"), LACKS) for u in UNIQUE),
    Entry("logaddexp", (torch.logaddexp, torch.Tensor.logaddexp, *_ops("logaddexp")), elementwise.logaddexp, OVERFLOWS),
    Entry("logcumsumexp", (torch.logcumsumexp, torch.Tensor.logcumsumexp), elementwise.logcumsumexp, NO_ZERO),
    Entry("logcumsumexp", _ops("logcumsumexp"), elementwise.logcumsumexp, NO_ZERO),
    Entry("det", (torch.det, torch.linalg.det, torch.Tensor.det), algebra.det, NAN_THIRD, 192540),
    Entry("det", _ops("det", "linalg_det"), algebra.det, NAN_THIRD, 192540),
    Entry("det", torch_private.DET, algebra.private_det, NAN_THIRD, 192540),
    Entry("cdist", (torch.cdist, *_ops("cdist"), *torch_private.CDIST), algebra.cdist, NO_SECOND_OR_VMAP),
    Entry("pdist", (torch.pdist, *_ops("pdist"), *torch_private.PDIST), algebra.pdist, NO_SECOND),
    *(
        Entry(
            "conv_transpose",
            (native, *_ops(native.__name__)),
            convolution.conv_transpose(native, axes),
            NO_PADDING,
        )
        for native, axes in TRANSPOSED
    ),
    Entry("multi_margin_loss", (F.multi_margin_loss,), losses.multi_margin_loss, NO_SECOND),
    Entry("multi_margin_loss", (MULTI_MARGIN, *_ops("multi_margin_loss")), losses.numbered_multi_margin, NO_SECOND),
    Entry("multilabel_margin_loss", (F.multilabel_margin_loss,), losses.multilabel_margin_loss, NO_SECOND),
    Entry("multilabel_margin_loss", (MULTILABEL_MARGIN,), losses.numbered_multilabel_margin, NO_SECOND),
    Entry("multilabel_margin_loss", _ops("multilabel_margin_loss"), losses.numbered_multilabel_margin, NO_SECOND),
    Entry("linear_cross_entropy", LINEAR_CROSS_ENTROPY, losses.linear_cross_entropy, CONSTANT_CHUNKS),
    Entry("embedding_bag", (F.embedding_bag,), losses.embedding_bag, NO_SECOND),
    Entry("embedding_bag", DIRECT_BAGS, losses.direct_embedding_bag, NO_SECOND),
    Entry("embedding_bag", torch_private.EMBEDDING_BAG, losses.private_embedding_bag, NO_SECOND),
    *(Entry("to_sparse", (sparse,), refusing(sparse, "to_sparse", DENSE), NO_SECOND) for sparse in SPARSE),
    Entry("sparse_coo_tensor", (coo, *_ops("sparse_coo_tensor")), refusing(coo, "sparse_coo_tensor", DENSE), NO_SECOND),
    *(Entry("ctc_loss", (ctc,), refusing(ctc, "ctc_loss", UNROLL), NO_SECOND) for ctc in CTC),
    Entry("sparse.mm", (torch.sparse.mm, *torch_private.SPARSE_MM), sparse_mm, NO_SECOND),
    Entry("_standard_gamma", torch_private.GAMMA, draws.standard_gamma, NO_SECOND),
    *(Entry(name, (s,), refusing_zeros(s, name), NO_DERIVATIVE) for name, forms in SPECIAL.items() for s in forms),
    *(Entry("segment_reduce", (s,), refusing(s, "segment_reduce", SCATTER), NO_SECOND) for s in SEGMENT),
)  # fmt: skip

TABLE: Mapping[Any, Entry] = {function: entry for entry in ENTRIES for function in entry.functions}


PLAIN = frozenset([torch.Tensor, torch.nn.Parameter])


class Corrections(TorchFunctionMode):
    """While active, exchanges the operations of the table."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in TABLE and "out" not in kwargs:
            return self.exchanged(TABLE[func], args, kwargs)
        if func is torch.Tensor.unflatten and compiling():  # whose super() Dynamo cannot trace under a mode
            func = torch.unflatten
        return func(*args, **kwargs)

    def exchanged(self, entry: Entry, args: Any, kwargs: Any) -> Any:
        """The result of what the table has instead of the operation."""
        return entry.instead(*args, **kwargs)


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

    def __init__(self) -> None:
        super().__init__()
        self.accesses: list[Access] = []

    def __enter__(self) -> Any:
        begin(_corrected_again)
        self.levels = inside_transform()
        self.pushes, self.told_off = is_forward_mode_on(), caches.AROUND.told_off
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not PLAIN.issuperset(types) and classes_asked() and all(issubclass(kind, torch.Tensor) for kind in types):
            return self._by_class(func, types, args, kwargs or {})
        if func is set_grad and not inside_function():  # for whose forward torch has both off
            caches.AROUND.told_off = not args[0]
            set_forward_mode(self.pushes and args[0])
        if is_foreign(func):
            result = func(*args, **(kwargs or {}))
            refuse_constants(func, args, kwargs or {}, result)
            return result
        if func in DATA and not self.levels and not inside_transform():
            return data_of(args[0], self.accesses)
        return super().__torch_function__(func, types, args, kwargs)

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
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        end()


class Beside(TorchFunctionMode):
    """While jets go through a function: refuses what it computes of other tensors and torch has no derivative of.

    Nothing is exchanged there, since torch's first derivatives are right, but for these.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        entry = TABLE.get(func)
        if entry is not None and entry.why in (LACKS, NO_DERIVATIVE):
            tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
            if tensors and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
                raise UnsupportedOperationError(f"{entry.name} of what is differentiated later: {entry.why}")
        return func(*args, **kwargs)


def _corrected_again(function: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any, **kwargs: Any) -> Any:
        with corrected():
            return function(*args, **kwargs)

    return again


@constant_in_traces
def _hand_over() -> bool:
    """Let Dynamo hand all of the table to a mode, as torch does, and jets; run while it traces, not traced itself.

    It goes by a list that torch has for its tests, which lacks what these leave out, such as ``F.hardsigmoid``.
    """
    handed_to_modes().update(TABLE, (F.tanh, F.sigmoid))
    return True


def corrected() -> AbstractContextManager[Any]:
    """A context in which the operations of the table are exchanged; once, also inside another one."""
    if compiling():  # which can trace neither the question nor a checkpoint
        _hand_over()
        return Corrections()
    around = next((mode for mode in modes() if isinstance(mode, Corrections)), None)
    return _Evaluation() if around is None else nullcontext(around)


def refuse_unseen(outputs: Sequence[Any], corrections: Any) -> None:
    """Refuse a graph of an evaluation in which what a backward needs was overwritten through ``.data``."""
    if isinstance(corrections, _Evaluation) and corrections.accesses:
        refuse_overwritten(outputs, corrections.accesses)

"""Which operations keep the sample axis in front and mix nothing along it; it is followed in ``sample_axis.py``.

By their names, whatever form they are called in.  ``tests/evaluation/test_sample_axis.py`` holds each against torch's
database of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Operands = Sequence[torch.Tensor]
Rule = Callable[[Sequence[Any], dict[str, Any], Operands], bool]
"""Whether an operation with these arguments keeps the axis of the operands, those that carry samples, in front."""


def function_name(function: Any) -> str:
    """The name of an operation; of an attribute that of the attribute."""
    name: str = getattr(function, "__name__", "")
    return getattr(getattr(function, "__self__", None), "__name__", "") if name == "__get__" else name


def name_of(function: Any) -> str:
    """The name of an operation, without what marks it as an operator."""
    name = function_name(function)
    return name.strip("_") if name.startswith("__") else name


def tensors_in(items: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Every tensor among arguments, in lists and dicts as well."""
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from tensors_in(item)
        elif isinstance(item, dict):
            yield from tensors_in(item.values())


def _words(text: str) -> list[str]:
    return text.split()


LEAVES = frozenset(
    _words("item tolist numpy data_ptr untyped_storage __array__ __float__ __int__ __index__ __complex__")
)
"""By what numbers leave for Python, and may come back in an argument."""

FRESH = frozenset(_words("new_zeros new_ones new_full new_empty new_tensor zeros_like full_like empty_like"))
"""By what a tensor is made that has nothing of the operand but its kind and size."""

TABLES = frozenset(_words("getitem take embedding"))
"""Operations that look up in a tensor of any number of axes, and so broadcast none."""

WRITING = frozenset(
    _words("setitem iadd isub imul idiv itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift")
)
"""Operators that write to their first operand."""

ELEMENTWISE = frozenset(
    _words(
        "abs absolute acos acosh add addcdiv addcmul alpha_dropout angle arccos arccosh arcsin arcsinh arctan "
        "arctan2 arctanh asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor bool "
        "broadcast_tensors ceil celu "
        "clamp clamp_max clamp_min clip clone conj contiguous copysign cos cosh data deg2rad detach digamma div "
        "divide double dropout elu eq erf erfc erfinv exp exp2 expm1 fill float_power floor floor_divide floordiv "
        "fmax fmin fmod frac ge gelu greater greater_equal gt half hardshrink hardsigmoid hardswish hardtanh "
        "heaviside hypot i0 iadd idiv igamma igammac imag imul isclose isfinite isinf isnan isneginf isposinf isub "
        "ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 "
        "logical_and logical_not logical_or logical_xor logit logsigmoid lt masked_fill maximum minimum mish mod "
        "mul multiply nan_to_num native_dropout ne neg negative not_equal polygamma positive pow prelu "
        "rad2deg radd rand_like randn_like rdiv real reciprocal relu relu6 remainder requires_grad rmod rmul round "
        "rpow rsqrt rsub rtruediv selu sgn sigmoid sign silu sin sinc sinh softplus softshrink softsign "
        "special_bessel_j0 special_bessel_j1 special_digamma special_entr special_erf special_erfc special_erfcx "
        "special_erfinv special_exp2 special_expit special_expm1 special_gammaln special_i0 special_i0e special_i1 "
        "special_i1e special_log1p special_log_ndtr special_logit special_ndtr special_ndtri special_psi "
        "special_sinc special_xlog1py special_xlogy sqrt square sub subtract tan tanh tanhshrink threshold "
        "true_divide truediv trunc where xlogy zero"
    )
)
"""What is computed element by element, of operands that are broadcast."""


# -------------------------------------------------------------------- along which axes


def _axes(given: Any, count: int) -> list[int] | None:
    """Axes as they are counted from the first on; None if they are none."""
    axes = [given] if type(given) is int else given
    if not isinstance(axes, list | tuple) or not axes or not all(type(axis) is int for axis in axes):
        return None
    return [axis % count for axis in axes]


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, *names: str) -> Any:
    """An argument by position or by one of its names; None where it is left out."""
    for name in (*names, "axis"):
        if name in kwargs:
            return kwargs[name]
    return args[position] if len(args) > position else None


def _along(position: int, default: int | None = None, added: int = 0, listed: bool = False) -> Rule:
    """An operation along axes that it is told, by position or name, none of which may be the first.

    ``listed``: they may be so many arguments of their own, as in ``x.transpose(1, 2)``.
    """

    def keeps(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
        given = _argument(args, kwargs, position, "dim", "dims")
        if default is not None and given is None:
            given = default
        if listed and type(given) is int:
            given = [argument for argument in args[1:] if type(argument) is int]
        axes = _axes(given, operands[0].dim() + added)
        return axes is not None and 0 not in axes

    return keeps


def _permuted(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    order = _argument(args, kwargs, 1, "dims")
    axes = _axes(list(args[1:]) if type(order) is int else order, operands[0].dim())
    return axes is not None and axes[0] == 0


def _reshaped(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """Rows stay together in memory's order, if there are as many as before (which the result shows)."""
    return True


def _expanded(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    sizes = _argument(args, kwargs, 1, "size", "sizes", "shape")
    return len(args[1:] if type(sizes) is int else sizes or ()) == operands[0].dim()


def _repeated(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    times = _argument(args, kwargs, 1, "repeats")
    times = args[1:] if type(times) is int else times or ()
    return len(times) == operands[0].dim() and times[0] == 1


def _joined(added: int) -> Rule:
    def keeps(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
        count = operands[0].dim()
        axes = _axes(_argument(args, kwargs, 1, "dim"), count + added)
        return axes is not None and 0 not in axes and all(tensor.dim() == count for tensor in tensors_in(args[:1]))

    return keeps


def _indexed(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """All samples, and of each the same: several tensors as indices would move the axes that they make to the front.

    Or a table that is looked up by each sample's own index.
    """
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    if all(args[0] is not operand for operand in operands):
        return _looked_up(index, operands)
    looked_up = [item for item in index if isinstance(item, torch.Tensor | list | np.ndarray)]
    taken = sum(_axes_of_index(item) for item in index)
    whole = isinstance(index[0], slice) and index[0] == slice(None)
    front = whole or (index[0] is Ellipsis and taken < operands[0].dim())
    return args[0] is operands[0] and len(operands) == 1 and front and len(looked_up) <= 1


def _looked_up(index: tuple[Any, ...], operands: Operands) -> bool:
    """Whether a table is indexed by numbers of samples alone, the first of them first."""
    first = any(index[0] is operand for operand in operands)
    tensors = [item for item in index if isinstance(item, torch.Tensor)]
    numbers = all(tensor.dtype not in (torch.bool, torch.uint8) for tensor in tensors)
    return first and numbers and all(isinstance(item, torch.Tensor) or type(item) is int for item in index)


def _axes_of_index(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    return item.dim() if isinstance(item, torch.Tensor) and item.dtype in (torch.bool, torch.uint8) else 1


# -------------------------------------------------------------------- products and layers


def _linear(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """Samples in the first argument alone, each a vector or more."""
    return _only_first(args, operands) and bool(args[0].dim() > 1)


def _by_first(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """What each element of the first argument is looked up as."""
    return _only_first(args, operands)


def _only_first(args: Sequence[Any], operands: Operands) -> bool:
    return bool(args) and len(operands) == 1 and operands[0] is args[0]


def _product(left: Any, right: Any, operands: Operands) -> bool:
    carry = [any(side is operand for operand in operands) for side in (left, right)]
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        return False
    return left.dim() > 2 if all(carry) else left.dim() > 1 if carry[0] else right.dim() > 2


def _matmul(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    return len(args) == 2 and _product(args[0], args[1], operands)


def _reflected_matmul(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    return len(args) == 2 and _product(args[1], args[0], operands)


def _added_product(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    return (
        len(args) == 3 and not any(args[0] is operand for operand in operands) and _product(args[1], args[2], operands)
    )


def _einsum(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """The letter of the sample axis is the first of each operand with samples, once, and the first of the result."""
    if not args or not isinstance(args[0], str) or "." in args[0] or "->" not in args[0]:
        return False
    inputs, _, output = args[0].replace(" ", "").partition("->")
    tensors = list(tensors_in(args[1:]))
    terms = inputs.split(",")
    if len(terms) != len(tensors):
        return False
    carrying = [term for term, tensor in zip(terms, tensors, strict=True) if any(tensor is o for o in operands)]
    letter = carrying[0][0]
    return output[:1] == letter and all(term[0] == letter and term.count(letter) == 1 for term in carrying)


def _normed(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    shape = _argument(args, kwargs, 1, "normalized_shape")
    return _only_first(args, operands) and isinstance(shape, list | tuple) and args[0].dim() > len(shape)


def _of_batches(axes: int) -> Rule:
    """A layer on a batch with so many axes, and not on one sample, whose first axis would be another."""
    return lambda args, kwargs, operands: _only_first(args, operands) and args[0].dim() == axes


def _batch_norm(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    return _only_first(args, operands) and _argument(args, kwargs, 5, "training") in (None, False)


def _attention(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """Attention of the last two axes, of queries, keys and values with as many axes."""
    return operands[0].dim() > 2 and all(tensor.dim() > 2 for tensor in args[:3])


def _of_matrices(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """What is computed of the last two axes."""
    return operands[0].dim() > 2


def _distances(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    return operands[0].dim() > 2 or _only_first(args, operands)


def _padded(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    pad = _argument(args, kwargs, 1, "pad")
    return isinstance(pad, list | tuple) and len(pad) < 2 * operands[0].dim()


def _side_by_side(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    return all(tensor.dim() > 1 for tensor in tensors_in(args[:1]))


def _unravelled(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    start = _argument(args, kwargs, 1, "start_dim")
    axes = _axes(0 if start is None else start, operands[0].dim())
    return axes is not None and 0 not in axes


# -------------------------------------------------------------------- losses


def _unreduced(position: int, axes: int = 1) -> Rule:
    """A loss that is told not to reduce, of samples with so many axes or more: the others may be those of classes.

    ``position``: where torch's functions in C have the reduction, as a number.  Those of ``torch.nn.functional`` hand
    themselves to modes by the names of all that is no tensor; there are two old arguments that outvote the reduction.
    """

    def keeps(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
        outvoted = any(kwargs.get(name) is not None for name in ("size_average", "reduce"))
        reduction = _argument(args, kwargs, position, "reduction")
        none = reduction == "none" if isinstance(reduction, str) else type(reduction) is int and reduction == 0
        return none and not outvoted and operands[0].dim() >= axes

    return keeps


def _of_labels(args: Sequence[Any], kwargs: dict[str, Any], operands: Operands) -> bool:
    """A mean over the last axis of the first argument, which in a target with more axes may be that of samples."""
    return bool(args) and args[0].dim() > 1 and _unreduced(5)(args, kwargs, operands)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        _words(
            "prod max min logsumexp all any argmax argmin median nanmedian nansum nanmean "
            "softmax log_softmax softmin cumsum cumprod cummax cummin logcumsumexp std var var_mean std_mean sort "
            "argsort index_select gather take_along_dim select narrow unbind count_nonzero unflatten squeeze index_add "
            "mode"
        ),
        _along(1),
    ),
    **dict.fromkeys(
        ["split", "chunk", "tensor_split", "norm", "vector_norm", "linalg_norm", "linalg_vector_norm", "roll"],
        _along(2),
    ),
    **dict.fromkeys(["kthvalue", "quantile", "nanquantile"], _along(2)),
    **dict.fromkeys(["topk", "diff"], _along(2, -1)),
    **dict.fromkeys(["normalize", "cosine_similarity"], _along(2, 1)),
    **dict.fromkeys(["glu", "linalg_vecdot"], _along(1, -1)),
    **dict.fromkeys(
        ["transpose", "swapaxes", "swapdims", "sum", "mean", "flip", "amax", "amin"], _along(1, listed=True)
    ),
    **dict.fromkeys(["reshape", "view", "to", "type", "float", "double", "long", "int", "short", "type_as"], _reshaped),
    **dict.fromkeys(["expand", "broadcast_to"], _expanded),
    **dict.fromkeys(["cat", "concat", "concatenate"], _joined(0)),
    **dict.fromkeys(["matmul", "mm", "bmm"], _matmul),
    **dict.fromkeys(["addmm", "baddbmm"], _added_product),
    **dict.fromkeys(["layer_norm", "rms_norm"], _normed),
    **dict.fromkeys([f"{name}1d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool")], _of_batches(3)),
    **dict.fromkeys([f"{name}2d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool")], _of_batches(4)),
    **dict.fromkeys([f"{name}3d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool")], _of_batches(5)),
    "unsqueeze": _along(1, added=1),
    "stack": _joined(1),
    "permute": _permuted,
    "repeat": _repeated,
    "flatten": _unravelled,
    "getitem": _indexed,
    "searchsorted": lambda args, kwargs, operands: args[0].dim() == 1 and args[0] is not operands[0],
    "take": lambda args, kwargs, operands: args[0] is not operands[0],
    **dict.fromkeys(["bucketize", "embedding", "one_hot"], _by_first),
    "linear": _linear,
    "rmatmul": _reflected_matmul,
    "einsum": _einsum,
    "group_norm": lambda args, kwargs, operands: _only_first(args, operands) and args[0].dim() > 1,
    "batch_norm": _batch_norm,
    "scaled_dot_product_attention": _attention,
    "cdist": _distances,
    "pad": _padded,
    "hstack": _side_by_side,
    "tile": _repeated,
    **dict.fromkeys(_words("mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss kl_div"), _unreduced(2)),
    **dict.fromkeys(["binary_cross_entropy", "hinge_embedding_loss"], _unreduced(3)),
    **dict.fromkeys(["binary_cross_entropy_with_logits", "margin_ranking_loss"], _unreduced(4)),
    **dict.fromkeys(["poisson_nll_loss", "gaussian_nll_loss"], _unreduced(5)),
    **dict.fromkeys(["cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd"], _unreduced(3, 2)),
    "multilabel_margin_loss": _unreduced(2, 2),
    "cosine_embedding_loss": _unreduced(4, 2),
    "multi_margin_loss": _unreduced(5, 2),
    "triplet_margin_loss": _unreduced(7, 2),
    "multilabel_soft_margin_loss": _of_labels,
    "pairwise_distance": lambda args, kwargs, operands: operands[0].dim() > 1,
    **dict.fromkeys(
        _words(
            "inverse linalg_inv det linalg_det logdet slogdet linalg_slogdet cholesky linalg_cholesky matrix_exp "
            "linalg_matrix_exp linalg_eigh linalg_eigvalsh linalg_solve tril triu mT mH adjoint"
        ),
        _of_matrices,
    ),
}
"""Whether an operation keeps the sample axis, by its name."""

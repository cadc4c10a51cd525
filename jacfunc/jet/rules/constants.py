"""What does not vary with its tensors: comparisons, roundings, questions, and new tensors that are like another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..build import constant_rows
from ..values import plain
from .shared import enter_each

Tensor = torch.Tensor


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of an operation whose result does not vary, or is no number: that of the values."""

    def rule(*args: Any, **kwargs: Any) -> Any:
        return function(*plain(args), **plain(kwargs))

    return rule


def detach(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The rule of ``detach``: a constant, whose memory is noted, as it would be that of the value."""

    def rule(input: Any) -> Tensor:
        apart: Tensor = input.frame.propagation.apart(function(input.value))
        return apart

    return rule


def like(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """``zeros_like`` and its kin: a jet without rows, so that jets may be written into it."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        value = function(input.value, *plain(args), **plain(kwargs))
        return constant_rows(input, value) if value.is_floating_point() else value

    return rule


CONSTANT = [
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "equal",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "not_equal",
    "isclose",
    "allclose",
    "isnan",
    "isinf",
    "isfinite",
    "isreal",
    "isneginf",
    "isposinf",
    "round",
    "floor",
    "ceil",
    "trunc",
    "fix",
    "sign",
    "sgn",
    "signbit",
    "angle",
    "argmax",
    "argmin",
    "argsort",
    "argwhere",
    "bool",
    "int",
    "long",
    "short",
    "byte",
    "char",
    "all",
    "any",
    "nonzero",
    "count_nonzero",
    "is_floating_point",
    "is_complex",
    "is_nonzero",
    "searchsorted",
    "bucketize",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "floor_divide",
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "multinomial",
    "normal",
    "is_contiguous",
    "stride",
    "storage_offset",
    "element_size",
    "get_device",
    "type_as_",
    "data_ptr",
    "is_signed",
    "is_inference",
    "is_conj",
    "is_neg",
    "is_same_size",
    "can_cast",
    "result_type",
    "histc",
    "heaviside",
    "has_names",
    "ndimension",
]
CONSTANT_METHODS = [
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__floordiv__",
    "__rfloordiv__",
    "__contains__",
]
CONSTANT_ATTRIBUTES = [
    "requires_grad",
    "is_leaf",
    "grad",
    "grad_fn",
    "is_cuda",
    "is_cpu",
    "is_mps",
    "is_meta",
    "is_sparse",
    "is_nested",
    "is_quantized",
    "layout",
    "names",
    "itemsize",
    "nbytes",
    "is_mkldnn",
    "is_sparse_csr",
    "is_xpu",
    "_version",
    "output_nr",
    "retains_grad",
]
LIKE = [
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_tensor",
]


def attributes() -> list[Any]:
    """What torch hands over for each attribute."""
    members: list[Any] = [getattr(torch.Tensor, name, None) for name in CONSTANT_ATTRIBUTES]
    return [member.__get__ for member in members if hasattr(member, "__get__") and not callable(member)]


def install() -> None:
    """Enter the rules of this file."""
    method: Any = torch.Tensor
    enter_each(constant, *CONSTANT, *[getattr(method, name) for name in CONSTANT_METHODS])
    enter_each(detach, "detach", method.data.__get__)
    enter_each(constant, *attributes())
    enter_each(like, *LIKE)

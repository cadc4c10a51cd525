"""The product of stacked rows with a weight, by the faster of two kernels; what is multiplied is for those who ask.

A linear layer is a convolution with a kernel of one point whose channels come last.  So where ``kernels.py`` says that
oneDNN's convolutions are faster than MKL's products, large products go that way: up to 2.7 times as fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..core.levels import compiling, exporting, inside_transform
from .kernels import kernels

Tensor = torch.Tensor

NARROWEST_COMPILED = 32
"""Columns and rows of the weight that it has at least under ``torch.compile``."""
IMAGES, WIDEST = 8, 128
"""Images that rows are cut into at most, and columns and rows of the weight up to which that pays."""
DOMINANT = 4
"""How many times as many rows as all others have the ones that these are multiplied with, under ``torch.compile``."""


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rows @ weight.T + bias``, for ``(*, k)`` and ``(m, k)``."""
    if compiling():
        return _compiled(rows, weight, bias)
    if type(rows) is Tensor and _large(rows, weight) and not inside_transform():
        return _shifted(_convolved(rows, weight), bias)
    if exporting() and rows.dim() > 2:  # to fold its axes torch would ask for strides, and fix the size of a batch
        rows = rows.clone(memory_format=torch.contiguous_format)
    return F.linear(rows, weight, bias)


def _large(rows: Tensor, weight: Tensor) -> bool:
    """Whether the product is one that a convolution does faster, and no less precisely."""
    by = kernels(rows).product
    if by is None or weight.dtype != rows.dtype:
        return False
    m, k = weight.shape
    entries = rows.numel() // k * m if k else 0
    if entries < by.result and entries * k < by.products:
        return False
    if m < by.narrowest or torch.get_num_threads() == 1:  # for one thread oneDNN has no such convolution
        return False
    onednn: Any = torch.backends.mkldnn
    return bool(onednn.enabled) and onednn.conv.fp32_precision in ("none", "ieee")


def _image(rows: Tensor, images: int = 1) -> Tensor:
    """Rows as the points of an image, or of several, with their entries for its channels."""
    return rows.reshape(images, 1, -1, rows.shape[-1]).permute(0, 3, 1, 2)


def _images(rows: Tensor, weight: Tensor) -> int:
    """Into how many images rows are cut for the weight's gradient, whose kernel then waits less for memory."""
    count = rows.numel() // rows.shape[-1]
    most = IMAGES if max(weight.shape) <= WIDEST else 1
    return next(images for images in range(most, 0, -1) if count % images == 0)


def _kernel(weight: Tensor) -> Tensor:
    return weight[:, :, None, None]


def _convolved(rows: Tensor, weight: Tensor) -> Tensor:
    images = _images(rows, weight) if weight.requires_grad and torch.is_grad_enabled() else 1
    points = F.conv2d(_image(rows, images), _kernel(weight)).permute(0, 2, 3, 1)
    return points.reshape(*rows.shape[:-1], weight.shape[0])


def _shifted(product: Tensor, bias: Tensor | None) -> Tensor:
    """Plus a bias, whose gradient oneDNN would sum up less precisely than torch."""
    return product if bias is None else product + bias


# -------------------------------------------------------------------- under torch.compile

# Inductor would lay the convolution out anew, and the size of the batch is open; so both are decided at each call, by
# operators that it does not look into.


def _compiled(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.shape[1] == 1:  # no sum, so what comes next can be fused with it
        return _shifted(rows * weight.squeeze(1), bias)
    if not by_operator(rows, weight):
        return F.linear(rows, weight, bias)
    return _shifted(multiplied(rows, weight), bias)


def by_operator(rows: Tensor, weight: Tensor) -> bool:
    """Whether a product is left to the operators below while ``torch.compile`` traces."""
    if not kernels(rows).compiled or exporting():  # a program would be of use only where these operators are
        return False
    return min(weight.shape) >= NARROWEST_COMPILED and weight.dtype == rows.dtype and not inside_transform()


def multiplied(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ weight.T`` by an operator."""
    result: Tensor = torch.ops.jacfunc.product(rows, weight)
    return result


def multiplied_outer(cotangents: Tensor, rows: Tensor, after: Tensor) -> Tensor:
    """``cotangents.T @ rows`` by an operator, once ``after`` is known."""
    result: Tensor = torch.ops.jacfunc.outer_product(cotangents, rows, after)
    return result


def written(x: Tensor) -> Tensor:
    """These numbers, contiguous; where ``torch.compile`` traces they are in memory, not computed by whoever reads them.

    What a loop computes from something that lies in another order, it reads in jumps, without vector instructions.
    """
    x = x.contiguous()
    if not compiling() or exporting() or inside_transform():
        return x
    result: Tensor = _Written.apply(x)  # type: ignore[no-untyped-call]
    return result


class _Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.as_strided(x.size(), x.stride())  # only what is in memory has strides

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def put_together(stacks: list[Tensor]) -> list[Tensor]:
    """Stacks of rows as one, where the others are small beside the largest: their products would take long to begin."""
    sizes = [len(stack) for stack in stacks]
    largest = max(sizes)
    return [torch.cat(stacks)] if largest >= DOMINANT * (sum(sizes) - largest) else stacks


def taken_apart(stacks: list[Tensor], sizes: tuple[int, ...]) -> list[Tensor]:
    """The stacks of one row and then of so many rows each that were put together, or were not."""
    return list(torch.split(stacks[0], [1, *sizes])) if len(stacks) == 1 else stacks


@torch.library.custom_op("jacfunc::product", mutates_args=())
def product(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ weight.T``."""
    by = _convolved if _large(rows, weight) else F.linear
    return by(rows, weight).contiguous()


@product.register_fake
def _(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.new_empty((*rows.shape[:-1], weight.shape[0]))


@torch.library.custom_op("jacfunc::outer_product", mutates_args=())
def outer_product(cotangents: Tensor, rows: Tensor, after: Tensor) -> Tensor:
    """``cotangents.T @ rows``, the gradient by the weight, once ``after`` is known."""
    m, k = cotangents.shape[-1], rows.shape[-1]
    like = rows.new_empty((m, k))
    if not _large(rows, like):
        return torch.mm(cotangents.reshape(-1, m).t(), rows.reshape(-1, k))
    images = _images(rows, like)
    operands = (_image(cotangents, images), _image(rows, images), _kernel(like), None)
    sizes = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    gradient: Tensor = torch.ops.aten.convolution_backward(*operands, *sizes)[1].reshape(m, k)
    return gradient.contiguous()


@outer_product.register_fake
def _(cotangents: Tensor, rows: Tensor, after: Tensor) -> Tensor:
    return rows.new_empty((cotangents.shape[-1], rows.shape[-1]))


def _saved(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _pulled_back(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, Tensor | None]:
    rows, weight = ctx.saved_tensors
    by_rows, by_weight = ctx.needs_input_grad
    return (
        multiplied(cotangents, weight.t()) if by_rows else None,
        multiplied_outer(cotangents, rows, rows) if by_weight else None,
    )


product.register_autograd(_pulled_back, setup_context=_saved)

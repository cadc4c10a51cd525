"""Patterns of the second order: a backward is followed as any other operation, for one operation after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jacfunc import diag_jac, hess_diag, hessian, laplacian, sparse_jac, sparsity

torch.manual_seed(0)
BAND = torch.triu(torch.tril(torch.randn(24, 24, dtype=torch.float64), 1), -1)
INDEX, MASK = torch.randint(0, 24, (24,)), torch.rand(24) < 0.5
WEIGHT, LINE = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(1, 1, 3, dtype=torch.float64)


def image(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, 4, 6)


def rows(x: Tensor) -> Tensor:
    return x.reshape(-1, 6, 4)


def indices(x: Tensor) -> Tensor:
    return INDEX.expand(len(x), 24)


def assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = x[:, 5] * x[:, 1]
    y.reshape(-1, 4, 6)[:, 1].mul_(x[:, :6])
    return y


Operation = Callable[[Tensor], Tensor]

EXACT: dict[str, Operation] = {
    "overlapping windows": lambda x: x.unfold(1, 3, 1).sum(-1),
    "windows with gaps": lambda x: x.unfold(1, 4, 3).pow(2).sum(-1),
    "windows of an image": lambda x: F.unfold(image(x), (2, 2)),
    "folded": lambda x: F.fold(F.unfold(image(x), (2, 2)), (4, 6), (2, 2)),
    "mirrored": lambda x: F.pad(image(x), (1, 2, 1, 1), mode="reflect"),
    "periodic": lambda x: F.pad(image(x), (1, 2, 1, 1), mode="circular"),
    "zeros around": lambda x: F.pad(image(x), (1, 2, 1, 1)),
    "convolution": lambda x: F.conv2d(image(x), WEIGHT, padding=1),
    "strides": lambda x: F.conv2d(image(x), WEIGHT, stride=2, padding=1),
    "dilation": lambda x: F.conv2d(image(x), WEIGHT, dilation=2, padding=2),
    "transposed": lambda x: F.conv_transpose2d(image(x), WEIGHT.transpose(0, 1), stride=2),
    "along a line": lambda x: F.conv1d(x[:, None], LINE),
    "sums so far": lambda x: rows(x).cumsum(2),
    "products so far": lambda x: rows(x).cumprod(2),
    "rolled": lambda x: x.roll(2, 1),
    "flipped": lambda x: x.flip(1) * x,
    "gathered": lambda x: x.gather(1, indices(x)),
    "indexed": lambda x: x[:, INDEX] * x,
    "added at indices": lambda x: torch.zeros_like(x).index_add(1, INDEX, x),
    "scattered": lambda x: torch.zeros_like(x).scatter_add(1, indices(x), x),
    "masked": lambda x: torch.where(MASK, x * x.roll(1, 1), x).masked_fill(MASK.roll(1), 0.0),
    "banded matrix": lambda x: x @ BAND,
    "einsum": lambda x: torch.einsum("ni,ij->nj", x, BAND),
    "joined": lambda x: torch.cat([x[:, :3] * x[:, 3:6], x[:, 6:]], 1),
    "stacked": lambda x: torch.stack([x[:, 1:], x[:, :-1]], -1).prod(-1),
    "lengths": lambda x: rows(x).norm(dim=-1),
    "softmax": lambda x: rows(x).softmax(-1),
    "layer norm": lambda x: F.layer_norm(rows(x), (4,)),
    "diagonal": lambda x: x[:, :16].reshape(-1, 4, 4).diagonal(dim1=1, dim2=2),
    "triangle": lambda x: x[:, :16].reshape(-1, 4, 4).tril().sum(1),
    "written to": assigned,
    "repeated": lambda x: x.repeat(1, 2)[:, 3:30].repeat_interleave(2, 1)[:, 1:],
    "gated": F.glu,
    "shuffled": lambda x: F.pixel_shuffle(x.reshape(-1, 4, 2, 3), 2),
}
WIDER: dict[str, Operation] = {  # a backward without a rule is dense
    "averages": lambda x: F.avg_pool2d(image(x), 2, 1),
    "largest": lambda x: F.max_pool2d(image(x), 2),
    "adapted": lambda x: F.adaptive_avg_pool2d(image(x), (3, 4)),
    "nearest": lambda x: F.interpolate(image(x), scale_factor=2.0),
    "bilinear": lambda x: F.interpolate(image(x), size=(5, 9), mode="bilinear"),
    "edges again": lambda x: F.pad(image(x), (1, 2, 1, 1), mode="replicate"),
    "sorted": lambda x: rows(x).sort(-1).values,
    "attention": lambda x: F.scaled_dot_product_attention(*[x.reshape(-1, 2, 3, 4)] * 3),
}


@pytest.mark.parametrize("name", [*EXACT, *WIDER])
def test_no_entry_of_a_hessian_is_missed(name: str) -> None:
    operation = (EXACT | WIDER)[name]

    def energy(x: Tensor) -> Tensor:
        return operation(x).flatten(1).pow(3).sum(1)

    x = torch.rand(2, 24, dtype=torch.float64) + 0.1
    pattern, truth = sparsity(energy, order=2)(x).to_dense(), hessian(energy)(x)
    there = truth.abs().amax(0) > 1e-9
    assert not (there & ~pattern).any()
    assert name in WIDER or not (pattern & ~there).any()
    torch.testing.assert_close(sparse_jac(diag_jac(energy))(x).to_dense(), truth)
    diagonal = truth.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(hess_diag(energy, sparsity="auto")(x), diagonal)
    torch.testing.assert_close(laplacian(energy, sparsity="auto")(x), diagonal.sum(1))

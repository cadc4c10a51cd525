"""Rules of convolutions and of what is linear in images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rule_cases import Case, check
from torch import nn
from torch.nn import functional as F

from jacfunc.jet import Frame, Jet, Propagation
from jacfunc.jet.layout import first_order


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def line(x, channels: int = 2):
    return x.sin().reshape(len(x), channels, -1)


def image(x, channels: int = 2, height: int = 2):
    return x.sin().reshape(len(x), channels, height, -1)


def volume(x):
    return x.sin().reshape(len(x), 1, 2, 2, -1)


w1, w2, w3 = weights(4, 2, 3), weights(4, 2, 2, 2), weights(3, 1, 2, 2, 2)
t1, t2, t3 = weights(2, 3, 3), weights(2, 3, 2, 2), weights(1, 3, 2, 2, 2)
b3, b4 = weights(3), weights(4)
grid = torch.rand(2, 3, 3, 2, dtype=torch.float64) * 2 - 1
cube = torch.rand(2, 2, 2, 3, 3, dtype=torch.float64) * 2 - 1

CASES = [
    Case("conv1d", lambda x: F.conv1d(line(x), w1, b4, padding=1, stride=2), 8),
    Case("conv1d_same", lambda x: F.conv1d(line(x), w1, padding="same"), 8),
    Case("conv1d_valid", lambda x: F.conv1d(line(x), w1, padding="valid"), 8),
    Case("conv1d_unbatched", lambda x: F.conv1d(x.sin(), weights(4, 2, 3), b4), 5),
    Case("conv1d_groups", lambda x: F.conv1d(line(x), weights(4, 1, 3), b4, 1, 1, 1, 2), 8),
    Case("conv1d_of_the_input_itself", lambda x: F.conv1d(x[:, None], weights(3, 1, 2)), 4),
    Case("conv1d_weight", lambda x: F.conv1d(weights(2, 2, 5), x.cos().reshape(2, 2, 2), padding=1), 4),
    Case("conv1d_weight_groups", lambda x: F.conv1d(weights(2, 4, 5), x.cos().reshape(4, 2, 1), groups=2), 4),
    Case("conv1d_weight_and_input", lambda x: F.conv1d(x.sin().reshape(2, 2, 2), x.cos().reshape(2, 2, 2), x[0, :2]), 4),
    Case("conv1d_unbatched_weight", lambda x: F.conv1d(x.sin().reshape(2, 4), x.cos().reshape(2, 2, 2), x[0, :2]), 4),
    Case("conv1d_bias", lambda x: F.conv1d(weights(2, 2, 5), weights(4, 2, 2), x[0].sin()), 4),
    Case("conv2d", lambda x: F.conv2d(image(x), w2, b4, dilation=1, padding=(1, 0)), 8),
    Case("conv2d_unbatched", lambda x: F.conv2d(x.sin().reshape(2, 2, -1), w2, b4), 6),
    Case("conv2d_weight_and_input", lambda x: F.conv2d(image(x), x.cos().reshape(2, 2, 2, 2), groups=1), 8),
    Case("conv3d", lambda x: F.conv3d(volume(x), w3, b3), 8),
    Case("convolution", lambda x: torch.convolution(line(x), w1, b4, [1], [1], [1], False, [0], 1), 8),
    Case("conv_transpose1d", lambda x: F.conv_transpose1d(line(x), t1, b3, stride=2, output_padding=1), 6),
    Case("conv_transpose1d_weight", lambda x: F.conv_transpose1d(line(x), x.cos().reshape(2, 2, 3), x[0, :2]), 6),
    Case("conv_transpose1d_groups", lambda x: F.conv_transpose1d(line(x), x.cos().reshape(2, 2, 2), groups=2), 4),
    Case("conv_transpose2d", lambda x: F.conv_transpose2d(image(x), t2, b3, 2, 1), 8),
    Case("conv_transpose2d_unbatched", lambda x: F.conv_transpose2d(x.sin().reshape(2, 2, -1), t2, b3), 4),
    Case("conv_transpose3d", lambda x: F.conv_transpose3d(volume(x), t3, b3), 8),
    Case("conv_tbc", lambda x: torch.conv_tbc(x.sin().reshape(3, 2, 2), weights(2, 2, 3), b3, 1), 6),
    Case("conv_tbc_all", lambda x: torch.conv_tbc(x.sin().reshape(3, 2, 2), x.cos().reshape(2, 2, 3), x[0, :3], 1), 6),
    Case("avg_pool1d", lambda x: F.avg_pool1d(line(x), 2, 1, 1, count_include_pad=False), 8),
    Case("avg_pool1d_unbatched", lambda x: F.avg_pool1d(x.sin(), 2), 4),
    Case("avg_pool2d", lambda x: F.avg_pool2d(image(x), 2), 8),
    Case("avg_pool2d_unbatched", lambda x: F.avg_pool2d(x.sin().reshape(2, 2, 2), 2, divisor_override=3), 4),
    Case("avg_pool3d", lambda x: F.avg_pool3d(volume(x), 2), 8),
    Case("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(line(x), 3), 8),
    Case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(image(x), (2, None)), 12),
    Case("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(volume(x), (1, 2, 1)), 8),
    Case("lp_pool1d", lambda x: F.lp_pool1d(line(x), 2.0, 2), 8),
    Case("lp_pool2d", lambda x: F.lp_pool2d(image(x, 1), 3.0, 2), 8, low=0.1),
    Case("lp_pool3d", lambda x: F.lp_pool3d(volume(x), 2.0, 2), 8, low=0.1),
    Case("pad_constant", lambda x: F.pad(x.sin(), (1, 2, 0, 1), value=3.0), 3),
    Case("pad_crop", lambda x: F.pad(x.sin(), (-1, 1)), 3),
    Case("pad_reflect", lambda x: F.pad(line(x, 1), (2, 1), "reflect"), 4),
    Case("pad_reflect_unbatched", lambda x: F.pad(x.sin(), (2, 1), "reflect"), 4),
    Case("pad_replicate", lambda x: F.pad(image(x), (1, 1, 1, 0), "replicate"), 8),
    Case("pad_circular", lambda x: F.pad(image(x), (1, 1, 1, 0), mode="circular"), 8),
    Case("pad_circular_unbatched", lambda x: F.pad(x.sin(), (1, 1), mode="circular"), 4),
    Case("constant_pad_nd", lambda x: torch.constant_pad_nd(x.sin(), (1, 1), 2.0), 4),
    *(
        Case(f"interpolate_{mode}", lambda x, m=mode: F.interpolate(line(x), size=5, mode=m), 6)
        for mode in ("nearest", "nearest-exact", "linear")
    ),
    *(
        Case(f"interpolate_{mode}", lambda x, m=mode: F.interpolate(image(x), scale_factor=2, mode=m), 8)
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    ),
    Case("interpolate_antialias", lambda x: F.interpolate(image(x), size=(1, 2), mode="bilinear", antialias=True), 8),
    Case("interpolate_trilinear", lambda x: F.interpolate(volume(x), size=3, mode="trilinear", align_corners=True), 8),
    Case("upsample", lambda x: nn.Upsample(scale_factor=2)(image(x)), 8),
    Case("grid_sample", lambda x: F.grid_sample(image(x), grid, align_corners=False), 8),
    Case("grid_sample_bicubic", lambda x: F.grid_sample(image(x), grid, "bicubic", "border", False), 8),
    Case("grid_sample_volume", lambda x: F.grid_sample(volume(x), cube, "nearest", "reflection", True), 8),
    Case("affine_grid", lambda x: F.affine_grid(x.sin().reshape(-1, 2, 3), [2, 1, 3, 2], False), 6),
    Case("pixel_shuffle", lambda x: F.pixel_shuffle(image(x, 4, 1), 2), 8),
    Case("pixel_unshuffle", lambda x: F.pixel_unshuffle(image(x, 2, 2), 2), 8),
    Case("channel_shuffle", lambda x: F.channel_shuffle(image(x, 4, 1), 2), 8),
    Case("unfold", lambda x: F.unfold(image(x), 2, padding=1), 8),
    Case("unfold_unbatched", lambda x: F.unfold(x.sin().reshape(2, 2, 2), 2, padding=1), 4),
    Case("fold", lambda x: F.fold(line(x, 4), (2, 3), (2, 2)), 8),
    Case("circular_layer", nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")).double(), 8),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    if torch.__version__ < (2, 12) and case.name.startswith("grid_sample"):
        pytest.skip("the truth is missing: torch 2.11 has no derivative of aten::grid_sampler_2d_backward, nor of 3d")
    check(case, layout)


@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d", "conv1d_weight_and_input"])
def test_third_order(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    small = Case(name, lambda x: case.f(torch.cat([x] * (case.size // 2), 1)), 2)
    check(small, "3")


def test_rows_that_all_samples_share_are_convolved_once() -> None:
    propagation = Propagation((5,))
    rows = torch.eye(4).reshape(4, 1, 1, 4)
    jet: Any = Jet(torch.randn(5, 1, 4), (rows,), Frame(propagation, first_order(4)))
    weight = torch.randn(3, 1, 2)
    convolved = F.conv1d(jet, weight).coefficients[0]
    assert convolved.shape == (4, 1, 3, 3)
    torch.testing.assert_close(convolved[:, 0], F.conv1d(rows[:, 0], weight))

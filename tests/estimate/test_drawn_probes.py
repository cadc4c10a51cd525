"""``jacfunc/estimate/probes.py``: the kinds of probes, each with the moments that it promises."""

from __future__ import annotations

import math

import pytest
import torch

from jacfunc import estimate

KINDS = ("rademacher", "gaussian", "sphere", "coordinate", "orthogonal")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_second_moments_are_the_identity(kind):
    x = torch.zeros(20_000, 4, dtype=torch.float64)
    v = estimate.draw(x, 3, probe=kind, generator=generator())
    assert v.shape == (20_000, 3, 4) and v.dtype == torch.float64
    found = torch.einsum("npi,npj->pij", v, v) / len(x)
    assert (found - torch.eye(4, dtype=torch.float64)).abs().max() < 0.06
    assert v.mean(0).abs().max() < 0.06 or kind == "coordinate"


def test_what_each_is():
    x = torch.zeros(50, 6, dtype=torch.float64)
    drawn = {kind: estimate.draw(x, 5, probe=kind, generator=generator()) for kind in KINDS}
    assert (drawn["rademacher"].abs() == 1).all()
    for kind in ("sphere", "coordinate", "orthogonal"):
        torch.testing.assert_close(drawn[kind].norm(dim=-1), torch.full((50, 5), math.sqrt(6), dtype=torch.float64))
    assert ((drawn["coordinate"] != 0).sum(-1) == 1).all()
    gram = drawn["orthogonal"] @ drawn["orthogonal"].mT
    torch.testing.assert_close(gram, 6 * torch.eye(5, dtype=torch.float64).expand(50, 5, 5))


def test_more_orthogonal_ones_than_coordinates():
    v = estimate.draw(torch.zeros(2, 3, dtype=torch.float64), 7, probe="orthogonal", generator=generator())
    assert v.shape == (2, 7, 3)
    torch.testing.assert_close(v[:, :3] @ v[:, :3].mT, 3 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_orthogonal_ones_as_coordinates_give_the_trace(kind):
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator())
    f = lambda x: torch.stack([x[:, 1] * x[:, 0], x.prod(1), x[:, 0] ** 2, x[:, 3].sin()], -1)
    found = estimate.divergence(f, probes=4, probe=kind, generator=generator())(x)
    exact = x[:, 1] + x[:, [0, 2, 3]].prod(1) + x[:, 3].cos()
    assert torch.allclose(found.estimate, exact) == (kind == "orthogonal")


def test_samples_of_any_shape_and_dtype():
    assert estimate.draw(torch.zeros(2, 3, 4, 5), 2, batch_dims=2).shape == (2, 3, 2, 4, 5)
    assert estimate.draw(torch.zeros(3, dtype=torch.bfloat16), 2).dtype == torch.bfloat16
    assert estimate.draw(torch.zeros(4), 2).shape == (4, 2)
    assert estimate.draw(torch.zeros(0, 4), 2).shape == (0, 2, 4)
    assert not estimate.draw(torch.zeros(2, 3, requires_grad=True), 2, probe="orthogonal").requires_grad

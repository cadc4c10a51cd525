"""Ordinary networks, no option set: values in float64 against the dense Jacobian, float32 against float64."""

from __future__ import annotations

import dense
import pytest
import torch
from networks import NETWORKS
from torch.nn.attention import SDPBackend, sdpa_kernel

from jacfunc import batch_jac, diag_jac, divergence, hess_diag, laplacian, make_functional

SQUARE = [name for name, network in NETWORKS.items() if network.build()(network.batch()).shape[1:] == network.sample]


def same_draw(f):
    """``f`` with the same random numbers at every call."""

    def seeded(*args):
        torch.manual_seed(3)
        return f(*args)

    return seeded


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_jac_is_the_block_of_the_dense_jacobian(name):
    network = NETWORKS[name]
    net, x = network.build(), network.batch()
    torch.manual_seed(3)
    found, value = batch_jac(net, return_value=True)(x)
    torch.testing.assert_close(found, dense.jacobian(same_draw(net), x))
    torch.testing.assert_close(value, same_draw(net)(x))


@pytest.mark.parametrize("name", SQUARE)
def test_diagonal_and_divergence_are_those_of_the_dense_jacobian(name):
    network = NETWORKS[name]
    net, x = network.build(), network.batch()
    truth = dense.diagonal(same_draw(net), x)
    torch.manual_seed(3)
    torch.testing.assert_close(diag_jac(net)(x), truth)
    torch.manual_seed(3)
    torch.testing.assert_close(divergence(net)(x), truth.reshape(len(x), -1).sum(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_second_derivatives_are_those_of_reverse_over_reverse(name):
    network = NETWORKS[name]
    net, x = network.build(), network.batch(3)
    with sdpa_kernel(SDPBackend.MATH):  # flash attention has no second derivative in torch
        truth = dense.hessian_diagonal(same_draw(net), x)
    torch.manual_seed(3)
    torch.testing.assert_close(hess_diag(net)(x), truth)
    torch.manual_seed(3)
    summed = truth.flatten(truth.dim() - len(network.sample)).sum(-1)
    torch.testing.assert_close(laplacian(net)(x), summed)


@pytest.mark.parametrize("transform", [batch_jac, laplacian])
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_agrees_with_float64(name, transform):
    network = NETWORKS[name]
    net, x = network.build(), network.batch()
    single = network.build(torch.float32)
    torch.manual_seed(3)
    found = transform(single)(x.float())
    torch.manual_seed(3)
    truth = transform(net)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, truth.float(), rtol=1e-3, atol=1e-4 * truth.abs().max().item())


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.backward])
def test_backward_runs_and_reaches_the_parameters(name, method):
    network = NETWORKS[name]
    f, params = make_functional(network.build())
    batch_jac(f, method=method)(params, network.batch()).square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in params.values())

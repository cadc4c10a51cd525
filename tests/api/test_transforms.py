"""What the transforms mean: shapes, trees, arguments, modes, nesting, and what surrounds them."""

from __future__ import annotations

from typing import NamedTuple

import dense
import optree
import pytest
import torch
from quick import mostly_slow
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vjp, vmap

from jacfunc import batch_jac, check_independent, diag_jac, divergence, explain, hess_diag, laplacian, make_functional

TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian]
METHODS = ["auto", "taylor", "forward", "reverse"]


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def x():
    return torch.randn(5, 3, dtype=torch.float64)


def test_the_founding_example():
    net = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 400))
    f, params = make_functional(net)
    t = torch.randn(100, 1)
    found = diag_jac(f)(params, t)
    assert found.shape == (100, 400)
    for k in (0, 17, 399):
        z = t.clone().requires_grad_()
        (row,) = torch.autograd.grad(net(z)[:, k].sum(), z)
        torch.testing.assert_close(found[:, k : k + 1], row)


SHAPES = [
    ((3,), (3,), (3,)),
    ((1,), (4,), (4,)),
    ((), (4,), (4,)),
    ((4,), (1,), (4,)),
    ((4,), (), (4,)),
    ((), (), ()),
    ((1,), (), (1,)),
    ((), (1,), (1,)),
    ((1, 1), (4,), (4,)),
    ((2, 3), (2, 3), (2, 3)),
    ((2, 1), (2, 3), (2, 3)),
    ((2, 3), (1, 3), (2, 3)),
    ((1, 3), (4, 3), (4, 3)),
    ((2, 3), (1, 1, 1), (2, 3)),
]


@pytest.mark.parametrize("chunk_size", mostly_slow([None, 1, 2], [None, 2]))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("inner", "outer", "larger"), SHAPES)
def test_the_smaller_shape_is_broadcast_to_the_larger(inner, outer, larger, method, chunk_size):
    w = torch.randn(max(1, torch.Size(inner).numel()), max(1, torch.Size(outer).numel()), dtype=torch.float64)

    def f(x):
        return torch.tanh(x.reshape(len(x), -1) @ w).reshape(len(x), *outer)

    x = torch.randn(4, *inner, dtype=torch.float64)
    found = diag_jac(f, method=method, chunk_size=chunk_size)(x)
    assert found.shape == (4, *larger)
    torch.testing.assert_close(found, dense.diagonal(f, x))
    torch.testing.assert_close(batch_jac(f, method=method, chunk_size=chunk_size)(x), dense.jacobian(f, x))
    second = dense.hessian_diagonal(f, x)
    torch.testing.assert_close(hess_diag(f, method=method, chunk_size=chunk_size)(x), second)
    flat = second.reshape(4, *outer, -1).sum(-1)
    torch.testing.assert_close(laplacian(f, method=method, chunk_size=chunk_size)(x), flat)


@pytest.mark.parametrize("method", METHODS)
def test_other_numbers_of_sample_axes(method):
    w = torch.randn(3, 3, dtype=torch.float64)

    def f(x):
        return torch.tanh(x @ w)

    x = torch.randn(2, 5, 3, dtype=torch.float64)
    whole = batch_jac(f, method=method)(x.reshape(10, 3)).reshape(2, 5, 3, 3)
    torch.testing.assert_close(batch_jac(f, batch_dims=2, method=method)(x), whole)
    torch.testing.assert_close(batch_jac(f, batch_dims=0, method=method)(x[0, 0]), whole[0, 0])
    torch.testing.assert_close(divergence(f, batch_dims=2, method=method)(x), whole.diagonal(0, -2, -1).sum(-1))
    torch.testing.assert_close(laplacian(f, batch_dims=2, method=method)(x)[1, 2], laplacian(f, batch_dims=0)(x[1, 2]))


def test_hess_diag_is_the_diagonal_of_the_diagonal_for_one_output(x):
    def f(x):
        return x.sin().prod(1, keepdim=True)

    torch.testing.assert_close(hess_diag(f)(x), diag_jac(diag_jac(f))(x)[:, None])


# ---------------------------------------------------------------- trees and arguments


class Point(NamedTuple):
    """Where and when."""

    t: torch.Tensor
    z: torch.Tensor


@optree.dataclasses.dataclass(namespace="jacfunc")
class Fields:
    """Outputs of a model."""

    u: torch.Tensor
    v: torch.Tensor


def test_results_nest_output_outside_and_input_inside():
    point = Point(torch.randn(4, 1), torch.randn(4, 2))

    def f(p):
        return {"u": p.t * p.z, "v": (p.z.sum(1), None)}

    found = batch_jac(f)(point)
    assert set(found) == {"u", "v"}
    assert found["v"][1] is None
    assert isinstance(found["u"], Point)
    assert found["u"].t.shape == (4, 2, 1)
    assert found["v"][0].z.shape == (4, 2)
    torch.testing.assert_close(found["u"].t, point.z[..., None])
    seconds = laplacian(f)(point)
    assert seconds["u"].shape == (4, 2)
    assert hess_diag(f)(point)["u"].z.shape == (4, 2, 2)


def test_registered_dataclasses_are_trees(x):
    found = diag_jac(lambda x: Fields(x.sin(), x.cos()))(x)
    torch.testing.assert_close(found.u, x.cos())
    torch.testing.assert_close(found.v, -x.sin())


def test_divergence_pairs_equal_trees_leaf_by_leaf(x):
    found = divergence(lambda s: {"q": s["p"] + s["q"] ** 2, "p": s["q"] * s["p"]})({"q": x, "p": x + 1})
    torch.testing.assert_close(found, (2 * x + x).sum(1))


def test_divergence_over_several_arguments(x):
    found = divergence(lambda q, p: (q**2, p**2 + q), argnums=(0, 1))(x, x + 1)
    torch.testing.assert_close(found, (2 * x + 2 * (x + 1)).sum(1))


def test_tuples_of_argnums_give_tuples(x):
    first, second = batch_jac(lambda a, b: a.sin() * b, argnums=(0, 1))(x, x)
    torch.testing.assert_close(first.diagonal(0, 1, 2), x.cos() * x)
    torch.testing.assert_close(second.diagonal(0, 1, 2), x.sin())
    assert isinstance(diag_jac(lambda a, b: a * b, argnums=(1,))(x, x), tuple)
    one, two = laplacian(lambda a, b: a**2 * b**3, argnums=(0, -1))(x, x)
    torch.testing.assert_close(one, 2 * x**3)
    torch.testing.assert_close(two, 6 * x**3)


def test_keyword_arguments_pass_through(net, x):
    f, params = make_functional(net)
    found = diag_jac(lambda params, x, *, scale: f(params, scale * x))(params, x, scale=2.0)
    torch.testing.assert_close(found, 2 * diag_jac(f)(params, 2 * x))


def test_order_of_results(x):
    derivative, value, aux = diag_jac(lambda x: (x.sin(), {"x": x, "note": "kept"}), has_aux=True, return_value=True)(x)
    torch.testing.assert_close(derivative, x.cos())
    torch.testing.assert_close(value, x.sin())
    assert aux["note"] == "kept"
    torch.testing.assert_close(aux["x"], x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_value_and_aux_come_with_every_transform(transform, method, x):
    f = lambda x: (x.sin(), x.exp())
    keywords = {"method": method, "chunk_size": 2}
    derivative, value, aux = transform(f, has_aux=True, return_value=True, **keywords)(x)
    torch.testing.assert_close(derivative, transform(torch.sin, **keywords)(x))
    torch.testing.assert_close(value, x.sin())
    torch.testing.assert_close(aux, x.exp())


# ---------------------------------------------------------------- nesting and surroundings


@pytest.mark.parametrize("outer", TRANSFORMS)
@pytest.mark.parametrize("inner", TRANSFORMS)
@pytest.mark.parametrize("method", METHODS)
def test_transforms_nest_in_any_order(outer, inner, method, net, x):
    f = lambda x: net(x)[:, :1] if inner in (batch_jac, hess_diag) else net(x)
    nested = inner(f, method=method)
    squeezed = lambda x: nested(x).reshape(5, -1)
    if outer is divergence and inner is divergence:
        squeezed = lambda x: nested(x)[:, None] * x
    elif outer in (diag_jac, divergence) and squeezed(x).shape != (5, 3) and squeezed(x).shape[1] != 1:
        pytest.fail("every combination has a diagonal here")
    elif outer is divergence and squeezed(x).shape != (5, 3):
        squeezed = lambda x: nested(x).reshape(5, -1) * x
    truth = {
        diag_jac: dense.diagonal,
        batch_jac: dense.jacobian,
        divergence: lambda f, x: dense.diagonal(f, x).sum(1),
        hess_diag: dense.hessian_diagonal,
        laplacian: lambda f, x: dense.hessian_diagonal(f, x).sum(-1),
    }[outer](squeezed, x)
    torch.testing.assert_close(outer(squeezed, method=method)(x), truth)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_inside_torch_func_transforms(transform, method, net, x):
    f, params = make_functional(net, snapshot=True)
    derivative = transform(f, method=method)

    def loss(params, x):
        return derivative(params, x).square().sum()

    gradients = grad(loss)(params, x)
    live = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss(live, x).backward()
    for name, gradient in gradients.items():
        expected = live[name].grad
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if expected is None else expected)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in params.items()}
    both = vmap(derivative, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(both[1], derivative({name: 2 * p for name, p in params.items()}, x))
    _, pushed = jvp(lambda x: derivative(params, x), (x,), (x,))
    _, pull = vjp(lambda x: derivative(params, x), x)
    torch.testing.assert_close((pull(pushed)[0] * x).sum(), (pushed * pushed).sum())


@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto", "reverse"]))
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_recorded_by_linearize(transform, method, net, x):
    derivative = transform(net, method=method)
    with torch.no_grad():
        value, push = torch.func.linearize(derivative, x)
        torch.testing.assert_close(value, derivative(x))
        torch.testing.assert_close(push(x), jvp(derivative, (x,), (x,))[1])


def test_ensembles(net, x):
    nets = [nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double() for _ in range(4)]
    stacked, _ = stack_module_state(nets)
    f, _ = make_functional(nets[0])
    found = vmap(diag_jac(f), in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(found, torch.stack([diag_jac(one)(x) for one in nets]))


def test_under_functional_call_of_another(net, x):
    doubled = {name: 2 * p.detach() for name, p in net.named_parameters()}
    f, _ = make_functional(net)
    torch.testing.assert_close(diag_jac(lambda x: functional_call(net, doubled, (x,)))(x), diag_jac(f)(doubled, x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_callers_modes_only_decide_whether_a_graph_is_recorded(transform, method, net, x):
    f, params = make_functional(net)
    derivative = transform(f, method=method)
    with_graph = derivative(params, x)
    assert with_graph.requires_grad
    with torch.no_grad():
        plain = derivative(params, x)
    with torch.inference_mode():
        inferred = derivative(params, x)
        inside = derivative(params, x.clone())  # an inference tensor
        assert torch.is_inference_mode_enabled()
        created = x.clone()
    outside = derivative(params, created)
    for result in (plain, inferred, inside):
        assert not result.requires_grad
        torch.testing.assert_close(result, with_graph.detach())
    torch.testing.assert_close(outside, with_graph)
    with torch.set_grad_enabled(False):
        assert not torch.is_grad_enabled()
        derivative(params, x)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_inner_no_grad_and_detach_make_that_part_constant(transform, method, x):
    def stopped(x):
        with torch.no_grad():
            c = x.cos()
        return x * c * x.detach()

    constant = x.cos() * x
    torch.testing.assert_close(
        transform(stopped, method=method)(x), transform(lambda x: x * constant, method=method)(x)
    )


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_results_have_the_dtype_of_the_input(transform, dtype, method):
    x = torch.randn(4, 3).to(dtype)
    found = transform(lambda x: x.sin() * x, method=method)(x)
    assert found.dtype == dtype
    truth = transform(lambda x: x.sin() * x)(x.double())
    torch.testing.assert_close(
        found.double(), truth, rtol=32 * torch.finfo(dtype).eps, atol=32 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("method", METHODS)
def test_outputs_of_another_dtype_still_give_the_dtype_of_the_input(method, x):
    assert diag_jac(lambda x: x.float().sin(), method=method)(x).dtype == torch.float64
    assert laplacian(lambda x: x.float().sin(), method=method)(x).dtype == torch.float64


@pytest.mark.parametrize("method", METHODS)
def test_a_scalar_sample_keeps_its_dtype(method):
    t = torch.randn((), dtype=torch.float32)
    assert diag_jac(lambda t: t + 1.0, batch_dims=0, method=method)(t).dtype == torch.float32


# ---------------------------------------------------------------- nothing of the caller's is touched


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_in_place_operations_do_not_reach_the_caller(transform, method, x):
    scale = torch.full_like(x, 2.0)

    def f(scale, x):
        scale.mul_(1.5)
        return x.mul_(scale).sin_()

    before, before_scale = x.clone(), scale.clone()
    found = transform(f, method="auto" if method == "forward" else method)(scale, x)
    assert torch.equal(x, before)
    assert torch.equal(scale, before_scale)
    torch.testing.assert_close(found, transform(lambda x: (3 * x).sin())(x))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_one_draw_for_the_value_and_all_derivatives(transform, method, chunk_size, x):
    def f(x):
        return nn.functional.dropout(x.sin(), 0.5)

    derivative = transform(f, method=method, chunk_size=chunk_size, return_value=True)
    for _ in range(2):  # with the dry run and the probes, then without
        torch.manual_seed(7)
        found, value = derivative(x)
        after = torch.rand(1)
        torch.manual_seed(7)
        expected = f(x)
        torch.testing.assert_close(value, expected)
        assert torch.equal(after, torch.rand(1))
        mask = (expected != 0).double() * 2
        assert len({tuple(row) for row in mask.tolist()}) > 1  # each sample its own
        torch.testing.assert_close(found, transform(lambda x, mask=mask: mask * x.sin())(x))


def test_requires_grad_of_the_input_gives_a_graph_to_it(x):
    x.requires_grad_()
    diag_jac(torch.sin)(x).sum().backward()
    torch.testing.assert_close(x.grad, -x.detach().sin())


def test_frozen_and_unused_parameters(net, x):
    f, params = make_functional(net)
    params["0.weight"].requires_grad_(False)
    diag_jac(f)(params, x).sum().backward()
    assert params["0.weight"].grad is None
    assert params["2.weight"].grad is not None


# ---------------------------------------------------------------- not refused


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_empty_batches_give_empty_results(transform, method, net, x):
    found = transform(net, method=method)(x[:0])
    assert found.shape == (0, *transform(net, method=method)(x).shape[1:])
    assert check_independent(net)(x[:0])


@pytest.mark.parametrize("method", METHODS)
def test_samples_without_elements(method):
    x = torch.zeros(4, 0)
    f = lambda x: x.sum(1, keepdim=True).expand(len(x), 2)
    assert batch_jac(f, method=method)(x).shape == (4, 2, 0)
    assert hess_diag(f, method=method)(x).shape == (4, 2, 0)
    assert torch.equal(laplacian(f, method=method)(x), torch.zeros(4, 2))
    assert batch_jac(lambda x: x[:, :0], method=method)(torch.zeros(4, 3)).shape == (4, 0, 3)
    assert divergence(lambda x: x, method=method)(x).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_outputs_that_do_not_depend_on_the_input_give_zeros(transform, method, x):
    for f in (torch.ones_like, lambda x: torch.ones(5, 3, dtype=x.dtype), lambda x: x.detach()):
        found = transform(f, method=method)(x)
        assert not found.any()
        assert found.shape == transform(torch.sin)(x).shape


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_values_pass_through(method, x):
    x = x.clone()
    x[0, 0], x[1, 1] = float("nan"), float("inf")
    found = diag_jac(lambda x: x**3, method=method)(x)
    torch.testing.assert_close(found, 3 * x**2, equal_nan=True)


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_a_function_that_differentiates_by_its_input_itself(method):
    torch.manual_seed(0)
    energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    score = lambda x: torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]
    x = torch.randn(5, 3, dtype=torch.float64)
    truth = laplacian(energy)(x)[:, 0]
    for given in (x, x.clone().requires_grad_()):
        found = divergence(score, method=method)(given)
        torch.testing.assert_close(found, truth)
        gradients = [torch.autograd.grad(t.square().sum(), energy[0].weight, retain_graph=True) for t in (found, truth)]
        torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert not divergence(score, method=method)(x).requires_grad
    assert explain(divergence(score, method=method))(x).plan.route in ("forward", "reverse")


@pytest.mark.parametrize("transform", mostly_slow(TRANSFORMS, [diag_jac, laplacian]))
def test_a_module_compiled_by_another_backend(transform):
    net = nn.Linear(3, 3).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    torch._dynamo.reset()
    torch.testing.assert_close(transform(torch.compile(net, backend="eager"))(x), transform(net)(x))

"""The routes: what each falls back to, what it evaluates, and that all agree where they all work."""

from __future__ import annotations

import warnings

import pytest
import torch
from functions import Detaching, Dual, NoVmap, OldStyle, OnlyOnce
from torch import nn
from torch.autograd.function import once_differentiable
from torch.torch_version import TorchVersion
from torch.utils.checkpoint import checkpoint

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, divergence, explain, hess_diag, laplacian
from jacfunc.core.levels import TIES_SHARED
from jacfunc.options import METHODS
from jacfunc.routes import ROUTES

TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian]
NET = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch():
    return torch.randn(4, 3, dtype=torch.float64)


def through(function):
    return lambda x: function.apply(x)


def test_every_route_is_in_the_table_by_its_name_and_is_chosen_by_some_method():
    for name, route in ROUTES.items():
        assert name == route.name
        assert set(route.methods) <= set(METHODS)
    for method in METHODS:
        assert {name for name, route in ROUTES.items() if method in route.methods} == BY_METHOD[method]


BY_METHOD = {
    "auto": {"taylor", "forward", "reverse", "autograd", "dual"},
    "taylor": {"taylor", "forward", "reverse", "autograd", "dual"},
    "forward": {"forward", "dual"},
    "reverse": {"reverse", "autograd"},
}


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("recompute", "route"),
    [(OldStyle.apply, "autograd"), (lambda x: checkpoint(torch.sin, x, use_reentrant=False), "taylor")],
)
def test_what_torch_func_cannot_transform_goes_with_jets_or_row_by_row(recompute, route, transform, chunk_size):
    x = batch()
    found, value = transform(lambda x: recompute(NET(x)), chunk_size=chunk_size, return_value=True)(x)
    torch.testing.assert_close(found, transform(lambda x: NET(x).sin())(x))
    torch.testing.assert_close(value, NET(x).sin())
    assert explain(transform(lambda x: recompute(NET(x))))(x).plan.route == route
    with pytest.raises(UnsupportedOperationError):
        transform(lambda x: recompute(NET(x)), method="forward")(x)


def test_a_wrong_batching_rule_is_noticed():
    x, other = batch(), torch.randn(5, 3, dtype=torch.float64)
    f = lambda x: torch._VF.cdist(x, other, 2.0, None)  # past the table of corrected operations
    pull = torch.func.vjp(f, x)[1]
    rows = torch.eye(5, dtype=torch.float64)[:, None, :].expand(5, 4, 5).contiguous()
    one_by_one = torch.stack([pull(row)[0] for row in rows])
    with warnings.catch_warnings(action="ignore"):
        assert (torch.func.vmap(pull)(rows)[0] - one_by_one).abs().max() > 0.01, "torch is right by itself now"
    torch.testing.assert_close(batch_jac(f)(x), one_by_one.movedim(0, 1))
    # From 2.14 on it has a second derivative, so that it alone can go forward.
    assert str(explain(batch_jac(f))(x).plan.strategy) == ("taylor" if TIES_SHARED else "reverse, row by row")


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_row_by_row_records_a_graph_only_where_asked(transform):
    x = batch()
    derivative = transform(lambda x: OldStyle.apply(NET(x)))
    NET.zero_grad()
    derivative(x).square().sum().backward()
    found = NET[0].weight.grad.clone()
    NET.zero_grad()
    transform(lambda x: NET(x).sin())(x).square().sum().backward()
    torch.testing.assert_close(found, NET[0].weight.grad)
    with torch.no_grad():
        assert not derivative(x).requires_grad


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_row_by_row_through_trees_and_constants(transform):
    x = batch()
    f = lambda s: {"u": OldStyle.apply(s["a"]) * s["b"], "c": torch.ones(4, 3, dtype=x.dtype)}
    g = lambda s: {"u": s["a"].sin() * s["b"], "c": torch.ones(4, 3, dtype=x.dtype)}
    torch.testing.assert_close(transform(f)({"a": x, "b": x + 1}), transform(g)({"a": x, "b": x + 1}))
    assert transform(lambda x: OldStyle.apply(x))(x[:0]).shape == (0, 3)


def test_nested_transforms_of_what_torch_func_cannot_transform():
    x = batch()
    torch.testing.assert_close(diag_jac(diag_jac(lambda x: OldStyle.apply(x)))(x), -x.sin())


@pytest.mark.parametrize("wide", [1, 5])
@pytest.mark.parametrize("function", [OnlyOnce, Detaching, Dual])
@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_a_backward_without_a_transpose_is_noticed(function, method, wide):
    x = torch.randn(4, 1, dtype=torch.float64)
    f = lambda x: function.apply(x).expand(-1, wide)
    torch.testing.assert_close(diag_jac(f, method=method)(x), x.cos().expand(-1, wide))


def test_a_backward_without_a_transpose_has_no_forward_route_unless_it_has_a_dual():
    x = batch()
    for function in (OnlyOnce, Detaching):
        with pytest.raises(UnsupportedOperationError, match="cannot be differentiated by its cotangent"):
            diag_jac(through(function), method="forward")(x)
    assert explain(diag_jac(through(Dual), method="forward"))(x).plan.route == "dual"
    torch.testing.assert_close(diag_jac(through(Dual), method="forward")(x), x.cos())


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_rows_go_one_by_one_where_vmap_cannot(method, chunk_size):
    x = batch()
    derivative = diag_jac(through(NoVmap), method=method, chunk_size=chunk_size)
    torch.testing.assert_close(derivative(x), x.cos())
    plan = explain(derivative)(x).plan
    assert not plan.strategy.vectorised
    assert "row by row" in str(explain(derivative)(x))
    assert plan.findings.refused


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_lstm_in_single_precision_needs_no_help(transform):
    torch.manual_seed(0)
    layer = nn.LSTM(3, 3, batch_first=True)
    x = torch.randn(2, 4, 3)
    f = lambda x: layer(x)[0]
    found = transform(f)(x)
    layer.double()
    torch.testing.assert_close(found.double(), transform(f)(x.double()), rtol=1e-3, atol=1e-4)


def test_each_route_evaluates_the_function_once_when_settled():
    net = nn.Linear(3, 3).double()
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    for method in ("forward", "reverse"):
        for transform in (diag_jac, batch_jac, divergence):
            derivative = transform(net, method=method, chunk_size=1)
            derivative(batch())
            calls.clear()
            derivative(batch())
            assert len(calls) == 1


def test_memory_running_out_is_no_reason_to_try_another_route():
    calls = []

    def greedy(x):
        calls.append(1)
        if x.requires_grad or torch._C._functorch.peek_interpreter_stack() is not None:
            raise torch.OutOfMemoryError("no memory")
        return x.sin()

    with pytest.raises(torch.OutOfMemoryError):
        diag_jac(greedy, check=False, method="reverse")(batch())
    assert len(calls) == 2


def test_outputs_that_change_their_shape_are_planned_anew():
    width = {"now": 3}

    class F:
        def __call__(self, x):
            return x.sin().repeat(1, width["now"] // 3)

    f = F()
    derivative = batch_jac(f)
    assert derivative(batch()).shape == (4, 3, 3)
    width["now"] = 6
    assert derivative(batch()).shape == (4, 6, 3)


def test_chunks_bound_the_rows_in_flight():
    widths = []

    class Widths(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                widths.append(result.numel())
            return result

    x = torch.randn(64, 32)
    f = lambda x: torch.tanh(x @ torch.ones(32, 32))
    for method in ("forward", "reverse"):
        largest = []
        for chunk_size in (None, 4):
            derivative = diag_jac(f, method=method, chunk_size=chunk_size)
            with torch.no_grad():
                derivative(x)
                widths.clear()
                with Widths():
                    derivative(x)
            largest.append(max(widths))
        assert largest[1] * 4 <= largest[0]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_checkpoint_recomputes_with_the_corrected_operations(transform):
    layer, norm, x = nn.Linear(3, 3).double(), nn.LayerNorm(3).double(), batch()
    plain = nn.Sequential(layer, norm, nn.Tanh())
    for body in (plain, lambda x: plain(x)):
        saving = transform(lambda x, body=body: checkpoint(body, x, use_reentrant=False))
        found = torch.autograd.grad(saving(x).square().sum(), layer.weight)
        truth = torch.autograd.grad(transform(plain)(x).square().sum(), layer.weight)
        torch.testing.assert_close(found, truth)


class OldOnce(torch.autograd.Function):
    """In the old style, and once_differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos()


@pytest.mark.parametrize("function", [OnlyOnce, Detaching, OldOnce])
def test_a_derivative_without_a_gradient_refuses_its_backward(function):
    layer, x = nn.Linear(3, 3).double(), batch()
    found = diag_jac(lambda x: function.apply(layer(x)))(x)
    torch.testing.assert_close(found, diag_jac(lambda x: layer(x).sin())(x))
    for value in (found, diag_jac(lambda x: function.apply(layer(x)))(x)):
        with pytest.raises(UnsupportedOperationError, match="this derivative has no gradient: an autograd.Function"):
            value.sum().backward()
    with torch.no_grad():
        route = explain(diag_jac(lambda x: function.apply(layer(x)), method="reverse"))(x).plan.route
        assert route == ("autograd" if function is OldOnce else "reverse")


def as_numpy(x):
    try:
        width = x.detach().numpy().shape[1]
    except Exception:  # of what is no tensor in memory, inside of torch.func
        width = 1
    return x.sin()[:, :width]


OTHERWISE = {
    "a column": lambda x: x.sin() if type(x) is torch.Tensor else x.sin()[:, :1],
    "a tuple": lambda x: x.sin() if type(x) is torch.Tensor else (x.sin(), x),
    "nothing": lambda x: x.sin() if type(x) is torch.Tensor else None,
    "a sum": lambda x: x.sin() if type(x) is torch.Tensor else x.sin().sum(0),
    "numpy": as_numpy,
}


@pytest.mark.parametrize("transform", [batch_jac, hess_diag, laplacian])
@pytest.mark.parametrize("kind", OTHERWISE)
def test_other_outputs_for_jets_or_inside_of_torch_func_are_no_derivatives(kind, transform):
    x, f = batch(), OTHERWISE[kind]
    for _ in range(2):
        torch.testing.assert_close(transform(f)(x), transform(torch.sin)(x))
    told = str(explain(transform(f))(x))
    assert ("not taylor     f treats what is no torch.Tensor otherwise" in told) == (kind != "numpy")
    if kind == "numpy":  # which a detached jet has as well
        with pytest.raises(UnsupportedOperationError, match="other shapes inside of torch.func"):
            transform(f, method="forward")(x)


class Lacking(torch.autograd.Function):
    """Whose backward refuses as torch's own do where it has no derivative of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("derivative for aten::an_operation_backward is not implemented")


class Once(torch.autograd.Function):
    """The sine, by a backward that torch has no derivative of."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return Lacking.apply(g * ctx.saved_tensors[0].cos())


@pytest.mark.parametrize("method", ["auto", "taylor", "reverse"])
def test_what_torch_has_no_derivative_of_is_a_value_whose_gradient_is_refused(method):
    layer, x = nn.Linear(3, 3).double(), batch()
    transform = diag_jac(lambda x: Once.apply(layer(x)), method=method)
    truth = diag_jac(lambda x: layer(x).sin())(x)
    for _ in range(2):
        found = transform(x)
        torch.testing.assert_close(found, truth)
        with pytest.raises(UnsupportedOperationError, match="^this derivative has no gradient: .* no derivative of"):
            found.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(transform(x), truth)
    with pytest.raises((UnsupportedOperationError, RuntimeError), match="no gradient|cannot differentiate|implemented"):
        torch.func.jacrev(transform)(x)


def test_grid_samples_have_a_gradient_or_refuse_it():
    """Of whose backward torch has a derivative since 2.12."""
    image, x = torch.randn(1, 1, 5, 5, dtype=torch.double), torch.rand(4, 2, dtype=torch.double) - 0.5
    w = torch.ones(2, dtype=torch.double, requires_grad=True)

    def f(x):
        points = (w * x)[:, None, None]
        return nn.functional.grid_sample(image.expand(4, 1, 5, 5), points, align_corners=True)[:, :, 0, 0]

    found = batch_jac(f)(x)
    y = f(z := x.clone().requires_grad_())
    (truth,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    torch.testing.assert_close(found[:, 0], truth)
    if TorchVersion(torch.__version__) < TorchVersion("2.12"):
        with pytest.raises(UnsupportedOperationError, match="no derivative of"):
            found.sum().backward()
    else:
        torch.testing.assert_close(*(torch.autograd.grad(by.sum(), w)[0] for by in (found, truth)))


@pytest.mark.parametrize("function", [OnlyOnce, Detaching, Dual])
@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_what_has_no_second_derivative_is_refused_and_no_zero(function, method):
    x = batch()
    for transform in (hess_diag, laplacian, lambda f, **k: diag_jac(diag_jac(f, **k), **k)):
        try:
            found = transform(lambda x: function.apply(x), method=method)(x)
        except UnsupportedOperationError:
            continue
        truth = laplacian(torch.sin)(x)
        torch.testing.assert_close(found.reshape(4, -1).sum(1), truth.sum(1))


def test_derivatives_that_cancel_to_rounding_are_no_reason_to_refuse():
    norm = nn.LayerNorm(3, elementwise_affine=False)
    x = batch()
    f = lambda x: norm(x).sum(1, keepdim=True)  # zero but for rounding
    for transform in (diag_jac, laplacian, batch_jac):
        found = transform(f)(x.requires_grad_())
        assert found.abs().max() < 1e-12
        found.sum().backward()


SINGULAR = {
    "relu": lambda x: torch.relu(x).sqrt(),
    "clamp": lambda x: x.clamp(min=0).sqrt(),
    "where": lambda x: torch.where(x > 0, x, 0.0).log1p().sqrt(),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0) ** 0.5,
}


@pytest.mark.parametrize("name", SINGULAR)
def test_an_infinite_derivative_of_what_is_constant_is_found_out(name):
    """Rows multiply the zero by the infinity; reverse mode never does."""
    x = torch.tensor([[-1.0, 4.0], [2.0, -3.0]], dtype=torch.float64)
    truth = batch_jac(SINGULAR[name], method="reverse")(x)
    assert truth.isfinite().all()
    for method in ("auto", "taylor"):
        torch.testing.assert_close(batch_jac(SINGULAR[name], method=method)(x), truth)
        assert explain(batch_jac(SINGULAR[name], method=method))(x).plan.route == "reverse"


def test_what_cannot_transform_an_operator_like_cond_names_it():
    f = lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    derivative = diag_jac(f, check=False)(x)
    torch.testing.assert_close(derivative, x.cos())
    with pytest.raises(UnsupportedOperationError, match="torch.cond.* has a backward that cannot"):
        derivative.sum().backward()
    with pytest.raises(UnsupportedOperationError, match="torch cannot transform the operator cond "):
        laplacian(f, check=False)(x)

"""Jets behave as tensors, or what they cannot follow raises: never a derivative that is lost without a word."""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import pytest
import torch
from functions import OldStyle, OnlyOnce
from propagated import by_layout, opened, propagated, seeded
from rule_cases import Case, check
from torch import nn
from torch.nn import functional as F

from jacfunc import batch_jac, diag_jac, explain, hess_diag, laplacian, make_functional
from jacfunc.jet import CannotFollowError, Frame, Jet, Propagation
from jacfunc.jet.dispatch import KEPT
from jacfunc.jet.layout import closed, diagonal, first_order

double = torch.float64
plain = torch.linspace(0.3, 2.0, 4, dtype=double)


def after(*steps):
    """A function of a copy of its input on which these steps were taken."""

    def f(x):
        y = x * 1
        for step in steps:
            result = step(y, x)
            y = y if result is None else result
        return y

    return f


def assigned(make, *steps):
    """A function that fills another tensor, made of its input."""

    def f(x):
        y = make(x)
        for step in steps:
            step(y, x)
        return y

    return f


def put(index, value):
    return lambda y, x: operator.setitem(y, index, value(x) if callable(value) else value)


def augmented(y, x):
    y[:, 0] += 1
    y[:, 1:3] *= x[:, 2:].sin()
    y[0] -= x[1]
    y[..., -1] /= 2 + x[:, 0]


def statement(code: str):
    return lambda y, x: exec(code, {"torch": torch, "F": F, "y": y, "x": x})


first_layer, last_layer = nn.Linear(4, 4).double(), nn.Linear(4, 2).double()
in_place_network = nn.Sequential(first_layer, nn.ReLU(True), nn.ELU(inplace=True), last_layer)
in_place_network_elsewhere = nn.Sequential(first_layer, nn.ReLU(), nn.ELU(), last_layer)


IN_PLACE = [
    Case("item", after(put((slice(None), 0), lambda x: x[:, 1].sin()))),
    Case("item_number", after(put((slice(None), 0), 2.0))),
    Case("item_constant", after(put((0, slice(1, 3)), plain[:2]))),
    Case("item_broadcast", after(put(slice(None), lambda x: x[:1].sin()))),
    Case("item_more_axes", after(put(0, lambda x: x[1:].sin()))),
    Case("item_index", after(put(torch.tensor([1]), lambda x: x[:1].sin()))),
    Case("item_list", after(put((slice(None), [0, 2]), lambda x: x[:, 1:3].sin()))),
    Case("item_mask", after(lambda y, x: operator.setitem(y, x > 0, 0.0))),
    Case("item_mask_jet", after(lambda y, x: operator.setitem(y, x > 0, x[x > 0].sin()))),
    Case("zeros_like", assigned(torch.zeros_like, put((slice(None), 0), lambda x: x[:, 1].sin()))),
    Case("empty_like", assigned(torch.empty_like, put(Ellipsis, lambda x: x.sin()))),
    Case("new_zeros", assigned(lambda x: x.new_zeros(2, 3), put((slice(None), 2), lambda x: x[:, 1].sin()))),
    Case("full_like", assigned(lambda x: torch.full_like(x, 2.0), put(0, lambda x: x[1].sin()))),
    Case("augmented", after(augmented)),
    Case("augmented_twice", after(statement("y[:, 0] += 1\ny[:, 0] *= x[:, 1]\ny[0, 0] -= x[0, 0]"))),
    Case("augmented_mask", after(statement("y[x > 0] *= 2"))),
    Case(
        "operators_in_place",
        after(statement("y += x.sin(); y *= x; y -= 1; y /= 3; y **= 2")),
        truth=lambda x: (((x + x.sin()) * x - 1) / 3) ** 2,
    ),
    Case(
        "methods",
        after(lambda y, x: y.add_(x, alpha=2).mul_(x).sub_(1).div_(2).sin_().exp_().neg_()),
        truth=lambda x: -((3 * x * x - 1) / 2).sin().exp(),
    ),
    Case(
        "functions",
        after(lambda y, x: torch.relu_(torch.sigmoid_(torch.tanh_(y)))),
        truth=lambda x: torch.relu(torch.sigmoid(torch.tanh(x))),
    ),
    Case(
        "inplace_flag",
        after(lambda y, x: F.silu(F.leaky_relu(y, inplace=True), inplace=True)),
        truth=lambda x: F.silu(F.leaky_relu(x)),
    ),
    Case("modules", in_place_network, truth=in_place_network_elsewhere),
    Case("copy_", after(lambda y, x: y.copy_(x.sin()))),
    Case("copy_broadcast", after(lambda y, x: y.copy_(x[0].sin()))),
    Case("fill_", after(lambda y, x: y.fill_(2.0), put((slice(None), 1), lambda x: x[:, 0].sin()))),
    Case("zero_", after(lambda y, x: y.zero_(), lambda y, x: y + x.sin())),
    Case("masked_fill_", after(lambda y, x: y.masked_fill_(x > 0, 0.5))),
    Case("index_put_", after(lambda y, x: y.index_put_((torch.tensor([0, 1]), torch.tensor([1, 2])), x[0, :2].sin()))),
    Case("clamp_", after(lambda y, x: y.clamp_(-0.5, 0.5))),
    Case("of_a_linear_layer", after(lambda y, x: F.linear(y, plain.diag()).add_(x).mul_(x))),
    Case("source_of_a_linear_layer", after(lambda y, x: F.linear(y, plain.diag()) + 0 * y.mul_(3) + y)),
    Case("contiguous", after(lambda y, x: (y.contiguous().mul_(3), y)[1])),
    Case("clone", after(lambda y, x: y.clone().mul_(3) + y)),
]  # fmt: skip


def index_of_differentiated(x):
    return x[x.argmax(0), torch.arange(4)]


def iterated(x):
    first, second = x
    return torch.stack([first.sin(), *(row * second for row in x)])


def shaped(x):
    rows, columns = x.shape
    if x.dim() == 2 and len(x) == rows and x.numel() == rows * columns and x.size(-1) == 4:
        return x.sin().reshape(columns, -1)
    return x


def detached(x):
    return x * x.detach() + x.data * float(x[0, 0]) + x[0, 1].item() * x + x.tolist()[0][0]


def without(context, inner):
    def f(x):
        with context():
            constant = inner(x)
        return x * constant.clone()

    return f


def switched(x):
    torch.set_grad_enabled(False)
    constant = x.sin()
    torch.set_grad_enabled(True)
    return x * constant


def reenabled(x):
    with torch.no_grad(), torch.enable_grad():
        return x.sin()


class Replacing(nn.Module):
    """Hooks that exchange the input and the output."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.layer.register_forward_pre_hook(lambda module, args: (args[0].sin(),))
        self.layer.register_forward_hook(lambda module, args, output: output * args[0][:, :3])

    def forward(self, x):
        return self.layer(x)


parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3).double())
spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3).double()).eval()
orthogonal = nn.utils.parametrizations.orthogonal(nn.Linear(4, 3).double())

FOLLOWED = [
    Case("shapes", shaped),
    Case("iteration", iterated),
    Case("sum_of_slices", lambda x: sum(x.unbind(1))),
    Case("constructors", lambda x: x * torch.ones(x.shape, dtype=x.dtype) + torch.arange(x.size(-1)) + x.new_tensor([2.0])),
    Case("branch", lambda x: x.sin() if x.sum() > -1e3 and (x < 9).all() and bool(x[0, 0] < 9) else x),
    Case("maximum_by_python", lambda x: max(x[0, 0], x[0, 1], key=float) * x),
    Case("mask", lambda x: x[x > -9].reshape(2, 4).sin()),
    Case("mask_product", lambda x: (x > 0) * x.sin() + (~(x > 0)) * x),
    Case("index", index_of_differentiated),
    Case("indices", lambda x: x.sin()[torch.tensor([1, 0]), [0, 2]] + x[..., -1] + x[None, :, 0, None].sum()),
    Case("numbers", lambda x: 2 * x + x * 3 - 1 / (x + 3) + (2 - x) + 2**x + x**2 + (-x) / 2 + abs(x) + (+x)),
    Case("numpy_numbers", lambda x: np.float64(2) * x + x * np.float32(3) - np.int64(1) / (x + np.float64(3)) + np.float64(2) - x),
    Case("numpy_powers", lambda x: np.float64(2) ** x + (x + 2) ** np.float64(2)),
    Case("scalars", lambda x: x.sum() * x + torch.tensor(2.0) * x + x[0, 0] / (x + 3)),
    Case("integers", lambda x: x * torch.tensor([1, 2, 3, 4]) + torch.arange(4) - x / torch.tensor([1, 2, 3, 4])),
    Case("ranks", lambda x: x[0] * x + x[:, None, :] * x - x[1] / (x[:, None, :] + 3)),
    Case("dtypes", lambda x: torch.cat([x.to(double), x.type_as(plain)], 1) + x.new_zeros((), dtype=torch.float32)),
    Case("einsum", lambda x: torch.einsum("ni,nj", x, x.sin())),
    Case("transposes", lambda x: x.T @ x.mT.mT + x.t() @ x),
    Case("operators", lambda x: (x @ x.T) @ x + torch.ones(3, 2, dtype=double)[:2] @ x + plain @ x.T @ x),
    Case("keywords", lambda x: torch.sin(input=x) + torch.add(input=x, other=x, alpha=2) + torch.sum(input=x, dim=1, keepdim=True)),
    Case("out_none", lambda x: torch.sin(x, out=None) + torch.sum(x, 1, True, out=None)),
    Case("aten", lambda x: torch.ops.aten.sin(x) + torch.ops.aten.mul.Tensor(x, x)),
    Case("requires_grad", lambda x: (x * 1).requires_grad_() * x),
    Case(
        "item_of_its_own",
        after(lambda y, x: operator.setitem(y, (slice(None), 0), y[:, 1].sin())),
        truth=lambda x: torch.cat([x[:, 1:2].sin(), x[:, 1:]], 1),
    ),
    Case("flattened_in_place", lambda x: x.sin().reshape(-1).add_(1).mul_(2), truth=lambda x: (x.sin().reshape(-1) + 1) * 2),
    Case("weight_norm", parametrised),
    Case("spectral_norm", spectral),
    Case("orthogonal", orthogonal),
    Case("hooks", Replacing()),
    Case("checkpoint", lambda x: torch.utils.checkpoint.checkpoint(lambda v: v.sin() * v, x, use_reentrant=False)),
]  # fmt: skip
CONSTANT = [
    Case("detached", detached),
    Case("no_grad", without(torch.no_grad, lambda x: x.sum(1, keepdim=True))),
    Case("inference_mode", without(torch.inference_mode, lambda x: x.sum(1, keepdim=True))),
    Case("set_grad_enabled", switched),
    Case("no_grad_function", lambda x: torch.no_grad()(torch.sin)(x) * x),
    Case("enable_grad", reenabled),
    Case("numpy_of_detached", lambda x: torch.from_numpy(np.asarray(x.detach())) * x),
    Case("round", lambda x: x.round() * x + x.sign() * x),
    Case("like", lambda x: (torch.ones_like(x) + torch.rand_like(x) * 0) * x),
]


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", [*IN_PLACE, *FOLLOWED], ids=str)
def test_as_on_tensors(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("case", CONSTANT, ids=str)
def test_what_leaves_the_propagation_is_constant(case: Case, quiet: bool) -> None:
    x = case.point()
    value, (rows, _) = by_layout(case.f, x, diagonal(4), quiet)
    torch.testing.assert_close(value, case.f(x))
    displaced = x.clone().requires_grad_()
    truth = torch.autograd.functional.jvp(case.f, displaced, torch.ones_like(x), strict=False)[1]
    torch.testing.assert_close(rows.sum(0), truth)
    assert rows.requires_grad is False


def scripted(x):
    return torch.jit.script(lambda_free)(x)


def lambda_free(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


REFUSED: dict[str, tuple[Any, str]] = {
    "item of a plain tensor": (assigned(lambda x: torch.zeros(2, 4), put(0, lambda x: x[0])), "written into another"),
    "copy into a plain tensor": (lambda x: torch.zeros(2, 4).copy_(x), "written into another"),
    "sum into a plain tensor": (lambda x: torch.zeros(2, 4).add_(x), "written into another"),
    "operator on a plain tensor": (lambda x: operator.iadd(torch.zeros(2, 4), x), "written into another"),
    "index_put_ of a plain tensor": (
        lambda x: torch.zeros(2, 4).index_put_((torch.tensor([0]),), x[0]),
        "written into",
    ),
    "unknown in place": (lambda x: torch.zeros(2, 4).addcmul_(x, x), "written into another"),
    "floor division in place": (after(statement("y //= x")), "__ifloordiv__ writes"),
    "out": (lambda x: torch.sin(x, out=torch.empty(2, 4)), "sin with out="),
    "out of a jet": (after(lambda y, x: torch.sin(plain.expand(2, 4), out=y)), "sin with out="),
    "view": (after(lambda y, x: (y[:, 0].add_(1), y)[1]), "in place on a view"),
    "view and itself": (after(lambda y, x: y[:, 0].add_(1) + y[:, 0]), "in place on a view"),
    "other view": (after(lambda y, x: (y.view(-1), y.mul_(2))[0]), "in place on a view"),
    "view written elsewhere": (after(statement("z = y[:, 0]\nz += 1\ny[:, 1] = z")), "in place on a view"),
    "view of a view": (after(statement("z = y[:, 1:]\nw = z[0]\nz += 1\ny[:, 1:] = z")), "in place on a view"),
    "older view": (after(statement("w = y[0]\ny[:, 0] += 1")), "in place on a view"),
    "view after writing back": (after(statement("z = y[:, 0]\nz += 1\ny[:, 0] = z\nz * 2")), "in place on a view"),
    "reshaped view": (after(lambda y, x: (y.reshape(-1).add_(1), y)[1]), "in place on a view"),
    "another shape in place": (after(lambda y, x: y.unsqueeze_(0)), "change the shape or dtype"),
    "resize": (after(lambda y, x: y.resize_(2, 2)), "resize_ writes"),
    "no_grad in place": (after(lambda y, x: torch.no_grad()(lambda: y.add_(1))()), "under no_grad"),
    "no_grad item": (after(lambda y, x: torch.no_grad()(lambda: operator.setitem(y, 0, 1.0))()), "under no_grad"),
    "separated index": (lambda x: x.reshape(2, 2, 2)[[0], :, [1]], "both sides of a slice"),
    "separated item": (lambda x: operator.setitem(x.reshape(2, 2, 2) * 1, ([0], slice(None), [1]), 0.0), "both sides"),
    "another dtype's view": (lambda x: x.view(torch.int64), "view as another dtype"),
    "numpy": (lambda x: x.numpy(), "conversion to numpy"),
    "numpy array": (lambda x: np.asarray(x), "conversion to numpy"),
    "numpy function": (lambda x: np.sin(x), "sin of numpy"),
    "numpy product": (lambda x: np.ones(4) * x, "multiply of numpy"),
    "tensor": (lambda x: torch.tensor(x), "0-d tensor"),
    "tensor of numbers": (lambda x: torch.tensor([x[0, 0], 1.0]), "0-d tensor"),
    "as_tensor": (lambda x: torch.as_tensor(x[0]), "0-d tensor"),
    "copy": (copy.copy, "by copy or pickle"),
    "deepcopy": (copy.deepcopy, "by copy or pickle"),
    "old function": (OldStyle.apply, "autograd.Function"),
    "new function": (OnlyOnce.apply, "autograd.Function"),
    "reentrant checkpoint": (lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=True), "Function"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("quiet", [True, False])
def test_what_cannot_be_followed_is_refused(name: str, quiet: bool) -> None:
    f, words = REFUSED[name]
    with pytest.raises(CannotFollowError, match=words):
        by_layout(f, torch.rand(2, 4), first_order(4), quiet)


ERRORS: dict[str, Any] = {
    "scripted function": scripted,
    "vmap": lambda x: torch.func.vmap(torch.sin)(x),
    "parameter": lambda x: nn.Parameter(x),
    "backward": lambda x: x.sum().backward(),
    "grad": lambda x: torch.autograd.grad(x.sum(), x),
    "method of the class": lambda x: torch.Tensor.mul(x, x),
    "length of a scalar": lambda x: len(x.sum()),
    "shapes that do not fit": lambda x: x + torch.zeros(3),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", ERRORS)
def test_what_torch_refuses_is_an_error(name: str) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        propagated(ERRORS[name], torch.rand(2, 4))


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scripted_modules_are_followed() -> None:
    module = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double())
    for _ in range(3):  # torch optimises it meanwhile
        module(torch.rand(2, 4, dtype=double)).sum().backward()
    check(Case("scripted", module), "first")
    check(Case("scripted", module), "diagonal")


# -------------------------------------------------------------------- a jet and its propagation


def test_a_jet_that_outlives_its_call_is_a_constant() -> None:
    kept: dict[str, Any] = {}

    def f(x):
        before = kept.get("x", 1.0)
        kept["x"] = x.sin()
        return x * before

    x = torch.rand(2, 4, dtype=double)
    jet, propagation = seeded(x, first_order(4))
    f(jet)
    propagation.alive = False
    value, (rows,) = opened(f(seeded(x, first_order(4))[0]))
    torch.testing.assert_close(value, x * x.sin())
    torch.testing.assert_close(rows, torch.eye(4, dtype=double)[:, None] * x.sin())
    assert torch.equal(kept["x"].cos().value, x.sin().cos())  # it belongs to a living one
    assert isinstance(jet + 1, torch.Tensor)  # and this one to none


@pytest.mark.parametrize("changed", ["weight", "bias"])
def test_a_weight_that_changes_after_its_linear_layer_is_told(changed: str) -> None:
    """The layer is multiplied out later, when the weight would be another."""

    def f(x, used=lambda y: y.sin()):
        state = {"weight": torch.eye(4, dtype=double), "bias": torch.ones(4, dtype=double)}
        y = F.linear(x, **state)
        state[changed].mul_(3)
        return used(y)

    x = torch.rand(3, 4, dtype=double)
    truths = {f: (x + 1).cos(), lambda x: f(x, torch.clone): torch.ones_like(x)}
    for function, truth in truths.items():
        torch.testing.assert_close(diag_jac(function)(x), truth)
        with pytest.raises(CannotFollowError, match="changed in place"):
            opened(function(seeded(x, first_order(4))[0]))


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.GRU(3, 2, batch_first=True), nn.LayerNorm(3)])
def test_parameters_of_a_module_may_depend_on_the_input(module: nn.Module) -> None:
    """A hypernetwork: what ``make_functional`` takes for parameters are jets."""
    f, params = make_functional(module.double())

    def g(x):
        y = f({name: value + x.sum().sin() for name, value in params.items()}, torch.ones(1, 4, 3, dtype=double))
        return (y[0] if isinstance(y, tuple) else y).sum().reshape(1)

    x = torch.rand(3, dtype=double)
    truth = torch.autograd.functional.jacobian(g, x)
    for method in ("auto", "taylor", "forward", "reverse"):
        torch.testing.assert_close(batch_jac(g, batch_dims=0, method=method)(x), truth)
    assert explain(batch_jac(g, batch_dims=0, method="taylor"))(x).plan.route == "taylor"


def test_an_output_of_one_number_a_sample_is_followed() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    f = lambda x: net(x).squeeze(1)
    assert explain(laplacian(f, method="taylor"))(torch.rand(5, 3, dtype=double)).plan.route == "taylor"


def branching(x):
    return x.sin() if isinstance(x, torch.Tensor) else x * 1.0


def test_what_cannot_be_verified_under_vmap_is_not_followed() -> None:
    x = torch.rand(2, 3, 4, dtype=double)
    torch.testing.assert_close(torch.func.vmap(diag_jac(branching))(x), x.cos())
    torch.testing.assert_close(diag_jac(branching)(x[0]), x[0].cos())
    torch.testing.assert_close(torch.func.vmap(diag_jac(branching))(x), x.cos())


def test_a_plan_made_under_vmap_is_verified_outside() -> None:
    taylor = diag_jac(branching, method="taylor")
    x = torch.rand(2, 3, 4, dtype=double)
    torch.func.vmap(taylor)(x)
    torch.testing.assert_close(taylor(x[0]), x[0].cos())
    assert explain(taylor)(x[0]).plan.route != "taylor"


ROUNDED = {
    "second derivatives that vanish": lambda x: torch.copysign(x, x.cos()) + torch.polar(x, x.detach()).real,
    "half": lambda x: (3 * x.half()).sin().double() * x,
    "bfloat16": lambda x: x.exp().bfloat16().to(x.dtype) * x,
    "float": lambda x: (3 * x.float()).sin().double() * x,
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_differs_by_rounding_alone_is_followed(name: str) -> None:
    x = torch.rand(5, 3, dtype=double)
    assert explain(laplacian(ROUNDED[name], method="taylor"))(x).plan.route == "taylor"


@pytest.mark.parametrize("size", [1e6, 1e14])
def test_a_derivative_that_is_missing_is_told_beside_a_large_constant(size: float) -> None:
    x = torch.rand(5, 3, dtype=double)
    f = lambda x: branching(x) + size
    for transform in (diag_jac, laplacian):
        assert explain(transform(f, method="taylor"))(x).plan.route != "taylor"


def test_a_number_of_an_evaluation_that_ended_is_not_written_to() -> None:
    old, propagation = seeded(torch.rand(2, 4), first_order(4))
    propagation.alive = False
    new, _ = seeded(torch.rand(2, 4), first_order(4))
    with pytest.raises(CannotFollowError, match="written into another"):
        old.add_(new)


def test_two_living_evaluations_do_not_meet() -> None:
    one, _ = seeded(torch.rand(2, 4), first_order(4))
    other, _ = seeded(torch.rand(2, 4), first_order(4))
    with pytest.raises(CannotFollowError, match="two evaluations"):
        one * other


def test_quiet_rules_record_nothing_and_inner_no_grad_is_constant() -> None:
    layer = nn.Linear(4, 4)

    def f(x):
        assert torch.is_grad_enabled()
        with torch.no_grad():
            constant = layer(x)
        return layer(x).tanh() * constant

    x = torch.rand(2, 4)
    value, (rows,) = by_layout(f, x, first_order(4), quiet=True)
    assert not value.requires_grad
    assert not rows.requires_grad
    loud, (loud_rows,) = by_layout(f, x, first_order(4))
    assert loud.requires_grad
    torch.testing.assert_close(rows, loud_rows)


def test_an_error_in_a_quiet_rule_leaves_gradients_on() -> None:
    with pytest.raises(RuntimeError):
        by_layout(lambda x: x + torch.zeros(3), torch.rand(2, 4), first_order(4), quiet=True)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "f", [lambda x: x.sin().sum(1), lambda x: torch.cat([x, x]), lambda x: F.linear(x, plain[None])]
)
def test_empty_batches(f) -> None:
    value, (rows, second) = propagated(f, torch.zeros(0, 4, dtype=double), "diagonal")
    assert value.shape == f(torch.zeros(0, 4, dtype=double)).shape
    assert rows.shape == (4, *value.shape)
    assert second is None or second.shape == (4, *value.shape)


def test_dtypes_are_promoted_as_of_tensors() -> None:
    x = torch.rand(2, 4)
    pairs = (plain, torch.tensor(2.0, dtype=double), torch.arange(4), 2, 2.5, torch.ones(4, dtype=torch.bfloat16))
    for other in pairs:
        for operation in (operator.add, operator.sub, operator.mul, operator.truediv, torch.pow, torch.maximum):
            if operation is torch.maximum and not isinstance(other, torch.Tensor):
                continue
            for f in (lambda x, o=other, g=operation: g(x, o), lambda x, o=other, g=operation: g(x, x * o)):
                value, (rows,) = propagated(f, x)
                assert value.dtype == rows.dtype == f(x).dtype


def test_joined_dtypes_are_promoted() -> None:
    value, (rows,) = propagated(lambda x: torch.cat([x, x.double(), x.bfloat16()], 1), torch.rand(2, 4))
    assert value.dtype == rows.dtype == double


# -------------------------------------------------------------------- a jet in a narrow frame

narrow, wide = nn.Linear(8, 2).double(), nn.Linear(2, 8).double()


def in_place(y):
    y[:, 0] = y[:, 1].sin()
    return y


def twice(y):
    return F.silu(y, inplace=True) + y


def looked_at(y):
    y.reshape(-1).sum()
    return wide(y.mul_(2)) + y.sum()


NARROWED = {
    "item": lambda x: wide(in_place(narrow(x).tanh())),
    "method": lambda x: wide(narrow(x).tanh().mul_(2).cumsum(1)),
    "flag": lambda x: twice(narrow(x).tanh()),
    "sum with the input": lambda x: narrow(x).tanh().add_(x[:, :2]).sin(),
    "copy": lambda x: looked_at(narrow(x).tanh()),
}


@pytest.mark.parametrize("name", NARROWED)
def test_in_place_in_a_narrow_frame(name: str) -> None:
    f, x = NARROWED[name], torch.rand(3, 8, dtype=double)
    propagation = Propagation((3,))
    y = f(Jet(x, (propagation.identity(8, x),), Frame(propagation, first_order(8))))
    assert propagation.narrowed
    value, (rows,) = opened(y)
    truth, (wanted,) = propagated(f, x)
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(rows, wanted)
    torch.testing.assert_close(value, f(x))


def test_views_in_a_narrow_frame_do_not_change_in_place() -> None:
    x = torch.rand(3, 8, dtype=double)
    for f in (lambda h: (h[:, 0].add_(1), h)[1], lambda h: (h[:, 0], h.add_(1))[0]):
        propagation = Propagation((3,))
        jet = Jet(x, (propagation.identity(8, x),), Frame(propagation, first_order(8)))
        with pytest.raises(CannotFollowError, match="in place on a view"):
            f(narrow(jet).tanh()).sin()


# -------------------------------------------------------------------- what a jet has of a tensor


def test_a_jet_has_every_name_of_a_tensor() -> None:
    jet, _ = seeded(torch.rand(2, 4), first_order(4))
    kept = KEPT | {"__dlpack_c_exchange_api__", "__slotnames__"}  # the latter made by pickle
    missing = [name for name in dir(torch.Tensor) if name not in kept and not hasattr(type(jet), name)]
    assert not missing


@pytest.mark.parametrize("name", ["shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout", "is_cuda"])
def test_attributes(name: str) -> None:
    x = torch.rand(2, 4)
    jet, _ = seeded(x, first_order(4))
    assert getattr(jet, name) == getattr(x, name)


def test_questions() -> None:
    jet, _ = seeded(torch.rand(2, 4), first_order(4))
    assert (jet.size(), jet.size(1), jet.dim(), jet.numel(), len(jet)) == ((2, 4), 4, 2, 8, 2)
    assert jet.is_floating_point() and not jet.is_complex() and jet.stride() == (4, 1)
    assert "Jet((2, 4)" in repr(jet)
    assert f"{jet[0, 0] * 0 + 2:.1f}" == "2.0"
    assert int(jet[0, 0] * 0 + 2) == 2
    assert {jet: 1}[jet] == 1
    assert torch.equal(jet == jet * 1, torch.ones(2, 4, dtype=torch.bool))


def test_an_order_that_cannot_be_carried_is_refused() -> None:
    three = closed(((1,), (2,), (3,)))
    with pytest.raises(CannotFollowError, match="matrix_exp has no rule, so it is not carried to order 3"):
        by_layout(lambda x: torch.linalg.matrix_exp(x[:, :, None]), torch.rand(2, 1), three)


KINKS = {
    "elu": (lambda x: F.elu(x, 2.0), 0.0),
    "elu in place": (lambda x: F.elu(x * 1, inplace=True), 0.0),
    "selu": (F.selu, 0.0),
    "celu": (lambda x: F.celu(x, 0.5), 0.0),
    "softplus": (lambda x: F.softplus(x, 2.0, 1.0), 0.5),
    "softplus by default": (F.softplus, 20.0),
    "relu": (F.relu, 0.0),
    "relu6": (F.relu6, 6.0),
    "hardtanh": (F.hardtanh, -1.0),
    "hardswish": (F.hardswish, 3.0),
    "softshrink": (F.softshrink, 0.5),
    "leaky_relu": (F.leaky_relu, 0.0),
}


@pytest.mark.parametrize("name", KINKS)
def test_derivatives_at_kinks_are_torchs(name: str) -> None:
    f, kink = KINKS[name]
    settling = torch.linspace(-1.7, 1.3, 6, dtype=double).reshape(2, 3)  # a kink would show when the route is verified
    x = torch.full_like(settling, kink)
    for transform in (diag_jac, hess_diag):
        found, truth = transform(f, method="taylor"), transform(f, method="reverse")
        torch.testing.assert_close(found(settling), truth(settling))
        torch.testing.assert_close(found(x), truth(x))
        assert explain(found)(x).plan.route == "taylor"

"""Tensors of a class of another library as what is differentiated: of their class to f, plain in every result."""

from __future__ import annotations

import pytest
import torch
from functions import OldStyle, Saving
from torch import nn
from torch.nn import functional as F

from jacfunc import (
    ArgumentTypeError,
    UnsupportedOperationError,
    batch_jac,
    biharmonic,
    check_independent,
    diag_jac,
    directional,
    explain,
    hess_diag,
    laplacian,
    make_functional,
    partials,
    residual,
)

METHODS = ("auto", "taylor", "forward", "reverse")
DOUBLE = torch.float64


class Labelled(torch.Tensor):
    """Columns by name, as PINA's ``LabelTensor`` has them; its copies ask for the names."""

    def __new__(cls, x, names):
        made = torch.Tensor.as_subclass(x, cls)
        made.names_of = list(names)
        return made

    def __init__(self, *_):
        pass

    def clone(self):
        return Labelled(super().clone(), self.names_of)

    def extract(self, *names):
        return self.as_subclass(torch.Tensor)[..., [self.names_of.index(name) for name in names]]


class Rotation(torch.Tensor):
    """Of a kind, as pypose's ``LieTensor`` is: results of some operations are of the kind again."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        if type(result) is Rotation:
            kinds = [item.kind for item in args if hasattr(item, "kind")]
            return of_kind(result, kinds[0]) if kinds else result.as_subclass(torch.Tensor)
        return result

    def turned(self):
        plain = self.as_subclass(torch.Tensor)
        if self.kind == "angles":
            return of_kind(torch.stack([plain.cos().prod(-1), *plain.sin().unbind(-1)], -1), "quaternions")
        return of_kind(2 * plain[..., 1:].atan2(plain[..., :1]), "angles")


class Weighted(torch.Tensor):
    """A product of its own, and an attribute in a slot."""

    __slots__ = ("weight",)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.mul, torch.Tensor.mul) or getattr(func, "__name__", "") == "__mul__":
            one, other = (item.as_subclass(torch.Tensor) if isinstance(item, cls) else item for item in args)
            return torch.atan2(one, other + 3.0) * args[0].weight
        return super().__torch_function__(func, types, args, kwargs or {})


class Normal(torch.Tensor):
    """What it does is an operation whose second derivative torch gets wrong."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tanh:
            return F.layer_norm(args[0].as_subclass(torch.Tensor), (3,))
        return super().__torch_function__(func, types, args, kwargs or {})


class Cubes(Saving):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def backward(ctx, cotangent):
        return 3 * cotangent * ctx.saved_tensors[0] ** 2

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * tangent * ctx.saved_tensors[0] ** 2


def of_kind(x, kind):
    made = torch.Tensor.as_subclass(x, Rotation)
    made.kind = kind
    return made


def weighted(x):
    made = x.as_subclass(Weighted)
    made.weight = 2.5
    return made


def labelled(x):
    return Labelled(x, "abc")


def by_name(x):
    return torch.cat([x.extract("a").sin() * x.extract("c"), x.extract("b") ** 3], -1)


def by_place(x):
    return torch.cat([x[..., :1].sin() * x[..., 2:], x[..., 1:2] ** 3], -1)


def quaternion(x):
    return torch.stack([x.cos().prod(-1), *x.sin().unbind(-1)], -1)


CASES = {
    "columns by name": (labelled, by_name, by_place),
    "names are kept by a copy": (labelled, lambda x: by_name(x.clone()), by_place),
    "a method": (lambda x: of_kind(x, "angles"), lambda x: x.turned(), quaternion),
    "results of its class": (
        lambda x: of_kind(x, "angles"),
        lambda x: (x * 0.5).turned().turned().sin(),
        lambda x: (2 * quaternion(x * 0.5)[..., 1:].atan2(quaternion(x * 0.5)[..., :1])).sin(),
    ),
    "plain operations": (lambda x: of_kind(x, "angles"), lambda x: x.sin() * 2.0, lambda x: x.sin() * 2.0),
    "a product of its own": (weighted, lambda x: x * x.cos(), lambda x: 2.5 * torch.atan2(x, x.cos() + 3.0)),
    "what is corrected": (
        lambda x: x.as_subclass(Normal),
        lambda x: x.tanh().sin(),
        lambda x: F.layer_norm(x, (3,)).sin(),
    ),
    "corrected by its name": (labelled, lambda x: F.layer_norm(x, (3,)), lambda x: F.layer_norm(x, (3,))),
    "a look at the class": (
        labelled,
        lambda x: x.sin() if isinstance(x, Labelled) else x.cos(),
        torch.sin,
    ),
    "in a tree": (
        lambda x: {"x": labelled(x), "y": x + 1.0},
        lambda t: {"u": by_name(t["x"]) * t["y"][..., :2]},
        lambda t: {"u": by_place(t["x"]) * t["y"][..., :2]},
    ),
    "a function": (labelled, lambda x: Cubes.apply(x) * x.extract("a"), lambda x: x**3 * x[..., :1]),
    "a function in the old style": (
        lambda x: of_kind(x, "angles"),
        lambda x: OldStyle.apply(x.turned()),
        lambda x: quaternion(x).sin(),
    ),
}


def batch():
    torch.manual_seed(3)
    return 0.3 * torch.randn(4, 3, dtype=DOUBLE)


def plain(tree):
    return (
        {key: plain(value) for key, value in tree.items()} if isinstance(tree, dict) else tree.as_subclass(torch.Tensor)
    )


def assert_same(found, wanted):
    if isinstance(found, dict):
        for key in wanted:
            assert_same(found[key], wanted[key])
    else:
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_derivatives_by_every_route(name, method):
    assert_right(name, method, [hess_diag])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_more_derivatives_by_every_route(name, method):
    assert_right(name, method, [batch_jac, laplacian])


def assert_right(name, method, transforms):
    made, f, truth = CASES[name]
    for transform in transforms:
        x = made(batch())
        try:
            found, value = transform(f, method=method, return_value=True)(x)
        except UnsupportedOperationError as error:
            assert method == "forward" and "old style" in name, error
            continue
        assert_same(found, transform(truth)(plain(x)))
        assert_same(value, truth(plain(x)))


SLOW = ("in a tree", "a look at the class", "plain operations", "names are kept by a copy", "a method")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
def test_gradients_of_parameters_and_of_what_came_in(name):
    made, f, truth = CASES[name]
    if name == "in a tree":
        f, truth, made = by_name, by_place, labelled
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def gradients(f, x):
        def through(x):
            inner = f(x)
            return net(inner.as_subclass(torch.Tensor)[..., :1].expand(*x.shape))

        for transform in (batch_jac, hess_diag):
            yield torch.autograd.grad(
                transform(through)(x).square().sum(), [*net.parameters(), x], materialize_grads=True
            )

    own, other = made(batch()).requires_grad_(), batch().requires_grad_()
    for found, wanted in zip(gradients(f, own), gradients(truth, other), strict=True):
        torch.testing.assert_close(list(map(plain, found)), list(wanted))


def test_attributes_may_change_between_calls():
    derivative = diag_jac(lambda x: x.as_subclass(torch.Tensor).sin() * getattr(x, "weight", 1.0))
    for weight in (1.0, 2.0, -3.0):
        x = batch().as_subclass(Weighted)
        x.weight = weight
        torch.testing.assert_close(derivative(x), weight * batch().cos())
    torch.testing.assert_close(derivative(batch()), batch().cos())
    swapped = Labelled(batch(), "cab")
    torch.testing.assert_close(batch_jac(by_name)(swapped), batch_jac(by_place)(batch()[:, [1, 2, 0]])[..., [2, 0, 1]])


def test_all_transforms_and_options():
    x, y = batch(), labelled(batch())
    torch.testing.assert_close(batch_jac(by_name, sample_chunk_size=2)(y), batch_jac(by_place)(x))
    torch.testing.assert_close(batch_jac(by_name, chunk_size=1)(y), batch_jac(by_place)(x))
    torch.testing.assert_close(biharmonic(by_name)(y), biharmonic(by_place)(x))
    v = torch.ones_like(x)
    for direction in (v, labelled(v)):
        torch.testing.assert_close(directional(by_name)(y, direction), directional(by_place)(x, v))
    names = {"inputs": "a b c", "outputs": "u v"}
    found = partials(by_name, "u_ac v_bb", **names)(y)
    wanted = partials(by_place, "u_ac v_bb", **names)(x)
    for name in ("u_ac", "v_bb", "a", "c"):
        assert type(getattr(found, name)) is torch.Tensor
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
    equation = residual(by_name, lambda d: d.u_a + d.v * d.b, **names)
    torch.testing.assert_close(equation(y), residual(by_place, lambda d: d.u_a + d.v * d.b, **names)(x))
    assert check_independent(by_name)(y)
    assert not y.requires_grad and y.names_of == ["a", "b", "c"]
    with torch.inference_mode():
        torch.testing.assert_close(batch_jac(by_name)(y), batch_jac(by_place)(x))


@pytest.mark.parametrize("method", METHODS)
def test_a_class_beside_what_is_differentiated(method):
    def f(w, x):
        return w * x.sin() if type(w) is Weighted else w.extract("b") * x.sin()

    x = batch()
    torch.testing.assert_close(diag_jac(f, method=method)(labelled(x), x), x[:, 1:2] * x.cos())
    w = weighted(x.clone())
    truth = diag_jac(lambda w, x: 2.5 * torch.atan2(w, x.sin() + 3.0))
    for weight in (2.5, 5.0):
        w.weight = weight
        torch.testing.assert_close(diag_jac(f, method=method)(w, x), truth(batch(), x) * (weight / 2.5))


def test_aux_is_plain_by_every_route():
    for method in METHODS:
        _, aux = diag_jac(lambda x: (x.sin(), {"x": x}), method=method, has_aux=True)(of_kind(batch(), "angles"))
        assert type(aux["x"]) is torch.Tensor


def test_a_module_of_plain_layers():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    f, params = make_functional(net)
    for method in METHODS:
        torch.testing.assert_close(diag_jac(f, method=method)(params, labelled(batch())), diag_jac(f)(params, batch()))
        torch.testing.assert_close(diag_jac(net, method=method)(labelled(batch())), diag_jac(net)(batch()))
    assert "a class of its own (Labelled)" in str(explain(diag_jac(lambda x: x.sin() * 1.0))(labelled(batch())))


def test_compiled_is_refused_before_any_work():
    calls = []
    with pytest.raises(ArgumentTypeError, match=r"args\[0\]\['x'\] is a Labelled, .*x\.as_subclass\(torch\.Tensor\)"):
        diag_jac(lambda t: calls.append(1), compile=True)({"x": labelled(batch())})
    assert not calls

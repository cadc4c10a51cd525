"""Traps in what a call compares, by another hand: values of a plain forward, whatever f does inside."""

from __future__ import annotations

import copy
import functools
import operator
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from judging import METHODS
from quick import mostly_slow
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize, grad, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.overrides import TorchFunctionMode, is_tensor_like
from torch.utils._python_dispatch import TorchDispatchMode

from jacfunc import UnsupportedOperationError, diag_jac, hess_diag, laplacian

Function = Callable[[Any], Any]
DOUBLE = torch.float64
X = torch.tensor([[0.3], [-1.2], [0.7], [1.9]], dtype=DOUBLE)
torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()
ORDERS = {"diag_jac": diag_jac, "hess_diag": hess_diag}


def backward(f: Function, x: torch.Tensor, order: int) -> torch.Tensor:
    """Torch's own, of the plain function."""
    x = x.clone().requires_grad_()
    y = f(x)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True, materialize_grads=True)
        y = y + 0 * x
    return y.detach()


# ------------------------------------------------------------ values that could be others than a plain forward's


def asked(question: Function) -> Function:
    """Another value where the answer is no."""
    return lambda x: x.sin() + (1.0 if question(x) else 2.0)


def tried(action: Function) -> Function:
    def f(x: Any) -> Any:
        try:
            action(x)
        except Exception:
            return x.sin() + 2
        return x.sin() + 1

    return f


def recorded(f: Function) -> Function:
    """With gradients on, as a function that differentiates inside has to have it."""

    def g(x: Any) -> Any:
        with torch.enable_grad():
            return f(x)

    return g


def slope(y: Any, by: Any) -> Any:
    return torch.autograd.grad(y.sum(), by, create_graph=True)[0]


def force(x: Any) -> Any:
    h = x + 0
    h = h if h.requires_grad else h.requires_grad_()
    return -slope(NET(h), h)


def scaled(x: Any) -> Any:
    w = torch.ones_like(x).requires_grad_()
    return slope((w * x).sin(), w)


def shifted_twice(x: Any) -> Any:
    w = torch.zeros_like(x).requires_grad_()
    return slope(slope((x + w).exp(), w), w)


def transposed_twice(x: Any) -> Any:
    """Forward mode out of two backwards."""
    w, v = torch.zeros_like(x).requires_grad_(), torch.ones_like(x).requires_grad_()
    (pulled,) = torch.autograd.grad((x * (w + 1)).sin(), w, v, create_graph=True)
    return slope(pulled, v)


def dual(x: Any) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(forward_ad.make_dual(x, torch.ones_like(x)).sin()).tangent


def hooked(on: Callable[[Any], Any]) -> Function:
    def f(x: Any) -> Any:
        h = x.sin()
        if h.requires_grad:
            on(h)
        return h * x

    return f


@functools.singledispatch
def by_class(x: Any) -> Any:
    return x.sin() + 1


@by_class.register
def _(x: torch.Tensor) -> Any:
    return x.sin()


def matched(x: Any) -> Any:
    match x:
        case torch.Tensor():
            return x.sin()
        case _:
            return x.sin() + 1


class Cosine(TorchFunctionMode):
    """A user's own mode exchanges an operation."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (torch.cos if function in (torch.sin, torch.Tensor.sin) else function)(*args, **(kwargs or {}))


class Below(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sine, cosine = torch.ops.aten.sin.default, torch.ops.aten.cos.default
        return (cosine if function is sine else function)(*args, **(kwargs or {}))


class Shifting(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result + 1 if function is torch.Tensor.sin else result


def inside(mode: Any, x: Any) -> Any:
    with mode():
        return x.sin() * x


def packed(x: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (t, 1), operator.itemgetter(0)):
        return x.sin() * x


def tagged(x: Any) -> Any:
    x.tag = 2.0
    return x.sin() * x.tag


VALUES: dict[str, Function] = {
    "vmap of grad": lambda x: vmap(grad(lambda v: NET(v).sum()))(x),
    "grad by another": lambda x: vmap(grad(lambda w, v: (w * v).sin().sum()), (None, 0))(torch.ones(1, dtype=DOUBLE), x),
    "jvp": lambda x: jvp(torch.sin, (x,), (torch.ones_like(x),))[1],
    "vjp": lambda x: vjp(lambda x: x**3, x)[1](torch.ones_like(x))[0],
    "linearize": lambda x: linearize(torch.sin, x)[1](torch.ones_like(x)),
    "vmap of jacrev": lambda x: vmap(jacrev(NET))(x)[:, :, 0],
    "vmap of jacfwd in chunks": lambda x: vmap(jacfwd(NET), chunk_size=3)(x)[:, :, 0],
    "functionalize": lambda x: functionalize(lambda x: (x * 1).sin_())(x),
    "functional_call": lambda x: functional_call(NET, {k: v * 2 for k, v in NET.named_parameters()}, (x,)),
    "a derivative of ours": lambda x: diag_jac(NET)(x) + laplacian(NET)(x),
    "a force": recorded(force),
    "by a factor": recorded(scaled),
    "by a shift, twice": recorded(shifted_twice),
    "two backwards": recorded(transposed_twice),
    "dual numbers": dual,
    "functional.jvp": lambda x: torch.autograd.functional.jvp(torch.sin, x, torch.ones_like(x), create_graph=True)[1],
    "functional.hvp": lambda x: torch.autograd.functional.hvp(
        lambda x: (x**4).sum(), x, torch.ones_like(x), create_graph=True
    )[1],
    "functional.jacobian": lambda x: torch.autograd.functional.jacobian(
        lambda x: (x**3).sum(0), x, create_graph=True
    ).sum(0),
    "a hook that looks": hooked(lambda h: h.register_hook(lambda g: None)),
    "a hook of its node": hooked(lambda h: h.grad_fn and h.grad_fn.register_hook(lambda *_: None)),
    "a retained gradient": hooked(lambda h: h.retain_grad()),
    "hooks of what is saved": packed,
    "dispatch by class": by_class,
    "match": matched,
    "its class's name": asked(lambda x: type(x).__name__ == "Tensor"),
    "tensor or array": asked(lambda x: isinstance(x, (np.ndarray, torch.Tensor))),
    "is_tensor": asked(torch.is_tensor),
    "is_tensor_like": asked(is_tensor_like),
    "a method that it has": asked(lambda x: hasattr(x, "retain_grad")),
    "dtype": asked(lambda x: x.dtype is DOUBLE and torch.is_floating_point(x)),
    "type": asked(lambda x: x.type() == "torch.DoubleTensor"),
    "strides": asked(lambda x: x.stride() == (1, 1) and x.is_contiguous()),
    "size": asked(lambda x: type(x.shape) is torch.Size and x.nbytes == 32),
    "what is recorded": asked(lambda x: torch.is_grad_enabled()),
    "inference": asked(lambda x: not x.is_inference()),
    "a wrapper": asked(lambda x: not torch._C._functorch.is_functorch_wrapped_tensor(x)),
    "a tangent": asked(lambda x: forward_ad.unpack_dual(x).tangent is None),
    "how it is formatted": asked(lambda x: f"{x}".startswith("tensor(")),
    "its version": lambda x: x.sin() * (1 + x._version),
    "its pointer": tried(lambda x: 1 / (x.data_ptr() != 0)),
    "a weak reference": tried(weakref.ref),
    "a hash": tried(hash),
    "what numpy makes": tried(lambda x: np.sin(x)),
    "a plain copy": lambda x: copy.copy(x).sin(),
    "a cache": functools.lru_cache(lambda x: x.sin()),
    "dlpack": lambda x: torch.from_dlpack(x.detach()) * x,
    "a number of each": lambda x: torch.stack([v.sin() * float(v.item()) for v in x]),
    "an unbound method": lambda x: torch.Tensor.sin(x),
    "an operator of aten": lambda x: torch.ops.aten.sin.default(x),
    "a base class's method": lambda x: torch._C.TensorBase.sin(x),
    "an attribute of its own": tagged,
    "a mode of functions": functools.partial(inside, Cosine),
    "a mode of dispatch": functools.partial(inside, Below),
    "a subclass": lambda x: (x.as_subclass(Shifting).sin() * 2).as_subclass(torch.Tensor),
}  # fmt: skip


def by_workers(x: Any) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda k: (k * x).sin(), (1.0, 2.0)))


def by_a_worker(x: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: NET(x) * x).result()


VALUES |= {"threads": by_workers, "a thread": by_a_worker}
QUICK = ("vmap of grad", "a force", "by a factor", "match", "a wrapper", "a mode of functions", "dtype", "its version")
NUMBERS = [name for name in VALUES if name not in ("what numpy makes",)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("name", mostly_slow(VALUES, QUICK))
def test_the_value_is_that_of_a_plain_forward(name: str, method: str) -> None:
    f = VALUES[name]
    plain = f(X.clone()).detach()
    for order, transform in enumerate(ORDERS.values(), 1):
        try:
            found, value = transform(f, method=method, return_value=True)(X.clone())
        except UnsupportedOperationError:
            assert method != "auto" or name not in NUMBERS
            continue
        assert torch.allclose(value.detach(), plain)
        assert torch.allclose(found.detach().flatten(), backward(f, X, order).flatten(), atol=1e-8)


INNER = ("vmap of grad", "vmap of jacrev", "functional_call", "a force", "a derivative of ours")


@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("name", mostly_slow(INNER, INNER[3:4]))
def test_parameter_gradients_of_what_is_differentiated_inside(name: str, method: str) -> None:
    f, weight = VALUES[name], NET[0].weight
    try:
        derivative = diag_jac(f, method=method)(X)
    except UnsupportedOperationError:
        assert method != "auto"
        return
    (found,) = torch.autograd.grad(derivative.square().sum(), weight)
    x = X.clone().requires_grad_()
    (truth,) = torch.autograd.grad(slope(f(x), x).square().sum(), weight)
    assert torch.allclose(found, truth, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["jvp", "vmap of grad", "dtype", "is_tensor", "an operator of aten", "what is recorded"]
)
def test_values_compiled(name: str) -> None:
    f = VALUES[name]
    found, value = diag_jac(f, compile=True, return_value=True)(X)
    assert torch.allclose(value, f(X)) and torch.allclose(found, backward(f, X, 1))

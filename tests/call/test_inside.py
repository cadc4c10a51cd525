"""Tests ``jacfunc/call/inside.py``: transforms within functions that jets go through, held against reverse mode.

The truth of a case is the same function written for one sample with ``torch.func.jacrev``, in double precision; its
dense Jacobian and Hessian are what the outer transforms must give, and its gradients those of the parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.utils.checkpoint import checkpoint

import jacfunc
from jacfunc import (
    batch_jac,
    biharmonic,
    curl,
    diag_jac,
    directional,
    divergence,
    hess_diag,
    laplacian,
    partials,
    residual,
)
from jacfunc.call.request import requested

Function = Callable[..., Any]
torch.manual_seed(0)


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


V, U, C = _network(2, 2), _network(2, 1), _network(2, 1)
"""A vector field, a potential and a coefficient, of two coordinates."""
NETWORKS = [*V.parameters(), *U.parameters(), *C.parameters()]
SIDE = torch.tensor([0.4, -0.7], dtype=torch.float64)


def _points(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _of_one(module: Function) -> Function:
    return lambda x: module(x[None])[0]


def _second(f: Function) -> Function:
    return jacrev(jacrev(f))


def _lap(f: Function) -> Function:
    return lambda x: _second(f)(x).diagonal(dim1=-2, dim2=-1).sum(-1)


v, u, c = _of_one(V), _of_one(U), _of_one(C)
NAMED = {"inputs": "x y", "outputs": "a b"}


def _named(x: torch.Tensor) -> torch.Tensor:
    d = partials(V, "a a_x b_xy a_yy", **NAMED)(x)
    return torch.stack([d.a * d.a_x, d.b_xy + d.x * d.a_yy], 1)


def _named_of_one(x: torch.Tensor) -> torch.Tensor:
    first, second = jacrev(v)(x), _second(v)(x)
    return torch.stack([v(x)[0] * first[0, 0], second[1, 0, 1] + x[0] * second[0, 1, 1]])


def _summed(x: torch.Tensor) -> torch.Tensor:
    d = partials(V, "a_xx+2*a_yy-0.3*a_x, b_y", **NAMED)(x)
    return torch.stack([*d], 1)


def _summed_of_one(x: torch.Tensor) -> torch.Tensor:
    first, second = jacrev(v)(x), _second(v)(x)
    return torch.stack([second[0, 0, 0] + 2 * second[0, 1, 1] - 0.3 * first[0, 0], first[1, 1]])


def _equation(x: torch.Tensor) -> torch.Tensor:
    parts = residual(V, lambda d: (d.a_x - d.b * d.a_yy, d.y * d.b_x), **NAMED)(x)
    return torch.stack(parts, 1)


def _equation_of_one(x: torch.Tensor) -> torch.Tensor:
    first, second = jacrev(v)(x), _second(v)(x)
    return torch.stack([first[0, 0] - v(x)[1] * second[0, 1, 1], x[1] * first[1, 0]])


def _with_all(x: torch.Tensor) -> torch.Tensor:
    derivative, value, aux = diag_jac(lambda z: (V(z), {"c": C(z)}), return_value=True, has_aux=True)(x)
    return derivative * value + aux["c"] * x.flip(1)


def _with_all_of_one(x: torch.Tensor) -> torch.Tensor:
    return jacrev(v)(x).diagonal() * v(x) + c(x) * x.flip(0)


def _closed_over(x: torch.Tensor) -> torch.Tensor:
    """The perturbations of the argument and of what is closed over are not to be taken for one another."""
    return diag_jac(lambda z: V(z * x) + x.square() * z.sin())(x)


def _closed_over_of_one(x: torch.Tensor) -> torch.Tensor:
    return jacrev(lambda z: v(z * x) + x.square() * z.sin())(x).diagonal()


def _given_beside(x: torch.Tensor) -> torch.Tensor:
    return diag_jac(lambda weight, z: V(z) * weight.sin() * z)(x, x)


def _given_beside_of_one(x: torch.Tensor) -> torch.Tensor:
    return jacrev(lambda z: v(z) * x.sin() * z)(x).diagonal()


def _deep(x: torch.Tensor) -> torch.Tensor:
    inner = lambda z: C(z) * diag_jac(U)(z)
    return C(x) * diag_jac(inner)(x)


def _deep_of_one(x: torch.Tensor) -> torch.Tensor:
    return c(x) * jacrev(lambda z: c(z) * jacrev(u)(z)[0])(x).diagonal()


def _apart(x: torch.Tensor) -> torch.Tensor:
    """Coordinates of the point in arguments of their own, both of which move."""
    place = lambda s, t: V(torch.cat([s * t, t + s.sin()], 1))
    one, other = batch_jac(place, argnums=(0, 1))(x[:, :1], x[:, 1:])
    return (one * other)[..., 0]


def _apart_of_one(x: torch.Tensor) -> torch.Tensor:
    jacobian = jacrev(lambda z: v(torch.stack([z[0] * z[1], z[1] + z[0].sin()])))(x)
    return jacobian[:, 0] * jacobian[:, 1]


def _tree(x: torch.Tensor) -> torch.Tensor:
    found = laplacian(lambda z: {"v": V(z["p"] * z["q"]), "c": C(z["q"])})({"p": x, "q": x.cos()})
    return found["v"] + found["c"]


def _tree_of_one(x: torch.Tensor) -> torch.Tensor:
    q = x.cos()
    by_p, by_q = _lap(lambda p: v(p * q))(x), _lap(lambda q: v(x * q))(q)
    return by_p + by_q + _lap(c)(q)


CASES: dict[str, tuple[Function, Function]] = {
    "flux": (lambda x: C(x) * diag_jac(U)(x), lambda x: c(x) * jacrev(u)(x)[0]),
    "diagonal": (lambda x: x * diag_jac(V)(x.sin()), lambda x: x * jacrev(v)(x.sin()).diagonal()),
    "divergence": (
        lambda x: C(x) * divergence(V)(x)[:, None] * x,
        lambda x: c(x) * jacrev(v)(x).trace() * x,
    ),
    "jacobian": (
        lambda x: torch.einsum("noi,ni->no", batch_jac(V)(x), V(x)),
        lambda x: jacrev(v)(x) @ v(x),
    ),
    "hessian": (
        lambda x: hess_diag(V)(x).sum(1) * C(x),
        lambda x: _second(v)(x).diagonal(dim1=1, dim2=2).sum(0) * c(x),
    ),
    "laplacian": (lambda x: laplacian(V)(x * x) * x, lambda x: _lap(v)(x * x) * x),
    "laplacian at the input": (lambda x: laplacian(V)(x) + V(x), lambda x: _lap(v)(x) + v(x)),
    "curl": (lambda x: curl(V)(x)[:, None] * x, lambda x: (jacrev(v)(x)[1, 0] - jacrev(v)(x)[0, 1]) * x),
    "along": (
        lambda x: directional(V, 2)(x, x.flip(1)),
        lambda x: torch.einsum("oij,i,j->o", _second(v)(x), x.flip(0), x.flip(0)),
    ),
    "along the same": (
        lambda x: directional(V)(x.exp(), SIDE) * x,
        lambda x: jacrev(v)(x.exp()) @ SIDE * x,
    ),
    "named": (_named, _named_of_one),
    "summed": (_summed, _summed_of_one),
    "equation": (_equation, _equation_of_one),
    "value and aux": (_with_all, _with_all_of_one),
    "closed over": (_closed_over, _closed_over_of_one),
    "given beside": (_given_beside, _given_beside_of_one),
    "three deep": (_deep, _deep_of_one),
    "two arguments": (_apart, _apart_of_one),
    "trees": (_tree, _tree_of_one),
}


def _dense(f: Function) -> Function:
    return jacrev(f)


def _squares(f: Function) -> Function:
    return lambda x: _second(f)(x).diagonal(dim1=1, dim2=2)


def _mixed(f: Function) -> Function:
    def found(x: torch.Tensor) -> torch.Tensor:
        first, second = jacrev(f)(x), _second(f)(x)
        return torch.stack([second[0, 0, 1], first[1, 0] + 0.5 * second[1, 1, 1], f(x)[0], second[1, 0, 0]])

    return found


def _by_name(f: Function) -> Function:
    found = partials(f, "a_xy, b_x+0.5*b_yy, a, b_xx", **NAMED)
    return lambda x: torch.stack([*found(x)], 1)


def _by_equation(f: Function) -> Function:
    return residual(f, lambda d: d.a_x * d.b_y + d.x * d.a, **NAMED)


def _equated(f: Function) -> Function:
    return lambda x: jacrev(f)(x)[0, 0] * jacrev(f)(x)[1, 1] + x[0] * f(x)[0]


OUTER: dict[str, tuple[Function, Function]] = {
    "diag_jac": (diag_jac, lambda f: lambda x: jacrev(f)(x).diagonal()),
    "batch_jac": (batch_jac, _dense),
    "divergence": (divergence, lambda f: lambda x: jacrev(f)(x).trace()),
    "hess_diag": (hess_diag, _squares),
    "laplacian": (laplacian, _lap),
    "partials": (_by_name, _mixed),
    "residual": (_by_equation, _equated),
}


def _close(found: torch.Tensor, true: torch.Tensor) -> None:
    torch.testing.assert_close(found, true, rtol=1e-8, atol=1e-9)


def _agrees(found: Function, true: Function, x: torch.Tensor, parameters: list[nn.Parameter]) -> None:
    """The same values, recorded or not and at the first call or later, and the same gradients of all parameters."""
    expected = vmap(true)(x)
    with torch.no_grad():
        _close(found(x), expected)
    for _ in range(2):
        value = found(x)
        _close(value, expected)
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    ours, theirs = (
        torch.autograd.grad((result * weights).sum(), parameters, allow_unused=True, materialize_grads=True)
        for result in (value, expected)
    )
    for own, other in zip(ours, theirs, strict=True):
        _close(own, other)


def _is_followed(f: Function, x: torch.Tensor) -> bool:
    transform = divergence(f)
    with requested(transform.transformed, transform.options, (x,), {}) as request:
        return transform.outcome(request)[1].route == "taylor"


PAIRS = list(itertools.product(CASES, OUTER))
QUICK = list(zip(CASES, itertools.cycle(OUTER), strict=False))
"""Every inner one once, and every outer one more than once."""


@pytest.mark.parametrize(
    ("case", "outer"), [pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in QUICK)) for pair in PAIRS]
)
def test_is_that_of_reverse_mode(case: str, outer: str) -> None:
    inner, of_one = CASES[case]
    transform, true = OUTER[outer]
    _agrees(transform(inner), true(of_one), _points(), NETWORKS)
    assert _is_followed(inner, _points())


# -------------------------------------------------------------------- what the inner transform is asked beside


def _reentrant(x: torch.Tensor) -> torch.Tensor:
    return checkpoint(lambda x: C(x) * diag_jac(U)(x), x, use_reentrant=False)


def _checkpointed(x: torch.Tensor) -> torch.Tensor:
    return C(x) * diag_jac(lambda z: checkpoint(U, z.sin(), use_reentrant=False))(x)


def _changed(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.mul_(x + 2)
    return diag_jac(V)(x) * x


def _changes_its_own(x: torch.Tensor) -> torch.Tensor:
    def own(z: torch.Tensor) -> torch.Tensor:
        z = z * z
        z += 1
        z[:, 0] *= 2
        return V(z)

    return diag_jac(own)(x) * x


def _constant(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        factor = diag_jac(V)(x)
    return factor * x


def _half_constant(x: torch.Tensor) -> torch.Tensor:
    def own(z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            factor = z.exp()
        return V(z) * factor + C(z.detach()) * z

    return diag_jac(own)(x) * x


def _decided(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0.5, diag_jac(V)(x), diag_jac(lambda z: z.abs().pow(2.5))(x))


PARTS = nn.ModuleDict({"v": V})
FUNCTIONAL, PARAMETERS = jacfunc.make_functional(V)

BESIDE: dict[str, Function] = {
    "forward": lambda x: C(x) * diag_jac(U, method="forward")(x),
    "reverse": lambda x: C(x) * diag_jac(U, method="reverse")(x),
    "taylor": lambda x: C(x) * diag_jac(U, method="taylor")(x),
    "chunks of rows": lambda x: C(x) * batch_jac(V, chunk_size=1)(x).sum(1),
    "chunks of squares": lambda x: C(x) * hess_diag(V, chunk_size=1)(x.sin()).sum(1),
    "parts of names": lambda x: torch.stack([*partials(V, "a_xx b_y a_xyy", **NAMED, chunk_size=3)(x)], 1)[:, :2] * x,
    "blocks": lambda x: C(x) * diag_jac(U, sample_chunk_size=3)(x),
    "one block": lambda x: C(x) * diag_jac(U, sample_chunk_size=100)(x),
    "unchecked": lambda x: C(x) * diag_jac(U, check=False)(x),
    "parameters": lambda x: C(x) * diag_jac(FUNCTIONAL)(PARAMETERS, x),
    "moving parameters": lambda x: diag_jac(lambda p, z: z.sin() * p["a"] * p["b"], check=False)(
        {"a": x, "b": 2.0}, x.cos()
    ),
    "more sample axes": lambda x: diag_jac(lambda z: z.sin() * z[..., :1], batch_dims=2)(x[:, :, None] * x[:, None])[
        ..., 0
    ],
    "the same point, more axes": lambda x: diag_jac(lambda z: z.sin() * z, batch_dims=2)(x[..., None])[..., 0] * x,
    "inputs of two axes": lambda x: batch_jac(lambda z: z.prod(1).prod(1))(x[:, :, None] * x[:, None]).sum(1),
    "shifted": lambda x: diag_jac(V)(x + 1) * diag_jac(V)(1 - x),
    "widened": lambda x: diag_jac(lambda z: z.sin() * z.flip(1))(x[:, :1].expand(-1, 2)) * x,
    "twice the same": lambda x: (
        torch.stack(diag_jac(lambda s, t: V(s) * t.sin(), argnums=(0, 1), method="taylor")(x, x)).prod(0) * x
    ),
    "by keyword": lambda x: diag_jac(lambda z, scale: V(z * scale))(x, scale=x.exp()),
    "ignored": lambda x: diag_jac(lambda z: x.square() + 0 * z)(x) + x,
    "handed on": lambda x: torch.stack(diag_jac(lambda z: x * 1, return_value=True)(x * 2)).sum(0) + x,
    "linear": lambda x: batch_jac(lambda z: 3 * z)(x).sum(1) * x,
    "changed before": _changed,
    "changed inside": _changes_its_own,
    "without gradients": _constant,
    "partly without": _half_constant,
    "inputs of two axes on jets": lambda x: batch_jac(lambda z: z.prod(1).prod(1), method="taylor")(
        x[:, :, None] * x[:, None]
    ).sum(1),
    "checkpoint around": _reentrant,
    "checkpoint inside": _checkpointed,
    "decided by value": _decided,
    "no rule": lambda x: diag_jac(lambda z: torch.special.i1(z) * z)(x) * x,
    "fourth": lambda x: biharmonic(U)(x) * x,
    "method of a jet": lambda x: diag_jac(lambda z: z.sin().mul(z).cumsum(1))(x).square(),
    "normalised": lambda x: diag_jac(lambda z: nn.functional.layer_norm(V(z) * z, (2,)))(x) * C(x),
    "gradient inside": lambda x: diag_jac(lambda z: z * jacrev(lambda w: V(w).sum())(z))(x),
    "compiled": lambda x: C(x) * diag_jac(torch.sin, compile=True)(x),
}
SLOW = {
    *("compiled", "checkpoint inside", "no rule", "fourth", "gradient inside", "normalised", "parts of names"),
    *("one block", "unchecked", "taylor", "by keyword", "chunks of squares", "decided by value", "more sample axes"),
}
FALLS_BACK = {"forward", "reverse", "blocks", "one block", "compiled", "gradient inside", "inputs of two axes"}
PLAINLY = {"checkpoint around": CASES["flux"][0]}
"""Where reverse mode itself refuses: the same without what it refuses."""


def _by_reverse(f: Function, x: torch.Tensor, *parameters: nn.Parameter) -> tuple[torch.Tensor, ...]:
    jacobian = batch_jac(f, method="reverse")(x)
    weights = torch.linspace(0.5, 1.5, jacobian.numel(), dtype=jacobian.dtype).reshape(jacobian.shape)
    loss = (jacobian * weights).sum()
    if not loss.requires_grad:
        return (jacobian,)
    return jacobian, *torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("case", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in BESIDE])
def test_what_it_is_asked_beside(case: str) -> None:
    f, x = BESIDE[case], _points(5)
    expected, *gradients = _by_reverse(PLAINLY.get(case, f), x, *NETWORKS)
    for _ in range(2):
        found = batch_jac(f)(x)
        _close(found, expected)
    assert found.requires_grad == expected.requires_grad
    with torch.no_grad():
        _close(divergence(f)(x), expected.diagonal(dim1=1, dim2=2).sum(1))
    if gradients:
        weights = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype).reshape(found.shape)
        ours = torch.autograd.grad((found * weights).sum(), NETWORKS, allow_unused=True, materialize_grads=True)
        for own, other in zip(ours, gradients, strict=True):
            _close(own, other)
    assert _is_followed(f, x) == (case not in FALLS_BACK)


# -------------------------------------------------------------------- what surrounds it

WIDE = nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 2)).double()
BACK = nn.Sequential(nn.Linear(2, 6), nn.Tanh()).double()


def _after_a_narrow_layer(x: torch.Tensor) -> torch.Tensor:
    return BACK(diag_jac(V)(WIDE(x)))


def _beside_a_narrow_layer(x: torch.Tensor) -> torch.Tensor:
    return WIDE(x).sum(1, keepdim=True) * diag_jac(lambda z: WIDE(z).prod(1, keepdim=True), method="taylor")(x)


@pytest.mark.parametrize("f", [_after_a_narrow_layer, _beside_a_narrow_layer])
@pytest.mark.parametrize("chunk_size", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_where_a_layer_is_narrower_than_the_input(f: Function, chunk_size: int | None) -> None:
    x = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = [*WIDE.parameters(), *BACK.parameters(), *V.parameters()]
    expected, *gradients = _by_reverse(f, x, *parameters)
    found = batch_jac(f, chunk_size=chunk_size)(x)
    _close(found, expected)
    _close(divergence(f, chunk_size=chunk_size)(x), expected.diagonal(dim1=1, dim2=2).sum(1))
    _close(laplacian(f)(x), laplacian(f, method="reverse")(x))
    weights = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype).reshape(found.shape)
    ours = torch.autograd.grad((found * weights).sum(), parameters, allow_unused=True, materialize_grads=True)
    for own, other in zip(ours, gradients, strict=True):
        _close(own, other)
    assert _is_followed(f, x)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_arguments_of_the_surrounding_one_in_another_order(order: tuple[int, int]) -> None:
    s, t = _points(5).split(1, dim=1)

    def f(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        one, other = (s, t) if order == (0, 1) else (t, s)
        by_one, by_other = diag_jac(lambda a, b: a.sin() * b.exp() * a * b, argnums=(0, 1))(one, other)
        return by_one * s + by_other.square() + diag_jac(lambda b: b**3)(t)

    def of_one(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        one, other = (s, t) if order == (0, 1) else (t, s)
        derivatives = [(one.sin() + one * one.cos()) * other.exp() * other, one.sin() * one * other.exp() * (1 + other)]
        return derivatives[0] * s + derivatives[1].square() + 3 * t**2

    found = diag_jac(f, argnums=(0, 1))(s, t)
    expected = vmap(jacrev(of_one, argnums=(0, 1)))(s[:, 0], t[:, 0])
    for own, other in zip(found, expected, strict=True):
        _close(own[:, 0], other)
    mixed = partials(f, "f_st f_ts f_ss", inputs="s t", outputs="f")(s, t)
    _close(mixed.f_st, vmap(jacrev(jacrev(of_one, argnums=0), argnums=1))(s[:, 0], t[:, 0]))
    _close(mixed.f_ss, vmap(jacrev(jacrev(of_one, argnums=0), argnums=0))(s[:, 0], t[:, 0]))


def test_one_of_the_surrounding_arguments_is_not_differentiated_inside() -> None:
    s, t = _points(5).split(1, dim=1)

    def f(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return t * diag_jac(lambda a, b: U(torch.cat([a * b, b], 1)))(s, t)

    def of_one(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (t * jacrev(lambda b: u(torch.stack([s * b, b])))(t))[0]

    found = partials(f, "f_s f_t f_st", inputs="s t", outputs="f")(s, t)
    by_s, by_t = (vmap(jacrev(of_one, argnums=k))(s[:, 0], t[:, 0]) for k in (0, 1))
    _close(found.f_s, by_s)
    _close(found.f_t, by_t)
    _close(found.f_st, vmap(jacrev(jacrev(of_one, argnums=0), argnums=1))(s[:, 0], t[:, 0]))


def test_one_random_draw() -> None:
    dropout = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)).double()

    def f(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.3) * diag_jac(dropout)(x) * torch.rand(2, dtype=x.dtype)

    found = []
    for method in ("reverse", "auto", "auto"):
        torch.manual_seed(3)
        result = divergence(f, method=method, check=False)(_points(6))
        found.append((result, torch.rand(1)))
    for result, after in found[1:]:
        _close(result, found[0][0])
        assert after == found[0][1]


def test_batches_of_vmap_and_gradients_of_torch_func() -> None:
    f, of_one = CASES["flux"]
    x = _points(6)
    expected = vmap(lambda x: jacrev(of_one)(x).trace())(x)
    parameters = dict(C.named_parameters())

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        g = lambda x: torch.func.functional_call(C, parameters, (x,)) * diag_jac(U)(x)
        return divergence(g)(x).square().sum()

    (expected.square().sum()).backward(inputs=[*parameters.values()])
    for name, gradient in torch.func.grad(loss)(parameters).items():
        _close(gradient, parameters[name].grad)
    C.zero_grad()
    for _ in range(2):
        _close(vmap(divergence(f))(x.reshape(2, 3, 2)).reshape(6), expected)
        with torch.inference_mode():
            _close(divergence(f)(x), expected)


def test_single_precision_inside_of_double_and_the_reverse() -> None:
    weight = torch.tensor([[0.3, -0.8], [0.6, 0.5]], dtype=torch.float64)

    def f(x: torch.Tensor, within: torch.dtype) -> torch.Tensor:
        z = x.to(within)
        return x * diag_jac(lambda z: (z @ weight.to(within)).tanh())(z).to(x.dtype)

    expected = divergence(f, argnums=0, method="reverse")(_points(), torch.float64)
    lower = divergence(f, argnums=0)(_points(), torch.float32)
    higher = divergence(f, argnums=0)(_points().float(), torch.float64)
    assert (lower.dtype, higher.dtype) == (torch.float64, torch.float32)
    for found in (lower, higher):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_coupled_samples_inside_are_refused() -> None:
    with pytest.raises(jacfunc.CoupledSamplesError):
        divergence(lambda x: diag_jac(lambda z: z * z.mean(0))(x) * x)(_points())


def test_a_wrong_shape_inside_is_told_as_ever() -> None:
    with pytest.raises(jacfunc.ShapeError, match="the divergence needs"):
        diag_jac(lambda x: divergence(U)(x)[:, None] * x)(_points())


def test_what_treats_jets_otherwise_is_not_followed() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        own = lambda z: z.square() if isinstance(z, torch.Tensor) else z.sin()
        return diag_jac(own)(x) * x

    assert not _is_followed(f, _points())
    _close(diag_jac(f)(_points()), 4 * _points())


def test_what_is_closed_over_may_change_afterwards() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 1

        def own(z: torch.Tensor) -> torch.Tensor:
            return z * z * y

        factor = diag_jac(own)(x)
        y.add_(1)
        return factor * y

    x = _points()
    _close(diag_jac(f)(x), 6 * x**2 + 4 * x)


def test_what_was_kept_from_an_evaluation_that_has_ended() -> None:
    kept: list[Any] = []

    def f(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return diag_jac(lambda z: z * kept[0].detach())(x) * x

    x = _points()
    for _ in range(2):
        _close(diag_jac(f)(x), x)


def test_nothing_of_the_caller_changes() -> None:
    x = _points().requires_grad_()
    before = x.detach().clone()
    result = diag_jac(lambda x: diag_jac(lambda z: z.mul_(2).sin())(x) * x)(x)
    (by_x,) = torch.autograd.grad(result.sum(), x)
    y = before.clone().requires_grad_()
    (expected,) = torch.autograd.grad((2 * (2 * y).cos() - 4 * y * (2 * y).sin()).sum(), y)
    _close(by_x, expected)
    assert torch.equal(x, before)
    assert x._version == 0


def test_shapes_that_change_from_call_to_call() -> None:
    parts = [1]

    def f(x: torch.Tensor) -> torch.Tensor:
        return batch_jac(lambda z: torch.cat([z.sin()] * parts[0], 1))(x).sum(1) * x

    for count in (1, 2, 1, 3):
        parts[0] = count
        x = _points(5)
        _close(diag_jac(f)(x), count * (x.cos() - x * x.sin()))


# -------------------------------------------------------------------- to break it

SMALL = torch.full((4, 2), 0.7, dtype=torch.float64)


def _where(x: torch.Tensor) -> torch.Tensor:
    y = x.cos()
    return diag_jac(lambda z: torch.where(y > 0.8, z * y, z.sin() * y))(x)


def _bordered(z: torch.Tensor) -> torch.Tensor:
    return torch.eye(2, dtype=z.dtype) + z[:, :, None] * z[:, None]


HARD: dict[str, Function] = {
    "one of another": lambda x: diag_jac(V)(diag_jac(V)(x)),
    "several": lambda x: diag_jac(V)(x) + diag_jac(torch.sin)(x) * laplacian(V)(x),
    "chosen by what is closed over": _where,
    "a view closed over": lambda x: (lambda column: diag_jac(lambda z: z * column * z)(x))(x[:, :1]),  # noqa: PLC3002
    "both surrounding ones closed over": lambda x: diag_jac(lambda y: diag_jac(lambda z: z * z * y * y * x)(y) * x)(x),
    "at the outermost point": lambda x: diag_jac(lambda y: diag_jac(lambda z: z**3)(x) * y)(x),
    "at a constant": lambda x: diag_jac(lambda z: z * z * x)(SMALL),
    "coordinates exchanged": lambda x: diag_jac(V)(x.flip(1)) * x,
    "coordinates chosen": lambda x: diag_jac(V)(x[:, [1, 0]]) * x,
    "samples exchanged": lambda x: diag_jac(V)(x.flip(0)).flip(0) * x,
    "widened numbers": lambda x: diag_jac(lambda z: z * z.flip(1).sin())(x[:, :1].expand(-1, 2)) + x,
    "an axis more": lambda x: batch_jac(lambda z: z.sin().prod(1), method="taylor")(x.unsqueeze(1)).sum(1)[:, 0] * x,
    "an axis less": lambda x: diag_jac(lambda z: z.sin() * z)(x[:, 0])[:, None] * x,
    "softmax": lambda x: diag_jac(lambda z: (z * z).softmax(1))(x) * x,
    "sorted": lambda x: diag_jac(lambda z: z.sort(1).values ** 3)(x) * x,
    "solved": lambda x: diag_jac(lambda z: torch.linalg.solve(_bordered(z), z))(x) * x,
    "determinant": lambda x: laplacian(lambda z: torch.linalg.det(_bordered(z)))(x)[:, None] * x,
    "kinks": lambda x: diag_jac(lambda z: (z - 0.5).relu() ** 3)(x) * x,
}


@pytest.mark.slow
@pytest.mark.parametrize("outer", [batch_jac, hess_diag, curl, biharmonic])
@pytest.mark.parametrize("case", HARD)
def test_what_could_break_it(case: str, outer: Function) -> None:
    x = _points()
    expected = outer(HARD[case], method="reverse")(x)
    for options in ({}, {"chunk_size": 1}):
        torch.testing.assert_close(outer(HARD[case], **options)(x), expected, rtol=1e-7, atol=1e-7)

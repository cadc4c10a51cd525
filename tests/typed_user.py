"""What a user writes, with the type of every result: checked by mypy and pyright in ``test_types.py``, and run there."""

# pyright: strict

from __future__ import annotations

from typing import Any, assert_type

import torch
from torch import Tensor, nn

from jacfunc import (
    Derivatives,
    FunctionalModule,
    SparseJacobian,
    SparsityPattern,
    Transform,
    accumulate,
    batch_jac,
    biharmonic,
    check_independent,
    curl,
    diag_jac,
    directional,
    divergence,
    explain,
    hess_diag,
    hessian,
    laplacian,
    linear_operator,
    make_functional,
    partials,
    residual,
    sparse_jac,
    sparsity,
)
from jacfunc.explain import Explanation
from jacfunc.nn import Equation

Tree = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]

net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
height = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
f, params = make_functional(net)
x = torch.rand(3, 2)
rows = torch.tensor([0, 0, 1])


def square(x: Tensor) -> Tensor:
    return x**2


def squares(x: Tensor) -> Tree:
    return {"a": x**2, "b": x**3}


def with_aux(x: Tensor) -> tuple[Tensor, Tree]:
    return x**2, {"x": x}


def scaled(scale: float, x: Tensor) -> Tensor:
    return scale * x


def heat(d: Derivatives) -> Tensor:
    return d.u_t - d.u_xx


def functions_and_modules() -> None:
    assert_type(f, FunctionalModule)
    assert_type(params, Tree)
    assert_type(diag_jac(f)(params, x), Tensor)
    assert_type(diag_jac(net)(x), Tensor)
    assert_type(diag_jac(square), Transform[Tensor])
    assert_type(diag_jac(square, method="taylor", chunk_size=1)(x), Tensor)
    assert_type(diag_jac(square, segments=rows)(x), Tensor)
    assert_type(batch_jac(scaled)(2.0, x), Tensor)
    assert_type(batch_jac(torch.sin)(x), Tensor)
    assert_type(hess_diag(square)(x), Tensor)
    assert_type(hessian(net)(x), Tensor)
    assert_type(laplacian(net)(x), Tensor)
    assert_type(biharmonic(square)(x), Tensor)
    assert_type(divergence(net)(x), Tensor)
    assert_type(curl(square)(x), Tensor)
    assert_type(directional(square, order=2)(x, x), Tensor)
    assert_type(diag_jac(laplacian(net))(x), Tensor)


def trees() -> None:
    assert_type(diag_jac(squares)(x), Tree)
    assert_type(divergence(with_aux, has_aux=True)(x), tuple[Tensor, Tree])
    assert_type(batch_jac(torch.mul, argnums=(0, 1))(x, x), tuple[Tensor, ...])
    # A module is taken to return a tensor, unless another type is declared.
    declared: Transform[tuple[Tensor, Tensor]] = batch_jac(net)
    assert_type(declared, Transform[tuple[Tensor, Tensor]])


def values_gradients_and_aux() -> None:
    assert_type(diag_jac(square, return_value=True)(x), Pair)
    assert_type(diag_jac(net, return_value=True)(x), Pair)
    assert_type(diag_jac(squares, return_value=True)(x), tuple[Tree, Tree])
    assert_type(diag_jac(with_aux, has_aux=True)(x), tuple[Tensor, Tree])
    assert_type(diag_jac(with_aux, has_aux=True, return_value=True)(x), tuple[Tensor, Tensor, Tree])
    assert_type(laplacian(net, return_gradient=True)(x), Pair)
    assert_type(laplacian(f, return_gradient=True, return_value=True)(params, x), Three)
    assert_type(laplacian(net, return_gradient=False)(x), Tensor)
    assert_type(hessian(square, return_gradient=False, return_value=True)(x), Pair)
    assert_type(hessian(square, return_gradient=True)(x), Pair)
    assert_type(hessian(with_aux, return_gradient=True, has_aux=True)(x), tuple[Tensor, Tensor, Tree])
    assert_type(curl(square, return_value=True)(x), Pair)
    assert_type(directional(net, return_value=True)(x, x), Pair)
    unknown: bool = bool(x.sum() > 0)
    assert_type(diag_jac(square, return_value=unknown)(x), Any)


def names() -> None:
    derivatives = partials(height, "u u_t u_xx", inputs="t x", outputs="u")
    d = derivatives(x)
    assert_type(d, Derivatives)
    assert_type(d.u_t, Tensor)
    assert_type(d["u_xx"], Tensor)
    u, u_t, _ = d
    assert_type(u, Tensor)
    assert_type(u_t, Tensor)
    valued = partials(square, "v_tx", inputs="t x", outputs="u v", return_value=True)
    assert_type(valued(x), tuple[Derivatives, Tensor])


def residuals() -> None:
    assert_type(residual(height, heat, inputs="t x", outputs="u")(x), Tensor)
    assert_type(residual(height, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")(x), Tensor)
    assert_type(residual(height, lambda d: (d.u_t, d.u_xx), inputs="t x", outputs="u")(x), Pair)
    assert_type(residual(square, lambda d: d.u_t, inputs="t x", outputs="u v")(x), Tensor)
    module = Equation(height, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")
    assert_type(module, Equation[Tensor])
    assert_type(module(x), Tensor)
    assert_type(module.forward(x), Tensor)
    assert_type(accumulate(lambda x: module(x) ** 2, x), Tensor)
    assert_type(accumulate((module, x), (module, x, 0.5)), tuple[Tensor, ...])


def what_is_asked() -> None:
    assert_type(explain(diag_jac(net))(x), Explanation)
    assert_type(explain(partials(height, "u_t", inputs="t x", outputs="u"))(x), Explanation)
    assert_type(check_independent(net)(x), bool)
    assert_type(sparsity(square)(x), SparsityPattern)
    assert_type(sparse_jac(square)(x), SparseJacobian)
    assert_type(sparse_jac(net, sparsity="auto")(x).values, Tensor)
    assert_type(sparse_jac(square, return_value=True)(x), tuple[SparseJacobian, Tensor])
    assert_type(sparse_jac(with_aux, has_aux=True)(x), tuple[SparseJacobian, Tree])
    assert_type(diag_jac(square, sparsity="auto")(x), Tensor)
    assert_type(divergence(square, sparsity=torch.eye(2))(x), Tensor)
    linear_operator(square)(x)


def run() -> None:
    """Everything above, for which it has to be right at run time too."""
    for part in (functions_and_modules, trees, values_gradients_and_aux, names, residuals, what_is_asked):
        part()

"""What type checkers have to refuse, in the lines that end with ``# wrong``, and nowhere else; it is never run."""

# pyright: strict
# ruff: noqa: B018, RUF059

from __future__ import annotations

import torch
from torch import Tensor, nn

import jacfunc
from jacfunc import Derivatives, accumulate, curl, diag_jac, directional, laplacian, partials, residual
from jacfunc.nn import Equation

net = nn.Linear(2, 2)
rows = torch.tensor([0, 0, 1])


def square(x: Tensor) -> Tensor:
    return x**2


def heat(d: Derivatives) -> Tensor:
    return d.u_t - d.u_xx


def wrong(x: Tensor) -> None:
    jacfunc.jacobian  # wrong
    jacfunc.laplacien(square)  # wrong
    diag_jac(square, metod="taylor")  # wrong
    diag_jac(square, method="tailor")  # wrong
    diag_jac(square, chunk_size="auto")  # wrong
    diag_jac(square, sample_chunk_size="auto")
    diag_jac(square, return_value=1)  # wrong
    diag_jac(square, x)  # wrong
    diag_jac(x)  # wrong
    diag_jac(square).shape  # wrong
    diag_jac(square)(x).shpe  # wrong
    diag_jac(net)(x).shpe  # wrong
    diag_jac(square, return_value=True)(x).shape  # wrong
    value, derivative, aux = diag_jac(square, return_value=True)(x)  # wrong
    laplacian(square, return_gradiant=True)  # wrong
    curl(square, segments=rows)  # wrong
    directional(square, orders=2)  # wrong
    partials(net, "u", inputs="t x")  # wrong
    partials(net, "u", inputs="t x", output="u v")  # wrong
    partials(net, "u", inputs="t x", outputs="u v")(x).u.shpe  # wrong
    residual(net, heat, inputs="t x", outputs="u v", segments=rows)  # wrong
    residual(net, heat, inputs="t x", outputs="u v")(x).shpe  # wrong
    residual(net, square, inputs="t x", outputs="u v")  # wrong
    Equation(net, heat, inputs="t x", outputs="u v", method="tailor")  # wrong
    accumulate(square, x, reduction="max")  # wrong

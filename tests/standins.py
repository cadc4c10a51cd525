"""Small stand-ins for packages that guides come from, in plain ``autograd.grad``, for where these are not installed.

Each has the names that a guide imports and computes what the package's own code does, in the versions the guide names.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any

import sympy
import torch


def gradient(output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(output, inputs, torch.ones_like(output), create_graph=True)[0]


# -------------------------------------------------------------------- DeepXDE


def jacobian(ys: torch.Tensor, xs: torch.Tensor, i: int = 0, j: int | None = None) -> torch.Tensor:
    row = gradient(ys[:, i : i + 1], xs)
    return row if j is None else row[:, j : j + 1]


def hessian(ys: torch.Tensor, xs: torch.Tensor, component: int = 0, i: int = 0, j: int = 0) -> torch.Tensor:
    return jacobian(jacobian(ys, xs, i=component), xs, i=j, j=i)


class FNN(torch.nn.Module):
    """A network whose transforms lie in attributes, as ``deepxde.nn.FNN`` keeps them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.linears = torch.nn.ModuleList(torch.nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes))
        self.input_transform: Any = None
        self.output_transform: Any = None
        self.auxiliary_vars: Any = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = inputs if self.input_transform is None else self.input_transform(inputs)
        for linear in self.linears[:-1]:
            x = linear(x).tanh()
        x = self.linears[-1](x)
        return x if self.output_transform is None else self.output_transform(inputs, x)


# -------------------------------------------------------------------- neurodiffeq


def diff(u: torch.Tensor, t: torch.Tensor, order: int = 1) -> torch.Tensor:
    assert u.shape == t.shape and u.shape[1:] == (1,)
    for _ in range(order):
        u = gradient(u, t)
    return u


# -------------------------------------------------------------------- PhysicsNeMo


class PDE:
    dim: int
    equations: dict[str, sympy.Expr]


class PhysicsInformer:
    """Every derivative of a function in the equation by ``autograd.grad``, one after the other."""

    def __init__(self, required_outputs: list[str], equations: PDE, grad_method: str) -> None:
        assert grad_method == "autodiff"
        self.required, self.equations = required_outputs, equations.equations

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: self._value(self.equations[name], inputs) for name in self.required}

    def _value(self, equation: sympy.Expr, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        derivatives = sorted(equation.atoms(sympy.Derivative), key=str)
        functions = sorted(equation.atoms(sympy.core.function.AppliedUndef), key=str)
        values = [self._derivative(found, inputs) for found in derivatives]
        values += [inputs[found.func.__name__] for found in functions]
        symbols = sympy.symbols(f"value:{len(values)}")
        # Derivatives first: they contain the functions.
        plain = equation.subs(dict(zip(derivatives, symbols, strict=False)))
        plain = plain.subs(dict(zip(functions, symbols[len(derivatives) :], strict=True)))
        return sympy.lambdify(symbols, plain, "math")(*values)

    @staticmethod
    def _derivative(derivative: sympy.Derivative, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        value = inputs[derivative.expr.func.__name__]
        for symbol in derivative.variables:
            column = "xyz".index(symbol.name)
            value = gradient(value, inputs["coordinates"])[:, column : column + 1]
        return value


# -------------------------------------------------------------------- as modules


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    return made


def modules(package: str) -> dict[str, ModuleType]:
    """What ``sys.modules`` has to hold for the imports of a guide."""
    if package == "deepxde":
        return {"deepxde": module("deepxde", grad=module("deepxde.grad", jacobian=jacobian, hessian=hessian))}
    if package == "neurodiffeq":
        return {"neurodiffeq": module("neurodiffeq", diff=diff)}
    packages = ["physicsnemo", "physicsnemo.sym", "physicsnemo.sym.eq"]
    return {
        **{name: module(name) for name in packages},
        "physicsnemo.sym.eq.pde": module("physicsnemo.sym.eq.pde", PDE=PDE),
        "physicsnemo.sym.eq.phy_informer": module("physicsnemo.sym.eq.phy_informer", PhysicsInformer=PhysicsInformer),
    }

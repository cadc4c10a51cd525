"""What torch takes for constants without a word: operators of other libraries, and smooth functions of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
from functions import Saving

from jacfunc import batch_jac, diag_jac, laplacian
from jacfunc.errors import RefusedOperationError, UnsupportedOperationError
from jacfunc.evaluation.corrections.foreign import SMOOTH, is_foreign, refuse_constants, refusing_zeros

METHODS = ("taylor", "forward", "reverse")


def _special(name):
    function = getattr(torch.special, name)
    return (lambda x: function(x, 3)) if "polynomial" in name else function


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "auto") for name in SMOOTH]
    + [(name, method) for name in ("bessel_j0", "airy_ai", "hermite_polynomial_he") for method in METHODS],
)
def test_smooth_functions_that_torch_takes_for_constants_are_refused(name, method):
    x, function = torch.rand(4, 3, dtype=torch.float64) + 0.5, _special(name)
    dense = torch.func.jacfwd(function)(x)
    assert not dense.any(), "torch has a derivative of it now"
    for transform in (diag_jac, batch_jac, laplacian):
        with pytest.raises(RefusedOperationError, match=f"torch has no derivative of {name} and takes it for a"):
            transform(function, method=method)(x)
        constant = transform(lambda x: x.square() * function(x.detach()), method=method)(x)
        assert constant.abs().max() > 0
    assert torch.equal(diag_jac(lambda x: x * function(x.detach()), method=method)(x), function(x))
    with torch.no_grad(), pytest.raises(RefusedOperationError, match=name):
        diag_jac(function, method=method)(x)


def test_none_of_them_is_left_out():
    text = (Path(torchgen.__file__).parent / "packaged/autograd/derivatives.yaml").read_text()
    entries = [
        entry for entry in text.split("\n- name: special_")[1:] if "non_differentiable" in entry.split("\n\n")[0]
    ]
    assert {entry.split("(")[0].split(".")[0] for entry in entries} == set(SMOOTH)


class _BesselJ0(Saving):
    @staticmethod
    def forward(x):
        return torch.special.bessel_j0(x)

    @staticmethod
    def backward(ctx, cotangent):
        return -cotangent * torch.special.bessel_j1(ctx.saved_tensors[0].detach())

    @staticmethod
    def jvp(ctx, tangent):
        return -tangent * torch.special.bessel_j1(ctx.saved_tensors[0].detach())


@pytest.mark.parametrize("method", ["auto", "forward", "reverse"])
def test_the_way_out_of_that_refusal(method):
    x = torch.rand(4, 3, dtype=torch.float64)
    found = diag_jac(lambda x: _BesselJ0.apply(2 * x), method=method)(x)
    torch.testing.assert_close(found, -2 * torch.special.bessel_j1(2 * x))


# -------------------------------------------------------------------- operators of other libraries


@pytest.fixture(scope="module")
def operators() -> Iterator[Any]:
    """Three operators that double: without a derivative, with one registered in Python, and made of torch's own."""
    library = torch.library.Library("jacfunc_foreign", "DEF")
    for name in ("bare", "registered", "composite"):
        library.define(f"{name}(Tensor x) -> Tensor")
        own = (lambda x: 2 * x) if name == "composite" else (lambda x: 2 * x.detach())
        library.impl(name, own, "CompositeImplicitAutograd" if name == "composite" else "CPU")
    torch.library.register_autograd(
        "jacfunc_foreign::registered",
        lambda ctx, g: 2 * g,
        setup_context=lambda ctx, inputs, output: None,
        lib=library,
    )
    yield torch.ops.jacfunc_foreign
    library._destroy()


def test_operators_of_torch_are_not_foreign(operators: Any) -> None:
    for own in (torch.sin, torch.ops.aten.sin, torch.ops.aten.sin.default, torch.ops.prims.sin.default, len):
        assert not is_foreign(own)
    assert is_foreign(operators.bare)
    assert is_foreign(operators.bare.default)


def refused(function: Any, x: torch.Tensor) -> None:
    refuse_constants(function, (x,), {}, function(x))


@pytest.mark.parametrize("form", ["packet", "overload"])
def test_an_operator_without_a_derivative_is_refused_where_something_is_differentiated(
    operators: Any, form: str
) -> None:
    bare, registered = operators.bare, operators.registered
    if form == "overload":
        bare, registered = bare.default, registered.default
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RefusedOperationError, match="jacfunc_foreign.*bare.* but has no derivative; register one with"):
        refused(bare, x)
    refused(bare, x.detach())
    refused(registered, x)
    refused(operators.composite, x)
    with torch.no_grad():
        refused(bare, x)
    refuse_constants(bare, (x,), {}, torch.ones(2, dtype=torch.long))  # which has none anyway
    refuse_constants(bare, (torch.ones(2, dtype=torch.long),), {}, torch.ones(2))


def test_in_a_transform_of_torch_an_operator_needs_a_formula(operators: Any) -> None:
    x = torch.ones(2)

    def inside(function: Any) -> Any:
        return lambda x: (refused(function, x), x.sum())[1]

    with pytest.raises(
        UnsupportedOperationError, match="torch.func takes the operator .* for a constant: it has no formula"
    ):
        torch.func.grad(inside(operators.bare))(x)
    torch.func.grad(inside(operators.composite))(x)
    for function in (operators.bare, operators.registered):
        with pytest.raises(UnsupportedOperationError, match="takes the operator .* for a constant in forward mode"):
            torch.func.jvp(inside(function), (x,), (x,))
    torch.func.jvp(inside(operators.composite), (x,), (x,))


def test_transforms_refuse_or_follow_them(operators: Any) -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    with pytest.raises(UnsupportedOperationError):
        diag_jac(lambda x: operators.bare(x) * x)(x)
    torch.testing.assert_close(diag_jac(lambda x: operators.registered(x) * x)(x), 4 * x)
    torch.testing.assert_close(
        laplacian(lambda x: operators.composite(x) * x, check=False)(x).sum(), torch.tensor(24.0).double()
    )


# -------------------------------------------------------------------- smooth functions of torch


def test_a_smooth_function_is_torchs_own_where_nothing_is_differentiated() -> None:
    function = partial(refusing_zeros, torch.special.bessel_j0, "bessel_j0")
    x = torch.rand(3, requires_grad=True)
    assert torch.equal(function(x.detach()), torch.special.bessel_j0(x.detach()))
    with torch.no_grad():
        assert torch.equal(function(x), torch.special.bessel_j0(x))
    for call in (
        lambda: function(x),
        lambda: torch.func.grad(lambda x: function(x).sum())(x.detach()),
        lambda: torch.func.jvp(function, (x.detach(),), (x.detach(),)),
    ):
        with pytest.raises(RefusedOperationError, match="torch has no derivative of bessel_j0 and takes it for a"):
            call()

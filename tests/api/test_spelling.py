"""Other notations of derivatives, put into this one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jacfunc.api.spelling import instead_of_product, meant, quotient

INPUTS, OUTPUTS = ("t", "x"), ("u", "v")
GREEK = ("time", "theta"), ("temp",)


def readable(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Callable[[str], bool]:
    """Outputs, and outputs with a subscript made of inputs alone."""

    def known(name: str) -> bool:
        output, _, subscript = name.partition("_")
        if output not in outputs or (not subscript and "_" in name):
            return False
        while subscript:
            first = next((one for one in inputs if subscript.startswith(one)), None)
            if first is None:
                return False
            subscript = subscript[len(first) :]
        return True

    return known


def proposed(token: str, names: tuple[tuple[str, ...], tuple[str, ...]] = (INPUTS, OUTPUTS)) -> str | None:
    end = meant(token, *names, readable(*names))
    if not end:
        return None
    assert end.startswith("; did you mean '")
    assert end.endswith("'?")
    return end.removeprefix("; did you mean '").removesuffix("'?")


@pytest.mark.parametrize(
    ("token", "name"),
    [
        ("ux", "u_x"),
        ("uxx", "u_xx"),
        ("u_x2", "u_xx"),
        ("u_x^2", "u_xx"),
        ("u_2x", "u_xx"),
        ("u_x3t", "u_xxxt"),
        ("u_t2x2", "u_ttxx"),
        ("u_{xx}", "u_xx"),
        ("$u_{x}$", "u_x"),
        ("u__x", "u_x"),
        ("u.xx", "u_xx"),
        ("U_X", "u_x"),
        ("du/dx", "u_x"),
        ("dudx", "u_x"),
        ("du_dx", "u_x"),
        ("d2u/dx2", "u_xx"),
        ("d^2u/dx^2", "u_xx"),
        ("d2u_dxdt", "u_xt"),
        ("d3v/dx2dt", "v_xxt"),
        ("∂u/∂x", "u_x"),
        ("∂2u/∂x2", "u_xx"),
        ("u_dx", "u_x"),
        ("u_dxdt", "u_xt"),
        ("vt", "v_t"),
        ("2ux", "2*u_x"),
        ("0.1uxx", "0.1*u_xx"),
        ("1e-3d2u/dx2", "1e-3*u_xx"),
    ],
)
def test_a_name_that_was_meant(token: str, name: str) -> None:
    assert proposed(token) == name


@pytest.mark.parametrize("token", ["w_x", "u_y", "velocity", "w", "u_xyz", "dudy", "7"])
def test_nothing_is_proposed_that_cannot_be_read(token: str) -> None:
    assert meant(token, INPUTS, OUTPUTS, readable(INPUTS, OUTPUTS)) == ""


def test_nothing_is_proposed_that_is_the_token_itself() -> None:
    assert meant("u_x", INPUTS, OUTPUTS, lambda name: name == "u_x") == ""


def test_names_of_several_letters() -> None:
    assert proposed("temptime", GREEK) == "temp_time"
    assert proposed("dtemp/dtheta", GREEK) == "temp_theta"
    assert proposed("d2temp/dtime2", GREEK) == "temp_timetime"
    assert proposed("temp_theta2", GREEK) == "temp_thetatheta"
    assert proposed("TEMP_Theta", GREEK) == "temp_theta"


@pytest.mark.parametrize(
    ("before", "rest", "end"),
    [
        (
            "u_t+u",
            "*u_x",
            "; write names, each with a number in front if any, and products of tensors in Python, as d.u*d.u_x",
        ),
        ("u_x", "*3", "; write names, each with a number in front if any; did you mean '3*u_x'?"),
        ("u_t-u_xx", "*0.1+u", "; write names, each with a number in front if any; did you mean '0.1*u_xx'?"),
        (
            "1e-2*u",
            "*u_x+u",
            "; write names, each with a number in front if any, and products of tensors in Python, as d.u*d.u_x",
        ),
        (
            "u_x",
            "**2",
            "; write names, each with a number in front if any, and products of tensors in Python, as d.u_x**2",
        ),
        ("u_x", "u_t", "; write names, each with a number in front if any, as in u_t-0.1*u_xx"),
    ],
)
def test_a_product_is_for_python(before: str, rest: str, end: str) -> None:
    assert instead_of_product(before, rest) == end


@pytest.mark.parametrize(
    ("token", "end"),
    [
        ("u_x/2", "; did you mean '0.5*u_x'?"),
        ("u_x/4", "; did you mean '0.25*u_x'?"),
        ("u_x/3", "; did you mean '0.333333333333*u_x'?"),
        ("u_x/u", "; ask for 'u_x' and compute with tensors in Python, as d.u_x/d.u"),
        ("u_x^2", "; ask for 'u_x' and compute with tensors in Python, as d.u_x**2"),
        ("u_x/0", "; ask for 'u_x' and compute with tensors in Python, as d.u_x/0"),
        ("du/dx", ""),
        ("∂u/∂x", ""),
        ("u_x", ""),
    ],
)
def test_quotients_and_powers(token: str, end: str) -> None:
    assert quotient(token) == end

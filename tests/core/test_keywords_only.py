"""``jacfunc/core/keywords_only.py``: unknown keywords are refused, and arguments of f where keywords belong."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch

from jacfunc import (
    accumulate,
    batch_jac,
    check_independent,
    curl,
    diag_jac,
    directional,
    explain,
    hessian,
    laplacian,
    make_functional,
    partials,
    residual,
)
from jacfunc.core.keywords_only import keywords_only
from jacfunc.errors import ArgumentTypeError

X = torch.ones(2, 3)
NET = torch.nn.Linear(3, 1)


@keywords_only
def make(f: Any, names: str = "", *, argnums: int = 0) -> tuple[Any, str, int]:
    """Makes."""
    return f, names, argnums


def test_what_is_right_goes_through() -> None:
    assert make("f") == ("f", "", 0)
    assert make("f", "n", argnums=2) == ("f", "n", 2)
    assert make(f="f", names="n") == ("f", "n", 0)
    assert make.__name__ == "make"
    assert make.__doc__ == "Makes."
    assert functools.partial(make, argnums=3)("f") == ("f", "", 3)


@pytest.mark.parametrize(
    ("given", "what", "meant"),
    [
        (X, "a Tensor of shape (2, 3)", "call what it returns, as in make(f, names, ...)(x)"),
        (1, "an int", "name it, as in argnums=1"),
        (True, "a bool", "call what it returns, as in make(f, names, ...)(x)"),
        ({"p": X}, "a dict", "call what it returns, as in make(f, names, ...)(x)"),
    ],
)
def test_arguments_among_the_keywords_are_refused(given: Any, what: str, meant: str) -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        make("f", "n", given)
    assert str(raised.value) == f"make takes keywords only after f and names, but was given {what}; {meant}"


def test_any_number_of_arguments_goes_through_where_it_is_meant_to() -> None:
    @keywords_only
    def collect(*terms: int, scale: int = 1) -> list[int]:
        return [scale * term for term in terms]

    assert collect(1, 2, 3, scale=2) == [2, 4, 6]


def test_other_errors_of_a_call_stay() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional"):
        make()


def test_unknown_keywords_are_refused_before_any_that_is_missing() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^make has no keyword 'other'; it takes names, argnums$"):
        make("f", other=1)
    with pytest.raises(ArgumentTypeError, match=r"^make has no keyword 'argnum'; did you mean 'argnums'\? It takes"):
        make("f", argnum=1)
    with pytest.raises(
        ArgumentTypeError, match=r"^partials has no keyword 'output'; did you mean 'outputs'\? It takes"
    ):
        partials(torch.sin, "u", inputs="x", output="u")


@pytest.mark.parametrize(
    ("transform", "keyword", "meant", "first"),
    [
        (
            laplacian,
            "gradient",
            "return_gradient",
            "return_gradient, segments, sparsity, coordinates, generator, argnums, batch_dims",
        ),
        (hessian, "value", "return_value", "return_gradient, segments, argnums, batch_dims"),
        (diag_jac, "segment", "segments", "segments, sparsity, coordinates, argnums, batch_dims"),
        (directional, "ord", "order", "order, argnums, batch_dims"),
        (check_independent, "tolerance", "check_tolerance", "argnums, batch_dims, out_dims, has_aux"),
        (curl, "methods", "method", "argnums, batch_dims"),
        (diag_jac, "in_axes", "in_dims", "segments, sparsity, coordinates, argnums, batch_dims"),
        (
            laplacian,
            "mode",
            "method",
            "return_gradient, segments, sparsity, coordinates, generator, argnums, batch_dims",
        ),
        (diag_jac, "batch_size", "sample_chunk_size", "segments, sparsity, coordinates, argnums, batch_dims"),
        (curl, "max_batch_size", "sample_chunk_size", "argnums, batch_dims"),
        (accumulate, "batch_size", "sample_chunk_size", "sample_chunk_size, reduction"),
        (make_functional, "disable_autograd_tracking", "snapshot", "snapshot, method"),
    ],
)
def test_a_keyword_that_is_meant_is_named_and_own_ones_come_first(
    transform: Any, keyword: str, meant: str, first: str
) -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        transform(torch.sin, **{keyword: True})
    told = f"{transform.__name__} has no keyword {keyword!r}; did you mean {meant!r}? It takes {first}, "
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("transform", "keyword", "others"),
    [
        (diag_jac, "return_gradient", "laplacian and hessian have; it takes segments, "),
        (batch_jac, "return_grad", "laplacian and hessian have as 'return_gradient'; it takes segments, "),
        (laplacian, "grid", "partials and residual have; it takes return_gradient, "),
    ],
)
def test_who_has_a_keyword_is_told_where_others_have_it(transform: Any, keyword: str, others: str) -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        transform(torch.sin, **{keyword: True})
    assert str(raised.value).startswith(f"{transform.__name__} has no keyword {keyword!r}, which {others}")


@pytest.mark.parametrize("keyword", ["create_graph", "vectorize", "zzz", "dim"])
def test_no_keyword_is_named_that_is_not_alike(keyword: str) -> None:
    make_laplacian: Any = laplacian
    told = f"^laplacian has no keyword '{keyword}'; (nothing has to be said .*, so leave it out; )?it takes return_gradient, "
    with pytest.raises(ArgumentTypeError, match=told):
        make_laplacian(torch.sin, **{keyword: True})


@pytest.mark.parametrize(
    ("call", "end"),
    [
        (lambda: residual(torch.sin, lambda d: d.u, "t x", "u"), "was given a str; name it, as in inputs='t x'"),
        (lambda: partials(torch.sin, "u", "t x", "u"), "was given a str; name it, as in inputs='t x'"),
        (lambda: laplacian(torch.sin, "forward"), "was given a str; name it, as in method='forward'"),
        (lambda: laplacian(torch.sin, True), "was given a bool; name it, as in return_gradient=True"),
        (lambda: diag_jac(torch.sin, True), "was given a bool; name it, as in return_value=True"),
        (lambda: make_functional(NET, True), "was given a bool; name it, as in snapshot=True"),  # type: ignore[call-overload]
        (lambda: make_functional(NET, X), "; write f, params = make_functional(module) and call f(params, x)"),  # type: ignore[call-overload]
    ],
)
def test_what_is_given_without_its_name_is_named(call: Any, end: str) -> None:
    with pytest.raises(ArgumentTypeError, match=rf"{re.escape(end)}$"):
        call()


@pytest.mark.parametrize(
    ("call", "begin"),
    [
        (
            lambda: explain(diag_jac, torch.sin, X),
            "explain takes one transform alone, but was given a builtin_function",
        ),
        (lambda: explain(diag_jac(torch.sin), X), "explain takes one transform alone, but was given a Tensor of shape"),
        (lambda: explain(diag_jac(torch.sin)(X)), "transform is a Tensor; explain takes what diag_jac and its kin"),
        (lambda: explain(diag_jac), "transform is diag_jac; explain takes what diag_jac and its kin return"),
    ],
)
def test_explain_says_how_it_is_written(call: Any, begin: str) -> None:
    with pytest.raises(ArgumentTypeError, match=rf"^{re.escape(begin)}.*write explain\(diag_jac\(f\)\)\(x\)$"):
        call()


@pytest.mark.parametrize("transform", [diag_jac, batch_jac, laplacian, curl])
def test_every_transform_is_guarded(transform: Any) -> None:
    with pytest.raises(
        ArgumentTypeError,
        match=re.escape(f"{transform.__name__} takes keywords only after f, but was given a Tensor of"),
    ):
        transform(torch.sin, X)
    with pytest.raises(ArgumentTypeError, match="as in argnums=1"):
        transform(torch.sin, 1)


def test_those_with_names_are_guarded_after_them() -> None:
    with pytest.raises(ArgumentTypeError, match="partials takes keywords only after f and"):
        partials(torch.sin, "u_x", X)
    with pytest.raises(ArgumentTypeError, match="residual takes keywords only after"):
        residual(torch.sin, lambda d: d.u_x, X)

"""``jacfunc/call/shapes.py``: shapes that a transform refuses, with the argument that would have done."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jacfunc.call.evaluator import Outputs
from jacfunc.call.request import Request
from jacfunc.call.shapes import (
    instead_of_coordinates,
    refuse_curl,
    refuse_unequal_trees,
    refuse_without_diagonal,
)
from jacfunc.core import trees
from jacfunc.errors import ShapeError
from jacfunc.options import Options


def given(*args: Any, **options: Any) -> Request:
    return Request(torch.sin, Options(**options), args, {})


def built(tree: Any, batch_dims: int = 1) -> Outputs:
    """The outputs that such a tree would be."""
    leaves, structure = trees.flatten(tree)
    return Outputs(structure, tuple(tuple(leaf.shape[batch_dims:]) for leaf in leaves))


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(4, *shape)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (zeros(3), zeros(3)),
        (zeros(3), zeros()),
        (zeros(1, 1), zeros(2, 2)),
        (zeros(2, 3), zeros(2, 1)),
        ({"a": zeros(3), "b": zeros(1)}, (zeros(3), zeros())),
    ],
)
def test_outputs_with_a_diagonal_pass(x: Any, y: Any) -> None:
    refuse_without_diagonal(given(x), built(y))


def test_outputs_without_a_diagonal_are_named_with_their_input() -> None:
    request = given({"a": zeros(1), "b": zeros(3)})
    with pytest.raises(ShapeError) as told:
        refuse_without_diagonal(request, built((zeros(3), zeros(2))))
    assert str(told.value) == (
        "output[1] has sample shape (2,) and args[0]['b'] (3,), without a common diagonal: one must have a single "
        "element, or equal rank and each axis equal or 1; use batch_jac for all"
    )


def test_an_argument_that_is_built_as_the_output_is_proposed() -> None:
    request = given(zeros(2), zeros(5), torch.zeros(5, 2), zeros(3))
    with pytest.raises(
        ShapeError, match=r"batch_jac for all, or pass argnums=0 to differentiate by args\[0\] of shape"
    ):
        refuse_without_diagonal(request, built(zeros(2)))
    with pytest.raises(ShapeError) as told:
        refuse_without_diagonal(request, built(zeros(4)))
    assert "argnums" not in str(told.value)


@pytest.mark.parametrize("tree", [zeros(3), (zeros(3), zeros(2)), {"a": zeros(), "b": [zeros(2, 2)]}])
def test_a_divergence_of_equal_trees_passes(tree: Any) -> None:
    refuse_unequal_trees(given(tree), built(tree))
    leaves = trees.flatten(tree)[0]
    refuse_unequal_trees(given(*leaves, argnums=tuple(range(len(leaves)))), built(leaves))


@pytest.mark.parametrize(
    ("args", "options", "output", "match"),
    [
        ((zeros(3),), {}, (zeros(3),), r"the output is PyTreeSpec\(\(\*,\).* and the input \*; use diag_jac or batch"),
        ((zeros(3), zeros(2)), {"argnums": (0, 1)}, zeros(3), r"the output is \* and the input \*, \*; use"),
        ((zeros(3),), {}, zeros(2), r"output has sample shape \(2,\) and args\[0\] \(3,\), but the divergence needs"),
        (
            ((zeros(3), zeros(2)),),
            {},
            (zeros(3), zeros(2, 1)),
            r"output\[1\] has sample shape \(2, 1\) and args\[0\]\[1\]",
        ),
        ((zeros(2), zeros(3)), {}, zeros(2), r"use diag_jac, batch_jac, or laplacian, or pass argnums=0 to"),
        (
            ((zeros(3), zeros(2)), zeros(3)),
            {},
            (zeros(3), zeros(2)),
            r"use diag_jac or batch_jac, or pass argnums=0 to differentiate by args\[0\] \(a tuple\)",
        ),
    ],
)
def test_a_divergence_of_unequal_trees_is_refused(args: Any, options: Any, output: Any, match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        refuse_unequal_trees(given(*args, **options), built(output))


@pytest.mark.parametrize("size", [2, 3])
def test_a_curl_is_of_two_or_three_dimensions(size: int) -> None:
    refuse_curl(given(zeros(size)), built(zeros(size)))
    refuse_curl(given(torch.zeros(size), batch_dims=0), built(torch.zeros(size), 0))


@pytest.mark.parametrize(
    ("x", "y", "found"),
    [
        (zeros(4), zeros(4), r"the input has \(4,\) and the output \(4,\)"),
        (zeros(2), zeros(3), r"the input has \(2,\) and the output \(3,\)"),
        (zeros(3, 1), zeros(3, 1), r"the input has \(3, 1\) and the output \(3, 1\)"),
        ((zeros(3), zeros(3)), zeros(3), r"the input has \(3,\) and \(3,\) and the output \(3,\)"),
        (zeros(3), (zeros(3), zeros()), r"the input has \(3,\) and the output \(3,\) and \(\)"),
    ],
)
def test_anything_else_has_no_curl(x: Any, y: Any, found: str) -> None:
    with pytest.raises(ShapeError, match=f"{found}; pass such a field, or use batch_jac$"):
        refuse_curl(given(x), built(y))


def test_the_argument_that_has_all_coordinates() -> None:
    request = given(zeros(2), (zeros(2),), zeros(2, 1), zeros(5))
    assert instead_of_coordinates(request, 2) == ", or pass argnums=0 to differentiate by args[0] of shape (4, 2)"
    assert instead_of_coordinates(request, 3) == ""
    request = given(torch.zeros(2, 2, 7), torch.zeros(2, 2), batch_dims=2)
    assert instead_of_coordinates(request, 7).endswith("args[0] of shape (2, 2, 7)")

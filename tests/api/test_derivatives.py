"""What ``partials`` returns: names, the order asked for, and trees that take it apart and put it together."""

from __future__ import annotations

import copy
import pickle

import optree
import pytest
import torch
from torch.utils import _pytree

from jacfunc import partials
from jacfunc.api.derivatives import Derivatives
from jacfunc.core.nodes import NAMESPACE

T, X, U, UX = (torch.full((2,), float(k)) for k in range(4))


def made() -> Derivatives:
    return Derivatives(["u_x", "u", "u_x-2*u"], [UX, U, UX - 2 * U], [("t", T), ("x", X)])


def test_fields_unpack_in_the_order_asked_for_and_inputs_do_not() -> None:
    one, two, three = made()
    assert one is UX
    assert two is U
    assert torch.equal(three, UX - 2 * U)
    assert len(made()) == 3


def test_names_are_attributes_and_keys() -> None:
    d = made()
    assert d.u_x is UX
    assert d.t is T
    assert d["u"] is U
    assert d["x"] is X
    assert torch.equal(d["u_x - 2*u"], UX - 2 * U)
    assert d["u_x-2*u"] is d[" u_x  - 2 * u "]


def test_names_that_were_not_asked_for() -> None:
    with pytest.raises(
        AttributeError, match="^'u_t' was not asked for; there are u_x, u, u_x-2\\*u and the inputs t, x$"
    ):
        _ = made().u_t
    with pytest.raises(AttributeError, match="'u_t' was not asked for"):
        made()["u_t"]
    with pytest.raises(AttributeError, match="^_hidden$"):
        _ = made()._hidden


@pytest.mark.parametrize("key", [0, slice(1), "_names", None])
def test_only_names_are_keys(key: object) -> None:
    with pytest.raises(TypeError, match=r"found by name, as in d\['u_x'\]"):
        made()[key]


def test_a_name_may_be_that_of_a_python_keyword_or_method() -> None:
    d = Derivatives(["values", "keys_x"], [U, UX], [("items", X)])
    assert d.values is U
    assert d.items is X
    assert d["keys_x"] is UX


def test_it_shows_names_and_shapes() -> None:
    assert repr(made()) == "Derivatives(u_x=(2,), u=(2,), u_x-2*u=(2,); t, x)"


@pytest.mark.parametrize("library", ["torch", "optree"])
def test_trees_take_it_apart_with_its_inputs(library: str) -> None:
    if library == "torch":
        doubled = _pytree.tree_map(lambda leaf: 2 * leaf, made())
        leaves, structure = _pytree.tree_flatten(made())
        again = _pytree.tree_unflatten(leaves, structure)
    else:
        doubled = optree.tree_map(lambda leaf: 2 * leaf, made(), namespace=NAMESPACE)
        leaves, structure = optree.tree_flatten(made(), namespace=NAMESPACE)
        again = optree.tree_unflatten(structure, leaves)
    assert type(doubled) is Derivatives
    assert torch.equal(doubled.u_x, 2 * UX)
    assert torch.equal(doubled.t, 2 * T)
    assert torch.equal(doubled["u_x-2*u"], 2 * UX - 4 * U)
    assert len(leaves) == 5
    assert leaves[0] is UX
    assert leaves[4] is X
    assert repr(again) == repr(made())
    assert [*again][1] is U


def test_vmap_takes_and_gives_it() -> None:
    found = torch.func.vmap(lambda d: Derivatives(["sum"], [d.u + d.t], [("x", d.x)]))(made())
    assert torch.equal(found.sum, U + T)
    assert torch.equal(found.x, X)


def test_copies_have_tensors_of_their_own() -> None:
    for again in (copy.deepcopy(made()), pickle.loads(pickle.dumps(made()))):
        assert type(again) is Derivatives
        assert repr(again) == repr(made())
        assert torch.equal(again.u_x, UX)
        assert again.u_x is not UX
    assert copy.copy(made()).u_x is UX


def test_that_is_what_partials_returns() -> None:
    x = torch.rand(3, 2)
    d = partials(lambda x: x[:, :1] * x[:, 1:] ** 2, "v_y v", inputs="x y", outputs="v")(x)
    assert type(d) is Derivatives
    torch.testing.assert_close(d.v_y, 2 * x[:, 0] * x[:, 1])
    assert torch.equal(d.y, x[:, 1])

"""``jacfunc/core/trees.py``: trees of tensors taken apart, put together, and named."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import optree
import pytest
import torch

from jacfunc.core import trees
from jacfunc.core.nodes import NAMESPACE
from jacfunc.core.trees import LEAF, Leaf, copied, flatten, mapped, tensors

Point = namedtuple("Point", "x y")
A, B, C = (torch.full((2,), float(number)) for number in range(3))


class Box:
    """A node that only this package is told of."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside


optree.register_pytree_node(Box, lambda box: ((box.inside,), None), lambda _, given: Box(*given), namespace=NAMESPACE)

TREES: list[tuple[Any, list[Any], list[str]]] = [
    (A, [A], ["y"]),
    ((A, B), [A, B], ["y[0]", "y[1]"]),
    ([A, (B, 3)], [A, B, 3], ["y[0]", "y[1][0]", "y[1][1]"]),
    ({"b": A, "a": B}, [B, A], ["y['a']", "y['b']"]),
    (OrderedDict(b=A, a=B), [A, B], ["y['b']", "y['a']"]),
    (Point(A, {"k": B}), [A, B], ["y.x", "y.y['k']"]),
    ((None, A, "text"), [A, "text"], ["y[1]", "y[2]"]),
    (3.5, [3.5], ["y"]),
    ((), [], []),
    (None, [], []),
]


@pytest.mark.parametrize(("tree", "leaves", "paths"), TREES)
def test_a_tree_is_its_leaves_and_how_it_is_built(tree: Any, leaves: list[Any], paths: list[str]) -> None:
    found, structure = flatten(tree)
    assert len(found) == len(leaves) and all(one is other for one, other in zip(found, leaves, strict=True))
    assert structure.paths("y") == paths
    again, same = flatten(structure.build(found))
    assert type(structure.build(found)) is type(tree)
    assert same == structure and hash(same) == hash(structure) and repr(same) == repr(structure)
    assert all(one is other for one, other in zip(again, leaves, strict=True))


def test_a_path_is_the_python_that_finds_the_leaf() -> None:
    tree = Point([A, {"k": (B,)}], C)
    leaves, structure = flatten(tree)
    for leaf, path in zip(leaves, structure.paths("tree"), strict=True):
        assert eval(path, {"tree": tree}) is leaf


@pytest.mark.parametrize("traced", [False, True])
def test_structures_differ_where_trees_are_built_otherwise(traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "compiling", lambda: traced)
    others = [A, (A, B), [A, B], (A, B, C), {"a": A, "b": B}, {"a": A, "c": B}, Point(A, B), (A, None, B), ((A,), B)]
    found = [flatten(tree)[1] for tree in others]
    assert len(set(found)) == len(others)
    assert [[one == other for other in found] for one in found] == [[one is other for other in found] for one in found]
    assert flatten((A, B))[1] == flatten((B, 3))[1]
    assert flatten(A)[1] is LEAF and flatten((A,))[1] != LEAF and LEAF != "*"


def test_a_tensor_alone_is_no_tree_of_one() -> None:
    assert repr(LEAF) == "*" and LEAF.build([B]) is B and LEAF.paths("output") == ["output"]


def test_leaves_are_numbered_in_their_order() -> None:
    _, structure = flatten({"b": A, "a": (B, C)})
    numbered = structure.numbered(3)
    assert all(type(leaf) is Leaf for leaf in (numbered["b"], *numbered["a"]))
    assert [numbered["a"][0].number, numbered["a"][1].number, numbered["b"].number] == [0, 1, 2]


def test_nodes_of_this_packages_namespace_are_followed() -> None:
    assert tensors(Box((A, Box(B)))) == [A, B]
    assert optree.tree_leaves(Box(A)) != [A]


class Late(OrderedDict[str, Any]):
    """A class that optree does not know before it is met."""


def test_a_class_that_is_met_for_the_first_time_is_followed() -> None:
    found, structure = flatten((Late(k=A), 2))
    assert found[0] is A and found[1] == 2 and structure.paths("y") == ["y[0]['k']", "y[1]"]
    assert type(structure.build(found)[0]) is Late


def test_tensors_are_found_among_whatever_else() -> None:
    assert tensors({"a": [A, 1], "b": ("text", B, None)}) == [A, B]
    assert tensors(3) == [] and tensors(C) == [C]


def test_mapped_takes_tensors_only() -> None:
    found = mapped(lambda tensor: tensor + 1, {"a": (B, 7), "b": None, "c": "text"})
    assert torch.equal(found["a"][0], B + 1)
    assert found == {"a": (found["a"][0], 7), "b": None, "c": "text"}
    assert torch.equal(mapped(torch.neg, B), -B)


def test_nothing_done_to_a_copy_reaches_the_original() -> None:
    number = object()
    tree = {"a": [torch.zeros(2), number], "b": Point(torch.zeros(2, requires_grad=True), None)}
    copy = copied(tree)
    copy["a"][0].add_(1)
    copy["a"].append(3)
    assert not tree["a"][0].any() and len(tree["a"]) == 2 and copy["a"][1] is number
    copy["b"].x.sum().backward()
    assert torch.equal(tree["b"].x.grad, torch.ones(2))  # a copy is still a function of it
    assert trees.copied(A).data_ptr() != A.data_ptr()

"""``jacfunc/evaluation/sample_axis_rules.py``: names of operations; the rules are judged in ``test_sample_axis.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from jacfunc.evaluation.sample_axis_rules import ELEMENTWISE, RULES, function_name, name_of, tensors_in


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.sin, "sin"),
        (torch.Tensor.sin_, "sin_"),
        (torch.Tensor.__add__, "add"),
        (torch.Tensor.__rmatmul__, "rmatmul"),
        (torch.Tensor.__getitem__, "getitem"),
        (torch.Tensor.T.__get__, "T"),  # type: ignore[attr-defined]
        (F.linear, "linear"),
        (object(), ""),
    ],
)
def test_names(function: Any, name: str) -> None:
    assert name_of(function) == name


def test_a_conversion_of_a_tensor_is_none_to_a_number() -> None:
    assert (function_name(torch.Tensor.float), function_name(torch.Tensor.__float__)) == ("float", "__float__")


def test_tensors_are_found_in_lists_and_dicts() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [len(tensor) for tensor in tensors_in((a, [1, (b,)], {"c": c}, "d"))] == [1, 2, 3]


def test_each_rule_is_of_an_operation_of_torch() -> None:
    places = (torch, torch.Tensor, F, torch.linalg, torch.special, torch._C._nn, torch.ops.aten)
    for name in ELEMENTWISE | RULES.keys():
        spelled = (name, f"_{name}", f"__{name}__", name.removeprefix("linalg_"), name.removeprefix("special_"))
        assert any(hasattr(place, form) for place in places for form in spelled), name
    assert not ELEMENTWISE & RULES.keys() or ELEMENTWISE & RULES.keys() <= {"double", "float", "half", "bool"}

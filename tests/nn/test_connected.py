"""``jacfunc/nn/connected.py``: results whose graph reaches every parameter without a number of theirs being read."""

from __future__ import annotations

import math

import optree
import pytest
import torch

from jacfunc import UnsupportedOperationError
from jacfunc.core.nodes import NAMESPACE
from jacfunc.nn.connected import connected, in_sight, refuse_out_of_sight


def test_values_are_the_same_bits_whatever_the_parameters() -> None:
    result = torch.tensor([1.0, -0.0, math.nan, math.inf])
    parameters = [torch.tensor([math.inf, math.nan], requires_grad=True), torch.zeros(2, 3, requires_grad=True)]
    found = connected({"a": result, "b": torch.arange(2)}, parameters)
    assert torch.equal(found["a"].view(torch.int32), result.view(torch.int32))
    assert not found["b"].requires_grad
    found["a"][:2].sum().backward()
    assert [parameter.grad.tolist() for parameter in parameters] == [[0.0, 0.0], [[0.0] * 3] * 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_gradients_have_the_dtype_of_their_parameter(dtype: torch.dtype) -> None:
    parameter = torch.ones(3, dtype=dtype, requires_grad=True)
    connected(torch.ones(2), [parameter]).sum().backward()
    assert parameter.grad is not None
    assert (parameter.grad.dtype, parameter.grad.tolist()) == (dtype, [0, 0, 0])


def test_a_parameter_that_is_changed_before_the_backward() -> None:
    parameter = torch.ones(3, requires_grad=True)
    found = connected(torch.ones(2), [parameter])
    with torch.no_grad():
        parameter.add_(1)
    found.sum().backward()
    assert parameter.grad is not None


def test_frozen_parameters_and_no_graph() -> None:
    result = torch.ones(2)
    assert connected(result, [torch.ones(3)]) is result
    with torch.no_grad():
        assert connected(result, [torch.ones(3, requires_grad=True)]) is result


def test_real_gradients_are_kept() -> None:
    parameter = torch.tensor([2.0, 3.0], requires_grad=True)
    found = connected(parameter**3, [parameter])
    (slopes,) = torch.autograd.grad(found.sum(), parameter, create_graph=True)
    assert slopes.tolist() == [12.0, 27.0]
    assert torch.autograd.grad(slopes.sum(), parameter)[0].tolist() == [12.0, 18.0]


def test_under_vmap() -> None:
    parameter = torch.tensor([2.0, 3.0])
    by_row = torch.func.vmap(torch.func.grad(lambda p, x: connected(p * x, [p]).sum()), in_dims=(None, 0))
    assert by_row(parameter, torch.ones(4, 2)).tolist() == [[1.0, 1.0]] * 4


def test_tuples_stay_tuples() -> None:
    assert in_sight((1, (2, {"a": 3}))) == (1, (2, {"a": 3}))


class Box:
    """A container that only trees know."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


optree.register_pytree_node(Box, lambda box: ([box.tensor], None), lambda _, parts: Box(*parts), namespace=NAMESPACE)


def test_tensors_that_no_wrapper_would_find_are_refused() -> None:
    refuse_out_of_sight(({"a": torch.ones(1)}, [torch.ones(1), None]))
    with pytest.raises(UnsupportedOperationError, match="has 1 of its tensors in a Box, in which DDP and FSDP2"):
        refuse_out_of_sight((torch.ones(1), {"a": Box(torch.ones(1))}))

"""``jacfunc/evaluation/scripted.py``: scripted and traced code run as its graph has it, with every derivative."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functions import at_once
from torch import nn
from torch.utils.checkpoint import checkpoint

from jacfunc.core import caches
from jacfunc.errors import RefusedOperationError
from jacfunc.evaluation.scripted import ORIGINAL, SCRIPTED, plainly

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")
X = torch.tensor([0.3, -0.7], dtype=torch.double)


def scripted(function: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(function)


def wave(x: torch.Tensor, factor: float = 2.0, shift: float = 1.0) -> torch.Tensor:
    return torch.sin(x * factor + shift) * x


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.5, -0.5], dtype=torch.double))

    def forward(self, x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
        return torch.sin(x * factor) * self.weight


def torchs() -> list[Any]:
    return [kind.__call__ for kind in SCRIPTED]


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    yield
    assert torchs() == list(ORIGINAL.values())
    assert caches.PLAINLY_COUNT.number == 0 and caches.PLAINLY.depth == 0 and not caches.AROUND.rebindings


@pytest.mark.parametrize("args", [(X,), (X, 3.0)])
@pytest.mark.parametrize("kwargs", [{}, {"shift": 0.5}])
def test_code_that_is_called_gives_what_it_gave(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    code = scripted(wave)
    with plainly() as called:
        assert not called()
        found = code(*args, **kwargs)
        assert called()
    assert torch.equal(found, wave(*args, **kwargs))


def test_arguments_by_name_and_by_default() -> None:
    code, module = scripted(wave), scripted(Wave())
    with plainly():
        assert torch.equal(code(factor=3.0, x=X), wave(X, 3.0))
        assert torch.equal(module(X), Wave()(X))
        assert torch.equal(module(factor=0.5, x=X), Wave()(X, 0.5))


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((X, 1.0, 2.0, 3.0), {}), ((X,), {"other": 1.0})])
def test_arguments_that_do_not_fit_are_refused_by_torch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    code = scripted(wave)
    with pytest.raises(RuntimeError, match="wave"):
        code(*args, **kwargs)
    with plainly(), pytest.raises(RuntimeError, match="wave"):
        code(*args, **kwargs)


def second(f: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The second derivative of each coordinate by nested ``torch.func``."""
    x = X.clone()
    gradient = lambda x: torch.func.jvp(lambda x: f(x).sum(), (x,), (torch.ones_like(x),))[1]
    return torch.func.jvp(gradient, (x,), (torch.ones_like(x),))[1]


def test_the_copy_is_never_optimised_so_that_no_operations_are_joined() -> None:
    code = scripted(wave)
    for _ in range(4):
        code(X.clone().requires_grad_()).sum().backward()  # as torch learns what to join
    nodes = set()
    with plainly():
        for _ in range(4):
            y = code(X.clone().requires_grad_())
            nodes.add(type(y.grad_fn).__name__)
    assert nodes == {"MulBackward0"}
    assert torch._C._get_graph_executor_optimize()


def test_derivatives_of_all_orders_are_those_of_the_function() -> None:
    code = scripted(wave)
    for _ in range(3):
        with plainly():
            found = second(code)
    torch.testing.assert_close(found, second(wave))


def test_the_parameters_are_those_of_the_module_that_is_called() -> None:
    one, other = scripted(Wave()), scripted(Wave())
    with torch.no_grad():
        other.weight.fill_(3.0)
    with plainly():
        assert torch.equal(one(X), torch.sin(2 * X) * torch.tensor([1.5, -0.5]))
        assert torch.equal(other(X), torch.sin(2 * X) * 3)
        with torch.no_grad():
            one.weight.fill_(2.0)  # the copy holds the graph alone
        assert torch.equal(one(X), torch.sin(2 * X) * 2)


def test_functions_within_functions_are_part_of_the_copy() -> None:
    inner = scripted(wave)

    def outer(x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return inner(x) * 2
        return inner(x)

    code = scripted(outer)
    with plainly():
        assert torch.equal(code(X), wave(X))
        assert torch.equal(code(-X), 2 * wave(-X))


def test_what_stands_for_a_tensor_gets_the_code_itself() -> None:
    class Stand:
        @classmethod
        def __torch_function__(cls, code: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
            return code, args, kwargs

    code, stand = scripted(wave), Stand()
    with plainly() as called:
        assert code(stand, factor=3.0) == (code, (stand,), {"factor": 3.0})
        assert code(x=stand)[0] is code
        assert called()


def test_other_threads_call_torchs_own() -> None:
    code, called_there = scripted(wave), []

    def other() -> bool:
        before = caches.PLAINLY.called
        found = code(X)
        called_there.append(caches.PLAINLY.called - before)
        return torch.equal(found, wave(X))

    with plainly() as called:
        assert at_once(other) == [True]
        assert not called() and called_there == [0]


def test_one_within_another_counts_for_itself() -> None:
    code = scripted(wave)
    with plainly() as outer:
        code(X)
        with plainly() as inner:
            assert not inner()
        assert torchs() != list(ORIGINAL.values())
        code(X)
        assert outer()
    code(X)
    with plainly() as called:
        assert not called()


def test_what_is_checkpointed_runs_plainly_again() -> None:
    code, x = scripted(wave), X.clone().requires_grad_()
    with plainly():
        y = checkpoint(lambda x: code(x).exp(), x, use_reentrant=False)
    before = caches.PLAINLY.called
    y.sum().backward()
    assert caches.PLAINLY.called == before + 1
    slope = torch.sin(2 * X + 1) + 2 * X * torch.cos(2 * X + 1)
    torch.testing.assert_close(x.grad, slope * wave(X).exp())


def normalised(x: torch.Tensor) -> torch.Tensor:
    if bool(x.sum() > 0):
        x = torch.nn.functional.layer_norm(x, [2])
    return x


def test_operations_with_wrong_second_derivatives_are_refused_wherever_they_are() -> None:
    code = scripted(normalised)
    assert torch.equal(code(X), X)
    with (
        plainly(),
        pytest.raises(RefusedOperationError, match="scripted or traced code calls layer_norm, whose second"),
    ):
        code(X)
    assert torch._C._get_graph_executor_optimize()


def test_batch_norm_in_eval_mode_is_right_there() -> None:
    net = nn.BatchNorm1d(2).double().eval()
    code = scripted(net)
    with plainly():
        torch.testing.assert_close(code(X[None]), net(X[None]))

"""What explain says is what runs, in words and as a table."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from functions import OldStyle
from torch import nn

from jacfunc import (
    batch_jac,
    diag_jac,
    directional,
    divergence,
    explain,
    hess_diag,
    laplacian,
    make_functional,
    partials,
)
from jacfunc.core import caches


def founding():
    return nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 400))


def test_the_founding_example_is_explained():
    f, params = make_functional(founding())
    text = str(explain(diag_jac(f))(params, torch.randn(100, 1)))
    assert re.search(r"^transform +diag_jac\(<f\(params, ...\) of Sequential>\)$", text, re.MULTILINE)
    assert re.search(r"^sample shapes +\(1,\) -> \(400,\) for each of 100 samples$", text, re.MULTILINE)
    assert re.search(r"^route +taylor$", text, re.MULTILINE)
    assert re.search(r"^why +taylor would cost 1.5 plain forwards, forward 3, reverse 401$", text, re.MULTILINE)
    assert re.search(r"^passes \(rows\) +1 in 1 chunk$", text, re.MULTILINE)
    assert re.search(r"^independence +checked: no sample influences another$", text, re.MULTILINE)


def test_it_is_the_plan_that_runs():
    f, params = make_functional(founding())
    transform = diag_jac(f)
    explained = explain(transform)(params, torch.randn(10, 1)).plan
    (entry,) = caches.PLANS._entries.values()
    (remembered,) = entry[1].values()
    assert explained is remembered
    transform(params, torch.randn(10, 1))
    (remembered,) = entry[1].values()
    assert explained is remembered


def test_a_table_in_a_notebook():
    table = explain(diag_jac(lambda x: x.sin()))(torch.randn(4, 3))._repr_html_()
    assert table.startswith("<table><tr><th")
    assert "&lt;lambda&gt;" in table


def test_rows_and_chunks_are_counted():
    x = torch.randn(5, 7)
    net = nn.Linear(7, 3)
    plan = explain(batch_jac(net, chunk_size=2))(x)
    assert plan.plan.route == "reverse"
    assert "3 in 2 chunks" in str(plan)
    assert plan.rows_in_flight == 2
    assert explain(batch_jac(net, method="forward"))(x).plan.rows == 7
    assert explain(laplacian(net, method="reverse"))(x).plan.rows == 21
    assert explain(hess_diag(net, method="forward"))(x).plan.cost > 7


def test_the_trial_is_small():
    widest = []

    class Recorder(nn.Module):
        def forward(self, x):
            return torch.tanh(x)

    x = torch.randn(3, 500)
    hook = torch.utils._python_dispatch.TorchDispatchMode

    class Mode(hook):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                widest.append(result.numel())
            return result

    with Mode():
        explain(diag_jac(Recorder(), method="forward"))(x)
    assert max(widest) <= 4 * x.numel()


def test_memory_grows_with_the_rows_in_flight_and_samples():
    net = founding()
    small = explain(diag_jac(net, method="reverse", chunk_size=4))(torch.randn(10, 1)).memory
    more_rows = explain(diag_jac(net, method="reverse"))(torch.randn(10, 1)).memory
    more_samples = explain(diag_jac(net, method="reverse", chunk_size=4))(torch.randn(40, 1)).memory
    assert more_rows > 20 * small
    assert more_samples == 4 * small


def test_fallbacks_and_their_reasons_are_told():
    class Old(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    text = str(explain(diag_jac(lambda x: Old.apply(x)))(torch.randn(4, 3)))
    assert re.search(r"^route +autograd$", text, re.MULTILINE)
    assert re.search(r"^not reverse +In order to use an autograd.Function", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: explain(diag_jac(f, check=False))(torch.randn(4, 3)), "check=False"),
        (lambda f: explain(diag_jac(f))(torch.randn(1, 3)), "at most one sample"),
        (lambda f: explain(diag_jac(f))(torch.randn(4, 3)), "checked: no sample influences another"),
    ],
)
def test_what_is_known_of_independence_is_said(call, said):
    assert said in call(torch.sin).plan.findings.independence


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (lambda x: torch.eye(4) @ x, "another; again at later calls, as matmul keeps it from being proved"),
        (
            lambda x: OldStyle.apply(x),
            "another; again at later calls, as an autograd.Function keeps it from being proved",
        ),
        (torch.sin, "independence   checked: no sample influences another"),
        (nn.Linear(3, 3), "independence   checked: no sample influences another"),
    ],
)
def test_what_keeps_independence_from_being_proved_is_named(f, said):
    told = str(explain(diag_jac(f))(torch.randn(4, 3)))
    assert said in told
    assert ("again" in said) == ("again at later calls" in told)


def test_explaining_changes_nothing():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    for transform in (diag_jac, laplacian):
        before = torch.get_rng_state()
        explain(transform(net))(torch.ones(4, 3))
        assert torch.equal(before, torch.get_rng_state())


def test_the_corrected_operations_are_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))
    attention = nn.MultiheadAttention(3, 1, batch_first=True)
    told = str(explain(laplacian(net))(torch.ones(4, 3)))
    assert "corrected      layer_norm is computed from simpler operations: torch's second" in told
    assert "(pytorch issue 196700)" in told
    found = explain(batch_jac(lambda x: attention(x, x, x)[0]))(torch.ones(4, 2, 3)).corrected
    assert [entry.name for entry in found] == ["scaled_dot_product_attention"]
    assert explain(diag_jac(torch.tanh))(torch.ones(4, 3)).corrected == ()


def test_inside_a_transform():
    seen = []
    torch.func.grad(lambda x: seen.append(explain(diag_jac(lambda x: x.sin()))(x)) or x.sum())(torch.ones(4, 3))
    assert seen[0].memory > 0


def test_along_a_direction_the_shapes_are_those_of_the_input() -> None:
    along = directional(lambda a, x: a * x.sin(), order=2)
    text = str(explain(along)(torch.tensor(2.0), torch.rand(5, 3), torch.ones(3)))
    assert "sample shapes  (3,) -> (3,) for each of 5 samples" in text


def told_argument(transform: Any, *args: Any) -> str | None:
    return dict(explain(transform)(*args).items()).get("derivative by")


def test_the_argument_is_named_where_an_earlier_one_may_be_meant() -> None:
    def v(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (x * t).sin()

    x, t = torch.rand(5, 1), torch.rand(5, 1)
    told = "args[1] of shape (5, 1), the last one; args[0] has that shape too (argnums=0)"
    assert told_argument(divergence(v), x, t) == told
    assert f"\nderivative by  {told}\n" in str(explain(divergence(v))(x, t))
    assert told_argument(divergence(v, sample_chunk_size=2, in_dims=0), x, t) == told
    assert told_argument(directional(v), x, t, t) == told
    assert told_argument(directional(v, argnums=0), x, t, t) is None
    assert told_argument(divergence(v, argnums=0), x, t) is None
    told = "args[1] of shape (5, 1), the last one; args[0] has shape (5, 2) (argnums=0)"
    assert told_argument(laplacian(lambda x, t: x.sum(1, keepdim=True) * t), torch.rand(5, 2), t) == told
    assert told_argument(diag_jac(v), torch.rand(()), t) is None
    assert told_argument(diag_jac(v), torch.ones(5, 1, dtype=torch.int64), t) is None
    assert told_argument(partials(v, "u_t", inputs="x t", outputs="u"), x, t) is None


def test_parameters_are_not_meant() -> None:
    f, params = make_functional(nn.Linear(3, 1))
    assert told_argument(diag_jac(f), params, torch.rand(1, 3)) is None

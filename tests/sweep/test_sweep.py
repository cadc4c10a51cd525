"""A small part of the sweep in every run of the tests, the judge against planted faults, and all of it with ``-m slow``."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch.autograd.function import once_differentiable

from jacfunc.core import caches
from jacfunc.routes import autograd, forward, reverse, verify_tape

from .cases import FilteredError, Template, _template, layout_of, make_case, operations, templates
from .judge import COARSER, TRANSFORMS, _judged_case, judged
from .page import ROUTES, coarse_worst, filtered, page, worst
from .pool import in_processes
from .served import networks_served
from .truth import truth

CHOSEN = (
    "sin", "div.no_rounding_mode", "matmul", "gather", "index_add", "topk", "prod", "softmax", "linalg.eigh",
    "linalg.cholesky", "fft.rfft", "nn.functional.conv2d", "nn.functional.dropout", "nn.functional.layer_norm",
    "nn.functional.scaled_dot_product_attention", "torch.nn.LSTM", "torch.nn.BatchNorm2d",
)  # fmt: skip
DEAR = ("topk", "linalg.eigh", "torch.nn.LSTM", "div.no_rounding_mode", "linalg.cholesky", "torch.nn.BatchNorm2d")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def coarse_outcomes(records: list[dict[str, Any]]) -> set[str]:
    return {coarse_worst(records, str(dtype), transform) for dtype in COARSER for transform in TRANSFORMS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEAR)) for n in CHOSEN])
def test_chosen_operations_are_right_on_every_route(name: str) -> None:
    records = list(islice(judged(name), 2))  # of the first sample both forms
    assert filtered(records) is None
    assert {route: worst(records, route) for route in ROUTES} == dict.fromkeys(ROUTES, "right"), records
    assert coarse_outcomes(records) <= {"right", "unjudged"}, records


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_operation_is_wrong_or_raises_a_foreign_error() -> None:
    found = dict(in_processes(list(operations()), 2))
    bad = {name: {worst(records, route) for route in ROUTES} & {"wrong", "foreign"} for name, records in found.items()}
    assert not {name for name, outcomes in bad.items() if outcomes}
    assert not {name for name, records in found.items() if coarse_outcomes(records) & {"wrong", "foreign"}}
    assert not [name for name, records in found.items() if any("broken" in record for record in records)]
    everything = {"torch": torch.__version__, "entries": found, "networks": {"called": [], "without": []}}
    assert len(page(everything).splitlines()) <= 400


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_operations_of_networks_have_rules() -> None:
    called, without = networks_served()
    assert len(called) > 100
    assert without <= {"ctc_loss", "expand_as"}


def test_what_has_no_rule_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(caches.RULES, torch.nn.functional.hardswish)
    assert "hardswish" in networks_served("torch.nn.Hardswish")[1]


# -------------------------------------------------------------------- the judge itself


def _planted(call: Any, *shape: int) -> Template:
    argument = torch.linspace(0.5, 1.5, 6, dtype=torch.float64).reshape(shape or (6,)).requires_grad_()
    return _template("planted", call, (argument,), (0,))


class _WrongSecond(torch.autograd.Function):
    """``x**3`` whose first derivative takes part of itself for a constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * x * x.detach()

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return tangent * 3 * x * x.detach()


class _WrongFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_a_wrong_second_derivative_is_seen_in_the_laplacian_and_in_the_gradients(monkeypatch) -> None:
    monkeypatch.setattr(verify_tape, "verify_tape", lambda *_: None)  # which would refuse it
    for route in (forward, reverse, autograd):
        monkeypatch.setattr(route, "verify_tape", lambda *_: None)
    outcomes = _judged_case(_planted(_WrongSecond.apply), None)["outcomes"]
    assert outcomes["batch_jac reverse"]["value"]["outcome"] == "right"
    assert outcomes["batch_jac reverse"]["gradient"]["outcome"] == "wrong"
    assert outcomes["laplacian reverse"]["value"]["outcome"] == "wrong"


def test_a_wrong_first_derivative_is_no_truth() -> None:
    record = _judged_case(_planted(_WrongFirst.apply), None)
    assert "disagrees" in record["unjudged"]["all"]
    assert not record["outcomes"]


def test_a_kink_at_the_point_is_not_judged_and_one_beside_it_is_moved_from() -> None:
    everywhere = _judged_case(_planted(lambda x: (x * 1e9).sin()), None)
    assert "do not settle" in everywhere["unjudged"]["all"]
    assert _judged_case(_planted(lambda x: (x - 1).abs()), None)["outcomes"]


def test_the_truth_of_a_cubic() -> None:
    case = make_case(_planted(lambda x: x**3), None, 0.2, 0)
    known = truth(case, 0.02)
    assert known.doubt is None and not known.unresolved
    v = case.base[0] + case.directions @ case.x[0] + case.p * case.along
    jacobian = case.projection @ ((3 * v**2)[:, None] * case.directions)
    laplacian = case.projection @ ((6 * v)[:, None] * case.directions**2).sum(1)
    by_p = case.projection @ (6 * case.along[:, None] * case.directions**2).sum(1)
    for name, wanted in (("jacobian", jacobian), ("laplacian", laplacian), ("laplacian by p", by_p)):
        assert (known.quantities[name].value[0] - wanted).abs().max() <= 1e-8 * jacobian.abs().max(), name


def test_samples_are_joined_only_where_they_stay_apart() -> None:
    assert layout_of(_planted(torch.sin)) == ("cat", "all")
    assert layout_of(_planted(lambda x: x.cumsum(-1), 2, 3)) == ("cat", "all")
    assert layout_of(_planted(lambda x: x.softmax(-1))) == ("stack", "all")
    assert layout_of(_planted(lambda x: x - x.mean())) is None


def test_what_says_nothing_is_filtered() -> None:
    with pytest.raises(FilteredError, match="differentiable"):
        _planted(lambda x: x > 0)
    assert list(templates("argmax")) == [(-1, "no autograd (supports_autograd=False)")]


def test_the_page_tells_every_outcome() -> None:
    verdict = {"outcome": "right"}
    outcomes = {route: {"value": verdict, "gradient": verdict} for route in ROUTES}
    bad = {**outcomes, "laplacian auto": {"value": {"outcome": "wrong", "error": 0.5}, "gradient": verdict}}
    foreign = {"outcome": "foreign", "message": "RuntimeError: no | derivative"}
    raising = {**outcomes, "batch_jac reverse": {"value": foreign, "gradient": foreign}}
    text = page(
        {
            "torch": "2",
            "entries": {
                "good": [{"unjudged": {}, "outcomes": outcomes, "served": "own rules"}],
                "bad": [{"unjudged": {"jacobian by p": "a kink"}, "outcomes": bad, "served": "an operation alone: f"}],
                "raising": [{"unjudged": {}, "outcomes": raising}],
                "gone": [{"broken": "the process crashed"}],
                "left": [{"filter": "too large"}],
            },
            "networks": {"called": ["tanh", "sin", "ctc_loss"], "without": ["ctc_loss"]},
        }
    )
    assert "| `bad` | right | right | value wrong 5e-01, gradient right |" in text
    assert "- `raising`, on batch_jac (reverse): foreign: RuntimeError: no | derivative" in text
    assert "1 entries: `good`." in text
    assert "| own rules | 1 |" in text
    assert "| an operation alone | 1 |" in text
    assert "- an operation alone: `bad`" in text
    assert "of which 2 have rules (67%); without: `ctc_loss`." in text
    assert "- all: the process crashed: `gone` (1 of 1)" in text
    assert "- too large: `left`" in text

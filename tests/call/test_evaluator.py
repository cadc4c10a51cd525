"""``jacfunc/call/evaluator.py``: one function on tensors and on jets; what goes in, what comes out, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from propagated import seeded
from torch import nn

from jacfunc.call.evaluator import Evaluator, Outputs, OutputsChangedError
from jacfunc.call.request import Request
from jacfunc.core import trees
from jacfunc.errors import ArgumentTypeError, ShapeError, UnsupportedOperationError
from jacfunc.jet import CannotFollowError, Jet
from jacfunc.jet.layout import first_order
from jacfunc.modules.functional import make_functional
from jacfunc.options import Options

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], dtype=torch.double)


def evaluator(f: Callable[..., Any], *args: Any, expected: Outputs | None = None, **options: Any) -> Evaluator:
    kwargs = options.pop("kwargs", {})
    return Evaluator(Request(f, Options(**options), args or (X,), kwargs), expected)


def leaf(*shape: int) -> Outputs:
    return Outputs(trees.LEAF, (shape,))


# -------------------------------------------------------------------- on tensors


def test_outputs_are_leaves_and_how_they_are_built() -> None:
    found = evaluator(lambda x: {"b": x.sum(1), "a": (x.sin(), None)})
    leaves, aux = found.evaluate(X)
    torch.testing.assert_close(leaves, (X.sin(), X.sum(1)), rtol=0, atol=0)
    assert aux == () and found.outputs is not None
    assert found.outputs.shapes == ((3,), ()) and found.outputs.paths() == ["output['a'][0]", "output['b']"]
    assert found.outputs.structure.build([1, 2]) == {"a": (1, None), "b": 2}


def test_leaves_stand_where_the_differentiated_ones_were_and_all_else_is_as_it_was_given() -> None:
    def f(trees: Any, scale: Any, x: Any, *, shift: Any, name: str) -> Any:
        assert name == "n"
        return trees["a"][0] * scale + x + shift

    shift = torch.ones(2, 3)
    args = ({"a": [X]}, 2.0, X)
    found = evaluator(f, *args, argnums=(2, 0), kwargs={"shift": shift, "name": "n"})
    (output,), _ = found.evaluate(X * 10, X * 100)
    assert torch.equal(output, X * 200 + X * 10 + 1)


def test_aux_is_taken_apart_and_built_around_other_tensors() -> None:
    found = evaluator(lambda x: (x.sin(), {"loss": x.sum(), "n": 3, "none": None, "y": [x.long()]}), has_aux=True)
    (output,), aux = found.evaluate(X)
    assert torch.equal(output, X.sin()) and len(aux) == 2
    one, two = torch.zeros(1), torch.ones(1)
    assert found.aux((one, two)) == {"loss": one, "n": 3, "none": None, "y": [two]}


@pytest.mark.parametrize("returned", [lambda x: x, lambda x: (x, x, x), lambda x: [x, x]])
def test_aux_that_is_none_is_refused(returned: Callable[[Any], Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="has_aux=True, but f returned a .*; it must return a pair"):
        evaluator(returned, has_aux=True).evaluate(X)


@pytest.mark.parametrize("f", [lambda x: x.sum(1), lambda x: (x,), lambda x: (x, x), lambda x: {"a": x}])
def test_other_outputs_than_a_plan_was_made_for_raise(f: Callable[[Any], Any]) -> None:
    with pytest.raises(OutputsChangedError):
        evaluator(f, expected=leaf(3)).evaluate(X)
    assert evaluator(lambda x: x, expected=leaf(3)).evaluate(X)


@pytest.mark.parametrize(
    ("f", "error", "match"),
    [
        (lambda x: None, ArgumentTypeError, "f returned no tensor"),
        (lambda x: (x, 3), ArgumentTypeError, r"output\[1\] is an int, not a tensor"),
        (lambda x: x.sum(), ShapeError, r"output is a scalar, but a batch of \(2,\) samples went in"),
        (lambda x: x[:1], ShapeError, r"output has shape \(1, 3\), whose first axes are not the batch \(2,\)"),
        (lambda x: x.long(), ArgumentTypeError, "output has dtype torch.int64"),
    ],
)
def test_outputs_that_are_none_are_refused(f: Callable[[Any], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"^{match}"):
        evaluator(f).evaluate(X)


def test_writes_of_the_function_do_not_reach_the_caller() -> None:
    x, other, named = X.clone(), torch.zeros(2), [torch.zeros(2)]

    def f(other: Any, x: Any, named: Any) -> Any:
        x.mul_(2)
        other.add_(1)
        named[0].sub_(1)
        named.append(1)
        return x * 1

    found = evaluator(f, other, x, kwargs={"named": named})
    assert torch.equal(found.values([x])[0], 2 * X)
    found.evaluate(x, others_copied=True)
    assert torch.equal(x, X) and not other.any() and len(named) == 1 and not named[0].any()
    found.evaluate(x)  # others are as given; what is differentiated by is a copy always
    assert torch.equal(x, X) and other.all()


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def test_buffers_of_modules_in_the_function_are_left_alone() -> None:
    net = Counting()
    found = evaluator(lambda x: net(net(x)))
    for _ in range(2):
        (output,), _ = found.evaluate(X)
        assert torch.equal(output, 2 * X)
    assert net.calls == 0


def test_a_graph_reaches_the_leaves_and_values_have_none() -> None:
    x = X.clone().requires_grad_()
    found = evaluator(lambda x: x**2)
    (output,), _ = found.evaluate(x)
    output.sum().backward()
    assert torch.equal(x.grad, 2 * X)
    (value,) = found.values([x])
    assert not value.requires_grad and torch.equal(value, X**2)


def test_a_function_that_differentiates_itself_is_given_a_graph() -> None:
    def slope(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(x.sin().sum(), x, create_graph=True)[0]

    found = evaluator(slope)
    assert not found.differentiates
    (value,) = found.first_values(found.request.random_state())
    assert found.differentiates and torch.equal(value, X.cos()) and not value.requires_grad
    assert torch.equal(found.values([2 * X])[0], (2 * X).cos())


def test_a_look_tells_what_is_drawn_and_sets_it_back() -> None:
    found = evaluator(lambda x: x * torch.rand(3, dtype=torch.double), expected=leaf(7))
    state = found.request.random_state()
    (value,), random = found.look(state)
    assert random and state.is_now() and found.outputs == leaf(3) and found.expected is None
    torch.testing.assert_close(value, X * torch.rand(3, dtype=torch.double))
    quiet = evaluator(lambda x: x.sin())
    assert quiet.look(quiet.request.random_state())[1] is False
    failing = evaluator(lambda x: torch.rand(3) + {}["missing"])
    state = failing.request.random_state()
    with pytest.raises(KeyError, match="missing"):
        failing.look(state)
    assert state.is_now()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_look_tells_whether_scripted_code_is_called() -> None:
    code = torch.jit.script(lambda_free)
    scripted, plain = evaluator(lambda x: code(x)), evaluator(lambda_free)
    for found, expected in ((scripted, True), (plain, False)):
        found.look(found.request.random_state())
        assert found.scripted is expected
    assert torch.equal(scripted.evaluate(X)[0][0], X.sin() * 2)


def lambda_free(x: torch.Tensor) -> torch.Tensor:
    return x.sin() * 2


def test_what_cannot_run_in_a_surrounding_transform_says_so() -> None:
    def inside(x: torch.Tensor) -> torch.Tensor:
        found = evaluator(lambda x: x * x.sum().item(), x)
        found.look(found.request.random_state())
        return x

    with pytest.raises(UnsupportedOperationError, match="f cannot run inside the surrounding torch.func transform"):
        torch.func.vmap(inside)(X[None])
    outside = evaluator(lambda x: (_ for _ in ()).throw(RuntimeError("its own")))
    with pytest.raises(RuntimeError, match="its own"):
        outside.look(outside.request.random_state())


# -------------------------------------------------------------------- on jets


def jets() -> list[Any]:
    return [seeded(X, first_order(3))[0]]


def rows(jet: Any) -> torch.Tensor:
    assert type(jet) is Jet
    return jet.full(1)


def test_jets_give_jets_and_constants_stay_tensors() -> None:
    constant = torch.ones(2, 4)
    found = evaluator(lambda x: {"y": x.sin(), "c": constant, "s": x.sum(1)})
    found.evaluate(X)
    (c, total, y), aux = found.propagate(jets())
    assert aux == () and c is constant and found.outputs is not None
    assert torch.equal(y.value, X.sin()) and torch.equal(total.value, X.sum(1))
    torch.testing.assert_close(rows(y), torch.eye(3)[:, None] * X.cos())
    torch.testing.assert_close(rows(total), torch.ones(3, 2, dtype=torch.double))


def test_aux_of_jets_are_their_values() -> None:
    found = evaluator(lambda x: (x.sin(), (x * 2, "text")), has_aux=True)
    found.evaluate(X)
    (y,), (aux,) = found.propagate(jets())
    assert type(y) is Jet and type(aux) is torch.Tensor and torch.equal(aux, 2 * X)
    assert found.aux((aux,)) == (aux, "text")


def test_plain_layers_are_run_on_jets_with_the_parameters_that_are_given() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double()
    adapted, params = make_functional(net)
    others = {name: tensor.detach() * 2 for name, tensor in params.items()}
    found = evaluator(adapted, others, X)
    found.evaluate(X)
    (y,), _ = found.propagate(jets())
    value = torch.tanh(X @ others["0.weight"].T + others["0.bias"])
    torch.testing.assert_close(y.value, value)
    torch.testing.assert_close(rows(y), (others["0.weight"].T[:, None] * (1 - value**2)))


def by_kind(tensors: Callable[[Any], Any], jets: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: jets(x) if type(x) is Jet else tensors(x)


@pytest.mark.parametrize(
    "f",
    [lambda x: x.sum(1), lambda x: (x,), lambda x: x[:1], lambda x: torch.zeros(2), lambda x: torch.zeros(5, 3)],
)
def test_other_outputs_for_jets_than_for_tensors_raise(f: Callable[[Any], Any]) -> None:
    found = evaluator(by_kind(torch.sin, f))
    found.evaluate(X)
    with pytest.raises(OutputsChangedError):
        found.propagate(jets())


@pytest.mark.parametrize("f", [lambda x: 3.0, lambda x: (x, "text"), lambda x: [x.sum(1), None, 1]])
def test_what_is_neither_jet_nor_tensor_cannot_be_followed(f: Callable[[Any], Any]) -> None:
    found = evaluator(by_kind(torch.sin, f))
    found.evaluate(X)
    with pytest.raises(CannotFollowError, match="f returned something else for jets than for tensors"):
        found.propagate(jets())


def test_arguments_that_are_changed_in_place_are_told_where_they_are_copied() -> None:
    other = torch.zeros(3, dtype=torch.double)

    def f(other: Any, x: Any) -> Any:
        return x + other.add_(1)

    found = evaluator(f, other, X)
    found.evaluate(X, others_copied=True)
    with pytest.raises(CannotFollowError, match="an argument that is changed in place"):
        found.propagate(jets(), others_copied=True)
    assert not other.any()


class Labelled(torch.Tensor):
    """A class that would not be asked what an operation on it and a jet is."""


def test_tensors_of_other_classes_do_not_meet_jets() -> None:
    found = evaluator(lambda other, x: x * 2, torch.zeros(3).as_subclass(Labelled), X)
    found.evaluate(X)
    with pytest.raises(CannotFollowError, match=r"an argument of a class of its own \(Labelled\)"):
        found.propagate(jets(), others_copied=True)

"""``jacfunc/call/request.py``: what was asked for, checked before any work, and told apart from other calls."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from propagated import seeded
from torch import nn

from jacfunc.call.refusals import JetsGivenError
from jacfunc.call.request import Request, as_function, requested
from jacfunc.core import trees
from jacfunc.errors import ArgumentError, ArgumentTypeError, ShapeError
from jacfunc.jet.layout import first_order
from jacfunc.modules.functional import LiveModule, make_functional
from jacfunc.options import Options

A, B, C = torch.zeros(4, 3), torch.ones(4), torch.full((4, 2, 2), 2.0)
TEXT = "text"


def f(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a request evaluates nothing")


def request(*args: Any, function: Any = f, kwargs: dict[str, Any] | None = None, **options: Any) -> Request:
    return Request(function, Options(**options), args, kwargs or {})


# -------------------------------------------------------------------- which arguments


@pytest.mark.parametrize(
    ("argnums", "positions", "leaves"),
    [
        (-1, [2], [C]),
        (0, [0], [A]),
        (-3, [0], [A]),
        ((0, 2), [0, 2], [A, C]),
        ((-1, 1), [2, 1], [C, B]),
        ((1, 0, 2), [1, 0, 2], [B, A, C]),
    ],
)
def test_arguments_are_selected_by_number(argnums: Any, positions: list[int], leaves: list[torch.Tensor]) -> None:
    found = request(A, B, C, argnums=argnums)
    assert [argument.position for argument in found.arguments] == positions
    assert len(found.leaves) == len(leaves)
    assert all(one is other for one, other in zip(found.leaves, leaves, strict=True))
    assert found.batch == (4,) and found.input_shapes == tuple(tuple(leaf.shape[1:]) for leaf in leaves)
    assert found.input_paths() == [f"args[{position}]" for position in positions]
    assert all(one is other for one, other in zip(found.given_leaves(), leaves, strict=True))


def test_trees_are_flattened_into_one_row_of_leaves() -> None:
    found = request({"b": A, "a": [B]}, TEXT, (C, None), argnums=(0, 2))
    one, two = found.arguments
    assert (one.span, two.span) == (slice(0, 2), slice(2, 3))
    assert [leaf is tensor for leaf, tensor in zip(found.leaves, (B, A, C), strict=True)] == [True] * 3
    assert found.input_paths() == ["args[0]['a'][0]", "args[0]['b']", "args[2][0]"]
    assert one.build([1, 2]) == {"a": [1], "b": 2} and two.build([3]) == (3, None)


@pytest.mark.parametrize(
    ("batch_dims", "batch", "shape"), [(0, (), (2, 3, 4)), (1, (2,), (3, 4)), (2, (2, 3), (4,)), (3, (2, 3, 4), ())]
)
def test_sample_axes_are_in_front(batch_dims: int, batch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    found = request(torch.zeros(2, 3, 4), batch_dims=batch_dims)
    assert found.batch == batch and found.input_shapes == (shape,)
    assert found.sample_shape(torch.zeros(5, 6, 7, 8)) == (5, 6, 7, 8)[batch_dims:]


NET = nn.Linear(3, 2)
ADAPTED, PARAMS = make_functional(NET)
BUFFERED, OWN, BUFFERS = make_functional(nn.BatchNorm1d(3), with_buffers=True)


def test_parameters_and_buffers_come_first_and_are_no_data() -> None:
    assert request(A).state_arguments == 0
    assert request(PARAMS, A, function=ADAPTED).state_arguments == 1
    assert request(OWN, BUFFERS, A, function=BUFFERED).state_arguments == 2


REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ((A, B), {"argnums": 2}, ArgumentError, "argnums=2 selects nothing among the 2 positional arguments; pass the"),
    ((A,), {"argnums": -2}, ArgumentError, "argnums=-2 selects nothing among the 1 positional argument; pass the"),
    ((), {}, ArgumentError, "^no argument came in; pass the tensor to differentiate by position$"),
    ((A, B), {"argnums": (0, 0)}, ArgumentError, r"argnums=\(0, 0\) selects argument 0 twice; name each once"),
    ((A, B), {"argnums": (1, -1)}, ArgumentError, r"argnums=\(1, -1\) selects argument 1 twice"),
    ((A, TEXT), {}, ArgumentTypeError, r"args\[1\] is a str, not a tensor; .* pass argnums=0 to differentiate by"),
    ((A, A.long()), {}, ArgumentTypeError, r"args\[1\] has dtype torch.int64, .*, or pass argnums=0 to"),
    ((A, None), {}, ArgumentTypeError, r"args\[1\] holds no tensor; .*, or pass argnums=0 to differentiate by args"),
    (({"x": A, "y": [3]},), {}, ArgumentTypeError, r"args\[0\]\['y'\]\[0\] is an int, not a tensor"),
    ((A, B), {"argnums": 1, "batch_dims": 2}, ShapeError, r"args\[1\] has shape \(4,\), too few axes for batch_dims=2"),
    (
        (A, A[:2]),
        {"argnums": (0, 1)},
        ShapeError,
        r"args\[1\] has sample axes \(2,\), but args\[0\] has \(4,\); all .* the same first 1 axes",
    ),
    (({"a": A, "b": A[:1]},), {}, ShapeError, r"args\[0\]\['b'\] has sample axes \(1,\), but args\[0\]\['a'\] has"),
]


@pytest.mark.parametrize(("args", "options", "error", "match"), REFUSED)
def test_what_cannot_be_meant_is_refused(
    args: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=f"^{match}"):
        request(*args, **options)


@pytest.mark.parametrize(
    ("args", "argnums", "error", "match"),
    [
        ((A,), -1, ArgumentTypeError, r"args\[0\] is a Tensor, but <f\(params, ...\) of Linear> takes its parameters"),
        ((PARAMS,), -1, ArgumentError, "argnums=-1 selects the parameters .* only 1 positional argument came in; pass"),
        ((PARAMS, A), 0, ArgumentError, "argnums=0 selects the parameters .* which carry no samples"),
    ],
)
def test_parameters_are_not_differentiated_by(args: Any, argnums: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"^{match}"):
        request(*args, function=ADAPTED, argnums=argnums)


def test_two_leaves_may_differ_behind_the_sample_axes_only() -> None:
    found = request(A, C, argnums=(0, 1), batch_dims=1)
    assert found.input_shapes == ((3,), (2, 2))
    with pytest.raises(ShapeError, match=r"args\[1\] has sample axes \(4, 2\), but args\[0\] has \(4, 3\)"):
        request(A, C, argnums=(0, 1), batch_dims=2)


def test_jets_are_refused_wherever_they_are_differentiated_by() -> None:
    jet, _ = seeded(A, first_order(3))
    with pytest.raises(JetsGivenError):
        request(jet)
    with pytest.raises(JetsGivenError):
        request({"x": [jet]})
    other = request([jet], A)
    with pytest.raises(JetsGivenError):
        _ = other.signature


def test_which_other_argument_fits_is_told_with_its_shape() -> None:
    found = request(A, TEXT, (B, C), A, argnums=3)
    assert found.instead(lambda structure, shapes: True) == (
        ", or pass argnums=0 to differentiate by args[0] of shape (4, 3), "
        "or argnums=2 to differentiate by args[2] (a tuple)"
    )
    assert found.instead(lambda structure, shapes: structure is not trees.LEAF and shapes[0] == (4,)).endswith(
        "(a tuple)"
    )
    assert found.instead(lambda structure, shapes: False) == ""
    several = request(A, B, argnums=(0, 1)).instead(lambda structure, shapes: True)
    assert "argnums=0" in several and "argnums=1" in several  # each may do alone


# -------------------------------------------------------------------- tensors of other classes


class Labelled(torch.Tensor):
    """Of a class that torch's transforms forget."""


def test_tensors_of_another_class_are_plain_leaves_and_of_their_class_for_f() -> None:
    worn = A.clone().as_subclass(Labelled)
    worn.label = "here"
    found = request(worn)
    assert type(found.leaves[0]) is torch.Tensor
    built = found.arguments[0].build([torch.ones(4, 3)])
    assert type(built) is Labelled and built.label == "here"
    assert request(A).arguments[0].worn == ()
    with pytest.raises(
        ArgumentTypeError, match=r"args\[0\] is a Labelled, a class that torch.compile cannot give to f"
    ):
        request(worn, compile=True)


# -------------------------------------------------------------------- a request does not change


def test_a_request_is_frozen() -> None:
    found = request(A)
    for name in ("args", "leaves", "function", "anything"):
        with pytest.raises(FrozenInstanceError):
            setattr(found, name, 1)
    with pytest.raises(FrozenInstanceError):
        del found.args


def test_another_call_of_its_kind_has_its_own_arguments_and_all_else() -> None:
    known = request(PARAMS, A, function=ADAPTED, chunk_size=2)
    known.signature, known.fingerprint  # noqa: B018  # are remembered with it
    others, x = {name: tensor * 2 for name, tensor in PARAMS.items()}, torch.ones(4, 3)
    again = known.of_its_kind().of(ADAPTED, known.options, (others, x), known.fingerprint)
    assert again.args == (others, x) and again.leaves[0] is x and len(again.leaves) == 1
    for name in ("function", "options", "arguments", "batch", "input_shapes", "signature", "fingerprint"):
        assert getattr(again, name) is getattr(known, name)
    assert known.args[1] is A and known.leaves[0] is A
    kind = known.of_its_kind()
    assert kind.args == () and kind.kwargs == {} and kind.leaves == ()
    assert kind.function is not ADAPTED and "fingerprint" not in vars(kind)  # neither is kept alive


# -------------------------------------------------------------------- signatures

SAME = [
    ("batch size", (A,), (torch.zeros(9, 3),), {}),
    ("values", (A,), (A + 5,), {}),
    ("batch size of all", (A, B), (torch.zeros(9, 3), torch.ones(9)), {}),
    ("in a tree", ({"x": A, "y": [B]},), ({"x": torch.zeros(9, 3), "y": [torch.ones(9)]},), {}),
    ("two axes", (C,), (torch.zeros(7, 5, 2),), {"batch_dims": 2}),
    ("equal plain values", (A, (3, TEXT)), (A, (3, "te" + "xt")), {"argnums": 0}),
]


@pytest.mark.parametrize(("name", "one", "other", "options"), SAME, ids=[case[0] for case in SAME])
def test_calls_that_differ_in_samples_only_look_the_same(name: str, one: Any, other: Any, options: Any) -> None:
    found = request(*one, **options), request(*other, **options)
    assert found[0].signature == found[1].signature and hash(found[0].signature) == hash(found[1].signature)
    assert found[0].fingerprint.key == found[1].fingerprint.key


def unhashable() -> Any:
    return (A, {"set": {1, 2}})


DIFFERENT = [
    ("dtype", (A,), (A.double(),), {}),
    ("sample shape", (A,), (torch.zeros(4, 2),), {}),
    ("axes", (A,), (A[:, None],), {}),
    ("a shared argument's shape", (torch.zeros(5), A), (torch.zeros(6), A), {}),
    ("shared or with samples", (torch.zeros(5), A), (torch.zeros(4), A), {}),
    ("a plain value", (A, 3), (A, 4), {"argnums": 0}),
    ("its type", (A, 1), (A, True), {"argnums": 0}),
    ("the names in a tree", ({"x": A},), ({"z": A},), {}),
    ("the tree", ((A, B),), ([A, B],), {}),
    ("one more argument", (A,), (A, A), {"argnums": 0}),
    ("the class", (A,), (A.clone().as_subclass(Labelled),), {}),
]


@pytest.mark.parametrize(("name", "one", "other", "options"), DIFFERENT, ids=[case[0] for case in DIFFERENT])
def test_what_a_plan_may_depend_on_looks_different(name: str, one: Any, other: Any, options: Any) -> None:
    found = request(*one, **options).signature, request(*other, **options).signature
    assert found[0] != found[1]
    assert request(*one, **options).signature == found[0]


def test_keyword_arguments_are_part_of_it() -> None:
    found = {
        request(A, kwargs=kwargs).signature
        for kwargs in ({}, {"scale": 1}, {"scale": 2.0}, {"other": 1.0}, {"scale": B}, {"scale": A})
    }
    assert len(found) == 6
    one, two = request(A, kwargs={"scale": 1.0}), request(A, kwargs={"scale": 2.0})
    assert one.signature == two.signature and (one.numbers(), two.numbers()) == ((1.0,), (2.0,))
    assert request(A, kwargs={"scale": B}).signature == request(A[:2], kwargs={"scale": B[:2]}).signature


def test_what_cannot_be_hashed_is_told_apart_by_itself() -> None:
    one, other = {1}, {1}
    assert request(A, one, argnums=0).signature == request(A, one, argnums=0).signature
    assert request(A, one, argnums=0).signature != request(A, other, argnums=0).signature


def test_parameters_are_those_of_the_module_and_its_mode_counts() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    adapted, params = make_functional(net)
    others = {name: tensor * 2 for name, tensor in params.items()}
    first = request(params, A, function=adapted).signature
    assert first == request(others, A[:2], function=adapted).signature
    net.eval()
    assert first != request(params, A, function=adapted).signature


def test_modules_within_a_function_count_by_their_mode() -> None:
    net = nn.Dropout(0.5)
    first = request(A, function=lambda x: net(x)).signature
    net.eval()
    assert first != request(A, function=lambda x: net(x)).signature


def test_plain_layers_alone() -> None:
    plain, params = make_functional(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    assert request(params, A, function=plain).alone
    assert not request(OWN, BUFFERS, A, function=BUFFERED).alone
    assert not request(A).alone and not request(A, function=as_function(nn.Linear(3, 3))).alone


# -------------------------------------------------------------------- functions, draws, modes


def test_functions_are_what_can_be_called() -> None:
    net = nn.Linear(3, 2)
    live = as_function(net)
    assert type(live) is LiveModule and torch.equal(live(A), net(A))
    assert as_function(torch.sin) is torch.sin
    with pytest.raises(ArgumentTypeError, match=r"f is the class Linear; pass an instance of it, Linear\(...\)"):
        as_function(nn.Linear)
    with pytest.raises(ArgumentTypeError, match="f is a Tensor; pass a function or an nn.Module"):
        as_function(A)


def test_a_draw_is_of_every_generator_that_the_function_may_use() -> None:
    closed, given, named = (torch.Generator().manual_seed(seed) for seed in (1, 2, 3))

    def drawing(x: torch.Tensor, generator: Any = None, **_: Any) -> torch.Tensor:
        return x * torch.rand(3, generator=closed)

    state = request(A, [given], function=drawing, argnums=0, kwargs={"named": named}).random_state()
    assert state.is_now()
    first = [torch.rand(1, generator=generator) for generator in (closed, given, named, None)]
    state.restore()
    assert [torch.rand(1, generator=generator) for generator in (closed, given, named, None)] == first


@pytest.mark.parametrize("outside", [False, True])
def test_tensors_of_inference_mode_are_copied_and_the_mode_left(outside: bool) -> None:
    with torch.inference_mode():
        x, other = torch.ones(4, 3), {"k": torch.zeros(2)}
    assert request(x).inference and not request(A).inference
    with torch.inference_mode(not outside), requested(f, Options(argnums=0), (x, other), {"w": other}) as found:
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled() is outside
        tensors = [found.leaves[0], found.args[1]["k"], found.kwargs["w"]["k"]]
        assert not any(tensor.is_inference() for tensor in tensors)
        assert torch.equal(found.leaves[0], x) and not found.inference
    with requested(f, Options(), (A,), {}) as plain:
        assert plain.leaves[0] is A

"""``compile=True``: the eager numbers, one compilation for a function and a kind of arguments, and a route that traces."""

from __future__ import annotations

import functools
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from backends import compiling_by
from quick import mostly_slow
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad

from jacfunc import batch_jac, diag_jac, divergence, hess_diag, laplacian, make_functional
from jacfunc.call import compiled, dynamo_guards
from jacfunc.core import caches
from jacfunc.errors import (
    ArgumentTypeError,
    CoupledSamplesError,
    ParametersError,
    ShapeError,
    UnsupportedOperationError,
)

double = torch.float64
TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian]


def net(norm: bool = False) -> nn.Module:
    middle = nn.LayerNorm(8) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), middle, nn.Linear(8, 3)).double()


@pytest.fixture
def counter():
    """A backend that counts, in place of one that takes seconds."""
    with compiling_by(counting := CompileCounter()):
        yield counting


@pytest.mark.parametrize(
    ("transform", "norm"),
    [
        pytest.param(transform, norm, marks=[pytest.mark.slow] * ((place % 2 == 0) == norm))
        for place, transform in enumerate(TRANSFORMS)
        for norm in (False, True)
    ],
)
def test_the_numbers_are_the_eager_ones(counter, transform, norm):
    f, params = make_functional(net(norm))
    fast = transform(f, compile=True, return_value=True)
    for _ in range(2):
        x = torch.randn(5, 3, dtype=double)
        found, truth = fast(params, x), transform(f, return_value=True)(params, x)
        torch.testing.assert_close(found, truth)
        gradients = [
            torch.autograd.grad(result[0].square().sum(), params.values(), allow_unused=True, materialize_grads=True)
            for result in (found, truth)
        ]
        torch.testing.assert_close(*gradients)
    assert counter.frame_count == 1
    assert len(caches.COMPILED) == 1


def test_it_is_compiled_once_for_any_number_of_samples_and_for_a_transform_made_anew(counter):
    f, params = make_functional(net())
    for size in (4, 4, 6, 9, 12):
        x = torch.randn(size, 3, dtype=double)
        torch.testing.assert_close(laplacian(f, compile=True)(params, x), laplacian(f)(params, x))
    assert counter.frame_count == 2  # the first size, then any size


@pytest.mark.parametrize("later", [0, *(pytest.param(later, marks=pytest.mark.slow) for later in (1, -2))])
def test_another_argument_after_that_of_another_transform(counter, later):
    f, other = lambda a, b: a.sin() * b, lambda a, b: a * b.cos()
    a, b = torch.randn(2, 4, 3, dtype=double)
    for function, argnums in [(f, -1), (f, later), (other, later)]:
        calls = [diag_jac(function, argnums=argnums, compile=compile) for compile in (True, False)]
        torch.testing.assert_close(calls[0](a, b), calls[1](a, b))
        by_user = torch.compile(calls[1], backend="eager", fullgraph=True)
        torch.testing.assert_close(by_user(a, b), calls[1](a, b))


def test_one_graph_where_the_number_of_samples_is_marked_as_one_that_varies():
    f, params = make_functional(net())
    counting = CompileCounter()
    call = torch.compile(laplacian(f), fullgraph=True, backend=counting)
    for size in (4, 6, 9):
        x = torch.randn(size, 3, dtype=double)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(call(params, x), laplacian(f)(params, x))
    assert counting.frame_count == 1


def test_modules_trees_and_aux(counter):
    module = net()

    def f(s):
        return {"u": module(s["x"]), "v": s["t"] * s["x"]}, s["x"] + 1

    s = {"x": torch.randn(5, 3, dtype=double), "t": torch.randn(5, 1, dtype=double)}
    torch.testing.assert_close(batch_jac(f, has_aux=True, compile=True)(s), batch_jac(f, has_aux=True)(s))
    torch.testing.assert_close(diag_jac(module, compile=True)(s["x"]), diag_jac(module)(s["x"]))
    assert counter.frame_count == 2


def test_a_route_that_cannot_be_traced_gives_way_to_one_that_can(counter):
    f = lambda x: nn.functional.tanh(x).cumsum(1)  # which Dynamo takes no jet through
    x = torch.randn(5, 3, dtype=double)
    torch.testing.assert_close(batch_jac(f, compile=True)(x), batch_jac(f)(x))


def test_in_blocks_and_without_a_graph(counter):
    f, params = make_functional(net())
    x = torch.randn(12, 3, dtype=double)
    truth = diag_jac(f)(params, x)
    torch.testing.assert_close(diag_jac(f, compile=True, sample_chunk_size=4)(params, x), truth)
    with torch.no_grad():
        torch.testing.assert_close(diag_jac(f, compile=True)(params, x), truth.detach())
    with torch.inference_mode():
        torch.testing.assert_close(diag_jac(f, compile=True)(params, torch.clone(x)), truth.detach())


def test_inside_of_torch_func_it_is_eager(counter):
    f, params = make_functional(net())
    x = torch.randn(5, 3, dtype=double)
    for outer in (lambda g: torch.func.jacrev(g)(x), lambda g: torch.func.vmap(g)(x[None])):
        torch.testing.assert_close(
            outer(lambda x: diag_jac(f, compile=True)(params, x)), outer(lambda x: diag_jac(f)(params, x))
        )
    assert counter.frame_count == 0


# -------------------------------------------------------------------- later calls, which only the guards look at


@pytest.fixture
def looks(monkeypatch):
    """How often a call was looked at."""
    seen, looked_at = [], compiled._looked_at
    monkeypatch.setattr(compiled, "_looked_at", lambda *args: (seen.append(1), looked_at(*args))[1])
    return seen


def test_later_calls_are_not_looked_at(counter, looks):
    f, params = make_functional(net())
    fast, x = diag_jac(f, compile=True), torch.randn(5, 3, dtype=double)
    for _ in range(3):
        x = torch.randn(5, 3, dtype=double)
        torch.testing.assert_close(fast(params, x), diag_jac(f)(params, x))
        with torch.no_grad():
            next(iter(params.values())).mul_(1.5)
    others = {name: torch.randn_like(value, requires_grad=True) for name, value in params.items()}
    assert len(looks) == counter.frame_count == 1
    torch.testing.assert_close(fast(others, x), diag_jac(f)(others, x))
    torch.testing.assert_close(fast(params, x), diag_jac(f)(params, x))


@pytest.mark.parametrize(
    "change", ["number", "coupled", "layer", "activation", "class", "hook", "forward", "rule", "frozen"]
)
def test_what_has_changed_is_looked_at_again(counter, looks, monkeypatch, change):
    module = net()
    scale, mean = 2.0, False

    def g(x):
        y = module(x) * scale
        return y - y.mean(0) if mean else y

    adapted, params = make_functional(module)
    own = change in ("number", "coupled")
    f, args = (g, ()) if own else (adapted, (params,))
    fast, x = diag_jac(f, compile=True), torch.randn(5, 3, dtype=double)
    fast(*args, x)
    fast(*args, x)
    assert len(looks) == (2 if own else 1)
    if change == "number":
        scale = 3.0
    if change == "coupled":
        mean = True
        with pytest.raises(CoupledSamplesError):
            fast(x)
        return
    if change == "layer":
        module[0] = nn.Linear(3, 8).double()
        args = (make_functional(module)[1],)
    if change == "activation":
        module[1] = nn.Sigmoid()
    if change == "class":
        module[1].__class__ = nn.Sigmoid
    if change == "hook":
        module[1].register_forward_hook(lambda *args: 2 * args[-1])
    if change == "forward":
        module[1].forward = torch.sin
    if change == "frozen":
        for value in params.values():
            value.requires_grad_(False)
    if change == "rule":
        monkeypatch.setattr(caches.RULES_ENTERED, "number", caches.RULES_ENTERED.number + 1)
    found, truth = fast(*args, x), diag_jac(f)(*args, x)
    torch.testing.assert_close(found, truth)
    assert found.requires_grad == truth.requires_grad
    assert len(looks) == (3 if own else 2)


def test_calls_that_alternate_are_each_looked_at_once(counter, looks):
    f, params = make_functional(net())
    fast, x = diag_jac(f, compile=True), torch.randn(5, 3, dtype=double)
    frozen = {name: value.detach().clone() for name, value in params.items()}
    single = {name: value.float() for name, value in frozen.items()}
    for _ in range(3):
        fast(params, x)
        fast(frozen, x)
        fast(single, x.float())
        fast(params, x[:2])
        with torch.no_grad():
            fast(params, x)
    traced = counter.frame_count
    assert len(looks) <= traced
    for _ in range(3):
        fast(frozen, x)
        fast(params, x)
        fast(single, x.float())
    assert counter.frame_count == traced
    assert len(looks) <= traced


def test_one_kind_that_turns_out_to_be_two_is_looked_at_each_time(counter, looks, monkeypatch):
    f, params = make_functional(net())
    fast, x = diag_jac(f, compile=True), torch.randn(5, 3, dtype=double)
    single = {name: value.detach().float() for name, value in params.items()}
    monkeypatch.setattr(compiled, "kind_of", lambda f, args, kwargs: (len(args),))
    for _ in range(4):
        for state, points in ((params, x), (single, x.float())):
            torch.testing.assert_close(fast(state, points), diag_jac(f)(state, points))
    assert len(looks) == 8
    assert counter.frame_count == 2


def test_bad_arguments_are_refused_by_later_calls_too(counter):
    f, params = make_functional(net())
    fast, x = diag_jac(f, compile=True), torch.randn(5, 3, dtype=double)
    for _ in range(2):
        fast(params, x)
        with pytest.raises(ParametersError, match="lacks the key"):
            fast({name: value for name, value in params.items() if name != "0.bias"}, x)
        with pytest.raises(ParametersError, match="shape"):
            fast({**params, "0.bias": torch.zeros(3, dtype=double)}, x)
        with pytest.raises(ParametersError, match="shape"):  # which the derivative does not depend on
            fast({**params, "3.bias": torch.zeros(4, dtype=double)}, x)
        with pytest.raises(ArgumentTypeError):
            fast(params, x.long())


def test_other_modes_and_levels_after_a_call_that_was_looked_at(counter):
    f, params = make_functional(net())
    fast, x = diag_jac(f, compile=True), torch.randn(5, 3, dtype=double)
    truth = diag_jac(f)(params, x)
    for _ in range(2):
        assert fast(params, x).requires_grad
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                found = fast(params, x)
                assert not found.requires_grad
                torch.testing.assert_close(found, truth.detach())
        outer = [torch.func.jacrev(lambda x, by=by: by(params, x))(x) for by in (fast, diag_jac(f))]
        torch.testing.assert_close(*outer)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            tangents = [forward_ad.unpack_dual(by(params, dual)).tangent for by in (fast, diag_jac(f))]
        torch.testing.assert_close(*tangents)


def test_in_threads(counter):
    f, params = make_functional(net())
    fast = diag_jac(f, compile=True)
    xs = [torch.randn(5, 3, dtype=double) for _ in range(24)]
    # No lines are measured of them: coverage and Dynamo have a lock each, which two threads would take in either order.
    with ThreadPoolExecutor(4, initializer=sys.settrace, initargs=(None,)) as pool:
        found = list(pool.map(lambda x: fast(params, x), xs))
    torch.testing.assert_close(found, [diag_jac(f)(params, x) for x in xs])


# -------------------------------------------------------------------- functions of the same code that hold other things


def sine(weight, x):
    return torch.sin(x @ weight)


def reading(held, where):
    return lambda x: torch.sin(x @ where(held))


class Sine:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, x):
        return torch.sin(x @ self.weight)

    def method(self, x):
        return self(x)


def executed(weight):
    """A function whose code is the same object each time, in a namespace of its own."""
    namespace = {"torch": torch, "weight": weight}
    exec(EXECUTED, namespace)
    return namespace["f"]


EXECUTED = compile("def f(x):\n    return torch.sin(x @ weight)\n", "<a file>", "exec")


def in_a_file(weight):
    """A function of a module of its own, whose name begins as that of this package."""
    module = types.ModuleType(f"jacfunc_experiments_{len(sys.modules)}")
    module.__dict__.update(torch=torch, weight=weight)
    sys.modules[module.__name__] = module
    exec(compile("def f(x):\n    return torch.sin(x @ weight)\n", f"<{module.__name__}>", "exec"), module.__dict__)
    return module.f


def default(weight):
    def f(x, weight=weight):
        return torch.sin(x @ weight)

    return f


def keyword_default(weight):
    def f(x, *, weight=weight):
        return torch.sin(x @ weight)

    return f


HOLDING = {
    "cell": lambda weight: lambda x: torch.sin(x @ weight),
    "default": default,
    "partial": lambda weight: functools.partial(sine, weight),
    "dict": lambda weight: reading({"weight": weight}, lambda held: held["weight"]),
    "list": lambda weight: reading([weight], lambda held: held[0]),
    "tuple of tuples": lambda weight: reading((1, (weight,)), lambda held: held[1][0]),
    "function in a cell": lambda weight: functools.partial(lambda inner, x: inner(x), lambda x: torch.sin(x @ weight)),
    "object": Sine,
    "method": lambda weight: Sine(weight).method,
    "executed": executed,
    "file": in_a_file,
    "keyword default": keyword_default,
}


ONCE = {"cell", "default", "partial", "dict", "list", "tuple of tuples", "function in a cell", "keyword default"}


QUICK = {"cell", "executed"}


@pytest.mark.parametrize("kind", mostly_slow(HOLDING, QUICK))
def test_what_a_function_holds_is_never_that_of_another(counter, kind):
    x = torch.randn(5, 3, dtype=double)
    for _ in range(3):
        weight = torch.randn(3, 3, dtype=double, requires_grad=True)
        f = HOLDING[kind](weight)
        found, truth = diag_jac(f, compile=True)(x), (x @ weight).cos() * weight.diagonal()
        torch.testing.assert_close(found, truth)
        by_weight = [torch.autograd.grad(result.square().sum(), weight)[0] for result in (found, truth)]
        torch.testing.assert_close(*by_weight)
    assert counter.frame_count == (1 if kind in ONCE else 3)


def test_a_lambda_made_anew_for_each_step_is_compiled_once(counter):
    x = torch.randn(5, 3, dtype=double)
    for _ in range(100):
        weight = torch.randn(3, 3, dtype=double)
        found = diag_jac(lambda x, weight=weight: torch.sin(x @ weight), compile=True)(x)
        torch.testing.assert_close(found, (x @ weight).cos() * weight.diagonal())
    assert counter.frame_count == 1


NUMBERS = {
    "cell": lambda number: lambda x: torch.sin(x * number),
    "default": lambda number: lambda x, number=number: torch.sin(x * number),
    "list": lambda number: functools.partial(lambda held, x: torch.sin(x * held[0]), [number]),
    "executed": lambda number: executed(torch.eye(3, dtype=double) * number),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "cell")) for kind in NUMBERS])
def test_numbers_count_by_value(counter, kind):
    x = torch.randn(5, 3, dtype=double)
    for number in (2, 3, 0.5, 2):
        found = diag_jac(NUMBERS[kind](number), compile=True)(x)
        torch.testing.assert_close(found, number * (x * number).cos())


@pytest.mark.slow  # beyond the number of times that Dynamo compiles one code anew
def test_what_changes_in_a_users_module_or_object_is_compiled_anew_and_compared(counter, monkeypatch):
    compared = []
    close = compiled._close
    monkeypatch.setattr(compiled, "_close", lambda found, truth: (compared.append(1), close(found, truth))[1])
    f = in_a_file(torch.eye(3, dtype=double))
    held = types.SimpleNamespace(number=1)
    calls = [diag_jac(f, compile=True), diag_jac(lambda x: torch.sin(x * held.number), compile=True)]
    x = torch.randn(5, 3, dtype=double)
    for number in (1, 2, 3, 2, *range(4, 14)):
        f.__globals__["weight"] = number * torch.eye(3, dtype=double)
        held.number = number
        for call in calls:
            torch.testing.assert_close(call(x), number * (x * number).cos())
    assert len(compared) == counter.frame_count


GUARDS = {
    "G['__import_jacfunc_dot_call_dot_run'].make_plan": False,
    "dict(G['__import_jacfunc_dot_call_dot_quantity'].Pair.__dict__)['__new__'].__func__": False,
    "G['__import_torch_dot__functorch_dot_vmap'].torch": False,
    "G['___unnamed_scope_140231_c0']['_tuple_new']": False,
    "template.options.batch_dims": False,
    "G['__import_jacfunc_experiments'].K": True,
    "G['__import_jacfunc_dot_mine'].K": True,
    "G['__import_torch_dot_mine'].K": True,
    "G['__import_torchmetrics'].K": True,
    "G['__import___main__'].K": True,
    "G['___unnamed_scope_140231_c0']['K']": True,
    "G['__import_jacfunc_dot_core_dot_caches'].USER_RULES[f].__closure__[0].cell_contents": True,
    "f.__closure__[0].cell_contents": True,
    "args[0]": True,
    "templates.K": True,
}


@pytest.mark.parametrize("name", GUARDS)
def test_no_guard_on_what_is_a_users_is_left_out(name):
    guard = types.SimpleNamespace(name=name, guard_type="CONSTANT_MATCH")
    assert dynamo_guards.needed(False)([guard]) == [GUARDS[name]]


# -------------------------------------------------------------------- what changes


class Weighted(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.linear, self.held = nn.Linear(3, 3).double(), held

    def forward(self, x):
        return self.linear(x).sin() * torch.from_numpy(self.held)


class WeightedObject:
    def __init__(self, held):
        self.held = held

    def __call__(self, x):
        return x.sin() * torch.from_numpy(self.held)


ARRAYS = {
    "closure": lambda held: lambda x: x.sin() * torch.from_numpy(held),
    "default": lambda held: lambda x, held=held: x.sin() * torch.from_numpy(held),
    "list": lambda held: functools.partial(lambda several, x: x.sin() * torch.from_numpy(several[0]), [held]),
    "object": WeightedObject,
    "module": Weighted,
}


@pytest.mark.parametrize("kind", mostly_slow(ARRAYS, ["closure", "module"]))
def test_numpy_arrays_that_a_function_holds(counter, kind):
    held, x = np.array([1.0, 2.0, 3.0]), torch.randn(5, 3, dtype=double, requires_grad=True)
    f = ARRAYS[kind](held)
    fast = diag_jac(f, compile=True)
    for step in range(3):
        truth, found = diag_jac(f, method="reverse")(x), fast(x)
        torch.testing.assert_close(found, truth)
        by_x = [torch.autograd.grad(value.sum(), x)[0] for value in (found, truth)]
        torch.testing.assert_close(*by_x)
        held[step] += 1.5
    other = ARRAYS[kind](held[::-1].copy())
    torch.testing.assert_close(diag_jac(other, compile=True)(x), diag_jac(other, method="reverse")(x))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3).double()

    def forward(self, x):
        return self.linear(x).tanh()


@pytest.mark.parametrize(
    ("kind", "adapted"),
    [
        (Plain, False),
        (nn.Linear, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((Plain, True), (nn.Linear, False), (nn.Tanh, False), (nn.Tanh, True))
        ),
    ],
)
def test_a_forward_that_is_replaced_on_a_class(counter, monkeypatch, kind, adapted):
    module = Plain() if kind is Plain else net()
    x, forward = torch.randn(5, 3, dtype=double), kind.forward
    f, params = make_functional(module) if adapted else (module, dict(module.named_parameters()))
    args = (params, x) if adapted else (x,)
    calls = [diag_jac(f), diag_jac(f, method="taylor"), diag_jac(f, compile=True)]
    for name, replaced in {
        "before": forward,
        "sine": lambda self, x: torch.sin(forward(self, x)),
        "scaled": lambda self, x: 3.0 * forward(self, x),
        "again": forward,
    }.items():
        monkeypatch.setattr(kind, "forward", replaced)
        y = module(z := x.clone().requires_grad_())
        truth = torch.stack([torch.autograd.grad(y[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(3)], 1)
        by_weight = torch.autograd.grad(truth.sum(), [*params.values()], allow_unused=True, materialize_grads=True)
        for call in [*calls, diag_jac(f)]:
            found = call(*args)
            torch.testing.assert_close(found, truth, msg=name)
            gradients = torch.autograd.grad(found.sum(), [*params.values()], allow_unused=True, materialize_grads=True)
            torch.testing.assert_close(gradients, by_weight, msg=name)


def test_a_changed_module_is_compiled_anew(counter):
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(5, 3, dtype=double)
    fast = diag_jac(module, compile=True)
    fast(x)
    module[2] = nn.Sigmoid()
    torch.testing.assert_close(fast(x), diag_jac(module)(x))
    module.register_forward_hook(lambda *args: 2 * args[-1])
    torch.testing.assert_close(fast(x), diag_jac(module)(x))


def test_inductor():
    f, params = make_functional(net())
    x = torch.randn(5, 3, dtype=double)
    found = laplacian(f, compile=True)(params, x)
    torch.testing.assert_close(found, laplacian(f)(params, x))


# -------------------------------------------------------------------- what is refused, by the same errors


def test_what_is_refused_is_refused_before_anything_is_compiled(counter):
    x = torch.randn(30, 3)
    with pytest.raises(CoupledSamplesError):
        diag_jac(lambda x: x - x.mean(0), compile=True)(x)
    with pytest.raises(ShapeError, match="without a common diagonal"):
        diag_jac(lambda x: x[:, :2], compile=True)(x)
    with pytest.raises(ArgumentTypeError, match="compile=1 is not a bool"):
        diag_jac(torch.sin, compile=1)
    assert counter.frame_count == 0


def test_what_cannot_be_traced_says_so(counter):
    def f(x):
        return x.sin() if x.detach().sum() > 0 else x.cos()

    with pytest.raises(
        UnsupportedOperationError, match=r"cannot be compiled: .*; leave compile=True out.*no route that torch.compile"
    ):
        diag_jac(f, compile=True, check=False)(torch.ones(4, 3))


def test_other_numbers_are_never_returned(counter, monkeypatch):
    monkeypatch.setattr(compiled, "agree", lambda found, truth: False)
    with pytest.raises(UnsupportedOperationError, match="other numbers than the eager ones"):
        diag_jac(torch.sin, compile=True)(torch.ones(4, 3))


def test_digits_that_rounding_leaves_none_of_are_not_compared():
    truth = torch.tensor([3e7, 100.0, -20.0, 5.0, 0.1, 1.0])
    found, moved = truth.clone(), torch.zeros(6)
    moved[0], found[0] = 1e6, 3.1e7
    assert compiled._agree_but_for(found, truth, moved)
    assert not compiled._agree_but_for(found, truth, moved / 100)  # more than rounding may do
    assert not compiled._agree_but_for(found, truth, torch.zeros(6))
    found[1] = 1e5
    assert not compiled._agree_but_for(found, truth, moved)  # one that is certain
    assert not compiled._agree_but_for(truth, truth, truth.abs())  # nothing was compared


def test_where_shaken_arguments_move_the_result_more_it_may_differ_as_much(counter, monkeypatch):
    """A Laplacian near a pole, of which compiled code has other last digits than eager code."""

    def f(x):
        return (x[:, 0] - x[:, 1]).abs().log()

    x = torch.tensor([[1.0, 1.0 + 2e-6], [1.0, 2.0], [0.5, 3.0], [2.0, 1.0]])
    by, factors = compiled._by, torch.tensor([1.001, 1.0, 1.0, 1.0])
    assert float(laplacian(f)(x)[0]) < -1e11

    def off(*args):
        call = by(*args)
        return lambda *given, **kwargs: call(*given, **kwargs) * factors

    monkeypatch.setattr(compiled, "_by", off)
    torch.testing.assert_close(laplacian(f, compile=True)(x), laplacian(f)(x) * factors)
    factors = torch.tensor([1.0, 2.0, 1.0])
    with pytest.raises(UnsupportedOperationError, match="other numbers than the eager ones"):
        laplacian(lambda x: f(x) + x[:, 0] ** 2, compile=True)(x[1:])


def test_an_import_of_another_thread_that_breaks_in_is_waited_for(monkeypatch):
    made, waited = [], []

    def called(make, request):
        made.append(make)
        if len(made) == 1:
            raise torch._dynamo.exc.InternalTorchDynamoError("RuntimeError: dictionary changed size during iteration")
        return original(make, request)

    original = compiled._called_first
    monkeypatch.setattr(compiled, "_called_first", called)
    monkeypatch.setattr(compiled, "answered", lambda: waited.append(True))
    x = torch.rand(3, 2)
    assert torch.allclose(diag_jac(torch.sin, compile=True)(x), x.cos())
    assert waited == [True]
    assert made[0] is made[1]

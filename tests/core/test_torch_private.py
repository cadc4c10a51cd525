"""``jacfunc/core/torch_private.py``: each name does what it is used for, and no other file uses a private one of torch."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import subprocess
import sys
import traceback
import types
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from ranks import on_ranks
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import jacfunc
from jacfunc import diag_jac, make_functional
from jacfunc.core import torch_private as private
from jacfunc.evaluation.corrections import TABLE

ROOT = Path(jacfunc.__file__).parent
ROOM = ROOT / "core" / "torch_private.py"
OTHER_ROOM = ROOT / "core" / "torch_operators.py"
"""Its names are tried in ``test_torch_operators.py``."""
double = torch.float64


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (3,)), dtype=double)


class Told(torch.overrides.TorchFunctionMode):
    """Keeps what it is told of."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Jetlike:
    """No tensor, but handed operations as a jet is: it answers with what it was handed."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func


class Sub(torch.Tensor):
    told: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.told.append(func)
        return super().__torch_function__(func, types, args, kwargs)


def compiled(function, **options):
    torch._dynamo.reset()
    return torch.compile(function, backend="eager", fullgraph=True, **options)


# -------------------------------------------------------------------- levels


def test_a_function_inside_of_a_transform_goes_through_one_call():
    codes = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: codes.add(frame.f_code))
    try:
        torch.func.vmap(Doubled.apply)(x(2))
    finally:
        sys.setprofile(before)
    assert private.through_transforms() in codes


class Doubled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def test_levels_are_counted_and_told_apart():
    seen = {}

    def inner(y):
        seen["around"] = [level.key() for level in private.level_stack()]
        seen["own"] = private.level_of(y) == private.level_stack()[-1].level()
        seen["count"] = private.level_count()
        seen["inner"] = private.is_wrapped(y), private.is_batched(y), private.is_tracked(y)
        below = private.unwrapped(y)
        below = private.unwrapped(below) if private.is_tracked(below) else below  # forward mode's is of one of its own
        seen["outer"] = private.is_wrapped(below), private.is_batched(below), private.is_tracked(below)
        seen["plain"] = private.unwrapped(below)
        seen["innermost"] = torch.equal(private.innermost(y), seen["plain"])
        seen["axis"] = private.batch_dim(below)
        with private.outside_transforms():
            seen["none"] = private.level_count()
        seen["again"] = private.level_count()
        return y.sin()

    given = x(5, 3)
    torch.func.vmap(lambda row: torch.func.jvp(inner, (row,), (row,))[1])(given)
    assert seen["around"] == [private.VMAP, private.JVP]
    assert seen["count"] == seen["again"] == 2 and seen["innermost"]
    assert seen["none"] == seen["axis"] == 0
    assert seen["own"]
    assert seen["inner"] == (True, False, True)
    assert seen["outer"] == (True, True, False)
    assert torch.equal(seen["plain"], given)
    assert not private.level_count()
    assert not private.level_stack()
    assert not private.is_wrapped(given)


def test_whether_dynamo_follows_a_question_for_levels():
    asking = compiled(lambda y: y * (3 + private.level_count()))
    if private.LEVELS_TRACED:
        assert torch.equal(asking(torch.ones(2)), torch.full((2,), 3.0))
    else:
        with pytest.raises(torch._dynamo.exc.Unsupported):
            asking(torch.ones(2))


# -------------------------------------------------------------------- torch.compile, torch.export


@pytest.mark.parametrize("asked", [private.any_thread_exports, torch.compiler.is_exporting], ids=["ours", "theirs"])
def test_a_compilation_is_no_export_but_for_torchs_question_before_2_13(asked):
    wrong = asked is torch.compiler.is_exporting and not private.LEVELS_TRACED
    found = compiled(lambda y: y + 100 if asked() else y * 3)(torch.ones(2))
    assert torch.equal(found, torch.full((2,), 101.0 if wrong else 3.0))


def test_an_export_is_one_and_its_tensors_are_fake():
    class Asking(nn.Module):
        def forward(self, y):
            seen.append((private.any_thread_exports(), private.dispatch_mode(private.FAKE)))
            return y.sin()

    seen = []
    torch.export.export(Asking(), (x(),), strict=False)
    exporting, mode = seen[-1]
    assert exporting
    assert type(mode).__name__ == "FakeTensorMode"
    Asking()(x())
    assert seen[-1] == (False, None)


def test_the_modules_by_name():
    assert importlib.import_module(private.DYNAMO) is torch._dynamo
    assert private.DYNAMO.startswith(private.PRIVATE)
    assert not "torch.nn".startswith(private.PRIVATE)


def test_torch_loads_dynamo_by_itself_when_a_derivative_is_first_taken():
    script = (
        "import sys, torch\n"
        f"loaded = [{private.DYNAMO!r} in sys.modules]\n"
        "torch.func.jacrev(torch.sin)(torch.ones(2))\n"
        f"print([*loaded, {private.DYNAMO!r} in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[False, True]"


def test_errors_of_dynamo_are_of_one_class():
    def broken(y):
        torch._dynamo.graph_break()
        return y

    with pytest.raises(private.dynamo_error()):
        compiled(broken)(torch.ones(2))
    assert not issubclass(ValueError, private.dynamo_error())
    assert private.dynamo_error() is private.dynamo_error()


def test_hooks_for_all_modules_are_seen_by_their_numbers():
    registers = (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    )
    assert not any(private.GLOBAL_HOOKS)
    for register, hooks in zip(registers, private.GLOBAL_HOOKS, strict=True):
        handle = register(lambda *given: None)
        assert list(hooks) == [handle.id]
        handle.remove()


def test_a_constant_is_asked_for_while_dynamo_traces_and_not_again():
    calls = []

    @private.constant_in_traces
    def untraceable():
        calls.append(sys._getframe())
        return 3

    function = compiled(lambda y: y * untraceable())
    for _ in range(2):
        assert torch.equal(function(torch.ones(2)), torch.full((2,), 3.0))
    assert len(calls) == 1


def test_a_traceable_object_is_traced_by_its_function():
    class Two(private.Traceable):
        def __call__(self, y):
            return y * 2

        def traceable(self):
            return lambda y: y * 3

    assert torch.equal(Two()(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(compiled(Two())(torch.ones(2)), torch.full((2,), 3.0))
    with pytest.raises(NotImplementedError):
        private.Traceable().traceable()


def test_what_is_handed_to_modes_can_be_added_to():
    class Tripling(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return args[0] * 3 if func is F.hardsigmoid else func(*args, **(kwargs or {}))

    def function(y):
        with Tripling():
            return F.hardsigmoid(y)

    private.handed_to_modes().add(F.hardsigmoid)
    assert private.handed_to_modes() >= {torch.add, F.hardsigmoid}
    assert torch.equal(compiled(function)(torch.ones(2)), torch.full((2,), 3.0))


def test_inductor_says_what_it_can_and_where_its_header_is():
    codecache, config, cpu_vec_isa = private.inductor()
    assert config.cpp_cache_precompile_headers in (True, False)
    assert all(isa.bit_width() > 0 for isa in cpu_vec_isa.valid_vec_isa_list())
    assert Path(private.header_folder(codecache)).is_absolute()
    assert private.header_folder(types.SimpleNamespace()) is None


# -------------------------------------------------------------------- modes, classes, switches


def test_gradients_are_switched_and_modes_told_of_it():
    with Told() as told, torch.no_grad():
        assert not x().requires_grad_().sin().requires_grad
        private.set_grad(True)
        assert x().requires_grad_().sin().requires_grad
    assert private.set_grad in told.functions
    assert torch.is_grad_enabled()


def test_forward_mode_is_switched():
    def slope():
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(forward_ad.make_dual(x(), x()).sin()).tangent

    assert private.is_forward_mode_on()
    assert slope() is not None
    private.set_forward_mode(False)
    try:
        assert not private.is_forward_mode_on()
        assert slope() is None
    finally:
        private.set_forward_mode(True)


def test_forward_mode_is_off_in_an_autograd_function_and_on_in_no_grad():
    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            seen.append(private.is_forward_mode_on())
            return y.clone()

    seen = []
    Asking.apply(x().requires_grad_())
    with torch.no_grad():
        seen.append(private.is_forward_mode_on())
    assert seen == [False, True]


def test_the_level_of_dual_numbers():
    assert private.dual_level() == -1
    with forward_ad.dual_level():
        assert private.dual_level() == 0
    assert private.dual_level() == -1
    seen = []
    torch.func.jvp(lambda y: (seen.append(private.dual_level()), y)[1], (x(),), (x(),))
    assert seen == [0]


def test_who_is_told_of_an_operation():
    sub, Sub.told = x().as_subclass(Sub), []
    assert private.are_classes_told()
    with Told() as told:
        with private.WithoutModesOrClasses():
            assert not private.are_classes_told()
            sub.sin()
        assert not told.functions
        assert not Sub.told
        with private.WithoutClasses():
            assert not private.are_classes_told()
            sub.cos()
        assert told.functions == [torch.Tensor.cos]
        assert not Sub.told
        assert private.are_classes_told()
        sub.tan()
    assert told.functions == [torch.Tensor.cos, torch.Tensor.tan]
    assert Sub.told[-1] is torch.Tensor.tan


def test_modes_are_counted_and_named_outermost_first():
    assert private.mode_count() == 0
    with Told() as one, Told() as two:
        assert private.mode_count() == 2
        assert list(private.modes()) == [one, two]
    assert not private.modes()


def test_a_dispatch_mode_is_told_what_is_left_of_an_operation_and_loads_no_dynamo():
    script = (
        "import sys, torch\n"
        "from jacfunc.core.torch_private import DispatchMode\n"
        "class Mode(DispatchMode):\n"
        "    def __torch_dispatch__(self, func, types, args=(), kwargs=None):\n"
        "        told.append(str(func))\n"
        "        return func(*args, **(kwargs or {}))\n"
        "told, x, weight = [], torch.ones(2, 3), torch.ones(4, 3)\n"
        "with Mode():\n"
        "    torch.nn.functional.linear(x, weight)\n"
        "print(told, 'torch._dynamo' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['aten.t.default', 'aten.mm.default'] False"


def test_autocast_is_seen_for_whatever_device():
    assert not private.autocasting()
    with torch.autocast("cpu"):
        assert private.autocasting()
    torch.set_autocast_enabled("xpu", True)  # of a device that is not there
    try:
        assert private.autocasting()
    finally:
        torch.set_autocast_enabled("xpu", False)
    assert not private.autocasting()


# -------------------------------------------------------------------- autograd's graph


def test_the_engine_gives_what_autograd_grad_gives():
    y = x().requires_grad_()
    out, cotangent = y.sin(), x()
    found = private.run_engine((out,), (cotangent,), True, True, (y,), allow_unreachable=True, accumulate_grad=False)
    torch.testing.assert_close(found, torch.autograd.grad(out, y, cotangent, create_graph=True))
    assert found[0].requires_grad
    assert y.grad is None


def test_nodes_have_numbers_in_the_order_of_their_making():
    before = x().requires_grad_().sin()
    number = private.next_node_number()
    after = before.cos()
    assert private.node_number(before.grad_fn) < number == private.node_number(after.grad_fn)
    assert private.next_node_number() == number + 1


def test_what_writes_is_declared():
    add = torch.ops.aten.add
    assert private.is_mutable(torch.ops.aten.add_.Tensor) and private.is_mutable(add.out)
    assert not private.is_mutable(add.Tensor)


def test_a_node_knows_what_its_backward_takes():
    parts = x().requires_grad_().float().unbind()
    arguments = private.arguments_of(parts[0].grad_fn)
    assert [(tuple(argument.shape), argument.dtype) for argument in arguments] == [
        (part.shape, part.dtype) for part in parts
    ]


def test_what_a_node_keeps_has_names_that_begin_alike():
    y = x().requires_grad_()
    node = y.sin().grad_fn
    kept = [getattr(node, name) for name in dir(node) if name.startswith(private.SAVED)]
    assert any(tensor is y for tensor in kept if isinstance(tensor, torch.Tensor))


def test_data_is_got_by_the_name_that_dynamo_has_for_it():
    y = x().requires_grad_()
    found = private.data_getter(y)
    assert found.data_ptr() == y.data_ptr()
    assert not found.requires_grad
    assert private.data_getter in TABLE


def test_zeros_without_memory_are_told_from_others():
    assert private.is_zero_tensor(torch._efficientzerotensor((3,)))
    assert not private.is_zero_tensor(torch.zeros(3))


# -------------------------------------------------------------------- C functions, operators


def test_a_jet_is_handed_a_c_function_by_the_body_of_the_python_one():
    given = x()
    for name, rest in (("pad", ((1, 1),)), ("hardsigmoid", ()), ("elu", ())):
        python, c = getattr(F, name), getattr(private.c_nn, name)
        assert python(Jetlike(), *rest) is python
        assert c(Jetlike(), *rest) is c
        assert torch.equal(c(given, *rest), python(given, *rest))


@pytest.mark.parametrize(
    ("public", "place", "name"),
    [
        (F.gelu, private.c_nn, "gelu"),
        (F.softplus, private.c_nn, "softplus"),
        (F.logsigmoid, private.c_nn, "log_sigmoid"),
        (torch.threshold, private.c_torch, "threshold"),
    ],
)
def test_these_are_one_object_so_that_the_public_name_does(public, place, name):
    assert public is getattr(place, name)


def test_the_c_functions_behind_python_functions_of_torch():
    a, b = x(3, 4), x(3, 4)
    c = private.c_torch
    for name in ("split", "norm", "tensordot", "broadcast_tensors"):
        assert getattr(torch, name) is not getattr(c, name)
    assert all(map(torch.equal, c.split(a, 2, 1), torch.split(a, 2, 1)))
    torch.testing.assert_close(c.norm(a, 2, [1]), torch.norm(a, 2, 1))
    torch.testing.assert_close(c.tensordot(a, b, [0], [0]), torch.tensordot(a, b, ([0], [0])))
    assert all(map(torch.equal, c.broadcast_tensors([a, b[:1]]), torch.broadcast_tensors(a, b[:1])))


@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_goes_by_names_that_begin_like_these(antialias):
    with Told() as told:
        F.interpolate(x(1, 1, 4, 4), size=(3, 3), mode="bilinear", antialias=antialias)
    names = [getattr(function, "__name__", "") for function in told.functions]
    found = [name for name in (*names, *dir(private.c_nn)) if name.startswith(private.UPSAMPLING[antialias])]
    assert any("bilinear2d" in name for name in found)
    assert not any(name.startswith("upsample_") and name.endswith("_aa") for name in dir(private.c_nn))


def test_python_functions_and_methods_say_where_they_are():
    assert {F.relu.__module__, torch.split.__module__, torch.Tensor.norm.__module__} == set(private.IMPLEMENTED_IN)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_the_axis_of_a_softmax_without_one(rank):
    given = x(*[2] * rank) if rank else x().sum()
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        wanted = F.softmax(given)
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax"):
        axis = private.default_axis("softmax", rank, 3)
    torch.testing.assert_close(torch.softmax(given, axis), wanted)


def test_operators_are_of_these_classes():
    assert type(torch.ops.aten.add) is private.OpOverloadPacket
    assert type(torch.ops.aten.add.Tensor) is private.OpOverload


def test_a_view_knows_its_base_without_a_graph_too():
    tensor = x().requires_grad_()
    with torch.no_grad():
        assert private.base_of(tensor[:1].view(-1)) is tensor
    assert private.base_of(tensor) is None


def test_operators_tell_what_they_write_to():
    aten = torch.ops.aten
    assert private.written_arguments(aten.add_.Tensor) == private.written_arguments(aten.add_) == {0}
    assert private.written_arguments(aten.add.Tensor) == set()
    assert private.written_arguments(aten.add.out) == private.written_arguments(aten.sparse_coo_tensor) == set()


def test_operators_of_a_name_are_all_forms_that_make_their_result():
    packet, *forms = private.operators("_ctc_loss")
    assert packet is torch.ops.aten._ctc_loss
    assert forms == [torch.ops.aten._ctc_loss.default, torch.ops.aten._ctc_loss.Tensor]
    assert "out" in packet.overloads()


def test_attention_by_its_private_names():
    query, key, value = x(2, 3, 4, 5), x(2, 3, 6, 5), x(2, 3, 6, 5)
    truth = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(private.math_attention(query, key, value)[0], truth)
    attended, logarithms = private.native_flash(query, key, value, 0.0, False)
    torch.testing.assert_close(attended, truth)
    scores = query @ key.transpose(-2, -1) / 5**0.5
    torch.testing.assert_close(logarithms, scores.logsumexp(-1))


def test_a_softmax_of_nothing_is_zero():
    scores = torch.stack([torch.full((3,), -torch.inf, dtype=double), x()])
    found = private.safe_softmax(scores, -1)
    assert torch.softmax(scores, -1)[0].isnan().all()
    assert not found[0].any()
    torch.testing.assert_close(found[1], torch.softmax(scores[1], -1))


def test_the_determinant_and_its_factors():
    matrix = x(4, 4)
    det, factors, pivots = private.native_det(matrix)
    torch.testing.assert_close(det, torch.linalg.det(matrix))
    permutation, lower, upper = torch.lu_unpack(factors, pivots)
    product = permutation @ lower @ upper
    assert torch.allclose(product, matrix) or torch.allclose(product, matrix.mT)  # whichever lies better in memory


def test_batch_norm_with_its_statistics():
    given = x(5, 3)
    found, mean, *_ = private.indexed_native(given, None, None, None, None, True, 0.1, 1e-5, False)
    torch.testing.assert_close(found, F.batch_norm(given, None, None, training=True))
    torch.testing.assert_close(mean, given.mean(0))


def test_draws_of_the_gamma_distribution_and_their_slope():
    alpha = torch.full((4,), 2.5, dtype=double, requires_grad=True)
    draws = [private.draw_gamma(alpha, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    (slope,) = torch.autograd.grad(draws[0].sum(), alpha)
    torch.testing.assert_close(private.gamma_slope(alpha.detach(), draws[0].detach()), slope)


OPERATIONS = (
    *("BATCH_NORMS", "INDEXED_BATCH_NORMS", "FLASH_ATTENTION", "TO_SPARSE", "SPARSE_MM", "CTC_LOSS", "UNIQUE"),
    *("EMBEDDING_BAG", "DET", "CDIST", "PDIST", "GAMMA"),
)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_without_a_public_name_are_exchanged(name):
    """That each is needed is in ``test_corrections.py``, which has torch's derivatives wrong without."""
    for function in getattr(private, name):
        assert function in TABLE
        own = getattr(function, "__name__", None) or str(function)
        assert own.partition(".")[0].startswith("_") or "aten._" in str(function)


# -------------------------------------------------------------------- modules, trees, checkpoints, scripts


def test_hooks_that_follow_a_gradient():
    leaf = x().requires_grad_()
    assert not getattr(leaf, private.AFTER_HOOKS)
    leaf.register_post_accumulate_grad_hook(lambda leaf: None)
    assert len(getattr(leaf, private.AFTER_HOOKS)) == 1


def test_all_batch_normalisations_have_one_base():
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LazyBatchNorm1d)
    assert all(issubclass(kind, private.BatchNorm) for kind in kinds)
    assert not issubclass(nn.InstanceNorm1d, private.BatchNorm)
    assert not issubclass(nn.LayerNorm, private.BatchNorm)


def test_a_recurrent_layer_rebuilds_lists_with_names_that_begin_so():
    layer = nn.GRU(3, 4)
    lists = [value for name, value in vars(layer).items() if name.startswith(private.RNN_TENSORS)]
    assert [id(tensor) for tensor in layer.parameters()] in [[id(item) for item in kept] for kept in lists]


def test_an_error_arises_in_a_frame_of_this_name():
    class Failing(nn.Module):
        def forward(self, y):
            raise ValueError("mine")

    net = nn.Sequential(nn.Tanh(), Failing())
    with pytest.raises(ValueError, match="mine") as raised:
        net(x())
    frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
    assert [f.f_locals["self"] for f in frames if f.f_code.co_name == private.MODULE_CALL] == [net, net[1]]


def test_an_error_in_a_higher_order_operator_passes_through_its_file():
    def branching(y):
        return torch.cond(y.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (y,))

    with pytest.raises(Exception) as raised:  # noqa: PT011  # whose class is another in each version
        torch.func.jacfwd(torch.func.jacfwd(branching))(x())
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
    assert "cond" in [Path(file).stem for file in files if private.HIGHER_ORDER in file]


def test_the_cache_of_parametrizations():
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    assert not private.PARAMETRIZATIONS[private.CACHING]
    with parametrize.cached():
        assert private.PARAMETRIZATIONS[private.CACHING]
        weight = layer.weight
        assert weight in [*private.PARAMETRIZATIONS[private.CACHED].values()]
        private.PARAMETRIZATIONS[private.CACHED] = {}
        assert layer.weight is not weight
    assert not private.PARAMETRIZATIONS[private.CACHED]


def test_a_checkpoint_is_made_by_the_class_that_stands_under_this_name(monkeypatch):
    made, frame = [], private.CHECKPOINTING[private.CHECKPOINT_FRAME]
    monkeypatch.setitem(
        private.CHECKPOINTING, private.CHECKPOINT_FRAME, lambda f, *rest: (made.append(f), frame(f, *rest))[1]
    )
    y = x().requires_grad_()
    torch.utils.checkpoint.checkpoint(torch.sin, y, use_reentrant=False).sum().backward()
    assert len(made) == 1
    torch.testing.assert_close(y.grad, y.detach().cos())


def test_trees_are_entered_and_found():
    class Pair:
        def __init__(self, parts):
            self.parts = list(parts)

    assert private.NODES.get(dict) is not None
    assert private.NODES.get(Pair) is None
    private.register_tree(Pair, lambda pair: (pair.parts, None), lambda parts, _: Pair(parts))
    try:
        assert private.NODES[Pair].flatten_fn(Pair([1, 2])) == ([1, 2], None)
        given = x(5, 3)
        found = torch.func.vmap(lambda pair: pair.parts[0] * pair.parts[1])(Pair([given, given]))
        torch.testing.assert_close(found, given * given)
    finally:
        del private.NODES[Pair]


def squared(y: torch.Tensor) -> torch.Tensor:
    return y * y


def forking(y: torch.Tensor) -> torch.Tensor:
    return torch.jit.wait(torch.jit.fork(squared, y)) + squared(y)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_buffers_that_are_in_no_state_dict_are_kept_by_name():
    module = torch.nn.Module()
    module.register_buffer("a", torch.ones(1), persistent=False)
    assert getattr(module, private.NON_PERSISTENT) == {"a"}


def test_a_graph_is_made_plain_and_run():
    def kinds(graph):
        return {node.kind() for node in graph.nodes()}

    graph = torch.jit.script(forking).graph.copy()
    assert kinds(graph) & {"prim::fork", "prim::CallFunction"}
    private.inline_forks(graph)
    private.inline_calls(graph)
    assert kinds(graph) <= {"aten::mul", "aten::add", "prim::Constant"}
    function = private.function_of_graph("plain", graph)
    given = x()
    torch.testing.assert_close(function(given), 2 * given * given)
    assert type(function) is torch.jit.ScriptFunction
    assert type(torch.jit.script(nn.Tanh()).forward) is private.ScriptMethod


# -------------------------------------------------------------------- modules that share a process group


def test_raw_saved():
    y = x().requires_grad_().sin()
    found = []
    (raw,) = [getattr(y.grad_fn, name) for name in dir(y.grad_fn) if name.startswith(private.RAW_SAVED)]
    raw.register_hooks(lambda tensor: found.append(tensor) or tensor, lambda tensor: tensor)
    assert [tuple(tensor.shape) for tensor in found] == [(3,)]


def without_collectives(rank):
    """Buffers before and after, and what a forward did with other ranks, after two steps that rebuild the buckets."""
    torch.manual_seed(rank)
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    ddp = nn.parallel.DistributedDataParallel(net)
    for _ in range(2):
        ddp(x(4, 3)).sum().backward()
    own = net[1].running_mean.clone()
    private.ready_to_run(ddp)
    shared = net[1].running_mean.clone()
    if rank == 0:  # alone: nothing waits for the other
        ddp.require_forward_param_sync = False
        with ddp.no_sync():
            ddp(x(4, 3)).sum().backward()
    return own, shared


def test_ready_to_run():
    (first, shared), (second, other) = on_ranks(without_collectives)
    assert not torch.equal(first, second)
    assert torch.equal(shared, first) and torch.equal(other, first)


def of_groups(rank):
    net = fully_shard(nn.Linear(3, 4, bias=False).double())
    (group,) = private.sharded_groups(net)
    before = len(private.unsharded(group)), group.gradient_divide_factor, group.reduce_grads
    (each,) = group.fsdp_params
    net.set_requires_gradient_sync(False)
    net(x(2, 3)).sum().backward()
    (whole,) = private.unsharded(group)
    held = each.unsharded_accumulated_grad if whole.grad is None else whole.grad
    return before, group.reduce_grads, tuple(whole.shape), held is not None, each.sharded_param is net.weight


def test_sharded_groups_and_unsharded():
    before, reduces, shape, held, sharded = on_ranks(of_groups, ranks=1)[0]
    assert before[1:] == (None, True) and not reduces
    assert shape == (4, 3) and held and sharded


def test_hooks_of_a_leaf():
    from torch.distributed.optim import _apply_optimizer_in_backward

    net, seen = nn.Linear(2, 1), []
    leaf = net.weight
    assert getattr(leaf, private.GRADIENT_HOOKS) is None and getattr(leaf, private.AFTER_HOOKS) is None
    first = leaf.register_hook(lambda gradient: seen.append("gradient"))
    second = leaf.register_post_accumulate_grad_hook(lambda leaf: seen.append("after"))
    for name, handle in ((private.GRADIENT_HOOKS, first), (private.AFTER_HOOKS, second)):
        hooks = getattr(leaf, name)
        assert list(hooks) == [handle.id]
        hooks[handle.id] = lambda _: None
    leaf.sum().backward()
    assert seen == []
    _apply_optimizer_in_backward(torch.optim.SGD, net.parameters(), {"lr": 0.1})
    assert len(getattr(leaf, private.OPTIMISERS)) == 1


# -------------------------------------------------------------------- what is exchanged is put back


def surroundings():
    checkpoints = [private.CHECKPOINTING[name] for name in (private.CHECKPOINT_FRAME, "CheckpointFunction")]
    calls = [kind.__call__ for kind in (torch.jit.ScriptFunction, private.ScriptMethod)]
    return [*checkpoints, *calls]


def switches():
    return torch.is_grad_enabled(), private.is_forward_mode_on(), [*private.modes()], private.dual_level()


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_it_was_after_a_call(method, fails):
    seen = []

    def f(y):
        seen.append(surroundings())
        with torch.no_grad():
            constant = y.detach().sum()
        if fails:
            raise ValueError("mine")
        return y.sin() + constant

    before = surroundings(), switches()
    with pytest.raises(ValueError, match="mine") if fails else contextlib.nullcontext():
        diag_jac(f, method=method, check=False)(x(4, 3))
    assert any(inside != outside for inside, outside in zip(seen[0], before[0], strict=True))
    assert (surroundings(), switches()) == before


def test_forward_mode_is_off_within_a_no_grad_of_an_evaluation_only():
    seen = []

    def f(y):
        with torch.no_grad():
            seen.append(private.is_forward_mode_on())
        seen.append(private.is_forward_mode_on())
        return y.sin()

    diag_jac(f, method="forward", check=False)(x(4, 3))
    assert seen[-2:] == [False, True]
    assert private.is_forward_mode_on()


@pytest.mark.parametrize("fails", [False, True])
def test_the_cache_of_parametrizations_is_the_callers_after_a_call(fails):
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = parametrizations.weight_norm(nn.Linear(3, 3).double())

        def forward(self, y):
            seen.append(private.PARAMETRIZATIONS[private.CACHED])
            y = self.linear(y)
            if fails:
                raise ValueError("mine")
            return y

    seen, net, given = [], Asking(), x(4, 3)
    f, params = make_functional(net)
    with parametrize.cached():
        weight = net.linear.weight
        cache = private.PARAMETRIZATIONS[private.CACHED]
        with pytest.raises(ValueError, match="mine") if fails else contextlib.nullcontext():
            f({name: value * 2 for name, value in params.items()}, given)
        assert seen[0] is not cache
        assert private.PARAMETRIZATIONS[private.CACHED] is cache
        assert net.linear.weight is weight


# -------------------------------------------------------------------- nobody else


DOCUMENTED = {
    "_version": "of a tensor: in torch's notes on autograd",
    **dict.fromkeys(("_modules", "_parameters", "_buffers"), "of a module, which everyone who derives from it meets"),
    **dict.fromkeys(("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"), "the same"),
    **dict.fromkeys(("_fields", "_asdict", "_replace"), "Python's, of named tuples"),
    "_getframe": "Python's",
}
"""Private attributes of objects that are used as they are."""


def is_private(name: str) -> bool:
    return re.match(r"_[A-Za-z]", name) is not None


def texts(tree: ast.AST) -> set[int]:
    """The docstrings of a file, and strings that say something, by their identity."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def own_names(trees: list[ast.AST]) -> set[str]:
    """The private names that this package makes: of functions, classes, attributes, variables and slots."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if is_private(name)}


def imported(tree: ast.AST) -> dict[str, str]:
    """The names in a file that stand for something of torch's, also through the room, and what they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: what for name, what in found.items() if re.match(r"torch\b|(.*\.)?torch_private\b", what)}


def wrong_lines(source: str, own: set[str]) -> list[str]:
    """What in a source is a private name of torch, each with its line."""
    tree = ast.parse(source)
    names, spared, found = imported(tree), texts(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node
            while isinstance(root, ast.Attribute):
                root = root.value
            of_torch = isinstance(root, ast.Name) and root.id in names
            known = node.attr in DOCUMENTED or (node.attr in own and not of_torch)
            paths = [] if known else [f"torch: {ast.unparse(node)}"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spared:
            by_path = re.search(r"\btorch(\.\w+)*\._[a-z]", node.value)
            by_name = re.fullmatch(r"_[A-Za-z]\w*", node.value) and node.value not in {*own, *DOCUMENTED, *PARTS}
            paths = [f"torch: {node.value!r}"] if by_path or by_name else []
        else:
            continue
        for path in paths:
            if path.startswith("torch: ") or (path.startswith("torch.") and any(map(is_private, path.split(".")))):
                found.append(f"{node.lineno}: {path.removeprefix('torch: ')}")
    return found


PARTS = ("_cell", "_copy", "_dot_", "_noted", "_standard_gamma")
"""Strings that are ends of public names, ours, or words told to users."""
SOURCES = {
    path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py")) if path not in (ROOM, OTHER_ROOM)
}


@pytest.fixture(scope="module")
def own() -> set[str]:
    """The room's own are left out, since those that are not its helpers are torch's."""
    return own_names([ast.parse(source) for source in SOURCES.values()])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_file_uses_a_private_name_of_torch(path, own):
    lines = [line.partition(": ")[2] for line in wrong_lines(SOURCES[path], own)]
    assert lines == BY_NAME.get(path.relative_to(ROOT).as_posix(), [])


BY_NAME = {"_demo/memory.py": ["'torch._dynamo'"]}
"""What names a module as a string, and cannot ask the room, as it is also read where torch is not installed."""


PLANTED = {
    "torch._C._set_grad_enabled(True)": 2,
    "torch.nn.functional._pad(x)": 1,
    "from torch._C import _nn": 1,
    "from torch.overrides import _get_current_function_mode": 1,
    "import torch._dynamo": 1,
    "import torch._dynamo as d": 1,
    "def f():\n    from torch._inductor import config": 1,
    "from torch.nn import functional as G\nG._pad": 1,
    "from torch.autograd import forward_ad\nforward_ad._current_level": 1,
    "from ...core.torch_private import c_nn\nc_nn._upsample_bilinear2d_aa": 1,
    "node._sequence_nr()": 1,
    "torch._version": 0,
    "x._version": 0,
    "self._ours": 0,
    "torch._ours": 1,
    "'torch._dynamo' in sys.modules": 1,
    "getattr(node, '_sequence_nr')": 1,
    "def f():\n    '''What ``torch._C._nn`` does.'''": 0,
    "torch.Tensor.__add__": 0,
    "from .torch_private import set_grad\nset_grad(True)": 0,
    "# torch._C": 0,
}


@pytest.mark.parametrize("line", PLANTED)
def test_the_check_sees_a_planted_line(line):
    found = wrong_lines(f"import torch\n{line}\n", {"_ours"})
    assert len(found) == PLANTED[line], found


def test_a_wrong_line_in_a_file_of_ours_fails(own):
    path = ROOT / "core" / "trees.py"
    source = SOURCES[path].replace("return LEAF", "return torch._C._len_torch_function_stack()")
    source += "\n\ndef late():\n    return torch._C._len_torch_function_stack()\n"
    assert wrong_lines(source, own)
    assert not wrong_lines(SOURCES[path], own)


def test_every_name_in_the_room_is_tried_here():
    tree = ast.parse(ROOM.read_text(encoding="utf-8"))
    targets = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    targets += [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    here = ast.parse(inspect.getsource(sys.modules[__name__]))
    tried = {node.attr for node in ast.walk(here) if isinstance(node, ast.Attribute)} | {*OPERATIONS, "DispatchMode"}
    assert {name for name in names if not name.startswith("_")} - tried == {"Functions", "Marked"}


def test_every_name_in_the_room_says_what_it_is_for():
    body = ast.parse(ROOM.read_text(encoding="utf-8")).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        named = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        public = [name for name in map(ast.unparse, named) if not is_private(name)]
        if public and public[0] not in ("Functions", "Marked", *OPERATIONS):
            assert isinstance(after, ast.Expr), public
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_private(node.name):
            assert ast.get_docstring(node), node.name

"""make_functional: a pure function of the parameters for every kind of module, and the module left as it was."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from jacfunc import ArgumentError, ArgumentTypeError, ParametersError, diag_jac, laplacian, make_functional

# -------------------------------------------------------------------- the modules that users have


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Shared(nn.Module):
    """One layer under two names, and in a list besides."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a
        self.all = nn.ModuleList([self.a, nn.Linear(3, 3)])

    def forward(self, x):
        return self.all[1](self.b(torch.tanh(self.a(x))))


class TiedToBuffer(nn.Module):
    """A parameter that another module has registered as its buffer."""

    def __init__(self):
        super().__init__()
        self.early, self.layer = nn.Module(), nn.Linear(3, 3)
        self.early.register_buffer("mirror", self.layer.weight)

    def forward(self, x):
        return self.layer(torch.tanh(x @ self.early.mirror))


class Counter(nn.Module):
    """Buffers written in place and re-assigned, one tied to another, one not in the state dict."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3), persistent=False)
        self.register_buffer("alias", self.steps)

    def forward(self, x):
        self.steps += 1
        self.count = self.count + self.alias
        y = self.layer(x) * (1 + self.count)
        self.last.copy_(y.detach().mean(0))
        return y


class Growing(nn.Module):
    """A buffer that has more rows after every call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(0, 3))

    def forward(self, x):
        self.seen = torch.cat([self.seen, x.detach()])
        return self.layer(x) + self.seen.sum(0)


class Written(nn.Module):
    """A cache in a buffer, and in plain attributes how far it is filled."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("cache", torch.zeros(4, 3))
        self.register_buffer("table", None)
        self.filled = 0

    def forward(self, x):
        if self.filled == 0:
            self.table = torch.arange(3.0)
            self.register_buffer("scale", torch.full((), 2.0))
        self.cache[self.filled] = self.table
        self.filled += 1
        return self.layer(x) * self.scale + self.cache.sum(0)


class Collections(nn.Module):
    """Parameters in a list and in a dict, and one that is None."""

    def __init__(self):
        super().__init__()
        self.list = nn.ParameterList([torch.randn(3, 3), torch.randn(3)])
        self.dict = nn.ParameterDict({"scale": torch.randn(3)})
        self.register_parameter("nothing", None)

    def forward(self, x):
        return torch.tanh(x @ self.list[0] + self.list[1]) * self.dict["scale"]


class PlainAttribute(nn.Module):
    """A tensor that is neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__()
        self.layer, self.shift = nn.Linear(3, 3), torch.full((3,), 2.0)

    def forward(self, x):
        return self.layer(x) + self.shift


class Recurrent(nn.Module):
    """A recurrent layer over the input as a sequence of one."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x[:, None])[0][:, 0]


class Checkpointed(nn.Module):
    """Its body is computed again during the backward pass."""

    def __init__(self, reentrant: bool, norm: bool = False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.Tanh(), nn.Linear(4, 3))
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.body, x * 1, use_reentrant=self.reentrant)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    return net.requires_grad_(False)


def initialised_lazy() -> nn.Module:
    net = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(3))
    net(torch.zeros(2, 3))
    return net


def once(layer: nn.Module) -> nn.Module:
    """A layer with a tanh, so that its input matters to its derivatives."""
    return nn.Sequential(layer, nn.Tanh())


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


@dataclass(frozen=True)
class Kind:
    """How to make a module of a kind; which of the copies Python knows torch can make of it."""

    make: Callable[[], nn.Module]
    training: bool = True
    copies: tuple[str, ...] = ("pickle", "deepcopy")

    def build(self) -> nn.Module:
        """The same module at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make().train(self.training)


DEEPCOPY, NEITHER = ("deepcopy",), ()
KINDS = {
    "mlp": Kind(mlp),
    "tied": Kind(Tied),
    "shared submodule": Kind(Shared),
    "parameter tied to a buffer": Kind(TiedToBuffer),
    "frozen": Kind(frozen),
    "lazy, initialised": Kind(initialised_lazy),
    "no bias": Kind(lambda: nn.Linear(3, 3, bias=False)),
    "no parameters": Kind(nn.Tanh),
    "list and dict": Kind(Collections),
    "plain attribute": Kind(PlainAttribute),
    "batch norm, training": Kind(lambda: once(nn.BatchNorm1d(3))),
    "batch norm, eval": Kind(lambda: once(nn.BatchNorm1d(3)), training=False),
    "counter": Kind(Counter),
    "growing buffer": Kind(Growing),
    "cache with attributes": Kind(Written),
    "lstm": Kind(lambda: Recurrent(nn.LSTM(3, 3, batch_first=True, bidirectional=True))),
    "gru": Kind(lambda: Recurrent(nn.GRU(3, 3, num_layers=2, batch_first=True))),
    "attention": Kind(lambda: nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0, batch_first=True)),
    "orthogonal": Kind(lambda: once(parametrizations.orthogonal(nn.Linear(3, 3))), copies=DEEPCOPY),
    "weight norm": Kind(lambda: once(parametrizations.weight_norm(nn.Linear(3, 3))), copies=DEEPCOPY),
    "spectral norm, training": Kind(lambda: once(parametrizations.spectral_norm(nn.Linear(3, 3))), copies=DEEPCOPY),
    "spectral norm, eval": Kind(
        lambda: once(parametrizations.spectral_norm(nn.Linear(3, 3))), training=False, copies=DEEPCOPY
    ),
    "weight norm of a gru": Kind(
        lambda: Recurrent(parametrizations.weight_norm(nn.GRU(3, 3, batch_first=True), "weight_hh_l0")), copies=NEITHER
    ),
    "old weight norm": Kind(lambda: once(nn.utils.weight_norm(nn.Linear(3, 3))), copies=NEITHER),
    "old weight norm of an lstm": Kind(
        lambda: Recurrent(nn.utils.weight_norm(nn.LSTM(3, 3, batch_first=True), "weight_hh_l0")), copies=NEITHER
    ),
    "old spectral norm": Kind(lambda: once(nn.utils.spectral_norm(nn.Linear(3, 3)))),
    "pruned": Kind(lambda: once(prune.random_unstructured(nn.Linear(3, 3), "weight", 0.5)), copies=NEITHER),
    "compiled": Kind(lambda: compiled(mlp())),
    "checkpointed": Kind(lambda: Checkpointed(reentrant=False)),
    "checkpointed, reentrant": Kind(lambda: Checkpointed(reentrant=True)),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*RNN module weights are not part of single contiguous:UserWarning"),
]


def batch() -> torch.Tensor:
    """Some input; a reentrant checkpoint needs it to require a gradient."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_()


def foreign(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other values for the same names."""
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(p.shape, generator=generator).requires_grad_() for name, p in params.items()}


def holding(net: nn.Module, params: dict[str, torch.Tensor]) -> nn.Module:
    """``net`` itself with these values as its own: what f must agree with."""
    with torch.no_grad():
        for name, tensor in params.items():
            net.get_parameter(name).copy_(tensor).requires_grad_()
    return net


class Picture:
    """All that a module consists of, to be compared with what it is later."""

    def __init__(self, net: nn.Module):
        self.containers = [
            (container, dict(container), {key: self.content(value) for key, value in container.items()})
            for module in net.modules()
            for container in (vars(module), module._parameters, module._buffers, module._modules)
        ]

    @staticmethod
    def content(value):
        """What is in a value that could be written to."""
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        return list(value) if isinstance(value, list) else None

    def assert_unchanged(self):
        """The same objects with the same content under the same names."""
        for container, before, contents in self.containers:
            assert set(container) == set(before)
            for key, value in container.items():
                assert value is before[key], key
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(value.detach(), contents[key], rtol=0, atol=0)
                elif isinstance(value, list):
                    assert len(value) == len(contents[key]), key
                    assert all(a is b for a, b in zip(value, contents[key], strict=True)), key


@pytest.fixture(autouse=True)
def _double():
    """``module.double()`` would untie buffers."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

# -------------------------------------------------------------------- values, gradients, and the module afterwards


@every_kind
def test_params_are_the_named_parameters_themselves(kind):
    net = kind.build()
    _, params = make_functional(net)
    named = dict(net.named_parameters())
    assert list(params) == list(named)
    assert all(params[name] is named[name] for name in named)


@every_kind
def test_live_parameters_give_what_the_module_gives(kind):
    f, params = make_functional(kind.build())
    torch.testing.assert_close(f(params, batch()), kind.build()(batch()), rtol=0, atol=0)


@every_kind
def test_foreign_parameters_give_what_a_module_holding_them_gives(kind):
    f, params = make_functional(kind.build())
    other = foreign(params)
    truth = holding(kind.build(), other)
    torch.testing.assert_close(f(other, batch()), truth(batch()))


@every_kind
def test_gradients_flow_to_foreign_parameters_and_not_to_the_module(kind):
    net = kind.build()
    f, params = make_functional(net)
    other, x = foreign(params), batch()
    truth, x_truth = holding(kind.build(), other), batch()
    f(other, x).square().sum().backward()
    truth(x_truth).square().sum().backward()
    for name, tensor in other.items():
        torch.testing.assert_close(tensor.grad, truth.get_parameter(name).grad)
    torch.testing.assert_close(x.grad, x_truth.grad)
    assert all(p.grad is None for p in net.parameters())


@every_kind
def test_backward_and_an_optimizer_train_the_module_through_live_parameters(kind):
    net, truth = kind.build().requires_grad_(), kind.build().requires_grad_()
    f, params = make_functional(net)
    for parameters, call in ((list(params.values()), lambda x: f(params, x)), (list(truth.parameters()), truth)):
        if parameters:
            optimizer = torch.optim.SGD(parameters, lr=0.1)
            call(batch()).square().sum().backward()
            optimizer.step()
    for p, q in zip(net.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@every_kind
def test_the_module_is_left_exactly_as_it_was(kind):
    net = kind.build()
    f, params = make_functional(net)
    picture = Picture(net)
    f(params, batch()).sum().backward()
    f(foreign(params), batch()).sum().backward()
    for parameter in params.values():
        parameter.grad = None
    picture.assert_unchanged()


@every_kind
def test_the_module_is_left_exactly_as_it_was_when_its_forward_raises(kind):
    net = kind.build()
    failing = net.register_forward_hook(lambda *_: 1 / 0)
    f, params = make_functional(net)
    picture = Picture(net)
    with pytest.raises(ZeroDivisionError):
        f(foreign(params), batch())
    picture.assert_unchanged()
    failing.remove()


@every_kind
def test_a_snapshot_is_detached_and_does_not_follow_the_module(kind):
    net = kind.build()
    f, params = make_functional(net, snapshot=True)
    before = f(params, batch())
    assert not any(tensor.requires_grad for tensor in params.values())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    torch.testing.assert_close(f(params, batch()), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "cache with attributes"])
def test_new_buffers_are_those_of_the_module_after_its_own_call(name):
    net, truth = KINDS[name].build(), KINDS[name].build()
    f, params, buffers = make_functional(net, with_buffers=True)
    picture = Picture(net)
    for _ in range(2):
        output, buffers = f(params, buffers, batch())
        torch.testing.assert_close(output, truth(batch()), rtol=0, atol=0)
        named = dict(truth.named_buffers())
        assert set(buffers) <= set(named)
        for key, buffer in buffers.items():
            torch.testing.assert_close(buffer, named[key], rtol=0, atol=0)
    picture.assert_unchanged()


COPIES = {"pickle": lambda f: pickle.loads(pickle.dumps(f)), "deepcopy": copy.deepcopy}


@pytest.mark.parametrize(("name", "how"), [(name, how) for name, kind in KINDS.items() for how in kind.copies])
def test_a_copy_of_f_carries_its_own_module(name, how):
    net = KINDS[name].build()
    f, params = make_functional(net)
    again = COPIES[how](f)
    own = again.parameters()
    assert list(own) == list(params)
    assert not {tensor.data_ptr() for tensor in own.values()} & {tensor.data_ptr() for tensor in params.values()}
    expected = f(params, batch())
    torch.testing.assert_close(again(own, batch()), expected, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in own.values():
            parameter.zero_()
    torch.testing.assert_close(f(params, batch()), expected, rtol=0, atol=0)


# -------------------------------------------------------------------- what may be passed


@pytest.mark.parametrize("container", [dict, OrderedDict, MappingProxyType])
def test_any_mapping_will_do(container):
    net = mlp()
    f, params = make_functional(net)
    torch.testing.assert_close(f(container(params), batch()), net(batch()))


@pytest.mark.parametrize(
    "given", [[torch.ones(1)], None, mlp(), "params", torch.ones(3)], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("argument", ["params", "buffers"])
def test_what_is_no_mapping_is_refused_by_its_type(given, argument):
    f, params, _ = make_functional(mlp(), with_buffers=True)
    with pytest.raises(ArgumentTypeError, match=f"{argument} is a {type(given).__name__}"):
        f(given, {}, batch()) if argument == "params" else f(params, given, batch())


def without(params, name):
    return {key: tensor for key, tensor in params.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: without(p, "a.bias"), "lacks the key 'a.bias'"),
        (lambda p: {}, "lacks the key 'a.weight'"),
        (lambda p: {**p, "c.weight": torch.ones(3)}, "unknown key 'c.weight'; the module's are 'a.weight', 'a.bias'"),
        (lambda p: {**p, 0: torch.ones(3)}, "unknown key 0"),
        (lambda p: {**p, "b.weight": torch.ones(3, 3)}, "'b.weight', which is tied to 'a.weight'"),
        (lambda p: {**without(p, "a.weight"), "b.weight": torch.ones(3, 3)}, "lacks the key 'a.weight'"),
        (lambda p: {**p, "a.bias": torch.ones(1)}, r"'a.bias'\] has shape \(1,\).* \(3,\)"),
        (lambda p: {**p, "a.bias": torch.ones(())}, r"'a.bias'\] has shape \(\)"),
        (lambda p: {**p, "a.bias": torch.ones(2, 3)}, r"'a.bias'\] has shape \(2, 3\).*vmap"),
        (lambda p: {**p, "a.bias": None}, r"'a.bias'\] is a NoneType"),
        (lambda p: {**p, "a.bias": 1.0}, r"'a.bias'\] is a float"),
    ],
)
def test_wrong_keys_and_shapes_are_refused_by_name(change, words):
    net = Tied()
    f, params = make_functional(net)
    picture = Picture(net)
    with pytest.raises(ParametersError, match=words):
        f(change(params), batch())
    picture.assert_unchanged()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: {}, "buffers lacks the key 'steps'"),
        (lambda b: {**b, "alias": b["steps"]}, "'alias', which is tied to 'steps'"),
        (lambda b: {**b, "more": b["steps"]}, "unknown key 'more'"),
        (lambda b: {**b, "last": torch.zeros(1)}, r"buffers\['last'\] has shape \(1,\)"),
    ],
)
def test_wrong_buffers_are_refused_by_name(change, words):
    f, params, buffers = make_functional(Counter(), with_buffers=True)
    with pytest.raises(ParametersError, match=words):
        f(params, change(buffers), batch())


def test_a_call_without_buffers_says_what_is_missing():
    f, params, _ = make_functional(mlp(), with_buffers=True)
    with pytest.raises(ArgumentTypeError, match="without buffers"):
        f(params)


def test_a_defaultdict_is_not_filled_by_the_look_at_it():
    from collections import defaultdict

    f, _ = make_functional(mlp())
    given = defaultdict(lambda: torch.zeros(1))
    with pytest.raises(ParametersError, match=r"lacks the key '0\.weight'"):
        f(given, batch())
    assert not given


def test_parameters_may_have_another_dtype():
    net = mlp().float()
    f, params = make_functional(net)
    double = {name: tensor.double() for name, tensor in params.items()}
    torch.testing.assert_close(f(double, batch()), copy.deepcopy(net).double()(batch()))
    assert net[0].weight.dtype == torch.float32


def test_parameters_may_live_on_another_device_than_the_module():
    net = mlp()
    expected = net(batch())
    params = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    f, abstract = make_functional(copy.deepcopy(net).to("meta"))
    torch.testing.assert_close(f(params, batch()), expected)
    assert f(abstract, batch().to("meta")).is_meta


@pytest.mark.parametrize("module", [lambda: nn.LazyLinear(3), lambda: nn.Sequential(nn.LazyBatchNorm1d(affine=False))])
@pytest.mark.parametrize("use", [make_functional, lambda net: diag_jac(net)(batch())])
def test_a_lazy_module_is_refused_before_its_first_batch(module, use):
    with pytest.raises(ArgumentError, match="call the module on one batch first"):
        use(module())


@pytest.mark.parametrize("module", [None, torch.tanh, [mlp()], nn.Linear])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(ArgumentTypeError, match="takes an nn.Module"):
        make_functional(module)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_submodule_is_refused_by_name_and_can_still_be_differentiated():
    scripted = nn.Sequential(torch.jit.script(mlp()), nn.Tanh())
    with pytest.raises(ArgumentError, match="'0' is scripted"):
        make_functional(scripted)
    assert diag_jac(scripted)(batch()).shape == (5, 3)


class Autoencoder(nn.Module):
    """Methods beside forward."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer, self.size = nn.Linear(3, 2), nn.Linear(2, 3), 2

    def encode(self, x, scale=1.0):
        return scale * torch.tanh(self.inner(x))

    def forward(self, x):
        return self.outer(self.encode(x))


@pytest.mark.parametrize("wrapped", [lambda net: net, compiled], ids=["eager", "compiled"])
def test_another_method_is_called_by_its_name(wrapped):
    net = Autoencoder()
    f, params = make_functional(wrapped(net), method="encode")
    other = foreign(params)
    truth = holding(wrapped(copy.deepcopy(net)), other)
    torch.testing.assert_close(f(other, batch(), scale=2.0), truth.encode(batch(), 2.0))


@pytest.mark.parametrize("method", ["decode", "size"])
def test_a_method_that_cannot_be_called_is_refused_by_name(method):
    with pytest.raises(ArgumentTypeError, match=f"method='{method}'"):
        make_functional(Autoencoder(), method=method)


# -------------------------------------------------------------------- buffers


def test_buffers_are_read_live_and_the_mode_is_that_of_the_call():
    net = once(nn.BatchNorm1d(3))
    f, params = make_functional(net)
    net.eval()
    net[0].running_mean.fill_(2.0)
    torch.testing.assert_close(f(params, batch()), net(batch()))
    net[0].running_mean = torch.full((3,), 3.0)
    torch.testing.assert_close(f(params, batch()), net(batch()))
    assert (net[0].running_mean == 3).all()


def test_buffers_that_are_passed_are_not_written_to():
    f, params, buffers = make_functional(Counter(), with_buffers=True, snapshot=True)
    _, new = f(params, buffers, batch())
    assert (new["steps"], new["count"]) == (1, 1)
    assert (buffers["steps"], buffers["count"]) == (0, 0)
    assert not buffers["last"].any()


def test_gradients_flow_through_buffers_that_are_handed_on():
    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.5))
            self.register_buffer("memory", torch.zeros(()))

        def forward(self, x):
            self.memory = self.rate * self.memory + x
            return self.memory

    f, params, buffers = make_functional(Leaky(), with_buffers=True)
    for _ in range(3):
        output, buffers = f(params, buffers, torch.ones(()))
    output.backward()
    torch.testing.assert_close(params["rate"].grad, torch.tensor(2.0))  # of 1 + r + r^2


def test_a_buffer_that_the_forward_makes_cannot_be_handed_on_and_says_so():
    f, params, buffers = make_functional(Written(), with_buffers=True)
    with pytest.raises(ParametersError, match="made the buffer 'table'"):
        f(params, buffers, batch())


def test_a_layer_that_the_forward_makes_is_refused_and_not_kept():
    class Built(nn.Module):
        def __init__(self):
            super().__init__()
            self.built = False

        def forward(self, x):
            if not self.built:
                self.layer, self.built = nn.Linear(3, 3), True
            return self.layer(x)

    net = Built()
    f, params = make_functional(net)
    picture = Picture(net)
    with pytest.raises(ParametersError, match="made the parameter 'layer'"):
        f(params, batch())
    picture.assert_unchanged()
    expected = net(batch())
    torch.testing.assert_close(f(f.parameters(), batch()), expected)


def test_repeated_calls_give_the_same_whatever_the_forward_notes_beside_its_buffers():
    net = Written()
    f, params = make_functional(net)
    first = f(params, batch())
    torch.testing.assert_close(f(params, batch()), first, rtol=0, atol=0)
    torch.testing.assert_close(net(batch()), first, rtol=0, atol=0)


# -------------------------------------------------------------------- modules that change after make_functional


def replace_submodule(net):
    net.b = nn.Linear(3, 3)


def replace_parameter(net):
    net.b.bias = nn.Parameter(torch.randn(3))


def untie(net):
    net.b.weight = nn.Parameter(torch.randn(3, 3))


def assign(net):
    net.load_state_dict({key: torch.randn_like(tensor) for key, tensor in net.state_dict().items()}, assign=True)


def add_module(net):
    net.a.add_module("extra", nn.Linear(3, 3))


def drop_bias(net):
    net.a.bias = None


def rename(net):
    net.a.bias2 = net.a.bias
    del net.a.bias
    net.a.forward = lambda x: nn.functional.linear(x, net.a.weight, net.a.bias2)


def parametrise(net):
    parametrizations.spectral_norm(net.a)  # its original stays tied to the weight of b


def prune_weight(net):
    prune.l1_unstructured(net.a, "bias", 0.4)


def other_containers(net):
    vars(net.a).update(vars(nn.Linear(3, 3)))


def to_single_and_back(net):
    net.float().double()


def add_buffer(net):
    net.a.register_buffer("extra", torch.ones(3))


CHANGES = [
    replace_submodule,
    replace_parameter,
    untie,
    assign,
    add_module,
    drop_bias,
    rename,
    parametrise,
    prune_weight,
    other_containers,
    to_single_and_back,
    add_buffer,
]


@pytest.mark.parametrize("change", CHANGES)
def test_f_follows_a_module_that_was_changed(change):
    net = Tied()
    f, _ = make_functional(net)
    change(net)
    assert list(f.parameters()) == [name for name, _ in net.named_parameters()]
    torch.testing.assert_close(f(f.parameters(), batch()), net(batch()))
    other = foreign(f.parameters())
    torch.testing.assert_close(f(other, batch()), holding(net, other)(batch()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (untie, "lacks the key 'b.weight'"),
        (assign, "lacks the key 'b.weight'"),
        (add_module, "lacks the key 'a.extra.weight'"),
        (drop_bias, "unknown key 'a.bias'"),
        (rename, "lacks the key 'a.bias2'"),
        (parametrise, "lacks the key 'a.parametrizations.weight.original'"),
        (prune_weight, "lacks the key 'a.bias_orig'"),
    ],
)
def test_parameters_that_no_longer_fit_a_changed_module_are_refused(change, words):
    net = Tied()
    f, params = make_functional(net)
    change(net)
    with pytest.raises(ParametersError, match=words):
        f(params, batch())


def test_a_bias_that_appears_later_is_missed_in_old_parameters():
    net = nn.Linear(3, 3, bias=False)
    f, params = make_functional(net)
    net.bias = nn.Parameter(torch.ones(3))
    with pytest.raises(ParametersError, match="lacks the key 'bias'"):
        f(params, batch())


def test_a_plain_attribute_may_disappear():
    net = PlainAttribute()
    net.unused = torch.ones(3)
    f, params = make_functional(net)
    del net.unused
    torch.testing.assert_close(f(params, batch()), net(batch()))


def test_a_converted_module_still_takes_its_live_parameters():
    net = mlp().float()
    f, params = make_functional(net)
    net.double()
    torch.testing.assert_close(f(params, batch()), net(batch()))


# -------------------------------------------------------------------- calls inside calls, hooks, ensembles, other states


def test_calls_inside_a_call_see_their_own_parameters():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            before = self.layer(x)
            inside = f(inner, x) if self.depth.pop() else 0
            return before + 10 * inside + 100 * self.layer(x)

    net = Outer()
    f, params = make_functional(net)
    first, inner = foreign(params), {name: tensor.detach() + 1 for name, tensor in foreign(params).items()}
    net.depth = [False, True]
    picture = Picture(net)
    found = f(first, batch())
    outer, within = ((batch() @ p["layer.weight"].T + p["layer.bias"]) for p in (first, inner))
    torch.testing.assert_close(found, 101 * outer + 10 * 101 * within)
    net.depth += [False, True]
    picture.assert_unchanged()


def test_two_functions_of_one_module_do_not_disturb_each_other():
    net = nn.Linear(3, 3)
    (f, params), (g, _) = make_functional(net), make_functional(net)
    other = foreign(params)
    x = batch()
    torch.testing.assert_close(f(params, g(other, x)), net(nn.functional.linear(x, other["weight"], other["bias"])))


def test_hooks_of_the_module_and_of_its_layers_run_and_see_the_parameters():
    net = mlp()
    seen = []
    net.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    net[0].register_forward_hook(lambda module, args, output: seen.append(module.weight))
    net.register_forward_hook(lambda module, args, output: -output)
    f, params = make_functional(net)
    other = foreign(params)
    torch.testing.assert_close(f(other, batch()), holding(copy.deepcopy(net), other)(batch()))
    assert seen[0] is other["0.weight"]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(3, 3),
        lambda: nn.BatchNorm1d(3),
        lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
        lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
        lambda: parametrizations.spectral_norm(nn.Linear(3, 3)).eval(),
        lambda: nn.utils.weight_norm(nn.Linear(3, 3)),
    ],
)
def test_vmap_over_stacked_parameters_is_an_ensemble(layer):
    nets = [once(layer()) for _ in range(3)]
    states = [make_functional(net, snapshot=True, with_buffers=True)[1:] for net in nets]
    stacked = [{name: torch.stack([s[i][name] for s in states]) for name in states[0][i]} for i in range(2)]
    f, _, _ = make_functional(nets[0], with_buffers=True)
    picture = Picture(nets[0])
    outputs, buffers = vmap(f, in_dims=(0, 0, None))(*stacked, batch())
    picture.assert_unchanged()
    torch.testing.assert_close(outputs, torch.stack([net(batch()) for net in nets]))
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, torch.stack([net.get_buffer(name) for net in nets]))


def test_stack_module_state_fits_f():
    nets = [mlp() for _ in range(3)]
    params, _ = stack_module_state(nets)
    f, _ = make_functional(nets[0])
    outputs = vmap(f, in_dims=(0, None))(params, batch())
    torch.testing.assert_close(outputs, torch.stack([net(batch()) for net in nets]))
    derivatives = vmap(diag_jac(f), in_dims=(0, None))(params, batch())
    torch.testing.assert_close(derivatives, torch.stack([diag_jac(net)(batch()) for net in nets]))


@pytest.mark.parametrize(
    "wrap", [parametrizations.orthogonal, parametrizations.spectral_norm, parametrizations.weight_norm]
)
@pytest.mark.parametrize("first", ["module", "function"])
def test_a_parametrization_cache_is_neither_used_nor_filled(wrap, first):
    net = wrap(nn.Linear(3, 3)).eval()
    f, params = make_functional(net)
    other, own = foreign(params), net(batch())
    expected = holding(copy.deepcopy(net), other)(batch())
    with parametrize.cached():
        if first == "module":
            torch.testing.assert_close(net(batch()), own)
        weight = net.weight if first == "module" else None
        torch.testing.assert_close(f(other, batch()), expected)
        torch.testing.assert_close(f(params, batch()), own)
        torch.testing.assert_close(net(batch()), own)
        assert weight is None or net.weight is weight
    assert not parametrize._cache


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_recurrent_layer_keeps_its_flat_weights(kind):
    net = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    x = torch.randn(2, 5, 3)
    expected = net(x)[0]
    flat, own = net._flat_weights, list(net._flat_weights)
    f, params = make_functional(net)
    other = foreign(params)
    torch.testing.assert_close(f(other, x)[0], holding(copy.deepcopy(net), other)(x)[0])
    assert net._flat_weights is flat
    assert all(a is b for a, b in zip(flat, own, strict=True))
    torch.testing.assert_close(net(x)[0], expected, rtol=0, atol=0)
    net(x)[0].sum().backward()
    assert all(p.grad is not None for p in net.parameters())


# -------------------------------------------------------------------- checkpoint, which calls its function again later


class Twice(nn.Module):
    """A function of parameters called inside a module that is itself called with others, checkpoints in both."""

    def __init__(self):
        super().__init__()
        self.inner, self.layer = Checkpointed(reentrant=False), nn.Linear(3, 3)

    def forward(self, x):
        return checkpoint(lambda x: self.layer(self.inner(x)), x, use_reentrant=False)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_recomputes_with_the_buffers_of_the_call_and_writes_to_none(reentrant):
    net, truth = (Checkpointed(reentrant, norm=True) for _ in range(2))
    truth.load_state_dict(net.state_dict())
    f, params = make_functional(net)
    picture = Picture(net)
    f(params, batch()).square().sum().backward()
    truth(batch()).square().sum().backward()
    for p, q in zip(net.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    net.zero_grad()
    picture.assert_unchanged()


def test_a_checkpoint_inside_a_checkpoint_recomputes_with_the_parameters_of_the_call():
    net = Twice()
    f, params = make_functional(net)
    other = foreign(params)
    truth = holding(copy.deepcopy(net), other)
    f(other, batch()).square().sum().backward()
    truth(batch()).square().sum().backward()
    for name, tensor in other.items():
        torch.testing.assert_close(tensor.grad, truth.get_parameter(name).grad)


def test_checkpointed_calls_with_different_parameters_may_share_one_backward_pass():
    f, params = make_functional(Checkpointed(reentrant=False))
    one, two = foreign(params), {name: t.detach().mul(2).requires_grad_() for name, t in foreign(params).items()}
    (f(one, batch()) * f(two, batch())).sum().backward()
    g, plain = make_functional(Checkpointed(reentrant=False).body)
    short = [{n.removeprefix("body."): t.detach().requires_grad_() for n, t in p.items()} for p in (one, two)]
    (g(short[0], batch()) * g(short[1], batch())).sum().backward()
    assert set(plain) == set(short[0])
    for params, expected in ((one, short[0]), (two, short[1])):
        for name, tensor in params.items():
            torch.testing.assert_close(tensor.grad, expected[name.removeprefix("body.")].grad)


def test_a_backward_pass_inside_the_forward_recomputes_with_the_parameters_of_the_call():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = Checkpointed(reentrant=False)

        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.energy(x).sum(), x)[0]

    net = Force()
    f, params = make_functional(net)
    other = foreign(params)
    torch.testing.assert_close(f(other, batch()), holding(copy.deepcopy(net), other)(batch()))


def test_checkpoint_around_f_recomputes_with_what_f_was_given():
    f, params = make_functional(mlp())
    other, again = foreign(params), foreign(params)
    checkpoint(f, other, batch(), use_reentrant=False).square().sum().backward()
    f(again, batch()).square().sum().backward()
    for name, tensor in other.items():
        torch.testing.assert_close(tensor.grad, again[name].grad)


def test_checkpoints_outside_of_any_call_are_torchs_own():
    frame, function = torch.utils.checkpoint._CheckpointFrame, torch.utils.checkpoint.CheckpointFunction
    f, params = make_functional(Checkpointed(reentrant=False))
    f(foreign(params), batch()).sum().backward()
    assert torch.utils.checkpoint._CheckpointFrame is frame
    assert torch.utils.checkpoint.CheckpointFunction is function


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_derivatives_of_a_checkpointed_module_use_foreign_parameters(transform):
    net = Checkpointed(reentrant=False)
    f, params = make_functional(net)
    g, _ = make_functional(net.body)
    other = foreign(params)
    short = {name.removeprefix("body."): tensor for name, tensor in other.items()}
    x = batch().detach()
    torch.testing.assert_close(transform(f)(other, x), transform(g)(short, x))


# -------------------------------------------------------------------- the traps of torch.func.functional_call
# Each is shown once in torch (2.13), so that we notice when it is gone, and once here.


def test_torch_leaves_foreign_values_in_a_shared_submodule():
    net = Shared()
    weight = net.a.weight
    functional_call(net, {name: torch.zeros_like(p) for name, p in net.named_parameters()}, (batch(),))
    assert net.a.weight is not weight
    assert not isinstance(net.a.weight, nn.Parameter)


def test_f_leaves_a_shared_submodule_alone():
    net = Shared()
    f, params = make_functional(net)
    weight = net.a.weight
    f({name: torch.zeros_like(p) for name, p in params.items()}, batch())
    assert net.a.weight is weight
    assert net.a.weight.any()


def test_torch_uses_the_old_value_of_a_tied_parameter_without_tie_weights():
    net = Tied()
    zeros = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    ones = {**zeros, "a.weight": torch.ones(3, 3)}
    found = functional_call(net, ones, (batch(),), tie_weights=False)
    right = torch.tanh(batch() @ ones["a.weight"].T) @ ones["a.weight"].T
    assert not torch.allclose(found, right)


def test_f_uses_the_new_value_of_a_tied_parameter_everywhere():
    f, params = make_functional(Tied())
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    ones = {**zeros, "a.weight": torch.ones(3, 3)}
    right = torch.tanh(batch() @ ones["a.weight"].T) @ ones["a.weight"].T
    torch.testing.assert_close(f(ones, batch()), right)


WRONG_KEYS = {
    "unknown": lambda p: {**p, "nonsense": torch.ones(1)},
    "missing": lambda p: without(p, "0.bias"),
    "empty": lambda p: {},
    "broadcastable": lambda p: {**p, "0.bias": torch.ones(1)},
}


@pytest.mark.parametrize("wrong", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_torch_accepts_wrong_parameters_without_a_word(wrong):
    net = mlp()
    assert functional_call(net, wrong(dict(net.named_parameters())), (batch(),)).shape == (5, 3)


@pytest.mark.parametrize("wrong", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_f_refuses_wrong_parameters(wrong):
    f, params = make_functional(mlp())
    with pytest.raises(ParametersError, match=r"nonsense|0\.bias|0\.weight"):
        f(wrong(params), batch())


def test_torch_changes_the_buffers_of_the_module_or_those_that_are_passed():
    net = once(nn.BatchNorm1d(3))
    functional_call(net, dict(net.named_parameters()), (batch(),))
    assert net[0].num_batches_tracked == 1
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    functional_call(net, (dict(net.named_parameters()), buffers), (batch(),))
    assert buffers["0.num_batches_tracked"] == 2


def test_f_changes_neither_the_buffers_of_the_module_nor_those_that_are_passed():
    net = once(nn.BatchNorm1d(3))
    f, params = make_functional(net)
    f(params, batch())
    g, params, buffers = make_functional(net, with_buffers=True)
    _, new = g(params, buffers, batch())
    assert net[0].num_batches_tracked == buffers["0.num_batches_tracked"] == 0
    assert new["0.num_batches_tracked"] == 1


def test_torch_parameters_that_were_detached_follow_the_live_ones():
    net = mlp()
    detached = {name: p.detach() for name, p in net.named_parameters()}
    nn.init.constant_(net[0].weight, 7.0)
    assert (detached["0.weight"] == 7).all()


def test_a_snapshot_does_not_follow_the_live_parameters():
    net = mlp()
    _, params = make_functional(net, snapshot=True)
    nn.init.constant_(net[0].weight, 7.0)
    assert not (params["0.weight"] == 7).any()


def test_f_refuses_a_plain_tensor_attribute_as_a_parameter_and_reads_it_live():
    net = PlainAttribute()
    f, params = make_functional(net)
    with pytest.raises(ParametersError, match="unknown key 'shift'"):
        f({**params, "shift": torch.zeros(3)}, batch())
    net.shift = torch.full((3,), 5.0)
    torch.testing.assert_close(f(params, batch()), net(batch()))


def test_torch_recomputes_a_checkpoint_with_the_modules_own_parameters():
    net = Checkpointed(reentrant=False)
    other = foreign(dict(net.named_parameters()))
    functional_call(net, other, (batch(),)).square().sum().backward()
    truth = holding(copy.deepcopy(net), other)
    truth(batch()).square().sum().backward()
    assert not torch.allclose(other["body.0.weight"].grad, truth.body[0].weight.grad)


def test_torch_uses_a_parametrization_cache_of_other_parameters():
    net = parametrizations.orthogonal(nn.Linear(3, 3))
    other = foreign(dict(net.named_parameters()))
    with parametrize.cached():
        net(batch())
        found = functional_call(net, other, (batch(),))
    assert not torch.allclose(found, holding(net, other)(batch()))


def test_torch_keywords_are_not_batched_by_vmap_but_positions_are():
    f, params = make_functional(nn.Linear(3, 3))
    stacked = {name: torch.stack([p, p]) for name, p in params.items()}
    inputs = torch.randn(2, 5, 3)
    assert vmap(f)(stacked, input=inputs).shape == (2, 2, 5, 3)
    assert vmap(f)(stacked, inputs).shape == (2, 5, 3)


def test_the_last_bias_enters_no_derivative_which_backward_and_torch_func_take():
    f, params = make_functional(mlp())
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(diag_jac(f)(params, batch()).sum(), list(params.values()))
    diag_jac(f)(params, batch()).sum().backward()
    assert params["2.bias"].grad is None
    assert params["0.bias"].grad is not None
    torch.optim.Adam(params.values()).step()
    x, detached = batch(), {name: p.detach() for name, p in params.items()}
    gradients = torch.func.grad(lambda p: diag_jac(f)(p, x).sum())(detached)
    assert not gradients["2.bias"].any()


@pytest.mark.parametrize("make", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_that_renormalises_its_weight_writes_to_a_copy(make):
    layer = make(5, 3, max_norm=0.5).double()
    index = torch.zeros(4, dtype=torch.long) if make is nn.Embedding else torch.zeros(4, 1, dtype=torch.long)
    live = layer.weight.detach().clone()
    f, params = make_functional(layer)
    given = {"weight": (2 * live).requires_grad_()}
    torch.testing.assert_close(f(given, index).norm(dim=1), torch.full((4,), 0.5).double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(given["weight"], 2 * live)
    x = torch.ones(4, 3).double()
    for g in (lambda x: layer(index) * x, lambda x: f(params, index) * x):
        diag_jac(g)(x)
        assert torch.equal(layer.weight, live)
    f(given, index).sum().backward()
    assert bool(given["weight"].grad[0].any())

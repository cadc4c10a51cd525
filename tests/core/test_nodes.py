"""Trees that optree does not know: those of torch's own pytree, and of classes derived from ``dict``."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields

import optree
import pytest
import torch
from torch import nn
from torch.utils import _pytree

from jacfunc import ArgumentTypeError, batch_jac, diag_jac, divergence, hess_diag, laplacian, make_functional

METHODS = ("auto", "taylor", "forward", "reverse")
DOUBLE = torch.float64


class Output(OrderedDict):
    """An ordered dict whose fields are attributes too, without those that are None, as in transformers."""

    def __init_subclass__(cls):
        _pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output.keys())),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=cls.__name__,
            flatten_with_keys_fn=_pytree._dict_flatten_with_keys,
        )

    def __post_init__(self):
        given = [getattr(self, field.name) for field in fields(self)]
        if isinstance(given[0], dict) and not any(value is not None for value in given[1:]):
            self.update(given[0])  # a dict of all, not the first field
            return
        for field, value in zip(fields(self), given, strict=True):
            if value is not None:
                self[field.name] = value


@dataclass
class Hidden(Output):
    last: torch.Tensor = None
    pooled: torch.Tensor = None
    states: tuple = None


@dataclass
class State:
    u: torch.Tensor
    v: torch.Tensor


class Pair:
    """Registered without the names of its parts."""

    def __init__(self, one, other):
        self.one, self.other = one, other


class Record(dict):
    __getattr__ = dict.__getitem__


class Sorted(OrderedDict):
    pass


class Tagged(dict):
    """With an attribute that is not in the dict."""

    tag = 1.0


class Strict(dict):
    """Made of something else than a dict."""

    def __init__(self, first, second):
        super().__init__(first=first, second=second)


class Idiom(dict):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__ = self


torch.export.register_dataclass(State, serialized_type_name="jacfunc.tests.State")
_pytree.register_pytree_node(
    Pair, lambda p: ([p.one, p.other], None), lambda parts, _: Pair(*parts), serialized_type_name="jacfunc.tests.Pair"
)


def tagged(**items):
    made = Tagged(items)
    made.tag = 3.0
    return made


MAKES = {
    "ordered dict with attributes": lambda u, v: Hidden(last=u, pooled=v),
    "one field": lambda u, v: Hidden(states=(u, v)),
    "dataclass": State,
    "without names": Pair,
    "attributes by keys": lambda u, v: Record(u=u, v=v),
    "derived from OrderedDict": lambda u, v: Sorted(u=u, v=v),
    "another attribute": lambda u, v: tagged(u=u, v=v),
    "its own attributes": lambda u, v: Idiom(u=u, v=v),
    "in a list": lambda u, v: [Record(u=u), State(v, v)],
    "one in another": lambda u, v: Record(inner=Hidden(last=u, pooled=v)),
}
TAKES = {
    "ordered dict with attributes": lambda t: (t.last, t["pooled"]),
    "one field": lambda t: t.states,
    "dataclass": lambda t: (t.u, t.v),
    "without names": lambda t: (t.one, t.other),
    "attributes by keys": lambda t: (t.u, t.v),
    "derived from OrderedDict": lambda t: (t["u"], t["v"]),
    "another attribute": lambda t: (t["u"] if t.tag == 3.0 else None, t["v"]),
    "its own attributes": lambda t: (t.u, t.v),
    "in a list": lambda t: (t[0].u, t[1].v),
    "one in another": lambda t: (t.inner.last, t["inner"].pooled),
}


def batch():
    torch.manual_seed(2)
    return torch.randn(4, 3, dtype=DOUBLE)


def classes(tree):
    """The classes of a tree, its tensors left out."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [type(tree), *(found for item in inner for found in classes(item) if not isinstance(item, torch.Tensor))]


def one(u):
    return u.sin()


def two(u):
    return u**3


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("method", METHODS)
def test_as_output(name, method):
    make, take = MAKES[name], TAKES[name]
    found, value = hess_diag(lambda x: make(one(x), two(x)), method=method, return_value=True)(batch())
    assert classes(found) == classes(value) == classes(make(batch(), batch()))
    for part, result, term in zip(take(found), take(value), (one, two), strict=True):
        torch.testing.assert_close(part, hess_diag(term)(batch()))
        torch.testing.assert_close(result, term(batch()))


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("method", METHODS)
def test_as_what_is_differentiated(name, method):
    make, take = MAKES[name], TAKES[name]

    def f(tree):
        u, v = take(tree)
        return one(u) * two(v)

    u, v = batch(), batch().flip(0)
    found = diag_jac(f, method=method)(make(u, v))
    assert classes(found) == classes(make(u, v))
    wanted = diag_jac(lambda u, v: one(u) * two(v), argnums=(0, 1))(u, v)
    if name != "in a list":  # whose u is there twice
        for part, truth in zip(take(found), wanted, strict=True):
            torch.testing.assert_close(part, truth)
    torch.testing.assert_close(laplacian(f, method=method)(make(u, v)), wanted_laplacian(u, v))


def wanted_laplacian(u, v):
    return sum(laplacian(lambda u, v: one(u) * two(v), argnums=n)(u, v) for n in (0, 1))


@pytest.mark.parametrize("name", MAKES)
def test_gradients_of_parameters(name):
    make, take = MAKES[name], TAKES[name]
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, tree):
            u, v = take(tree)
            return make(self.net(u) * v, v)

    f, params = make_functional(Wrapped())
    u, v = batch(), batch().flip(0)
    params = {name: weight.requires_grad_() for name, weight in params.items()}
    found = take(take(batch_jac(f)(params, make(u, v)))[0])[0]
    wanted = batch_jac(lambda u: net(u) * v)(u)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), list(params.values()), materialize_grads=True),
        torch.autograd.grad(wanted.square().sum(), list(net.parameters()), materialize_grads=True),
    )


def test_nothing_of_what_came_in_is_changed():
    def f(tree):
        tree.last.mul_(2.0)
        tree["pooled"] = tree.last
        return tree["pooled"].sin()

    for method in METHODS:
        given = Hidden(last=batch(), pooled=batch() + 1.0)
        found = diag_jac(f, method=method)(given)
        torch.testing.assert_close(found.last, 2 * (2 * batch()).cos())
        assert not found.pooled.any()
        assert torch.equal(given.last, batch())
        assert torch.equal(given.pooled, batch() + 1.0)


def test_beside_what_is_differentiated_and_aux():
    x, scale = batch(), tagged(u=torch.tensor(2.0, dtype=DOUBLE))
    for method in METHODS:
        found, aux = diag_jac(lambda s, x: (x.sin() * s["u"] * s.tag, Hidden(last=x)), method=method, has_aux=True)(
            scale, x
        )
        torch.testing.assert_close(found, 6.0 * x.cos())
        assert type(aux) is Hidden
        torch.testing.assert_close(aux.last, x)


def test_attributes_may_change_between_calls():
    derivative = diag_jac(lambda t: t["u"].sin() * t.tag)
    for tag in (1.0, -2.0, 5.0):
        given = tagged(u=batch())
        given.tag = tag
        torch.testing.assert_close(derivative(given)["u"], tag * batch().cos())


def test_a_dict_where_the_class_takes_no_derivatives():
    """By two inputs, each output has a dict, which the class would take for its fields."""
    found = batch_jac(lambda t: Hidden(last=t["a"] * t["b"]))({"a": batch(), "b": batch()})
    assert type(found) is dict
    torch.testing.assert_close(found["last"]["a"], torch.diag_embed(batch()))


def test_divergence_and_blocks():
    x = Hidden(last=batch(), pooled=batch())

    def f(t):
        return Hidden(last=t.last.sin(), pooled=t.pooled**2)

    torch.testing.assert_close(divergence(f)(x), (batch().cos() + 2 * batch()).sum(1))
    blocks = diag_jac(lambda t: t.last * t.pooled, sample_chunk_size=2)(x)
    assert type(blocks) is Hidden
    torch.testing.assert_close(blocks.last, batch())


@pytest.mark.slow
def test_compiled():
    found = diag_jac(lambda x: Hidden(last=x.sin(), pooled=x**3), compile=True)(batch())
    assert type(found) is Hidden
    torch.testing.assert_close(found.pooled, 3 * batch() ** 2)


def test_errors_name_the_leaf():
    x = batch()
    for tree, path in (
        (Hidden(last=x, pooled=x.int()), r"output\['pooled'\] has dtype"),
        (State(x, x.int()), r"output\.v has dtype"),
        (Record(u=x, v=3), r"output\['v'\] is an int"),
    ):
        with pytest.raises(ArgumentTypeError, match=path):
            diag_jac(lambda x, tree=tree: tree)(x)


def test_a_class_that_cannot_be_made_again_is_refused():
    for give in (lambda: diag_jac(lambda x: Strict(x, x))(batch()), lambda: diag_jac(len)(Strict(batch(), batch()))):
        with pytest.raises(ArgumentTypeError, match="make Strict a tree with optree.register_pytree_node"):
            give()


def test_what_is_registered_with_optree_is_left_to_it():
    class Mine(dict):
        pass

    optree.register_pytree_node(
        Mine, lambda m: ([m["x"]], None), lambda _, parts: Mine(x=parts[0]), namespace="jacfunc"
    )
    found = diag_jac(lambda m: Mine(x=m["x"].sin(), y="kept out"))(Mine(x=batch()))
    torch.testing.assert_close(found["x"]["x"], batch().cos())

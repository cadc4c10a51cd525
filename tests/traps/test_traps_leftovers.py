"""Traps of what torch leaves behind or lacks: elements taken once, tensors over their own memory, ended transforms."""

from __future__ import annotations

import pytest
import torch
from judging import METHODS
from torch import nn
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vmap

from jacfunc import batch_jac, diag_jac, hess_diag, laplacian, make_functional
from jacfunc.errors import RefusedOperationError
from jacfunc.routes import ROUTES

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
DOUBLE = torch.float64
ATEN = torch.ops.aten
slow = pytest.mark.slow


def mostly_slow(cases, fast):
    """Pairs of a test's parameters, of which the fast suite runs a few."""
    return [case if case in fast else pytest.param(*case, marks=slow) for case in cases]


# -------------------------------------------------------------------- each element once

UNIQUE = {
    "function": torch.unique,
    "unsorted": lambda t: torch.unique(t, sorted=False),
    "inverse": lambda t: torch.unique(t, return_inverse=True)[0],
    "all three": lambda t: torch.unique(t, True, True, True)[0],
    "method": lambda t: t.unique(),
    "counts of the method": lambda t: t.unique(return_counts=True)[0],
    "dim": lambda t: torch.unique(t, dim=0),
    "columns": lambda t: torch.unique(t[None, :, None], dim=1).flatten(),
    "consecutive": lambda t: torch.unique_consecutive(t.sort().values),
    "consecutive, dim": lambda t: t.sort().values.unique_consecutive(dim=0, return_inverse=True)[0],
    "put back": lambda t: torch.unique(torch.unique(t, return_inverse=True)[0]),
}


@pytest.mark.parametrize("method", ["auto", *(pytest.param(method, marks=slow) for method in METHODS[1:])])
@pytest.mark.parametrize("name", UNIQUE)
def test_unique_has_the_derivatives_of_what_it_takes(name, method):
    """Of numbers that differ it is a sort; each is there twice."""
    x = torch.tensor([[0.4, 0.2, 0.9], [0.3, 0.8, 0.5]], dtype=DOUBLE)
    p = torch.tensor([0.5, 0.7, 0.9], dtype=DOUBLE, requires_grad=True)
    repeated = lambda r: r.repeat(1 if name.startswith(("dim", "columns")) else 2)
    through = lambda take: lambda p, x: torch.stack([take(r * r * p) * r + take(p) * r for r in x])
    f, plain = through(lambda t: UNIQUE[name](repeated(t))), through(lambda t: t.sort().values)
    for transform in (batch_jac, laplacian):
        found, expected = (transform(g, method=method, check=False)(p, x) for g in (f, plain))
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad((d * d).sum(), p)[0] for d in (found, expected)]
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("method", METHODS)
def test_unique_of_parameters_alone(method):
    x, p = torch.rand(4, 3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE, requires_grad=True)
    found = diag_jac(lambda p, x: x * x * torch.unique(p).square().sum(), method=method)(p, x)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), p)[0], 4 * p * x.sum())
    with torch.no_grad():
        again = diag_jac(lambda p, x: x * x * torch.unique(p).square().sum(), method=method)(p, x)
    torch.testing.assert_close(again, found.detach())


def test_what_has_no_derivative_is_refused_of_parameters_too():
    x, p = torch.rand(4, 3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE, requires_grad=True)
    f = lambda p, x: x * x * torch.special.bessel_j0(p)
    with pytest.raises(RefusedOperationError, match="bessel_j0"):
        diag_jac(f)(p, x)
    torch.testing.assert_close(diag_jac(f)(p.detach(), x), 2 * x * torch.special.bessel_j0(p.detach()))


def test_unique_by_its_private_names_is_refused():
    x = torch.rand(3, dtype=DOUBLE)[None]
    for f in (
        lambda x: torch._unique2(x * x)[0][None],
        lambda x: ATEN.unique_dim(x * x, 0)[0],
        lambda x: ATEN.unique_consecutive(x * x)[0][None],
    ):
        with pytest.raises(RefusedOperationError, match="^unique by another name"):
            diag_jac(f, check=False)(x)


def test_unique_whose_indices_alone_are_used():
    x = torch.rand(4, 3, dtype=DOUBLE)
    f = lambda x: torch.stack([torch.unique(r, return_inverse=True)[1] * r * r for r in x])
    rank = x.argsort(1).argsort(1)
    for method in METHODS:
        torch.testing.assert_close(hess_diag(f, method=method, check=False)(x).diagonal(0, 1, 2), 2 * rank.double())


# -------------------------------------------------------------------- over their own memory


def overlapping(name):
    torch.manual_seed(3)
    numbers = torch.randn(24, dtype=DOUBLE)
    return {
        "rows": lambda: numbers[:3].expand(4, 3),
        "columns": lambda: numbers[:4, None].expand(4, 3),
        "one": lambda: numbers[0].expand(4, 3),
        "sliding": lambda: numbers.as_strided((4, 3), (1, 1)),
        "sliding by two": lambda: numbers.as_strided((4, 3), (2, 2)),
        "unfolded": lambda: numbers.unfold(0, 3, 1)[:4],
        "backwards": lambda: numbers.as_strided((4, 3), (1, 2)),
        "transposed": lambda: numbers[:12].reshape(3, 4).t(),
    }[name]()


def scaled(p, x):
    x.mul_(p)
    return x.sin() * x


def shifted(p, x):
    y = x.clone() * p
    x[:, 0] = y[:, 1]
    x[:, 1:].mul_(2)
    return x.exp()


def through_a_view(p, x):
    x.t().mul_(2)
    return x * x * p


def into_another(p, x):
    z = torch.zeros_like(x)
    z.add_(x * p)
    return z.pow_(3)


def without_writing(p, x):
    return (x * p).sin()


MEMORIES = ("rows", "columns", "one", "sliding", "sliding by two", "unfolded", "backwards", "transposed")
WRITING = (scaled, shifted, through_a_view, into_another, without_writing)
PAIRS = [(f, name) for f in WRITING for name in MEMORIES]


@pytest.mark.parametrize(
    ("f", "name"),
    mostly_slow(PAIRS, [(scaled, "rows"), (shifted, "sliding"), (into_another, "backwards"), (scaled, "unfolded")]),
)
def test_dual_numbers_of_what_overlaps(f, name, monkeypatch):
    monkeypatch.setitem(ROUTES, "forward", ROUTES["dual"])
    x, p = overlapping(name), torch.rand(3, dtype=DOUBLE, requires_grad=True)
    apart, before = x.clone(memory_format=torch.contiguous_format), x.clone()
    for transform in (diag_jac, laplacian):
        found = transform(f, method="forward")(p, x)
        expected = transform(f, method="reverse")(p, apart)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad((d * d).sum(), p)[0] for d in (found, expected)]
        torch.testing.assert_close(*slopes)
        assert torch.equal(x, before)


def test_torch_writes_their_tangents_over_each_other():
    x = overlapping("sliding")
    rows = torch.arange(12.0, dtype=DOUBLE).reshape(4, 3)
    assert not torch.allclose(jvp(torch.sin, (x,), (rows,))[1], x.cos() * rows), "torch is right by itself now"


# -------------------------------------------------------------------- of a transform that has ended


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        h = torch.tanh(self.layer(x))
        self.keep(h)
        return h


class AsAttribute(Keeping):
    def keep(self, h):
        self.last = h


class AsBuffer(Keeping):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(3, dtype=DOUBLE))

    keep = AsAttribute.keep


class AsEmptyBuffer(Keeping):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", None)

    keep = AsAttribute.keep


class InAList(Keeping):
    def __init__(self):
        super().__init__()
        self.all = []

    def keep(self, h):
        self.all = [*self.all, h]


class InADict(InAList):
    def keep(self, h):
        self.named = {"h": (h, 2 * h)}


class InAChild(Keeping):
    def __init__(self):
        super().__init__()
        self.child = nn.Identity()

    def keep(self, h):
        self.child.last = h


X = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(4, 3)
ENDED = {
    "vmap": lambda net: vmap(net)(X),
    "vmap of vmap": lambda net: vmap(vmap(net))(X[None]),
    "vmap of grad": lambda net: vmap(grad(lambda x: net(x).sum()))(X),
    "grad": lambda net: grad(lambda x: net(x).sum())(X),
    "jvp": lambda net: jvp(net, (X,), (X,)),
    "jacrev": lambda net: jacrev(net)(X),
    "jacfwd": lambda net: jacfwd(net)(X),
    "hessian": lambda net: hessian(lambda x: net(x).sum())(X),
    "functionalize": lambda net: functionalize(net)(X),
}


KINDS = (AsAttribute, AsBuffer, AsEmptyBuffer, InAList, InADict, InAChild)


@pytest.mark.parametrize(
    ("name", "kind"),
    mostly_slow(
        [(name, kind) for name in ENDED for kind in KINDS],
        [("vmap", AsAttribute), ("vmap", AsBuffer), ("jacrev", AsAttribute), ("hessian", InAChild)],
    ),
)
def test_a_module_that_keeps_what_a_transform_left(name, kind):
    net = kind()
    ENDED[name](net)
    h, w = torch.tanh(net.layer(X)), net.layer.weight
    expected = {diag_jac: (1 - h * h) * w.diagonal(), laplacian: -2 * h * (1 - h * h) * w.square().sum(1)}
    for method in METHODS:
        for transform, true in expected.items():
            f, params = make_functional(net)
            for found in (
                transform(net, method=method)(X),
                transform(lambda x: net(x) * 1, method=method)(X),
                transform(f, method=method)(params, X),
            ):
                torch.testing.assert_close(found, true)
                slope = torch.autograd.grad(found.sum(), w)[0]
                torch.testing.assert_close(slope, torch.autograd.grad(true.sum(), w, retain_graph=True)[0])


def test_what_a_running_transform_keeps_is_copied_still():
    class Counting(nn.Module):
        def forward(self, x):
            self.count.add_(1)
            return x * x * self.count.detach()

    def counted(start, x):
        net = Counting()
        net.count = start.clone()
        return diag_jac(net, batch_dims=0, check=False)(x), net.count

    found, count = vmap(counted)(torch.arange(4.0, dtype=DOUBLE), X[:, 0])
    torch.testing.assert_close(found, 2 * X[:, 0] * torch.arange(1.0, 5, dtype=DOUBLE))
    assert count.tolist() == [0, 1, 2, 3]

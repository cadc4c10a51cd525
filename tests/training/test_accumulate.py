"""``jacfunc/training/accumulate.py``: gradients of blocks are those of all points at once."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jacfunc import ArgumentError, ArgumentTypeError, ShapeError, UnsupportedOperationError, accumulate, residual
from jacfunc.training import blocks
from jacfunc.training.gradients import SetAside

double = torch.float64


class Burgers(nn.Module):
    """The residual of an equation as a module's forward, ``(n, 2)`` to ``(n,)``."""

    def __init__(self, dtype: torch.dtype = double) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
        equation = lambda d: d.u_t + d.u * d.u_x - 0.1 * d.u_xx
        self.residual = residual(self.net, equation, inputs="t x", outputs="u")

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.residual(points)


def points(count: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 2, dtype=double, generator=torch.Generator().manual_seed(seed))


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]


def squared(module: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x: module(x).square()


def whole(module: nn.Module, loss: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A loss and its gradients in one backward, which leaves nothing."""
    module.zero_grad()
    value = loss()
    value.backward()
    found = gradients(module)
    module.zero_grad()
    return value.detach(), found


def close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-12) -> bool:
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(found, expected, strict=True))


# -------------------------------------------------------------------- one process


@pytest.mark.parametrize("size", [1, 7, 50, 64, "auto"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_blocks_are_the_whole(size, reduction):
    module, x = Burgers(), points()
    value, expected = whole(module, lambda: getattr(squared(module)(x), reduction)())
    found = accumulate(squared(module), x, sample_chunk_size=size, reduction=reduction)
    assert torch.allclose(found, value, rtol=1e-12) and found.shape == () and not found.requires_grad
    assert close(gradients(module), expected)


def test_several_tensors_of_points():
    module, x = Burgers(), points()
    value, expected = whole(module, lambda: squared(module)(x).mean())
    loss = lambda t, x: module(torch.stack([t, x], 1)) ** 2
    assert torch.allclose(accumulate(loss, x[:, 0], x[:, 1], sample_chunk_size=20), value)
    assert close(gradients(module), expected)


def test_terms_with_weights():
    module, x, edge = Burgers(), points(), points(9, seed=2)
    weights = torch.rand(50, dtype=double)
    at_edge = lambda x, u: (module.net(x)[:, 0] - u) ** 2

    def terms():
        first = (squared(module)(x) * weights).sum() / weights.sum()
        return first, 10 * at_edge(edge, edge[:, 0]).mean()

    value, expected = whole(module, lambda: sum(terms()))
    found = accumulate((squared(module), x, weights), (at_edge, (edge, edge[:, 0]), 10), sample_chunk_size=20)
    assert isinstance(found, tuple) and torch.allclose(torch.stack(found), torch.stack(terms()).detach())
    assert torch.allclose(sum(found), value) and close(gradients(module), expected)
    assert isinstance(accumulate((squared(module), x)), tuple)


def test_gradients_are_added_to_the_same_tensors():
    module, x = Burgers(), points()
    _, expected = whole(module, lambda: squared(module)(x).mean())
    before = [torch.ones_like(parameter) for parameter in module.parameters()]
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        parameter.grad = gradient
    accumulate(squared(module), x, sample_chunk_size=20)
    assert all(p.grad is gradient for p, gradient in zip(module.parameters(), before, strict=True))
    assert close(gradients(module), [1 + gradient for gradient in expected])


@pytest.mark.parametrize("block", [0, 2])
def test_an_error_leaves_gradients_as_they_were(block):
    module, x = Burgers(), points()
    count = iter(range(9))

    def loss(x):
        if next(count) == block:
            raise ValueError("mine")
        return module(x) ** 2

    old = torch.ones(8, 2, dtype=double)
    module.net[0].weight.grad = old
    with pytest.raises(ValueError, match="mine"):
        accumulate(loss, x, sample_chunk_size=20)
    assert module.net[0].weight.grad is old and torch.equal(old, torch.ones_like(old))
    assert all(p.grad is None for p in list(module.parameters())[1:])


def test_leaves_that_no_module_has():
    w, x = torch.tensor(2.0, dtype=double, requires_grad=True), points()
    w.grad = torch.tensor(1.0, dtype=double)
    accumulate(lambda x: w**2 * x[:, 0], x, sample_chunk_size=20)
    assert torch.allclose(w.grad, 1 + 4 * x[:, 0].mean())
    late = torch.tensor(1.0, dtype=double, requires_grad=True)  # in the last block alone
    accumulate(lambda x: (late if len(x) == 10 else w) * x[:, 0], x, sample_chunk_size=20)
    assert torch.allclose(late.grad, x[40:, 0].sum() / 50)


def test_weights_that_are_trained_are_in_the_loss():
    module, x, importance = Burgers(), points(), torch.rand(50, dtype=double, requires_grad=True)
    accumulate(lambda x, i: importance[i] * module(x) ** 2, x, torch.arange(50), sample_chunk_size=20)
    assert torch.allclose(importance.grad, module(x).detach() ** 2 / 50, rtol=1e-12)


def test_a_data_loader_gives_blocks():
    module, x = Burgers(), points()
    value, expected = whole(module, lambda: squared(module)(x).mean() + squared(module)(x[:7]).sum() / 7)
    loader = DataLoader(TensorDataset(x), batch_size=16, shuffle=True)
    found = accumulate((squared(module), loader), (squared(module), [x[:3], x[3:3], x[3:7]]))
    assert torch.allclose(sum(found), value) and close(gradients(module), expected)
    module.zero_grad()
    found = accumulate((squared(module), (part for part in x.split(30))), (squared(module), x[:7]), sample_chunk_size=4)
    assert torch.allclose(sum(found), value) and close(gradients(module), expected)


def test_a_scaler_scales_and_does_not_step():
    module, x = Burgers(), points()
    value, expected = whole(module, lambda: squared(module)(x).mean())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    found = accumulate(squared(module), x, sample_chunk_size=20, scaler=scaler)
    assert torch.allclose(found, value) and close(gradients(module), [8 * gradient for gradient in expected])
    before = [parameter.clone() for parameter in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    scaler.step(optimiser)
    after = [a - 1.0 * g for a, g in zip(before, expected, strict=True)]
    assert close(list(module.parameters()), after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_added_up_in_single(dtype):
    w = torch.ones((), dtype=dtype, requires_grad=True)
    x = torch.ones(4096)
    x[1:] = 2.0**-10  # each of which is lost beside 1
    accumulate(lambda x: w * x.to(dtype), x, sample_chunk_size=1, reduction="sum")
    expected = torch.tensor(1 + 4095 * 2.0**-10).to(dtype)
    assert torch.equal(w.grad, expected) and w.grad.dtype == dtype
    accumulate(lambda x: w * x.to(dtype), x, sample_chunk_size=1, reduction="sum")
    assert torch.equal(w.grad, (expected.float() + 1 + 4095 * 2.0**-10).to(dtype))


def test_a_seed_repeats_draws_and_leaves_the_generators():
    module, x, own = Burgers(), points(), torch.Generator()
    loss = lambda x: (module(x) * torch.rand(len(x)) * torch.rand(len(x), generator=own)) ** 2
    state, mine = torch.get_rng_state(), own.get_state()
    values = [accumulate(loss, x, sample_chunk_size=20, seed=3) for _ in range(2)]
    assert torch.equal(*values)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(mine, own.get_state())
    assert not torch.equal(values[0], accumulate(loss, x, sample_chunk_size=20, seed=4))
    assert not torch.equal(*(accumulate(loss, x, sample_chunk_size=20) for _ in range(2)))


def test_inside_a_closure_of_lbfgs():
    def trained(step):
        module = Burgers()
        optimiser = torch.optim.LBFGS(module.parameters(), max_iter=5, line_search_fn="strong_wolfe")

        def closure():
            optimiser.zero_grad()
            return step(module)

        optimiser.step(closure)
        return list(module.parameters())

    x = points()

    def at_once(module):
        value = squared(module)(x).mean()
        value.backward()
        return value

    assert close(trained(lambda module: accumulate(squared(module), x, sample_chunk_size=20)), trained(at_once), 1e-9)


def test_an_automatic_size_is_what_fits(monkeypatch):
    module, x, sizes = Burgers(), points(2000), []

    def loss(x):
        sizes.append(len(x))
        return module(x) ** 2

    accumulate(loss, x)
    assert sizes[0] == blocks.MEASURED and sum(sizes) == 2000
    monkeypatch.setattr(blocks, "BUDGET", 1)
    sizes.clear()
    accumulate(loss, x)
    assert set(sizes[1:-1]) == {blocks.LEAST}


def test_nan_passes():
    module, x = Burgers(), points()
    x[3] = math.nan
    assert accumulate(squared(module), x, sample_chunk_size=20).isnan()
    assert all(parameter.grad.isnan().any() for parameter in list(module.parameters())[:-1])


def test_checkpointed_losses():
    from torch.utils.checkpoint import checkpoint

    net, x = nn.Linear(2, 1).double(), points(600)
    loss = lambda x: checkpoint(net, x, use_reentrant=False)[:, 0] ** 2
    value, expected = whole(net, lambda: loss(x).mean())
    assert torch.allclose(accumulate(loss, x), value) and close(gradients(net), expected)


def test_checkpointed_losses_that_run_backwards_of_their_own():
    from torch.utils.checkpoint import checkpoint

    net, x = nn.Linear(2, 1).double(), points(60)
    loss = lambda x: checkpoint(net, x.clone().requires_grad_(), use_reentrant=True)[:, 0] ** 2
    value, expected = whole(net, lambda: loss(x).mean())
    seen = []
    net.weight.register_hook(lambda gradient: seen.append(gradient))
    assert torch.allclose(accumulate(loss, x, sample_chunk_size=20), value) and close(gradients(net), expected)
    assert len(seen) == 1


def test_an_optimiser_in_the_backward_steps_once_with_the_whole_gradient():
    def trained(step: Callable[[nn.Module], Any]) -> tuple[list[torch.Tensor], int, Any]:
        module, calls = Burgers(), []

        def stepped(parameter: torch.Tensor) -> None:
            calls.append(parameter)
            parameter.sub_(0.1 * parameter.grad)  # autograd lets hooks write to leaves
            parameter.grad = None

        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(stepped)
        value = step(module)
        assert all(parameter.grad is None for parameter in module.parameters())
        return list(module.parameters()), len(calls), value.detach()

    x = points()

    def at_once(module: nn.Module) -> torch.Tensor:
        value = squared(module)(x).mean()
        value.backward()
        return value

    expected, calls, value = trained(at_once)
    found, ours, sum_of_blocks = trained(lambda module: accumulate(squared(module), x, sample_chunk_size=20))
    assert close(found, expected) and ours == calls and torch.allclose(sum_of_blocks, value)


@pytest.mark.parametrize("dtype", [double, torch.bfloat16])
def test_hooks_see_the_whole_gradient_once(dtype):
    weight, seen, after = torch.ones(2, dtype=dtype, requires_grad=True), [], []

    def clamped(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(gradient.clone())
        return gradient.clamp(max=1)

    weight.register_hook(clamped)
    weight.register_post_accumulate_grad_hook(lambda leaf: after.append(leaf.grad.clone()))
    x = torch.tensor([[0.5, 1.0]] * 6, dtype=dtype)  # no block of two is clamped alone
    for call in (1, 2):
        accumulate(lambda x: (x * weight).sum(1), x, sample_chunk_size=2, reduction="sum")
        assert [gradient.tolist() for gradient in seen] == [[3.0, 6.0]] * call and seen[0].dtype == dtype
        assert weight.grad.tolist() == [1.0 * call] * 2 and len(after) == call and torch.equal(after[-1], weight.grad)


def test_hooks_are_put_back_and_removed_ones_stay_away():
    weight, seen = torch.ones(2, dtype=double, requires_grad=True), []
    handle = weight.register_hook(lambda gradient: seen.append("removed"))
    weight.register_hook(lambda gradient: seen.append("first"))
    weight.register_hook(lambda gradient: seen.append("second"))

    def failing(x: torch.Tensor) -> torch.Tensor:
        handle.remove()
        if len(x) == 10:
            raise ValueError("mine")
        return (x * weight).sum(1)

    with pytest.raises(ValueError, match="mine"):
        accumulate(failing, points(), sample_chunk_size=20)
    assert not seen
    weight.sum().backward()
    assert seen == ["first", "second"]

    def raising(gradient: torch.Tensor) -> None:
        raise ValueError("hook")

    weight.grad = old = torch.ones(2, dtype=double)
    weight.register_hook(raising)
    with pytest.raises(ValueError, match="hook"):
        accumulate(lambda x: (x * weight).sum(1), points(), sample_chunk_size=20)
    assert weight.grad is old and old.tolist() == [1, 1]


def test_leaves_whose_gradient_is_one_tensor():
    first, second = (torch.ones(2, dtype=double, requires_grad=True) for _ in range(2))
    for _ in range(2):
        accumulate(lambda x: (x * (first + second)).sum(1), points(), sample_chunk_size=20, reduction="sum")
    assert torch.allclose(first.grad, 2 * points().sum(0)) and torch.equal(first.grad, second.grad)
    assert first.grad.data_ptr() != second.grad.data_ptr()


def test_sparse_gradients():
    table, rows = nn.Embedding(5, 2, sparse=True), torch.tensor([1, 3, 3, 0])
    table.weight.register_hook(lambda gradient: 2 * gradient)
    accumulate(lambda i: table(i).sum(1), rows, sample_chunk_size=2, reduction="sum")
    assert table.weight.grad.is_sparse
    assert table.weight.grad.to_dense()[:, 0].tolist() == [2, 2, 0, 4, 0]


def by_hand(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A squared derivative of the network by ``torch.autograd.grad``."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        x.requires_grad_()
        u = module.net(x)[:, 0]
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return slope[:, 1] ** 2 + u**2

    return loss


def test_derivatives_by_hand_keep_no_points_alive(monkeypatch):
    module, x, kept = Burgers(), points(), []
    _, expected = whole(module, lambda: by_hand(module)(x.clone()).mean())
    put = SetAside.put
    monkeypatch.setattr(SetAside, "put", lambda self, leaf: (kept.append(leaf), put(self, leaf))[1])
    accumulate(by_hand(module), x, sample_chunk_size=20)
    assert close(gradients(module), expected) and not x.requires_grad
    assert all(any(leaf is own for own in module.parameters()) for leaf in kept)


def test_a_bar(capsys):
    accumulate(squared(Burgers()), points(), sample_chunk_size=20, progress=True)
    assert "points" in capsys.readouterr().err


def test_a_bar_without_tqdm(monkeypatch):
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ArgumentError, match=r"progress=True needs tqdm, .*pip install 'jacfunc\[progress\]'"):
        accumulate(squared(Burgers()), points(), progress=True)


# -------------------------------------------------------------------- refusals


def test_targets_that_are_closed_over_are_told_to_be_passed():
    module, x = Burgers(), points()
    targets = torch.zeros(len(x))
    with pytest.raises(RuntimeError, match="size of tensor") as raised:
        accumulate(lambda x: (module.net(x)[:, 0] - targets).square(), x, sample_chunk_size=7)
    (told,) = raised.value.__notes__
    assert "on a block of 7 points" in told and "accumulate(loss, x, y)" in told
    accumulate(lambda x, y: (module.net(x)[:, 0] - y).square(), x, targets, sample_chunk_size=7)


w = torch.ones(2, dtype=double, requires_grad=True)


def good(x: torch.Tensor) -> torch.Tensor:
    return (x * w).sum(1)


def outside(scaled: torch.Tensor) -> Any:
    return accumulate(lambda x: (x * scaled).sum(1) ** 2, points(), sample_chunk_size=20)


def stepped_in_backward() -> Any:
    from torch.distributed.optim import _apply_optimizer_in_backward

    net = nn.Linear(2, 1).double()
    _apply_optimizer_in_backward(torch.optim.SGD, net.parameters(), {"lr": 0.1})
    return accumulate(lambda x: net(x)[:, 0], points())


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "scalar": (lambda: accumulate(lambda x: good(x).mean(), points()), ShapeError, r"shape \(\) .* leave the mean"),
    "column": (lambda: accumulate(lambda x: good(x)[:, None], points()), ShapeError, r"\(50, 1\) .* squeeze"),
    "no points": (lambda: accumulate(good), ArgumentError, "no points; pass them after loss"),
    "empty": (lambda: accumulate(good, points(0)), ArgumentError, "points are none, on any rank"),
    "empty blocks": (lambda: accumulate(good, []), ArgumentError, "a generator that was used up before"),
    "sizes": (lambda: accumulate(good, points(3), points(4)), ShapeError, r"\[3, 4\] rows"),
    "size": (lambda: accumulate(good, points(), sample_chunk_size=0), ArgumentError, "sample_chunk_size=0"),
    "size name": (
        lambda: accumulate(good, points(), sample_chunk_size="all"),
        ArgumentError,
        "sample_chunk_size='all'",
    ),
    "size bool": (lambda: accumulate(good, points(), sample_chunk_size=True), ArgumentError, "sample_chunk_size=True"),
    "reduction": (lambda: accumulate(good, points(), reduction="max"), ArgumentError, 'pass "mean" or "sum"'),
    "keyword": (lambda: accumulate(good, points(), chunk=3), TypeError, "chunk"),
    "graph": (lambda: accumulate(lambda x: x[:, 0], points()), ArgumentError, "without a graph"),
    "no grad": (lambda: torch.no_grad()(accumulate)(good, points()), ArgumentError, "gradients are disabled here"),
    "inference": (lambda: torch.inference_mode()(accumulate)(good, points()), ArgumentError, "disabled here"),
    "loss": (lambda: accumulate(points(), good), ArgumentTypeError, "loss is a Tensor"),
    "term": (lambda: accumulate((good, points()), good), ArgumentTypeError, "term 1 is a function"),
    "term loss": (lambda: accumulate((good, points()), (3, points())), ArgumentTypeError, "loss of term 1 is an int"),
    "points": (lambda: accumulate(good, 3), ArgumentTypeError, "points are of type int"),
    "block": (lambda: accumulate(good, [{"x": 1}]), ArgumentTypeError, "block 0 of points is a dict"),
    "weights": (lambda: accumulate((good, points(), torch.ones(3))), ShapeError, r"\(3,\) for 50 points"),
    "weight shape": (lambda: accumulate((good, points(), torch.ones(50, 1))), ShapeError, r"weight of term 0 has"),
    "weight type": (lambda: accumulate((good, points(), "3")), ArgumentTypeError, "weight of term 0 is a str;"),
    "weight list": (
        lambda: accumulate((good, points(), [1.0] * 50)),
        ArgumentTypeError,
        r"^the weight of term 0 is a list; pass a number or a tensor \(n,\)$",
    ),
    "weight cplx": (
        lambda: accumulate((good, points(), torch.ones(50, dtype=torch.complex128))),
        ArgumentTypeError,
        "complex128 numbers; pass real ones",
    ),
    "weight complex number": (lambda: accumulate((good, points(), 1j)), ArgumentTypeError, "is a complex"),
    "weight nan": (lambda: accumulate((good, points(), math.nan)), ArgumentError, "is nan; pass a finite number"),
    "weight inf": (lambda: accumulate((good, points(), torch.tensor(math.inf))), ArgumentError, "is inf; pass a fin"),
    "weights inf": (
        lambda: accumulate((good, points(), torch.full((50,), math.inf)), reduction="sum"),
        ArgumentError,
        "add up to inf; pass finite ones",
    ),
    "weight grad": (lambda: accumulate((good, points(), w)), ArgumentError, "multiply by it inside"),
    "weight zero": (lambda: accumulate((good, points(), torch.zeros(50))), ArgumentError, "weights add up to 0"),
    "weight blocks": (lambda: accumulate((good, [points()], torch.ones(50))), ArgumentError, "come in blocks"),
    "points grad": (
        lambda: accumulate(good, points().requires_grad_()),
        ArgumentError,
        r"weights\[i\], with their num",
    ),
    "scalar points": (lambda: accumulate(good, torch.tensor(1.0)), ShapeError, "is a scalar"),
    "scaler": (lambda: accumulate(good, points(), scaler=8), ArgumentTypeError, "scaler is an int"),
    "seed": (lambda: accumulate(good, points(), seed=-1), ArgumentError, "seed=-1"),
    "progress": (lambda: accumulate(good, points(), progress=1), ArgumentTypeError, "progress=1 is not a bool"),
    "modules": (lambda: accumulate(good, points(), modules=[3]), ArgumentTypeError, r"pass modules=\[net\]"),
    "group number": (lambda: accumulate(good, points(), group=3), ArgumentError, "group=3"),
    "group module": (lambda: accumulate(good, points(), group=nn.Linear(1, 1)), ArgumentError, "group=a Linear"),
    "computed outside": (lambda: outside(w * 2), ArgumentError, "computed from parameters outside of it"),
    "in backward": (lambda: stepped_in_backward(), UnsupportedOperationError, "register_post_accumulate_grad_hook"),
    "group": (lambda: accumulate(good, points(), group="all"), ArgumentError, "group='all'"),
    "complex": (lambda: accumulate(lambda x: good(x) + 0j, points()), ArgumentTypeError, "complex128"),
    "no tensor": (lambda: accumulate(lambda x: 1.0, points()), ArgumentTypeError, "returned a float"),
    "func": (lambda: torch.func.grad(lambda x: accumulate(good, x))(points()), UnsupportedOperationError, "torch.func"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()
    assert w.grad is None


def test_torch_compile_goes_on_around_it(recwarn: pytest.WarningsRecorder) -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.rand(30, 2, dtype=torch.double)
    loss = lambda x: net(x).square()[:, 0]
    accumulate(loss, x, sample_chunk_size=8)
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    step = torch.compile(lambda x: 2 * accumulate(loss, x + 0, sample_chunk_size=8), backend="eager")
    assert torch.allclose(step(x), 2 * loss(x).mean())
    assert all(map(torch.allclose, [parameter.grad for parameter in net.parameters()], expected))
    whole = torch.compile(lambda x: accumulate(loss, x), backend="eager", fullgraph=True)
    with pytest.raises(
        Exception, match=r"accumulate writes to .grad, which torch.func and torch.compile do not follow"
    ):
        whole(x)

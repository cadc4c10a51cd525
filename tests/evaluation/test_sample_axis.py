"""``jacfunc/evaluation/sample_axis.py``: what is proved is true of torch's database, and what people write is proved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from backends import compiling_by
from torch import nn
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db

from jacfunc import batch_jac, diag_jac, laplacian
from jacfunc.call import independence
from jacfunc.evaluation.corrections import corrected
from jacfunc.evaluation.program import Program
from jacfunc.evaluation.recorder import Recorder
from jacfunc.evaluation.sample_axis import Prover
from jacfunc.evaluation.sample_axis_rules import ELEMENTWISE, FRESH, RULES

DOUBLE = torch.float64
Tensors = Sequence[torch.Tensor]


def batch(samples: int = 4, *shape: int) -> torch.Tensor:
    return torch.randn(samples, *(shape or (6,)), dtype=DOUBLE)


def outputs_of(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [leaf for item in result for leaf in outputs_of(item)] if isinstance(result, list | tuple) else []


def followed(f: Callable[..., Any], leaves: Tensors, others: Tensors = ()) -> Program | None:
    """The program of a function, proved if each sample of all outputs is computed of its own sample of the leaves."""

    def evaluate(recorder: Any, leaves: Tensors) -> Program:
        leaves = [leaf.clone() for leaf in leaves]
        with torch.no_grad(), corrected(recorder):
            recorder.begin(leaves, [], others)
            result = f(*leaves)
        recorder.end(outputs_of(result))
        return recorder.program

    prover = Prover(len(leaves[0]))
    evaluate(prover, leaves)
    return prover.proved(lambda: evaluate(Recorder(len(leaves[0])), [0.75 * leaf.flip(0) for leaf in leaves]))


def proved(f: Callable[..., Any], leaves: Tensors, others: Tensors = ()) -> bool:
    """Whether it is proved."""
    program = followed(f, leaves, others)
    return program is not None and program.proved


def obstacle(f: Callable[..., Any], leaves: Tensors) -> str:
    """What keeps it from being proved."""
    program = followed(f, leaves)
    assert program is not None and not program.proved
    return program.obstacle


# -------------------------------------------------------------------- nothing untrue is proved


def cases(op: Any) -> Iterator[tuple[Callable[..., Any], list[torch.Tensor]]]:
    """What the database calls an operation with, as functions of tensors with equally many samples."""
    for sample in op.sample_inputs("cpu", DOUBLE):
        given = sample.input if isinstance(sample.input, list | tuple) else [sample.input]
        if not all(isinstance(tensor, torch.Tensor) and tensor.dim() for tensor in given):
            continue
        variants = {op.op, op.method_variant, op.inplace_variant} - {None}
        others = [
            item for item in sample.args if isinstance(item, torch.Tensor) and item.dim() and item.is_floating_point()
        ]
        for variant, also in itertools.product(variants, ([], others)):
            tensors = [*given, *also]
            samples = {len(tensor) for tensor in tensors}
            if len(samples) == 1 and samples.pop() > 1:
                yield _call(variant, sample, len(given), also), tensors


def _call(variant: Any, sample: Any, count: int, also: list[torch.Tensor]) -> Callable[..., Any]:
    def call(*tensors: torch.Tensor) -> Any:
        first = list(tensors[:count]) if isinstance(sample.input, list | tuple) else tensors[0]
        rest = iter(tensors[count:])
        args = [next(rest) if any(item is other for other in also) else item for item in sample.args]
        torch.manual_seed(0)
        return variant(first, *args, **sample.kwargs)

    return call


def moved(tensors: Tensors, kept: int) -> list[torch.Tensor]:
    """All samples but one replaced by their neighbours."""
    found = []
    for tensor in tensors:
        other = tensor.detach().roll(1, 0).clone()
        other[kept] = tensor.detach()[kept]
        found.append(other)
    return found


def check(op: Any, most: int) -> int:
    """How many cases of an operation are proved; each of them has to be true."""
    count = 0
    if op.name in FRESH:  # which has nothing of its operand, nor as many samples
        return count
    for call, given in itertools.islice(cases(op), most):
        tensors = [tensor.detach() for tensor in given]
        try:
            here = outputs_of(call(*(tensor.clone() for tensor in tensors)))
            is_proved = proved(call, tensors)
        except Exception:  # of a variant that takes no such arguments, or writes where it must not
            continue
        count += is_proved
        for kept in range(len(tensors[0]) if is_proved else 0):
            try:
                there = outputs_of(call(*moved(tensors, kept)))
            except Exception:  # neighbours that it refuses
                continue
            for one, other in zip(here, there, strict=True):
                assert len(one) == len(tensors[0]), op.name
                torch.testing.assert_close(other[kept], one[kept], equal_nan=True, msg=f"{op.name}: sample {kept}")
    return count


DATABASE = [op for op in op_db if DOUBLE in op.supported_dtypes("cpu")]


@pytest.mark.filterwarnings("ignore")
def test_nothing_untrue_is_proved_of_a_few_cases_of_each_operation() -> None:
    ruled = [op for op in DATABASE if op.name.rpartition(".")[2] in RULES]
    others = [op for op in DATABASE if op.name.rpartition(".")[2] in ELEMENTWISE]
    assert sum(check(op, 2) for op in (*ruled, *others[::5])) > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", DATABASE, ids=lambda op: f"{op.name} {op.variant_test_name}")
def test_nothing_untrue_is_proved(op: Any) -> None:
    check(op, 200)


# -------------------------------------------------------------------- what mixes

W, V = torch.randn(6, 6, dtype=DOUBLE), torch.randn(4, 4, dtype=DOUBLE)
MIXED: dict[str, Callable[[torch.Tensor], Any]] = {
    "mean": lambda x: x - x.mean(0),
    "norm of all": lambda x: x / x.norm(),
    "no axis": lambda x: x.softmax(-2),
    "flip": lambda x: x.flip(0).sin(),
    "product from the left": lambda x: V @ x,
    "Gram": lambda x: x @ x.T @ x,
    "added Gram": lambda x: torch.addmm(x, x @ x.T, x),
    "rows": lambda x: x[torch.arange(4)],
    "looked up by another one": lambda x: V[(x > 0).long()[:, 0].flip(0)] * x[:, :4],
    "mask of a table": lambda x: V[x[:, 0] > -9] * x[:, :4],
    "one sample": lambda x: x * x[0],
    "in front": lambda x: x[None] * x[:, None],
    "outer": lambda x: x[:, 0] * x[:, :4],
    "two index tensors": lambda x: x.reshape(4, 2, 3)[:, torch.tensor([0, 1]), torch.tensor([0, 1])].T,
    "reshaped": lambda x: x.reshape(6, 4).T,
    "written over": lambda x: (y := x.clone(), y.copy_(x.flip(0)), y)[-1],
    "a part written over": lambda x: (y := x.clone(), y[:, 0].copy_(x[:, 0].flip(0)), y)[-1],
    "collected": lambda x: (y := torch.zeros(4, 6, dtype=DOUBLE), y.index_add_(0, torch.tensor([1, 0, 2, 3]), x), y)[
        -1
    ],
    "written to what is held": lambda x: (y := torch.zeros(4, 6, dtype=DOUBLE), y.add_(x.flip(0)), y)[-1],
    "by a number": lambda x: x * x.max().item(),
    "by numbers": lambda x: x * torch.tensor(x[0].tolist()),
    "by an array": lambda x: x * torch.from_numpy(x.numpy()[::-1].copy()),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "draws by values": lambda x: F.rrelu(x, training=True),
    "convolution over samples": lambda x: F.conv1d(x, torch.ones(4, 4, 1, dtype=DOUBLE)),
    "cdist": lambda x: torch.cdist(x, x),
}


class Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sin()


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_samples_is_not_proved(name: str) -> None:
    assert not proved(MIXED[name], [batch()])


def test_what_torch_tells_nobody_of_is_not_proved() -> None:
    assert not proved(lambda x: Forward.apply(x) + x, [batch()])
    assert not proved(lambda x: torch.func.vmap(torch.sin)(x).cos(), [batch()])
    scripted = torch.jit.trace(torch.sin, batch())
    assert not proved(lambda x: scripted(x).cos() + x, [batch()])


# -------------------------------------------------------------------- what people write

NETS: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.SiLU(), nn.Dropout(0.1), nn.Linear(8, 6)),
    "batch norm in eval": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).eval(),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.MaxPool1d(2), nn.Flatten()
    ),
    "bilinear": lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU(), nn.Softmax(-1), nn.GLU()),
}
WRITTEN: dict[str, Callable[[torch.Tensor], Any]] = {
    "Fourier features": lambda x: torch.cat([(x @ W).sin(), (x @ W).cos()], -1),
    "columns": lambda x: torch.stack([x[:, 0] * x[:, 1:2].squeeze(1), x[..., 2] ** 2], dim=1),
    "unbind": lambda x: torch.stack([a * 2 for a in x.unbind(-1)], -1),
    "addmm": lambda x: torch.addmm(W[0], x, W),
    "spline": lambda x: (
        t := torch.linspace(-3, 3, 9, dtype=DOUBLE),
        i := torch.searchsorted(t, x).clamp(1, 8),
        t[i] * x,
    )[-1],
    "nearest": lambda x: torch.linspace(0, 1, 6, dtype=DOUBLE)[(x.abs() * 3).long().clamp(0, 5)] * x,
    "table of pairs": lambda x: (i := (x > 0).long(), V[i[:, 0], i[:, 1]] * x[:, 0])[-1],
    "kernel": lambda x: torch.exp(-(torch.cdist(x, W) ** 2)) @ torch.ones(6, 2, dtype=DOUBLE),
    "mask": lambda x: torch.where(x > 0, x.sqrt(), torch.zeros_like(x)).masked_fill(x < 0, 0.0),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.reshape(len(x), 3, 2)] * 3).flatten(1),
    "heads": lambda x: (h := x.view(len(x), 3, 2).transpose(1, 2), (h @ h.mT).softmax(-1) @ h)[-1].sum((1, 2)),
    "einsum": lambda x: torch.einsum("nd,dk,nk->n", x, W, x)[:, None],
    "in place": lambda x: (h := x * 2, h.add_(x), h)[-1],
    "norms": lambda x: F.normalize(x) * x.norm(dim=-1, keepdim=True) + torch.linalg.vector_norm(x, dim=1)[:, None],
    "quadratic": lambda x: (x[:, None, :] @ W @ x[:, :, None]).squeeze(-1),
    "solve": lambda x: torch.linalg.solve(W, x[:, :, None]).squeeze(-1),
    "determinant": lambda x: torch.linalg.det(x[:, :4].reshape(-1, 2, 2))[:, None],
    "a test on all": lambda x: x.sin() if bool((x.mean(0) > 9).any()) else x.cos(),
    "sizes": lambda x: x.new_zeros(x.shape[0], 6) + x.expand(len(x), -1).repeat(1, 1).permute(0, 1),
    "pad and split": lambda x: sum(F.pad(x, (1, 1)).split(4, 1)),
}


@pytest.mark.parametrize("name", NETS)
def test_networks_are_proved(name: str) -> None:
    net = NETS[name]().double()
    assert proved(net, [batch()])


@pytest.mark.parametrize("name", WRITTEN)
def test_what_people_write_is_proved(name: str) -> None:
    assert proved(WRITTEN[name], [batch()]) and proved(WRITTEN[name], [batch(7)])


def test_several_inputs_carry_samples_and_others_none() -> None:
    assert proved(lambda x, t: torch.cat([x, t], 1).sin(), [batch(), batch(4, 1)])
    held = batch()
    assert proved(lambda x: x * held, [batch()], [held])
    assert not proved(lambda x, t: x * t.mean(0), [batch(), batch(4, 1)])


def test_the_proof_spares_a_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    checked, check_now = [], independence.check
    monkeypatch.setattr(independence, "check", lambda *given: checked.append(given) or check_now(*given))
    held = {"target": batch(4, 1)}
    f = lambda x: (x.sum(1, keepdim=True) - held["target"]) ** 2
    for _ in range(3):
        diag_jac(f)(batch())
        held["target"] = batch(4, 1)
    laplacian(f)(batch())
    assert len(checked) == 1


# -------------------------------------------------------------------- losses that are not reduced

POINTS = torch.rand(4, 6, dtype=DOUBLE) * 0.5 + 0.25
TARGET, SIGNS = torch.rand(4, 6, dtype=DOUBLE), torch.randn(4, 6, dtype=DOUBLE).sign()
LABELS, CLASSES = torch.tensor([0, 3, 1, 5]), torch.rand(6, dtype=DOUBLE)
ROWS = torch.tensor([[2, 0, -1, 1, 1, 1], [5, -1, 0, 0, 0, 0], [-1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]])
LOSSES: dict[str, Callable[..., Any]] = {
    "mse_loss": lambda x, **how: F.mse_loss(x, TARGET, **how),
    "mse_loss of weighted": lambda x, **how: F.mse_loss(x, TARGET, weight=TARGET * x, **how),
    "mse_loss of one target for all": lambda x, **how: F.mse_loss(x, TARGET[:1], **how),
    "mse_loss of what carries": lambda x, **how: F.mse_loss(target=x.cos(), input=x.sin(), **how),
    "l1_loss": lambda x, **how: F.l1_loss(x, TARGET, **how),
    "smooth_l1_loss": lambda x, **how: F.smooth_l1_loss(x, TARGET, beta=0.3, **how),
    "huber_loss": lambda x, **how: F.huber_loss(x, TARGET, delta=0.3, **how),
    "huber_loss of weighted": lambda x, **how: F.huber_loss(x, TARGET, weight=TARGET, **how),
    "binary_cross_entropy": lambda x, **how: F.binary_cross_entropy(x, TARGET, **how),
    "binary_cross_entropy of weighted": lambda x, **how: F.binary_cross_entropy(x, TARGET, CLASSES, **how),
    "binary_cross_entropy_with_logits": lambda x, **how: F.binary_cross_entropy_with_logits(
        x, TARGET, pos_weight=CLASSES, **how
    ),
    "kl_div": lambda x, **how: F.kl_div(x.log(), TARGET, **how),
    "kl_div of logarithms": lambda x, **how: F.kl_div(TARGET.log(), x.log(), log_target=True, **how),
    "poisson_nll_loss": lambda x, **how: F.poisson_nll_loss(x, TARGET, full=True, **how),
    "gaussian_nll_loss": lambda x, **how: F.gaussian_nll_loss(x.sin(), TARGET, x, **how),
    "gaussian_nll_loss of one variance": lambda x, **how: F.gaussian_nll_loss(x, TARGET, x[:, :1], **how),
    "soft_margin_loss": lambda x, **how: F.soft_margin_loss(x, SIGNS, **how),
    "hinge_embedding_loss": lambda x, **how: F.hinge_embedding_loss(x, SIGNS, **how),
    "margin_ranking_loss": lambda x, **how: F.margin_ranking_loss(x, x.sin() * 2, SIGNS, **how),
    "cross_entropy": lambda x, **how: F.cross_entropy(x, LABELS, CLASSES, ignore_index=3, label_smoothing=0.1, **how),
    "cross_entropy of probabilities": lambda x, **how: F.cross_entropy(x, x.softmax(1), **how),
    "cross_entropy of an image": lambda x, **how: F.cross_entropy(x.reshape(-1, 3, 2), ROWS[:, :2] % 3, **how),
    "nll_loss": lambda x, **how: F.nll_loss(x.log_softmax(1), LABELS, **how),
    "multi_margin_loss": lambda x, **how: F.multi_margin_loss(x, LABELS, **how),
    "multilabel_margin_loss": lambda x, **how: F.multilabel_margin_loss(x, ROWS, **how),
    "multilabel_soft_margin_loss": lambda x, **how: F.multilabel_soft_margin_loss(x, TARGET, **how),
    "cosine_embedding_loss": lambda x, **how: F.cosine_embedding_loss(x, TARGET, SIGNS[:, 0], margin=-1.0, **how),
    "triplet_margin_loss": lambda x, **how: F.triplet_margin_loss(x, TARGET, x.sin(), **how),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction:")
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_proved_only_if_it_is_not_reduced(name: str) -> None:
    f = lambda x: LOSSES[name](x, reduction="none")
    assert proved(f, [POINTS])
    whole = torch.autograd.functional.jacobian(f, POINTS).movedim(-2, 1)
    others = ~torch.eye(4, dtype=torch.bool)
    assert whole[others].count_nonzero() == 0 < whole[~others].count_nonzero()
    torch.testing.assert_close(batch_jac(f)(POINTS), whole[~others])
    called = name.partition(" ")[0]
    ways = [{"reduction": "mean"}, {"reduction": "sum"}, {}] + [{"reduction": "batchmean"}] * (called == "kl_div")
    for how in ways:
        assert obstacle(lambda x, how=how: x * LOSSES[name](x, **how), [POINTS]) == called, how


@pytest.mark.filterwarnings("ignore:size_average")
def test_an_old_argument_outvotes_the_reduction() -> None:
    for how in ({"size_average": True}, {"size_average": False}, {"reduce": True}):
        f = lambda x, how=how: x * F.mse_loss(x, TARGET, reduction="none", **how)
        assert obstacle(f, [POINTS]) == "mse_loss"
        assert torch.autograd.functional.jacobian(f, POINTS)[0, :, 1].any()


IN_C: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mse_loss": (torch._C._nn.mse_loss, (TARGET,)),
    "l1_loss": (torch._C._nn.l1_loss, (TARGET,)),
    "smooth_l1_loss": (torch._C._nn.smooth_l1_loss, (TARGET,)),
    "huber_loss": (torch._C._nn.huber_loss, (TARGET,)),
    "soft_margin_loss": (torch._C._nn.soft_margin_loss, (SIGNS,)),
    "binary_cross_entropy": (torch._C._nn.binary_cross_entropy, (TARGET, None)),
    "multilabel_margin_loss": (torch._C._nn.multilabel_margin_loss, (ROWS,)),
    "multi_margin_loss": (torch._C._nn.multi_margin_loss, (LABELS, 1, 1.0, None)),
    "nll_loss": (torch._C._nn.nll_loss, (LABELS, None)),
    "nll_loss_nd": (torch._C._nn.nll_loss_nd, (LABELS, None)),
    "cross_entropy_loss": (torch._C._nn.cross_entropy_loss, (LABELS, None)),
    "kl_div": (torch.kl_div, (TARGET,)),
    "binary_cross_entropy_with_logits": (torch.binary_cross_entropy_with_logits, (TARGET, None, None)),
    "poisson_nll_loss": (torch.poisson_nll_loss, (TARGET, True, False, 0.0)),
    "hinge_embedding_loss": (torch.hinge_embedding_loss, (SIGNS, 1.0)),
    "margin_ranking_loss": (torch.margin_ranking_loss, (TARGET, SIGNS, 0.0)),
    "cosine_embedding_loss": (torch.cosine_embedding_loss, (TARGET, SIGNS[:, 0], 0.0)),
    "triplet_margin_loss": (torch.triplet_margin_loss, (TARGET, SIGNS, 1.0, 2.0, 1e-6, False)),
}


@pytest.mark.parametrize("name", IN_C)
def test_the_functions_in_c_have_the_reduction_as_a_number(name: str) -> None:
    function, rest = IN_C[name]
    assert proved(lambda x: function(x, *rest, 0), [POINTS])
    assert proved(lambda x: function(x, *rest, reduction=0), [POINTS])
    for number in (1, 2):
        assert obstacle(lambda x, number=number: x * function(x, *rest, number), [POINTS]) == name
        assert obstacle(lambda x, number=number: x * function(x, *rest, reduction=number), [POINTS]) == name


SPREAD: dict[str, Callable[[torch.Tensor], Any]] = {
    "by a target of another sample": lambda x: F.mse_loss(x, x.flip(0), reduction="none"),
    "by the first sample": lambda x: F.l1_loss(x, x[:1], reduction="none"),
    "a column beside a row": lambda x: F.mse_loss(x[:, :1], x[:, 0], reduction="none"),
    "axes in front": lambda x: F.huber_loss(x, TARGET.expand(4, 4, 6), reduction="none"),
    "by a weight": lambda x: F.binary_cross_entropy(x, TARGET, x.mean(0), reduction="none"),
    "by a weight of classes": lambda x: F.binary_cross_entropy_with_logits(
        x[:, :4], TARGET[:, :4], pos_weight=x[:, 0], reduction="none"
    ),
    "by a variance": lambda x: F.gaussian_nll_loss(x, TARGET, x[:1].expand(4, 6), reduction="none"),
    "over samples, as labels": lambda x: F.multilabel_soft_margin_loss(CLASSES[:4], x[:, :4], reduction="none"),
    "classes in front": lambda x: F.cross_entropy(x.T, LABELS.new_tensor([0, 1, 2, 3, 0, 1]), reduction="none")[:4],
    "weights of classes": lambda x: F.cross_entropy(TARGET[:, :4], LABELS.flip(0) % 4, x[:, 0], reduction="none"),
    "a column and a row broadcast": lambda x: torch.broadcast_tensors(x[:, :1], x[:, 0])[1],
    "the first sample broadcast": lambda x: torch.broadcast_tensors(x[:1], x)[0],
    "axes broadcast in front": lambda x: torch.broadcast_tensors(x, torch.zeros(4, 4, 6))[0],
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", SPREAD)
def test_what_spreads_over_samples_is_not_proved(name: str) -> None:
    other = POINTS.clone()
    other[0] -= 0.125
    assert (SPREAD[name](other) != SPREAD[name](POINTS))[1:].any()
    assert not proved(SPREAD[name], [POINTS])


def test_broadcast_samples_stay_in_front() -> None:
    f = lambda x: torch.stack(torch.broadcast_tensors(x, TARGET[0], x[:, :1], TARGET[:1]), -1).prod(-1)
    assert proved(f, [POINTS])
    whole = torch.autograd.functional.jacobian(f, POINTS).movedim(-2, 1)
    assert whole[~torch.eye(4, dtype=torch.bool)].count_nonzero() == 0
    torch.testing.assert_close(batch_jac(f)(POINTS), whole[range(4), range(4)])


def test_samples_that_are_numbers_are_no_batch_of_vectors() -> None:
    assert proved(lambda x: F.pairwise_distance(x, TARGET[0], keepdim=True), [POINTS])
    assert obstacle(lambda x: x * F.pairwise_distance(x, CLASSES), [POINTS[0]]) == "pairwise_distance"
    assert obstacle(lambda x: x * F.cross_entropy(x, LABELS[1], reduction="none"), [POINTS[0]]) == "cross_entropy"


@pytest.mark.parametrize("compiled", [False, True])
def test_calls_with_losses_are_not_checked_again(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, check_now = [], independence.check
    monkeypatch.setattr(independence, "check", lambda *given: checked.append(given) or check_now(*given))
    f = lambda x: sum(torch.broadcast_tensors(F.mse_loss(x.sin(), TARGET, reduction="none"), x[:, :1]))
    with compiling_by("eager"):
        derivative = diag_jac(f, compile=compiled)
        for points in (POINTS, POINTS.cos(), POINTS.sin()):
            found = derivative(points)
    torch.testing.assert_close(found, diag_jac(f, method="reverse", check=False)(points))
    assert len(checked) == 1

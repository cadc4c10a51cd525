"""The table of exchanged operations: torch's own value, right derivatives, and torch's own that are not."""

from __future__ import annotations

import math

import pytest
import torch
from differences import TRUTH, along_parameters, stencil
from torch import nn
from torch.nn import functional as F

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, explain, hess_diag, laplacian
from jacfunc.core.levels import TIES_SHARED
from jacfunc.evaluation import corrections
from jacfunc.evaluation.corrections.foreign import SMOOTH

torch.manual_seed(0)
A, B = torch.randn(3, 6, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
FAR = torch.tensor([0, 800, -800, 0, 50, -50], dtype=torch.float64)
ATEN = torch.ops.aten
BAGGED = torch.tensor([0, 1, 2, 0])
GAMMAS = torch.tensor([0.5, 1, 1.5, 2, 3, 7], dtype=torch.float64)
ONES, LABELS = torch.ones(4, dtype=torch.float64), torch.tensor([2, 0, -1, 1])


def through(operation):
    """A network with the operation on ``(N, 6)`` hidden features and six parameters ``p``."""

    def f(params, x):
        return operation(torch.tanh(x @ A + params["p"]), params["p"]).reshape(len(x), -1).tanh() @ params["w"]

    return f


def squares(h):
    """A 2 by 2 matrix for every sample."""
    return h[:, :4].reshape(-1, 2, 2) + torch.eye(2, dtype=h.dtype)


def attended(h, p):
    tokens = h.reshape(-1, 3, 2)
    return F.scaled_dot_product_attention(tokens, tokens * 2, tokens + p[:2])


def attended_by_the_kernel(h, p):
    tokens = h.reshape(-1, 1, 3, 2)
    return ATEN._scaled_dot_product_flash_attention_for_cpu(tokens, tokens * 2, tokens + p[:2], is_causal=True)[0]


def attended_where_allowed(h, p):
    tokens = h.reshape(-1, 3, 2)
    allowed = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    return F.scaled_dot_product_attention(tokens, tokens * 2, tokens + p[:2], attn_mask=allowed)


def attended_by_heads(h, p):
    tokens = h.reshape(-1, 3, 2).transpose(0, 1)
    weights = {"in_proj_weight": A.reshape(-1)[:12].reshape(6, 2), "in_proj_bias": p, "bias_k": None, "bias_v": None}
    out = {"add_zero_attn": False, "dropout_p": 0.0, "out_proj_weight": squares(p[None])[0], "out_proj_bias": None}
    result, _ = F.multi_head_attention_forward(tokens, tokens, tokens, 2, 1, **weights, **out, need_weights=False)
    return result.transpose(0, 1)


def statistics(r, p):
    """The first five arguments of a batch norm."""
    return r.reshape(3, 2), p[:2], None, torch.zeros(2, dtype=r.dtype), torch.ones(2, dtype=r.dtype)


def rowwise(loss):
    """A loss of every sample alone."""
    return lambda h, p: torch.stack([loss(row, p) for row in h])


OPERATIONS = {
    "layer_norm": [
        lambda h, p: F.layer_norm(h, (6,), p, p.sin()),
        lambda h, p: torch.layer_norm(h.reshape(-1, 2, 3), (2, 3)),
        lambda h, p: torch.ops.aten.layer_norm(h, [6], p),
    ],
    "native_layer_norm": [
        lambda h, p: torch.native_layer_norm(h, (6,), p, None, 1e-5)[0],
    ],
    "batch_norm": [
        lambda h, p: F.batch_norm(h, torch.zeros_like(p), torch.ones_like(p), p, p.sin()),
        rowwise(lambda r, p: F.batch_norm(r.reshape(3, 2), None, None, p[:2], None, training=True)),
        rowwise(lambda r, p: torch.batch_norm(r.reshape(3, 2), None, p[:2], None, None, True, 0.1, 1e-5, False)),
    ],
    "native_batch_norm": [
        rowwise(lambda r, p: torch.native_batch_norm(r.reshape(3, 2), p[:2], None, None, None, True, 0.1, 1e-5)[0]),
        rowwise(lambda r, p: torch._native_batch_norm_legit(r.reshape(3, 2), p[:2], None, True, 0.1, 1e-5)[0]),
        rowwise(lambda r, p: ATEN._native_batch_norm_legit.no_stats(r.reshape(3, 2), p[:2], None, True, 0.1, 1e-5)[0]),
        rowwise(lambda r, p: ATEN._native_batch_norm_legit(*statistics(r, p), True, 0.1, 1e-5)[0]),
        rowwise(lambda r, p: ATEN._batch_norm_with_update_functional(*statistics(r, p), 0.1, 1e-5)[0]),
        rowwise(lambda r, p: torch._batch_norm_impl_index(*statistics(r, p), True, 0.1, 1e-5, False)[0]),
        rowwise(lambda r, p: torch._batch_norm_impl_index(*statistics(r, p), True, 0.1, 1e-5, cudnn_enabled=False)[0]),
    ],
    "instance_norm": [
        lambda h, p: F.instance_norm(h.reshape(-1, 2, 3), weight=p[:2]),
        lambda h, p: torch.instance_norm(h.reshape(-1, 2, 3), p[:2], None, None, None, True, 0.1, 1e-5, False),
        lambda h, p: torch.instance_norm(
            h.reshape(-1, 2, 3), p[:2], None, None, None, use_input_stats=True, momentum=0.1, eps=1e-5, cudnn_enabled=False
        ),
    ],
    "scaled_dot_product_attention": [attended, attended_by_heads, attended_where_allowed, attended_by_the_kernel],
    "hardsigmoid": [lambda h, p: F.hardsigmoid(4 * h), lambda h, p: torch.ops.aten.hardsigmoid(4 * h), lambda h, p: F.hardsigmoid(4 * h, inplace=True), lambda h, p: ATEN.hardsigmoid_(4 * h) * p, lambda h, p: torch._C._nn.hardsigmoid_(4 * h) * p],
    "logaddexp": [lambda h, p: torch.logaddexp(h, p + FAR), lambda h, p: (h * p).logaddexp(h.exp())],
    "mish": [lambda h, p: F.mish(h + FAR), lambda h, p: F.mish(h * p, inplace=True), lambda h, p: ATEN.mish_.default(h + FAR) * p],
    "celu": [lambda h, p: F.celu(h * p, 0.3) + ATEN.celu(p * h, 0.7)],
    "prelu": [lambda h, p: F.prelu(h * p, p[:1]) + ATEN.prelu(p * h, p[1:2])],
    "polar": [
        lambda h, p: torch.view_as_real(torch.polar((h * p).exp(), h)).sum(-1),
        lambda h, p: ATEN.polar(h.square(), p.expand_as(h)).imag + torch.polar(h.exp(), h * p).real,
    ],
    "gelu": [lambda h, p: F.gelu(h * p + 7, approximate="tanh") + ATEN.gelu_(h - 3 * p, approximate="tanh")],
    "i0e": [lambda h, p: torch.special.i0e(h * 1e-9) + ATEN.special_i0e(30 + 9 * h * p)],
    "i1e": [lambda h, p: torch.special.i1e(h * 1e-9) + ATEN.special_i1e(30 + 9 * h * p)],
    "erfcx": [lambda h, p: torch.special.erfcx(9 + h * p) + ATEN.special_erfcx(3 * h) * p],
    "log_ndtr": [lambda h, p: torch.special.log_ndtr(h * p - 30) / 100 + ATEN.special_log_ndtr(5 * h) * p],
    "gammainc": [lambda h, p: torch.igamma(GAMMAS, h.abs()) * p + (GAMMAS + 0 * h.detach()).igamma_((h * p).abs() / 9)],
    "gammaincc": [lambda h, p: torch.igammac(GAMMAS, h.abs()) * p + ATEN.special_gammaincc(GAMMAS, (h * p).abs() / 9)],
    "sinc": [lambda h, p: torch.sinc(h), lambda h, p: (h * p).sinc(), lambda h, p: ATEN.special_sinc(h * p), lambda h, p: ATEN.sinc_(h * p)],
    "i1": [lambda h, p: torch.special.i1(h), lambda h, p: torch.special.i1(h * p), lambda h, p: ATEN.special_i1(h * p)],
    "i0": [lambda h, p: torch.special.i0(h), lambda h, p: (h * p).i0(), lambda h, p: ATEN.i0(h) * ATEN.special_i0(p), lambda h, p: (h * p).i0_()],
    "logcumsumexp": [lambda h, p: torch.logcumsumexp(3 * h, 1), lambda h, p: (h * p).logcumsumexp(-1)],
    "det": [
        lambda h, p: torch.linalg.det(squares(h)),
        lambda h, p: ATEN.det(squares(h)) * torch._linalg_det(squares(h))[0],
        lambda h, p: squares(h).det() + torch.det(squares(h).mT @ squares(h)),
        lambda h, p: torch.linalg.det(torch.eye(9, dtype=h.dtype) + h[:, :1, None] * h[:, 1:2, None] * torch.eye(9, dtype=h.dtype).roll(1, 0) + h[:, 2:3, None] ** 2),
    ],
    "cdist": [
        lambda h, p: torch.cdist(h.reshape(-1, 3, 2), p.reshape(3, 2)[None]),
        lambda h, p: torch.cdist(h.reshape(-1, 3, 2), p.reshape(3, 2)[None], p=3.0),
        lambda h, p: ATEN.cdist(h.reshape(-1, 3, 2), p.reshape(3, 2)[None], 2.0, None),
        lambda h, p: ATEN._cdist_forward(h.reshape(-1, 3, 2), p.reshape(3, 2).repeat(len(h), 1, 1), 3.0, 2),
    ],
    "pdist": [rowwise(lambda r, p: torch.pdist(r.reshape(3, 2))), rowwise(lambda r, p: F.pdist(r.reshape(3, 2), 1.5)), rowwise(lambda r, p: ATEN._pdist_forward(r.reshape(3, 2), 2.0))],
    "multi_margin_loss": [
        rowwise(lambda r, p: F.multi_margin_loss(r.reshape(2, 3), LABELS[:2], p=2, weight=ONES[:3])),
        rowwise(lambda r, p: F.multi_margin_loss(r, LABELS[0], reduction="none")),
        rowwise(lambda r, p: ATEN.multi_margin_loss(r.reshape(2, 3), LABELS[:2], 2, 1.0, None, 0)),
    ],
    "multilabel_margin_loss": [
        rowwise(lambda r, p: F.multilabel_margin_loss((r[:4] * p[:4]), LABELS)),
        rowwise(lambda r, p: F.multilabel_margin_loss((r[:4] * p[:4])[None], LABELS[None], reduction="sum")),
        rowwise(lambda r, p: torch._C._nn.multilabel_margin_loss((r[:4] * p[:4])[None], LABELS[None], 2)),
    ],
    "conv_transpose": [
        rowwise(lambda r, p: F.conv_transpose1d(r[:4].reshape(2, 2), (r * p)[2:].reshape(2, 2, 1), p[:2], 2, 0, 1)),
        rowwise(lambda r, p: F.conv_transpose2d(r.reshape(2, 3, 1), (r * p).reshape(2, 1, 3, 1), None, (2, 3), (1, 0), (1, 2))),
        rowwise(lambda r, p: ATEN.conv_transpose3d(r.reshape(1, 2, 3, 1, 1), (r * p)[:4].reshape(2, 1, 2, 1, 1), p[:1], [2], [0], [1])),
        rowwise(lambda r, p: ATEN.conv_transpose1d.default(r.reshape(1, 2, 3), (r * p)[:4].reshape(2, 1, 2), p[:2], [2], [0], [1], 2)),
    ],
    "linear_cross_entropy": [
        rowwise(
            lambda r, p: F.linear_cross_entropy(
                r.reshape(3, 2), p.reshape(3, 2), LABELS[:2].repeat(2)[:3], options=chunks()
            )
        ),
    ],
    "embedding_bag": [
        rowwise(lambda r, p: F.embedding_bag(torch.tensor([[0, 1], [2, 0]]), r.reshape(3, 2), mode="max")),
        rowwise(
            lambda r, p: F.embedding_bag(
                torch.tensor([0, 1, 2, 0]), r.reshape(3, 2), torch.tensor([0, 3]), mode="sum", per_sample_weights=p[:4] * r[:4]
            )
        ),
        rowwise(lambda r, p: F.embedding_bag(torch.tensor([[0, 1], [2, 2]]), r.reshape(3, 2), padding_idx=2)),
        rowwise(lambda r, p: F.embedding_bag(torch.tensor([0, 2, 1]), r.reshape(3, 2), torch.tensor([0, 0, 2, 3]), mode="max", include_last_offset=True)),
        rowwise(lambda r, p: torch.embedding_bag(r.reshape(3, 2), BAGGED, torch.tensor([0, 3]), mode=2)[0]),
        rowwise(lambda r, p: torch.embedding_bag(r.reshape(3, 2), BAGGED, torch.tensor([0, 3]), False, 1, False, None, False, -2)[0]),
        rowwise(lambda r, p: torch._embedding_bag(r.reshape(3, 2), BAGGED, torch.tensor([0, 3]), False, 0, False, p[:4] * r[:4])[0]),
        rowwise(lambda r, p: ATEN.embedding_bag.padding_idx(r.reshape(3, 2), BAGGED, torch.tensor([0, 3]), False, 1, False, None, False, 0)[0]),
    ],
}  # fmt: skip
REFUSED = {
    "detach_": lambda h, p: h * h.sin().clone().detach_(),
    "sparse_coo_tensor": lambda h, p: torch.sparse_coo_tensor(
        torch.arange(len(h))[None], h, (len(h), h.shape[1])
    ).to_dense(),
    "ctc_loss": lambda h, p: F.ctc_loss(
        h.log_softmax(1)[None].expand(3, -1, -1),
        torch.ones(len(h), 1, dtype=torch.long),
        torch.full((len(h),), 3),
        torch.ones(len(h), dtype=torch.long),
        reduction="none",
    )[:, None],
    "to_sparse": lambda h, p: h.to_sparse().to_dense(),
    "sparse.mm": lambda h, p: torch.sparse.mm(
        torch.eye(4, dtype=h.dtype)[: len(h), : len(h)].to_sparse_csr(), h, "amax"
    ),
    "segment_reduce": lambda h, p: torch.segment_reduce(h.T.contiguous(), "sum", lengths=torch.tensor([2, 4])).T,
}
if not hasattr(F, "linear_cross_entropy"):  # before torch 2.13
    del OPERATIONS["linear_cross_entropy"]
EXAMPLES = [(name, number) for name, found in OPERATIONS.items() for number in range(len(found))]
TRANSFORMS = {"diag_jac": diag_jac, "batch_jac": batch_jac, "laplacian": laplacian, "hess_diag": hess_diag}
AT_ZERO = (("sinc", 0), ("i1", 0), ("i0", 0))
# What is judged in test_corrections_digits.py and _elementwise.py, at orders and points that differences do not reach.
BEYOND = ("i0", "polar", "celu", "prelu", "gelu", "i0e", "i1e", "erfcx", "log_ndtr", "gammainc", "gammaincc")
# Attention is torch's plain implementation, the others torch's own values.
ROUNDED = ("scaled_dot_product_attention",)


def chunks():
    return nn.LinearCrossEntropyOptions(allow_retain_graph=True, batch_chunk_size=2)


def example(name, number):
    operation = OPERATIONS[name][number]
    torch.manual_seed(number)
    x = torch.randn(3, 3, dtype=torch.float64)
    p = torch.randn(6, dtype=torch.float64)
    if (name, number) in AT_ZERO:
        x, p = torch.zeros_like(x), torch.zeros_like(p)
    p.requires_grad_()
    f = through(operation)
    width = operation(torch.tanh(x @ A + p), p).reshape(3, -1).shape[1]
    params = {"p": p, "w": torch.randn(width, 3, dtype=torch.float64, requires_grad=True)}
    return f, params, x


def test_every_entry_has_an_example():
    assert {entry.name for entry in corrections.ENTRIES if entry.functions} == {
        *OPERATIONS,
        *REFUSED,
        *SMOOTH,
        "data",
        "unique",
        "_standard_gamma",
    }  # which differences cannot judge: test_modes.py, and below


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_value_is_torchs_own(name, number):
    f, params, x = example(name, number)
    found = batch_jac(f, return_value=True)(params, x)[1]
    if name in ROUNDED:
        torch.testing.assert_close(found, f(params, x))
    else:
        assert torch.equal(found, f(params, x))
    assert name in {entry.name for entry in explain(batch_jac(f))(params, x).corrected}


def errors(name, number, method):
    """How far each transform's value and parameter gradient are from finite differences, relative; inf if it fails."""
    f, params, x = example(name, number)
    directions = {key: torch.randn_like(p) / math.sqrt(p.numel()) for key, p in params.items()}
    for label, transform in TRANSFORMS.items():
        truth = TRUTH[label]
        expected = truth(f, params, x)
        weights = torch.randn_like(expected)
        slope = along_parameters(truth, f, params, directions, x, weights)
        try:
            found = transform(f, method=method)(params, x)
            gradients = torch.autograd.grad((weights * found).sum(), params.values(), materialize_grads=True)
        except (RuntimeError, NotImplementedError):
            yield label, math.inf
            continue
        found_slope = sum((g * d).sum().item() for g, d in zip(gradients, directions.values(), strict=True))
        scale = expected.abs().max().item() + 1e-3
        yield label, (found - expected).abs().max().item() / scale
        yield f"{label}'s gradient", abs(found_slope - slope) / (abs(slope) + scale)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "method", ["auto", *(pytest.param(m, marks=pytest.mark.slow) for m in ("taylor", "forward", "reverse"))]
)
@pytest.mark.parametrize(
    ("name", "number"),
    [pytest.param(*e, marks=pytest.mark.slow) if e[0] in BEYOND and e[0] != "i0" else e for e in EXAMPLES],
)
def test_derivatives_are_those_of_finite_differences(name, number, method):
    wrong = {label: error for label, error in errors(name, number, method) if not error < 1e-5}
    assert not wrong


# From 2.14 on torch's own is wrong under vmap alone, which tests/traps/test_traps_derivatives.py holds.
MENDED = {"cdist"} if TIES_SHARED else set()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in (*BEYOND, *MENDED)])
def test_the_entry_is_still_needed(name, monkeypatch):
    """Fails on the day that torch is right by itself: then bound the entry by that version of torch."""
    monkeypatch.setattr(corrections, "TABLE", {})
    wrong = (
        not error < 1e-5
        for method in ("reverse", "forward", "taylor")
        for number in range(len(OPERATIONS[name]))
        for _, error in errors(name, number, method)
    )
    assert any(wrong), f"torch {torch.__version__} differentiates {name} rightly: its entry can go"


@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_right_derivative_are_refused_by_name(name):
    net = nn.Sequential(nn.Linear(3, 6).double(), Applied(REFUSED[name]))
    x = torch.randn(4, 3, dtype=torch.float64)
    for transform in (batch_jac, laplacian):
        with pytest.raises(
            UnsupportedOperationError, match=rf"^{name}.* has no second derivative in torch; .*Applied '1'"
        ):
            transform(net, check=False)(x)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("detach_", lambda h: h * ATEN.detach_(h.sin().clone())),
        ("to_sparse", lambda h: ATEN.to_sparse(h).to_dense()),
        ("to_sparse", lambda h: h._to_sparse(2).to_dense()),
        ("sparse_coo_tensor", lambda h: ATEN.sparse_coo_tensor(torch.arange(len(h))[None], h, h.shape).to_dense()),
        ("segment_reduce", lambda h: ATEN.segment_reduce(h.T.contiguous(), "sum", lengths=torch.tensor([1, 2])).T),
        ("ctc_loss", lambda h: ATEN._ctc_loss(h[None].expand(3, -1, -1), torch.ones(len(h), 1, dtype=torch.long), [3] * len(h), [1] * len(h))[0]),
        ("sparse.mm", lambda h: ATEN._sparse_mm.reduce(torch.eye(len(h), dtype=h.dtype).to_sparse_csr(), h, "amax")),
    ],
)  # fmt: skip
def test_refusals_hold_for_other_names(name, operation):
    with pytest.raises(UnsupportedOperationError, match=rf"^{name}.* has no second derivative in torch; "):
        laplacian(operation, check=False)(torch.randn(4, 3, dtype=torch.float64))


def test_what_is_refused_is_allowed_on_constants():
    adjacency = torch.eye(3, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    found = batch_jac(lambda x: (adjacency.to_sparse() @ x.T).T)(x)
    torch.testing.assert_close(found, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))


class Applied(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, h):
        return self.operation(h, None)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_det_of_singular_matrices_has_all_derivatives(size):
    x = torch.randn(3, size * size, dtype=torch.float64)
    x[:, :size] = 0
    f = lambda params, x: torch.linalg.det(x.reshape(-1, size, size))
    # Not reverse mode: torch's own first derivative is zero there.
    places = torch.eye(size * size, dtype=x.dtype)
    truth = torch.stack([stencil(lambda h, e=e: f({}, x + h * e), 1e-3) for e in places], 1)
    torch.testing.assert_close(batch_jac(f)({}, x), truth, rtol=1e-7, atol=1e-9)
    assert laplacian(f)({}, x).isfinite().all()


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.ones(4, 3))])
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_scripted_code_with_such_an_operation_is_refused(make):
    for norm in (nn.LayerNorm(3), nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))):
        scripted = make(norm)
        for f in (scripted, nn.Sequential(scripted), lambda x, scripted=scripted: scripted(x)):
            with pytest.raises(
                UnsupportedOperationError, match="scripted or traced code calls layer_norm.*before scripting"
            ):
                laplacian(f)(torch.ones(4, 3))
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    torch.testing.assert_close(laplacian(make(net))(torch.ones(4, 3)), laplacian(net)(torch.ones(4, 3)))


def test_in_half_precision_a_norm_is_as_good_as_torchs():
    x = torch.randn(4, 300)
    for dtype in (torch.float16, torch.bfloat16):
        found = laplacian(lambda x: F.layer_norm(x, (300,))[:, :1])(x.to(dtype))
        truth = laplacian(lambda x: F.layer_norm(x, (300,))[:, :1])(x.to(dtype).double())
        torch.testing.assert_close(found.double(), truth, rtol=0.05, atol=0.02)
        assert found.dtype == dtype


def test_det_of_an_ill_conditioned_matrix_is_as_good_as_torchs():
    points = torch.linspace(0, 1, 8, dtype=torch.float64)
    kernel = lambda s: torch.exp(-((points[:, None] - points) ** 2) * s[:, :1, None] / 2) + 1e-6 * torch.eye(8)
    f = lambda s: torch.linalg.det(kernel(s))[:, None]
    s = torch.tensor([[4.0], [7.0]], dtype=torch.float64)
    truth = stencil(lambda h: f(s + h), 1e-3)
    torch.testing.assert_close(batch_jac(f)(s)[:, 0], truth, rtol=1e-5, atol=0)


def test_complex_arguments_are_left_to_torch():
    x = torch.randn(4, 3, dtype=torch.float64)
    for f in (
        lambda x: torch.logaddexp(x + 0j, 1j * x).real,
        lambda x: torch.linalg.det(x[:, :1, None] * (1 + 1j)).real[:, None],
    ):
        assert batch_jac(f)(x).isfinite().all()

"""Modules and functions of ``torch.nn``: convolutions, pooling, norms, attention, recurrent ones, resampling, losses."""

from __future__ import annotations

import pytest
import torch
from patterns import Function, assert_found
from quick import mostly_slow
from torch import nn
from torch.nn import functional as F

DOUBLE = torch.float64
CASES: dict[str, tuple[tuple[int, ...], Function]] = {}


def c(name, shape, mod):
    """A function or a module, and the shape that it takes."""
    CASES[name] = (shape, mod)


def unpooled(d):
    """Largest values, put back where they were."""
    pool, unpool = getattr(F, f"max_pool{d}d"), getattr(F, f"max_unpool{d}d")
    return lambda x: unpool(*pool(x, 2, return_indices=True), 2, output_size=x.shape)


for d, (Conv, T) in enumerate(
    ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d)), 1
):
    s = (4,) * d if d < 3 else (3,) * 3
    for g in (1, 2):
        for st in (1, 2):
            for dil in (1, 2):
                c(f"conv{d} g{g} s{st} d{dil}", (1, 2, *s), Conv(2, 4, 2, st, 1, dil, g).double())
                c(f"convT{d} g{g} s{st} d{dil}", (1, 2, *s), T(2, 4, 2, st, 1, max(st, dil) - 1, g, True, dil).double())
    for m in ("circular", "reflect", "replicate"):
        c(f"conv{d} {m}", (1, 1, *s), Conv(1, 1, 3, padding=1, padding_mode=m).double())
    c(f"conv{d} same", (1, 1, *s), Conv(1, 1, 2, padding="same").double())
    c(f"conv{d} unbatched", (2, *s), Conv(2, 1, 2).double())
    for n in ("Avg", "Max"):
        P = getattr(nn, f"{n}Pool{d}d")
        c(f"{n}{d}", (1, 2, *s), P(2))
        c(f"{n}{d} ceil", (1, 1, *s), P(2, 2, 1, ceil_mode=True))
        c(f"{n}{d} s1", (1, 1, *s), P(2, 1, 1))
        c(f"{n}{d} unb", (2, *s), P(2, 1))
    c(f"Maxd{d}", (1, 1, *s), getattr(nn, f"MaxPool{d}d")(2, 1, 1, dilation=2))
    for n in ("AdaptiveAvg", "AdaptiveMax"):
        c(f"{n}{d}", (1, 2, *s), getattr(nn, f"{n}Pool{d}d")(3))
        c(f"{n}{d}u", (2, *s), getattr(nn, f"{n}Pool{d}d")(2))
    c(f"LP{d}", (1, 1, *s), getattr(nn, f"LPPool{d}d")(2, 2))
    c(
        f"MaxUnpool{d}",
        (1, 1, *s),
        unpooled(d),
    )
    c(f"BN{d} eval", (2, 2, *s), getattr(nn, f"BatchNorm{d}d")(2).double().eval())
    c(f"IN{d}", (2, 2, *s), getattr(nn, f"InstanceNorm{d}d")(2, affine=True).double())
    c(f"CircPad{d}", (1, 1, *s), getattr(nn, f"CircularPad{d}d")(1))
    c(f"ReflPad{d}", (1, 1, *s), getattr(nn, f"ReflectionPad{d}d")(1))
    c(f"ReplPad{d}", (1, 1, *s), getattr(nn, f"ReplicationPad{d}d")(1))
    c(f"ZeroPad{d}", (1, 1, *s), getattr(nn, f"ZeroPad{d}d")(-1 if d == 1 else 1))
for m, s in (
    ("nearest", (1, 1, 4)),
    ("linear", (1, 1, 4)),
    ("nearest", (1, 1, 3, 3)),
    ("bilinear", (1, 1, 3, 3)),
    ("bicubic", (1, 1, 4, 4)),
    ("nearest-exact", (1, 1, 3, 3)),
    ("trilinear", (1, 1, 2, 2, 2)),
    ("area", (1, 1, 3, 3)),
    ("nearest", (1, 1, 2, 2, 2)),
    ("nearest-exact", (1, 1, 4)),
    ("nearest-exact", (1, 1, 2, 2, 2)),
):
    c(f"interp {m} {len(s)}", s, lambda x, m=m: F.interpolate(x, scale_factor=2, mode=m))
    c(f"interp down {m} {len(s)}", s, lambda x, m=m: F.interpolate(x, scale_factor=0.67, mode=m))
c("bilinear aa", (1, 1, 4, 4), lambda x: F.interpolate(x, size=2, mode="bilinear", antialias=True))
c("bilinear ac", (1, 1, 4, 4), lambda x: F.interpolate(x, size=6, mode="bilinear", align_corners=True))
G = torch.rand(1, 2, 2, 2, dtype=DOUBLE) * 2 - 1
for m in ("bilinear", "nearest", "bicubic"):
    for p in ("zeros", "border", "reflection"):
        c(
            f"grid {m} {p}",
            (1, 1, 4, 4),
            lambda x, m=m, p=p: F.grid_sample(x, G, mode=m, padding_mode=p, align_corners=False),
        )
c(
    "grid as input",
    (1, 2, 2, 2),
    lambda g: F.grid_sample(
        torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double(), g.tanh(), align_corners=False
    ),
)
c("affine_grid", (1, 2, 3), lambda t: F.affine_grid(t, (1, 1, 2, 2), align_corners=False))
c("LayerNorm", (3, 4), nn.LayerNorm(4).double())
c("GroupNorm", (2, 4, 3), nn.GroupNorm(2, 4).double())
c("RMSNorm", (3, 4), nn.RMSNorm(4).double())
c("LRN", (1, 4, 3), nn.LocalResponseNorm(2))
c("Lin", (3, 4), nn.Linear(4, 2).double())
c("Bilinear", (3, 4), lambda x: nn.Bilinear(4, 4, 2).double()(x, x.sin()))
c("Sequential", (2, 4), nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double())
for a in [
    "ReLU",
    "ELU",
    "CELU",
    "SELU",
    "GELU",
    "SiLU",
    "Mish",
    "Softplus",
    "Hardtanh",
    "Hardswish",
    "Hardsigmoid",
    "LeakyReLU",
    "LogSigmoid",
    "ReLU6",
    "Softshrink",
    "Hardshrink",
    "Softsign",
    "Tanhshrink",
    "Sigmoid",
    "Tanh",
    "RReLU",
]:
    c(a, (2, 3), getattr(nn, a)().eval())
c("PReLU", (2, 3, 2), nn.PReLU(3).double())
c("GLU", (2, 4), nn.GLU())
c("Threshold", (2, 4), nn.Threshold(0.0, 0.0))
c("Softmax", (2, 3), nn.Softmax(1))
c("LogSoftmax", (2, 3), nn.LogSoftmax(1))
c("Softmin", (2, 3), nn.Softmin(0))
c("Softmax2d", (1, 3, 2, 2), nn.Softmax2d())
c("Fold", (1, 4, 4), nn.Fold((3, 3), 2))
c("Unfold", (1, 1, 3, 3), nn.Unfold(2))
c("PixelShuffle", (1, 4, 2, 2), nn.PixelShuffle(2))
c("PixelUnshuffle", (1, 1, 4, 4), nn.PixelUnshuffle(2))
c("ChannelShuffle", (1, 4, 2), nn.ChannelShuffle(2))
c("Flatten", (2, 2, 2), nn.Flatten())
c("Unflatten", (2, 4), nn.Unflatten(1, (2, 2)))
for n in ("LSTM", "GRU", "RNN"):
    net = getattr(nn, n)(2, 3, batch_first=True).double()
    c(n, (2, 3, 2), lambda x, net=net: net(x)[0])
    net2 = getattr(nn, n)(2, 2, num_layers=2, bidirectional=True).double()
    c(n + " bi", (3, 1, 2), lambda x, net=net2: net(x)[0])
    cell = getattr(nn, n + "Cell")(2, 3).double()
    c(n + "Cell", (2, 2), lambda x, cell=cell: cell(x)[0] if isinstance(cell(x), tuple) else cell(x))
mha = nn.MultiheadAttention(4, 2, batch_first=True).double()
causal = torch.triu(torch.ones(3, 3), 1).bool()
c("MHA", (2, 3, 4), lambda x: mha(x, x, x, need_weights=False)[0])
c("MHA w", (2, 3, 4), lambda x: mha(x, x, x)[0])
c("MHA causal", (1, 3, 4), lambda x: mha(x, x, x, attn_mask=causal, need_weights=False)[0])
c("MHA eval", (1, 3, 4), lambda x: mha.eval()(x, x, x, attn_mask=causal)[0])
c("MHA kpm", (1, 3, 4), lambda x: mha(x, x, x, key_padding_mask=torch.tensor([[False, False, True]]))[0])
enc = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True).double()
c("Enc", (2, 3, 4), enc)
c("Enc eval", (2, 3, 4), nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True).double().eval())
c(
    "Enc causal",
    (1, 3, 4),
    lambda x: enc(x, src_mask=nn.Transformer.generate_square_subsequent_mask(3).double(), is_causal=True),
)
c("sdpa bool", (1, 3, 2), lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=~causal))
c(
    "sdpa add",
    (1, 3, 2),
    lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.zeros(3, 3).masked_fill(causal, -torch.inf).double()
    ),
)
c("sdpa causal", (1, 3, 2), lambda x: F.scaled_dot_product_attention(x, x.sin(), x, is_causal=True))
c(
    "sdpa 4d gqa",
    (1, 2, 3, 2),
    lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], is_causal=True, enable_gqa=True),
)
c("sdpa all masked", (1, 3, 2), lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(3, 3).bool()))
emb = nn.Embedding(5, 2).double()
c("emb", (2, 2), lambda x: emb(torch.tensor([1, 4])) * x)
c("emb table", (5, 2), lambda w: F.embedding(torch.tensor([1, 4, 1]), w))
c("emb pad", (5, 2), lambda w: F.embedding(torch.tensor([1, 4, 1]), w, padding_idx=1))
c("bag", (5, 2), lambda w: F.embedding_bag(torch.tensor([[1, 4], [0, 0]]), w))
c("onehot", (3, 5), lambda x: x * F.one_hot(torch.tensor([1, 2, 4]), 5))
c("ce", (3, 4), lambda x: F.cross_entropy(x, torch.tensor([1, 0, 2]), reduction="none"))
c("mse", (3, 4), lambda x: F.mse_loss(x, x.roll(1, 0), reduction="none"))
c("nll", (3, 4), lambda x: F.nll_loss(x, torch.tensor([1, 0, 2]), reduction="none"))
c("huber", (3, 4), lambda x: F.huber_loss(x, x.flip(0), reduction="none"))
c("cos", (3, 4), lambda x: F.cosine_similarity(x, x.roll(1, 0)))
c("pdist", (3, 4), lambda x: F.pairwise_distance(x, x.roll(1, 0)))
c("pdist2", (3, 4), F.pdist)
c(
    "ctc",
    (4, 1, 3),
    lambda x: F.ctc_loss(
        x.log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]), reduction="none"
    ),
)
c("bce", (3, 4), lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(3, 4).double(), reduction="none"))
c("kl", (3, 4), lambda x: F.kl_div(x, x.exp(), reduction="none"))
for n in ("fft", "rfft", "ifft", "hfft", "fft2", "rfft2", "fftn"):
    c(n, (3, 4), lambda x, n=n: torch.view_as_real(getattr(torch.fft, n)(x) + 0j))
c("irfft", (3, 4), lambda x: torch.fft.irfft(torch.complex(x, x.roll(1, 0))))
c("stft", (1, 16), lambda x: torch.view_as_real(torch.stft(x, 4, window=torch.ones(4).double(), return_complex=True)))
c("fftshift", (3, 4), torch.fft.fftshift)
c("fftconv", (8,), lambda x: torch.fft.irfft(torch.fft.rfft(x, 16) * torch.fft.rfft(torch.ones(3).double(), 16)))
c("solve", (2, 2, 2), lambda x: torch.linalg.solve(x, x.roll(1, 0)))
c("inv", (2, 2, 2), torch.linalg.inv)
c("det", (2, 2, 2), torch.linalg.det)
c("expm", (2, 2, 2), torch.linalg.matrix_exp)
c("eigh", (2, 2, 2), lambda x: torch.linalg.eigvalsh(x + x.mT))
c("qr", (2, 3, 2), lambda x: torch.linalg.qr(x)[0])
c("svd", (2, 3, 2), torch.linalg.svdvals)
c("chol", (2, 2, 2), lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(2).double()))
c("trisolve", (2, 2, 2), lambda x: torch.linalg.solve_triangular(x.tril() + 3 * torch.eye(2).double(), x, upper=False))
c("mpow", (2, 2, 2), lambda x: torch.linalg.matrix_power(x, 3))
c("weightnorm", (2, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2).double()))
c("spectral", (2, 3), nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2).double()).eval())
c("quant", (3, 4), lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -128, 127).double())


LOOSE = (
    # The largest of a window may be any of it, and which one is known of few points.
    *("Max", "AdaptiveMax", "MaxUnpool"),
    # Values alone make some entries zero: thresholds, real parts of transforms, a row of weights that is all zero.
    *(
        "Threshold",
        "ReLU",
        "huber",
        "kl",
        "fft",
        "rfft",
        "ifft",
        "hfft",
        "irfft",
        "stft",
        "MHA kpm",
        "MHA eval",
        "sdpa",
        "emb pad",
    ),
    # No rule of their own.
    *("bilinear aa", "Bilinear", "RReLU", "bag", "pdist2", "ctc", "quant", "grid"),
    *("solve", "inv", "det", "expm", "eigh", "qr", "svd", "chol", "trisolve"),
)


@pytest.mark.parametrize("name", mostly_slow(CASES, [*CASES][::5]))
def test_no_entry_is_missing(name):
    shape, f = CASES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert_found(f, x, not name.startswith(LOOSE), points=6)

"""Rules of spectra, complex numbers, integrals, embeddings, and of tensors joined or laid out in other ways."""

from __future__ import annotations

import math

import pytest
import torch
from propagated import propagated
from rule_cases import Case, check
from torch import nn
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError

fft = torch.fft
window = torch.hann_window(4, dtype=torch.float64)
plain = torch.linspace(0.3, 2.0, 4, dtype=torch.float64)
wave = torch.complex(plain, plain.flip(0))
table_ids = torch.tensor([[0, 3, 3], [2, 1, 0]])


def parts(z):
    """A complex result as real numbers."""
    return torch.view_as_real(torch.resolve_conj(z))


def matrix(x, rows: int = 2):
    return x.sin().reshape(len(x), rows, -1)


def complexes(x):
    return torch.complex(x.sin(), x.cos())


def spectra(names: str, f) -> list[Case]:
    return [Case(name, lambda x, name=name: f(getattr(fft, name), x)) for name in names.split()]


SPECTRA = [
    *spectra("fft ifft rfft ihfft", lambda transform, x: parts(transform(x.sin()))),
    *spectra("irfft hfft", lambda transform, x: transform(complexes(x))),
    *spectra("fft2 ifft2 rfft2 ihfft2", lambda transform, x: parts(transform(matrix(x)))),
    *spectra("fftn ifftn", lambda transform, x: parts(transform(matrix(x), dim=(0, 2)))),
    *spectra("irfftn hfftn", lambda transform, x: transform(complexes(x), s=(4,))),
    Case("irfft2", lambda x: fft.irfft2(torch.complex(matrix(x), matrix(x.cos())), norm="ortho")),
    Case("fftn_all_axes", lambda x: fft.fftn(x.sin()).real),
    Case("fft2_of_one_axis", lambda x: parts(fft.fft2(matrix(x), dim=1) + fft.fftn(matrix(x), 2, -1).sum(-1, True))),
    Case("irfftn_of_one_axis", lambda x: fft.irfftn(complexes(x), dim=-1)),
    Case("fft_of_the_sample_axis", lambda x: fft.fft(x.sin(), dim=0, n=3).imag),
    Case("rfft_norm", lambda x: fft.rfft(x.sin(), 3, -1, "ortho").abs()),
    Case("fftshift", lambda x: fft.fftshift(x.sin(), 1) * fft.ifftshift(x.cos())),
    Case("round_trip", lambda x: fft.irfft(fft.rfft(x.sin()) * wave[:3], n=4)),
    Case("stft", lambda x: torch.stft(x.sin(), 4, 2, window=window, return_complex=True).abs(), 8),
    Case("stft_method", lambda x: parts(x.sin()[0].stft(4, 2, window=window, return_complex=True)), 8),
    Case("istft", lambda x: torch.istft(torch.complex(matrix(x, 3), matrix(x, 3)), 4, 2, window=window), 9),
]
COMPLEX = [
    Case("casts", lambda x: parts(x.sin().cdouble() * wave) + parts(x.cos().to(torch.complex128))),
    Case("complex", lambda x: parts(torch.complex(x.sin(), plain))),
    Case("complex_product", lambda x: (complexes(x) * wave * (1 + 2j)).real),
    Case("complex_quotient", lambda x: (complexes(x) / (complexes(x.exp()) + wave)).imag),
    Case("complex_exp", lambda x: parts(complexes(x).exp())),
    Case("complex_log_sqrt", lambda x: parts((complexes(x) + 2).log().sqrt())),
    Case("complex_tanh_pow", lambda x: parts(complexes(x).tanh() ** 3)),
    Case("polar", lambda x: parts(torch.polar(x.exp(), x))),
    Case("complex_abs", lambda x: complexes(x.exp()).abs()),
    Case("complex_angle", lambda x: torch.angle(complexes(x))),
    Case("complex_sgn", lambda x: parts(torch.sgn(complexes(x.exp())))),
    Case("conj", lambda x: (complexes(x).conj() * complexes(x.exp())).imag),
    Case("complex_to", lambda x: (x.sin().to(torch.complex128) * wave).imag),
    Case("real_of_real", lambda x: torch.real(x.sin()) + x.real),
    Case("vdot", lambda x: parts(torch.vdot(complexes(x[0]), complexes(x[1])))),
    Case("vecdot", lambda x: parts(torch.linalg.vecdot(complexes(x), complexes(x.exp())))),
    Case("real_vecdot", lambda x: torch.linalg.vecdot(x.sin(), plain)),
    Case("adjoint", lambda x: parts(complexes(matrix(x)).mH @ complexes(matrix(x)))),
    Case("H", lambda x: parts(complexes(x).H) + x.sin().H[..., None]),
    *(
        Case(f"complex_{name}", lambda x, name=name: parts(getattr(torch, name)(complexes(x) * 0.4 + 0.3j)))
        for name in ("tan", "asin", "acos", "atan", "asinh", "acosh", "atanh", "reciprocal", "sqrt", "log1p", "sigmoid")
    ),
    *(
        Case(f"complex_norm_{p}", lambda x, p=p: torch.linalg.vector_norm(complexes(x), p, dim=1))
        for p in (1, 2, 2.5, 4, 6, math.inf)
    ),
    Case("complex_distance", lambda x: torch.dist(complexes(x), wave) + complexes(x).norm()),
    Case("complex_norm_of_a_zero", lambda x: torch.linalg.vector_norm(complexes(x) * torch.tensor([0.0, 1, 1, 1]), dim=1)),
    Case("complex_var", lambda x: complexes(x).var(1) + complexes(x.exp()).std(1) + torch.var_mean(complexes(x), 1)[0]),
    Case("complex_einsum", lambda x: parts(torch.einsum("ni,mi->nm", complexes(x), complexes(x).conj()))),
    Case("complex_prod", lambda x: parts(complexes(x).prod(1) + complexes(x).cumprod(1)[:, -1])),
    Case("view_as_complex_of_shared_rows", lambda x: parts(torch.view_as_complex(x[:, :1] + plain[:2]) * complexes(x)[:, 0])),
    Case("view_as_complex", lambda x: torch.view_as_complex(matrix(x)).real),
]  # fmt: skip
AXES = [
    Case("diff", lambda x: torch.diff(x.sin(), n=2)),
    Case("diff_more", lambda x: torch.diff(x.sin(), dim=0, prepend=x[:1].cos(), append=plain[None])),
    Case("trapezoid", lambda x: torch.trapezoid(x.sin())),
    Case("trapezoid_dx", lambda x: torch.trapz(x.sin(), dx=0.3)),
    Case("trapezoid_places", lambda x: torch.trapezoid(x.sin(), x.exp(), dim=1)),
    Case("trapezoid_of_a_constant", lambda x: torch.trapezoid(plain.expand(2, 4), x.exp(), dim=1)),
    Case("cumulative_trapezoid", lambda x: torch.cumulative_trapezoid(x.sin(), plain)),
    Case("gradient", lambda x: torch.gradient(x.sin(), dim=1)[0]),
    Case("embedding", lambda x: F.embedding(table_ids, x.sin().reshape(4, 2))),
    Case("embedding_padding", lambda x: F.embedding(table_ids, x.sin().reshape(4, 2), padding_idx=-1)),
    *(
        Case(f"embedding_bag_{mode}", lambda x, m=mode: F.embedding_bag(table_ids, x.sin().reshape(4, 2), mode=m))
        for mode in ("sum", "mean")
    ),
]
JOINED = [
    Case("hstack", lambda x: torch.hstack([x.sin(), x.cos(), plain.expand(2, 4)])),
    Case("hstack_vectors", lambda x: torch.hstack([x[0].sin(), plain, x.sum()])),
    Case("vstack", lambda x: torch.vstack([x.sin(), plain, x[0].cos()])),
    Case("dstack", lambda x: torch.dstack([x.sin(), x.cos()]) * torch.dstack((x[0].sin(), plain))),
    Case("column_stack", lambda x: torch.column_stack([x.sin(), x[:, 0].cos()])),
    Case("block_diag", lambda x: torch.block_diag(matrix(x)[0], plain, x[0, 0].cos(), matrix(x)[1])),
    Case("meshgrid", lambda x: torch.stack(torch.meshgrid(x[0].sin(), plain, indexing="ij"))),
    Case("meshgrid_xy", lambda x: torch.meshgrid(x[0].sin(), x[1].exp(), indexing="xy")[1]),
    Case("cartesian_prod", lambda x: torch.cartesian_prod(x[0].sin(), plain)),
    Case("broadcast_tensors", lambda x: torch.stack(torch.broadcast_tensors(x.sin(), plain, x[:, :1]))),
    Case("atleast_1d", lambda x: torch.atleast_1d(x.sum().sin())),
    Case("atleast_2d", lambda x: torch.cat(torch.atleast_2d(x.sum().sin(), plain[:1]))),
    Case("atleast_3d", lambda x: torch.atleast_3d(x.sin()) + torch.atleast_3d(x[0])),
    Case("roll", lambda x: x.sin().roll(1) * x.roll((1, 2), (0, 1))),
    Case("diagonal", lambda x: matrix(x).diagonal(0, 1, 2) + torch.linalg.diagonal(matrix(x))),
    Case("diagonal_default", lambda x: torch.diagonal(matrix(x), 0)),
    Case("diag_embed", lambda x: torch.diag_embed(x.sin(), 1) + torch.diag_embed(x.cos(), 1, 2, 1)),
    Case("diag", lambda x: torch.diag(x[0].sin()) + torch.diagflat(x.cos()[1])),
    Case("trace", lambda x: torch.trace(matrix(x)[0]) + matrix(x)[1].trace()),
    Case("tril_triu", lambda x: matrix(x).tril() + 2 * torch.triu(matrix(x), 1)),
    Case("rot90", lambda x: torch.rot90(matrix(x), 1, [1, 2]) + torch.fliplr(matrix(x)) + matrix(x).flipud()),
    Case("repeat_interleave", lambda x: x.sin().repeat_interleave(2, 1) + x.cos().repeat_interleave(2).reshape(2, 8)),
    Case("repeat_interleave_tensor", lambda x: torch.repeat_interleave(x.sin(), torch.tensor([1, 2, 0, 1]), dim=-1)),
    Case("tile", lambda x: torch.tile(x.sin(), (2,)) + x.tile(1, 2)),
    Case("windows", lambda x: x.sin().unfold(1, 2, 1)),
    Case("sum_to_size", lambda x: x.sin().sum_to_size(2, 1)),
]
CASES = SPECTRA + COMPLEX + AXES + JOINED


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


HIGHER = [case for case in CASES if case.size == 4 and "embedding" not in case.name]


@pytest.mark.parametrize("case", HIGHER, ids=str)
def test_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


def test_a_complex_zero_has_no_slope() -> None:
    value, (rows,) = propagated(lambda x: torch.complex(x, x).abs(), torch.zeros(1, 2))
    assert value.tolist() == [[0, 0]]
    assert not rows.any()


def test_complex_numbers_without_a_rule_are_not_taken_for_constants() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(CannotFollowError, match="eigvals"):
        propagated(lambda x: torch.linalg.eigvals(x.reshape(2, 2, 2)).real, x)
    with pytest.raises(CannotFollowError, match="of complex numbers"):
        propagated(lambda x: torch.linalg.matrix_exp(torch.complex(x, x).reshape(2, 2, 2)).real, x)


def test_an_embedding_that_changes_its_gradient_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="embedding"):
        propagated(lambda x: F.embedding(table_ids, x.reshape(4, 2), scale_grad_by_freq=True), torch.randn(2, 4))


def test_an_embedding_of_indices_is_constant() -> None:
    layer = nn.Embedding(5, 3)
    value, rows = propagated(lambda x: layer(x.argmax(1)), torch.randn(2, 4))
    assert value.shape == (2, 3)
    assert not rows

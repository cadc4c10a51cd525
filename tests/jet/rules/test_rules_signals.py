"""Rules of spectra, complex numbers and integrals, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated
from rule_cases import Case, check, complexes, matrix, parts, wave

from jacfunc.jet import CannotFollowError

fft = torch.fft
window = torch.hann_window(4, dtype=torch.float64)
plain = torch.linspace(0.3, 2.0, 4, dtype=torch.float64)


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
]  # fmt: skip
COMPLEX = [
    Case("casts", lambda x: parts(x.sin().cdouble() * wave) + parts(x.cos().to(torch.complex128))),
    Case("complex", lambda x: parts(torch.complex(x.sin(), plain))),
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
    Case("view_as_complex_of_shared_rows", lambda x: parts(torch.view_as_complex(x[:, :1] + plain[:2]) * complexes(x)[:, 0])),
    Case("view_as_complex", lambda x: torch.view_as_complex(matrix(x)).real),
]  # fmt: skip
ALONE = [
    Case("angle_of_real", lambda x: torch.angle(x) + x.sin(), 1, 1),
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
]  # fmt: skip
CASES = SPECTRA + COMPLEX + AXES


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


HIGHER = [case for case in CASES if case.size == 4]


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


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_to_the_sixth_order(case: Case) -> None:
    check(case, "6", 1e-8)


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_at_the_lower_orders(case: Case) -> None:
    for layout in ("first", "diagonal", "summed"):
        check(case, layout, 1e-9)

"""Rules of decompositions and eigenvalues, and of solves under other names, to the third order."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated
from rule_cases import Case, check

from jacfunc.core.levels import TIES_SHARED
from jacfunc.jet import fallback

linalg = torch.linalg
three = torch.linspace(0.4, 1.5, 3, dtype=torch.float64)
column = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
apart = torch.tensor([[2.0, 0.3, 0.1], [0.3, -1.0, 0.5], [0.1, 0.5, 0.4]], dtype=torch.float64)


def matrices(x):
    """Well-conditioned ones, one for each sample."""
    return x.sin().reshape(-1, 2, 2) + 3 * torch.eye(2, dtype=x.dtype)


def positive(x):
    return matrices(x) @ matrices(x).mT


def hermitian(x):
    z = torch.complex(matrices(x), x.cos().reshape(-1, 2, 2))
    return z @ z.mH


def symmetric(x):
    """Of three rows, with eigenvalues of either sign."""
    y = torch.outer(three, x[0, :3].sin())
    return apart + y + y.T


def tall(x):
    return torch.cat([matrices(x), x.cos()[:, None, :2]], 1)


def real(z):
    return torch.view_as_real(z.resolve_conj())


# From that version of torch on these raise, wherever they are called.
WITHDRAWN = [
    Case("cholesky_by_its_old_name", lambda x: torch.cholesky(positive(x), upper=True)),
    Case("qr_by_its_old_name", lambda x: torch.qr(matrices(x)).Q),
]
CASES = [
    *([] if TIES_SHARED else WITHDRAWN),
    Case("cholesky", lambda x: linalg.cholesky(positive(x)) + linalg.cholesky(positive(x), upper=True)),
    Case("cholesky_of_one_triangle", lambda x: linalg.cholesky(positive(x).tril(), upper=False)),
    Case("cholesky_ex", lambda x: linalg.cholesky_ex(positive(x), upper=True).L),
    Case("cholesky_of_three", lambda x: linalg.cholesky(symmetric(x) @ symmetric(x))),
    Case("cholesky_complex", lambda x: real(linalg.cholesky(hermitian(x)))),
    Case("cholesky_inverse", lambda x: torch.cholesky_inverse(matrices(x).tril()[0])),
    Case("lu", lambda x: linalg.lu(matrices(x)).U + linalg.lu(matrices(x).flip(-2)).L),
    Case("lu_of_three", lambda x: linalg.lu(symmetric(x).roll(1, 0)).U),
    Case("lu_complex", lambda x: real(linalg.lu(hermitian(x)).L)),
    Case("lu_factor", lambda x: linalg.lu_solve(*linalg.lu_factor(matrices(x)), x.exp().reshape(2, 2, 2))),
    Case("lu_factor_ex", lambda x: linalg.lu_factor_ex(matrices(x).flip(-2)).LU),
    Case("lu_unpack", lambda x: torch.lu_unpack(*linalg.lu_factor(matrices(x)))[1]),
    Case("qr", lambda x: linalg.qr(matrices(x)).R + linalg.qr(matrices(x)).Q),
    Case("qr_tall", lambda x: torch.cat([*linalg.qr(tall(x))], 1)),
    Case("qr_wide", lambda x: torch.cat([*linalg.qr(tall(x).mT)], 2)),
    Case("qr_of_three", lambda x: linalg.qr(symmetric(x), mode="complete").Q),
    Case("eigh", lambda x: linalg.eigh(positive(x)).eigenvalues + linalg.eigvalsh(positive(x), "U")),
    Case("eigh_vectors", lambda x: (v := linalg.eigh(positive(x)).eigenvectors) @ (v.mT * three[:2, None])),
    Case("eigh_of_three", lambda x: linalg.eigh(symmetric(x)).eigenvectors.square()),
    Case("eigvalsh_complex", lambda x: linalg.eigvalsh(hermitian(x))),
    Case("svdvals", lambda x: linalg.svdvals(matrices(x))),
    Case("svdvals_of_three", lambda x: linalg.svdvals(symmetric(x).tril())),
    Case("svdvals_tall", lambda x: linalg.svdvals(tall(x)) + linalg.svdvals(tall(x).mT)),
    Case("inv_ex", lambda x: linalg.inv_ex(matrices(x)).inverse),
    Case("solve_ex", lambda x: linalg.solve_ex(matrices(x), column).result),
    Case("solve_ex_left", lambda x: linalg.solve_ex(matrices(x), column.mT, left=False)[0]),
    Case("tensorinv", lambda x: linalg.tensorinv(matrices(x)[0].reshape(2, 1, 1, 2), ind=2)),
    Case("tensorsolve", lambda x: linalg.tensorsolve(matrices(x)[0], x[0, :2].exp())),
    Case(
        "tensorsolve_dims", lambda x: linalg.tensorsolve(matrices(x)[0].reshape(1, 2, 2), x[0, :2].exp(), dims=(0, 2))
    ),
]


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_none_of_these_falls_back(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function, *_):
        raise AssertionError(fallback.name_of(function))

    for place in ("dispatch", "rules.decompositions"):
        monkeypatch.setattr(f"jacfunc.jet.{place}.pushed", refuse)
    propagated(case.f, case.point())


def test_equal_eigenvalues_have_first_derivatives() -> None:
    one = torch.eye(2, dtype=torch.float64)
    _, (rows,) = propagated(
        lambda x: linalg.eigvalsh(one * 2 + x.reshape(2, 2)), torch.zeros(1, 4, dtype=torch.float64)
    )
    assert rows.isfinite().all()

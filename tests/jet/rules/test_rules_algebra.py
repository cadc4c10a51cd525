"""Rules of products of vectors and matrices, of solves, inverses, determinants."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated
from rule_cases import Case, check
from torch.nn import functional as F

from jacfunc import batch_jac, clear_caches, hessian, laplacian
from jacfunc.jet import CannotFollowError

linalg = torch.linalg
three = torch.linspace(0.4, 1.5, 3, dtype=torch.float64)
square = torch.tensor([[2.0, 0.3], [0.1, 1.5]], dtype=torch.float64)
wide = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
tall = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
pair = torch.tensor([[1.0, 2.0]], dtype=torch.float64)


def matrices(x):
    """Well-conditioned ones, one for each sample."""
    return x.sin().reshape(-1, 2, 2) + 3 * torch.eye(2, dtype=x.dtype)


def positive(x):
    return matrices(x) @ matrices(x).mT


def complexes(x):
    return torch.complex(matrices(x), x.cos().reshape(-1, 2, 2))


LU = linalg.lu_factor(complexes(torch.ones(1, 4, dtype=torch.float64)))


def factor(x):
    return torch.tril(matrices(x))


PRODUCTS = [
    Case("outer", lambda x: torch.outer(x[0].sin(), three) + x[0].outer(x[1, :3])),
    Case("ger", lambda x: torch.ger(three, x[0].exp())),
    Case("inner", lambda x: torch.inner(x.sin(), x.exp())),
    Case("inner_scalar", lambda x: torch.inner(x.sum(), x.exp())),
    Case("tensordot", lambda x: torch.tensordot(x.sin().reshape(2, 2, 2), x.cos().reshape(2, 2, 2), ([0, 1], [2, 0]))),
    Case("tensordot_number", lambda x: torch.tensordot(x.reshape(2, 2, 2).sin(), wide, 1)),
    Case("tensordot_one_to_many", lambda x: torch.tensordot(x[:, :1].sin(), x.reshape(2, 2, 2).exp(), ([1], [2]))),
    Case("tensordot_zero", lambda x: torch.tensordot(x[0].sin(), x[1].sin(), 0)),
    Case("kron", lambda x: torch.kron(x.sin(), wide) + 0 * torch.kron(wide, x)),
    Case("kron_ranks", lambda x: torch.kron(x[0].sin(), x.cos())),
    Case("cross", lambda x: torch.cross(x[:, :3].sin(), x[:, 1:].exp(), dim=1)),
    Case("cross_default", lambda x: torch.cross(x[:, :3].sin(), three.expand(2, 3))),
    Case("linalg_cross", lambda x: linalg.cross(three[None], x[:, 1:].exp())),
    Case(
        "vander",
        lambda x: torch.vander(x[0].sin()) + torch.vander(x[1], 4, increasing=True),
        truth=lambda x: torch.stack([x[0].sin() ** (3 - k) + x[1] ** k for k in range(4)], 1),
    ),
    Case("linalg_vander", lambda x: linalg.vander(x.sin(), N=3)),
    Case("multi_dot", lambda x: linalg.multi_dot([x.sin(), x.reshape(4, 2).cos(), wide])),
    Case("multi_dot_vectors", lambda x: linalg.multi_dot([x[0].sin(), x.reshape(4, 2).cos(), wide, three])),
    Case("chain_matmul", lambda x: torch.chain_matmul(wide.mT, x.sin(), x.reshape(4, 2))),
    *(Case(f"matrix_power_{n}", lambda x, n=n: linalg.matrix_power(matrices(x), n)) for n in (-2, 0, 1, 3)),
    Case("matrix_power_method", lambda x: matrices(x).matrix_power(2)),
    Case(
        "bilinear", lambda x: F.bilinear(x[:, :2].sin(), x[:, 2:].exp(), wide.reshape(3, 2, 1).expand(3, 2, 2), three)
    ),
    Case("bilinear_all", lambda x: F.bilinear(x[:, :2], x[:, 2:].exp(), x.sin().reshape(2, 2, 2), x[0, :2])),
    Case("addr", lambda x: torch.addr(wide, x[0, :2].sin(), three)),
]
SOLVES = [
    Case("solve", lambda x: linalg.solve(matrices(x), wide)),
    Case("solve_both", lambda x: linalg.solve(matrices(x), x.exp().reshape(2, 2, 2))),
    Case("solve_vectors", lambda x: linalg.solve(matrices(x), x[:, :2].exp())),
    Case("solve_one_vector", lambda x: linalg.solve(square, x[0, :2].exp())),
    Case("solve_right", lambda x: linalg.solve(square, x.exp().reshape(2, 2, 2))),
    Case("solve_from_the_other_side", lambda x: linalg.solve(matrices(x), x.exp().reshape(2, 2, 2), left=False)),
    Case("solve_broadcast", lambda x: linalg.solve(matrices(x)[0], x.exp().reshape(2, 2, 2))),
    Case("complex_solve", lambda x: torch.view_as_real(linalg.solve(complexes(x), complexes(x.exp()).mH))),
    Case("complex_inv", lambda x: torch.view_as_real(linalg.inv(complexes(x)))),
    *(
        Case(
            f"complex_cholesky_solve_{upper}",
            lambda x, t=triangle, u=triangle is torch.triu: torch.view_as_real(
                torch.cholesky_solve(complexes(x), t(complexes(x.exp())), upper=u)
            ),
        )
        for upper, triangle in ((False, torch.tril), (True, torch.triu))
    ),
    *(
        Case(
            f"complex_lu_solve_{n}",
            lambda x, o=options: torch.view_as_real(linalg.lu_solve(*LU, complexes(x), **o).resolve_conj()),
        )
        for n, options in enumerate(({}, {"left": False}, {"adjoint": True}, {"left": False, "adjoint": True}))
    ),
    Case("cholesky_solve_by_name", lambda x: torch.cholesky_solve(positive(x), input2=factor(x))),
    Case("inv", lambda x: linalg.inv(matrices(x)) + torch.inverse(matrices(x)) + matrices(x).inverse()),
    *(
        Case(
            f"solve_triangular_{upper}_{left}_{unit}",
            lambda x, u=upper, s=left, d=unit: linalg.solve_triangular(
                matrices(x), x.exp().reshape(2, 2, 2), upper=u, left=s, unitriangular=d
            ),
        )
        for upper in (True, False)
        for left in (True, False)
        for unit in (True, False)
    ),
    Case("cholesky_solve", lambda x: torch.cholesky_solve(x.exp().reshape(2, 2, 2), factor(x))),
    Case("cholesky_solve_upper", lambda x: torch.cholesky_solve(wide, factor(x)[0].mT, upper=True)),
    Case("lu_solve", lambda x: linalg.lu_solve(*linalg.lu_factor(square), x.exp().reshape(2, 2, 2))),
    Case("lu_solve_older", lambda x: torch.lu_solve(x.exp().reshape(2, 2, 2), *linalg.lu_factor(square))),
    *(
        Case(
            f"lu_solve_{left}_{adjoint}",
            lambda x, s=left, a=adjoint: linalg.lu_solve(
                matrices(x)[0], torch.tensor([2, 2], dtype=torch.int32), x.exp().reshape(2, 2, 2)[0], left=s, adjoint=a
            ),
        )
        for left in (True, False)
        for adjoint in (True, False)
    ),
]
DETERMINANTS = [
    Case("det", lambda x: linalg.det(matrices(x)) + torch.det(matrices(x)) + matrices(x).det()),
    Case("slogdet", lambda x: linalg.slogdet(matrices(x)).logabsdet + torch.slogdet(-matrices(x))[1]),
    Case("logdet", lambda x: torch.logdet(matrices(x)) + positive(x).logdet()),
]
MIXED = [
    Case(
        "solve",
        lambda x: torch.linalg.solve(x.reshape(-1, 1, 2).mT @ x.reshape(-1, 1, 2) + 2 * torch.eye(2), x.exp()),
        2,
    ),
]
CASES = PRODUCTS + SOLVES + DETERMINANTS


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-8)


def test_a_singular_matrix_has_a_determinant_with_derivatives() -> None:
    x = torch.tensor([[1.0, 2.0, 2.0, 4.0]], dtype=torch.float64)
    value, (rows, second) = propagated(lambda x: linalg.det(x.reshape(-1, 2, 2)), x, "diagonal")
    assert value.item() == 0
    assert rows.squeeze().tolist() == [4, -2, -2, 1]
    assert second is None or not second.any()


def test_complex_determinants_are_refused() -> None:
    with pytest.raises(CannotFollowError, match="determinant"):
        propagated(lambda x: linalg.slogdet(torch.complex(x, x).reshape(-1, 2, 2))[1], torch.randn(2, 4))


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("case", MIXED, ids=str)
def test_mixed_derivatives(case: Case, order: int) -> None:
    check(case, str(order), 1e-8)


SINGULAR = [
    lambda A: torch.linalg.slogdet(A).logabsdet,
    lambda A: torch.logdet(A @ A.mT),
    lambda A: torch.linalg.inv_ex(A).inverse.sin().sum((1, 2)),
    lambda A: torch.linalg.solve_ex(A, A[..., :1].sin()).result,
]


@pytest.mark.parametrize("size", [2, 3, 9])
@pytest.mark.parametrize("f", SINGULAR, ids=["slogdet", "logdet", "inv_ex", "solve_ex"])
@pytest.mark.parametrize("transform", [laplacian, batch_jac, hessian], ids=lambda transform: transform.__name__)
def test_a_singular_matrix_takes_its_own_derivatives_alone(transform, f, size):
    """Nested forward mode, the last resort, would give zeros for all samples, then and from then on."""
    generator = torch.Generator().manual_seed(size)
    regular = torch.randn(4, size, size, dtype=torch.double, generator=generator)
    singular = regular.clone()
    singular[1] = 1.0
    others = transform(f)(singular)
    truth = transform(f)(regular)
    assert others[1].isnan().any()
    torch.testing.assert_close(others[[0, 2, 3]], truth[[0, 2, 3]], rtol=1e-9, atol=1e-9)
    clear_caches()
    torch.testing.assert_close(transform(f)(regular), truth, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(transform(f, method="reverse")(regular), truth, rtol=1e-6, atol=1e-6)

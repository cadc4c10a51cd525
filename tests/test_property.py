"""Random small programs: every route of every transform against the dense derivatives, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import dense
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfunc import batch_jac, diag_jac, divergence, hess_diag, laplacian

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Each step takes (N, w) and a weight (6, 6), whose corner it may use, and returns (N, any).
STEPS: dict[str, Step] = {
    "linear": lambda x, w: x @ w[: x.shape[1], :3] + w[0, :3],
    "widen": lambda x, w: torch.nn.functional.linear(x, w[:5, : x.shape[1]], w[1, :5]),
    "tanh": lambda x, w: torch.tanh(x),
    "sin": lambda x, w: torch.sin(1.3 * x),
    "softplus": lambda x, w: torch.nn.functional.softplus(x),
    "gelu": lambda x, w: torch.nn.functional.gelu(x),
    "square": lambda x, w: x.square() * 0.3,
    "divide": lambda x, w: x / (1 + x.square()),
    "exp": lambda x, w: torch.exp(-x.square()),
    "where": lambda x, w: torch.where(x > 0, x.sin(), x.square() * 0.5),
    "softmax": lambda x, w: x.softmax(dim=1),
    "norm": lambda x, w: x / (x.square().sum(dim=1, keepdim=True) + 1).sqrt(),
    "cumsum": lambda x, w: x.cumsum(dim=1),
    "flip": lambda x, w: torch.cat([x.flip(1), x[:, :1]], dim=1)[:, :6],
    "gather": lambda x, w: x[:, torch.arange(x.shape[1] - 1, -1, -1)],
    "outer": lambda x, w: torch.einsum("ni,nj,ij->ni", x, x, w[: x.shape[1], : x.shape[1]]),
    "logsumexp": lambda x, w: torch.cat([x, x.logsumexp(dim=1, keepdim=True)], dim=1)[:, -6:],
    "inplace": lambda x, w: (x * 1.0).mul_(0.7).add_(x.sin()),
    "detached": lambda x, w: x * x.detach().cos(),
    "pad": lambda x, w: torch.nn.functional.pad(x, (1, 0))[:, :6],
    "solve": lambda x, w: torch.linalg.solve(
        torch.eye(x.shape[1], dtype=x.dtype) * 3 + 0.1 * torch.einsum("ni,nj->nij", x.tanh(), x.tanh()), x
    ),
}


@dataclass(frozen=True)
class Program:
    """Some steps in a row."""

    steps: tuple[str, ...]
    seed: int
    width: int

    def weights(self) -> list[torch.Tensor]:
        """One matrix for each step, to be trained."""
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.randn(6, 6, generator=generator, dtype=torch.float64) * 0.5 for _ in self.steps]

    def batch(self) -> torch.Tensor:
        """Three samples."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(3, self.width, generator=generator, dtype=torch.float64)

    def __call__(self, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for step, weight in zip(self.steps, weights, strict=True):
            x = STEPS[step](x, weight)
        return x


programs = st.builds(
    Program,
    st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5).map(tuple),
    st.integers(0, 10_000),
    st.integers(2, 4),
)
options = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["auto", "taylor", "forward", "reverse"]),
        "chunk_size": st.sampled_from([None, 1, 2, 5]),
    }
)
thorough = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(programs, options)
def test_first_derivatives_agree_with_the_dense_jacobian(program, keywords):
    weights, x = program.weights(), program.batch()
    truth = dense.jacobian(lambda x: program(weights, x), x)
    found, value = batch_jac(program, return_value=True, **keywords)(weights, x)
    torch.testing.assert_close(found, truth)
    torch.testing.assert_close(value, program(weights, x))
    if value.shape == x.shape:
        diagonal = truth.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(diag_jac(program, **keywords)(weights, x), diagonal)
        torch.testing.assert_close(divergence(program, **keywords)(weights, x), diagonal.sum(1))


@thorough
@given(programs, options)
def test_second_derivatives_agree_with_reverse_over_reverse(program, keywords):
    weights, x = program.weights(), program.batch()
    truth = dense.hessian_diagonal(lambda x: program(weights, x), x)
    torch.testing.assert_close(hess_diag(program, **keywords)(weights, x), truth)
    torch.testing.assert_close(laplacian(program, **keywords)(weights, x), truth.sum(-1))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_parameter_gradients_do_not_depend_on_the_route(program):
    gradients = []
    for method in ("forward", "reverse"):
        weights = [weight.requires_grad_() for weight in program.weights()]
        for transform in (batch_jac, laplacian):
            loss = transform(program, method=method)(weights, program.batch()).square().sum()
            if loss.requires_grad:
                loss.backward()
        gradients.append([torch.zeros_like(w) if w.grad is None else w.grad for w in weights])
    torch.testing.assert_close(*gradients)

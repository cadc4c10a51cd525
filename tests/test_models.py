"""Models of other packages (PyTorch Geometric, TorchANI, GPyTorch, torchdiffeq) against finite differences, where installed.

The judge is a fourth-order stencil over the model's own outputs or, for second derivatives of an energy, its own forces
(one plain backward).  Everything is float64; no weights are downloaded.  Run with torch-geometric 2.8.1, torchani 2.9.0,
gpytorch 1.15.2 and torchdiffeq 0.2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from differences import INNER, OUTER, stencil
from torch import Tensor, nn

from jacfunc import (
    CoupledSamplesError,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    divergence,
    hess_diag,
    hessian,
    laplacian,
)

Function = Callable[[Tensor], Tensor]

# What TorchANI does without, and what GPyTorch says of the outliers that samples are replaced by.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The extensions", "A not p.d.")]
REASON = "the package is not installed; tests/networks.py has models of plain torch"
FIRST = 1e-9
"""The error of first differences beside the largest number: rounding over a step of 1e-3 is 1e-12, truncation less."""
SECOND, STEP = 1e-7, 4e-3
"""Of second differences of the outputs: rounding over the square of this step is 1e-11, truncation 1e-9."""
TRAINED = 1e-6
"""Of differences by parameters, of numbers that are differences themselves: 1e-12 over a step of 2e-3, beside a slope
that is less than the loss."""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Models are made in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@torch.no_grad()
def slopes(f: Function, x: Tensor, step: float = INNER, twice: bool = False) -> Tensor:
    """``(*y, *x)``: the first derivatives of all outputs by each coordinate, or the second."""

    def along(place: Tensor) -> Tensor:
        once = lambda h: f(x + h * place).detach()
        return stencil((lambda k: stencil(lambda h: once(h + k), step)) if twice else once, step)

    found = torch.stack([along(place.reshape(x.shape)) for place in torch.eye(x.numel())], -1)
    return found.reshape(*found.shape[:-1], *x.shape)


def force_slopes(energies: Function, x: Tensor, step: float = INNER) -> Tensor:
    """``(*x, *x)``: the second derivatives of the energies' sum, by its gradient as everyone computes it."""
    return slopes(lambda x: torch.autograd.functional.jacobian(lambda x: energies(x).sum(), x), x, step)


def of_own(dense: Tensor) -> Tensor:
    """``(N, *O, d)`` of ``(N, *O, N, d)``: each sample's outputs by its own input."""
    return torch.stack([entry.select(-2, sample) for sample, entry in enumerate(dense)])


def main_diagonal(jacobians: Tensor) -> Tensor:
    return jacobians.diagonal(dim1=1, dim2=2)


def compare(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """The same but for so much beside the largest number."""
    assert found.shape == wanted.shape
    size = float(wanted.abs().max())
    assert size > 1e-3  # or nothing is compared
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * size)


def compare_by_parameters(found: Tensor, loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> None:
    """The gradient of ``found`` along a random direction, against differences of ``loss``, which shares no formula."""
    here = nn.utils.parameters_to_vector(parameters).detach()
    way = nn.functional.normalize(torch.randn_like(here), dim=0)
    gradients = torch.autograd.grad(found, parameters, materialize_grads=True)

    def moved(h: float) -> Tensor:
        nn.utils.vector_to_parameters(here + h * way, parameters)
        return loss().detach()

    compare(nn.utils.parameters_to_vector(gradients) @ way, stencil(moved, OUTER), TRAINED)


# ---------------------------------------------------------------- graphs

SIZES = [3, 5, 1, 4]
LARGEST = max(SIZES)
BATCH = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
ROWS = torch.arange(len(BATCH)).split(SIZES)  # of each graph
PAIRS = torch.cartesian_prod(torch.arange(len(BATCH)), torch.arange(len(BATCH))).T
APART = (PAIRS[0] - PAIRS[1]).abs()
EDGES = PAIRS[:, (BATCH[PAIRS[0]] == BATCH[PAIRS[1]]) & ((APART == 1) | (APART == 2))]
"""``(2, E)``: pairs within a graph, of the large ones not all."""


def padded(dense: Tensor) -> Tensor:
    """``(R, *O, M, d)`` of ``(R, *O, R, d)``: the rows of the own graph, then zeros up to the largest one's number."""
    own = [dense[rows].index_select(-2, rows) for rows in ROWS]
    return torch.cat([nn.functional.pad(rows, [0, 0, 0, LARGEST - rows.shape[-2]]) for rows in own])


def blocks(curvature: Tensor) -> Tensor:
    """``(G, M, d, M, d)`` of ``(R, d, R, d)``, with zeros in the same places."""
    own = [curvature[rows][:, :, rows] for rows in ROWS]
    return torch.stack([nn.functional.pad(each, 2 * [0, 0, 0, LARGEST - len(each)]) for each in own])


def of_graphs(rows: Tensor) -> Tensor:
    """``(G,)`` of ``(R,)``: the sums."""
    return torch.stack([own.sum() for own in rows.split(SIZES)])


def convolutions(name: str, pool: str | None = None, index: Tensor = EDGES) -> Function:
    """Node features ``(R, 3)`` to ``(R, 3)``, or ``(G, 3)`` if pooled."""
    geometric = pytest.importorskip("torch_geometric.nn", reason=REASON)
    one, two = (getattr(geometric, name)(*widths).eval() for widths in ((3, 6), (6, 3)))
    pooled = getattr(geometric, pool) if pool else lambda nodes, _: nodes
    return lambda x: pooled(two(torch.tanh(one(x, index)), index), BATCH)


def equivariant() -> tuple[Callable[..., tuple[Tensor, Tensor]], nn.Module]:
    """Positions to energies of graphs and to new positions, by E(n)-equivariant layers: PyTorch Geometric has none."""
    geometric = pytest.importorskip("torch_geometric.nn", reason=REASON)
    width = 6

    class Equivariant(geometric.MessagePassing):
        def __init__(self) -> None:
            super().__init__(aggr="add")
            self.message_net = nn.Sequential(nn.Linear(2 * width + 1, width), nn.SiLU(), nn.Linear(width, width))
            self.coordinate_net = nn.Sequential(nn.SiLU(), nn.Linear(width, 1))
            self.node_net = nn.Linear(2 * width, width)

        def forward(self, h: Tensor, pos: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
            news, shift = self.propagate(edge_index, h=h, pos=pos).split([width, 3], 1)
            return h + torch.tanh(self.node_net(torch.cat([h, news], 1))), pos + shift

        def message(self, h_i: Tensor, h_j: Tensor, pos_i: Tensor, pos_j: Tensor) -> Tensor:
            away = pos_i - pos_j
            squared = away.square().sum(1, keepdim=True)
            message = self.message_net(torch.cat([h_i, h_j, squared], 1))
            return torch.cat([message, away * self.coordinate_net(message) / (1 + squared)], 1)

    net = nn.ModuleList([nn.Embedding(10, width), nn.Linear(width, 1), Equivariant(), Equivariant()])

    def forward(z: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        embedding, readout, *layers = net
        h = embedding(z)
        for layer in layers:
            h, pos = layer(h, pos, EDGES)
        return geometric.global_add_pool(readout(h), BATCH)[:, 0], pos

    return forward, net


def schnet() -> tuple[Callable[..., tuple[Tensor, Any]], nn.Module]:
    """Positions to energies, with given neighbours: SchNet's own need torch-cluster."""
    geometric = pytest.importorskip("torch_geometric.nn", reason=REASON)
    sizes = {"hidden_channels": 8, "num_filters": 8, "num_interactions": 2, "num_gaussians": 8}
    given = lambda pos, _: (EDGES, (pos[EDGES[0]] - pos[EDGES[1]]).norm(dim=-1))
    net = geometric.SchNet(**sizes, interaction_graph=given).double()
    return lambda z, pos: (net(z, pos, BATCH)[:, 0], None), net


def energies(network: Callable[[], Any]) -> tuple[Function, Tensor, nn.Module]:
    """Positions ``(R, 3)`` to energies ``(G,)``."""
    both, net = network()
    z, pos = torch.randint(1, 9, (len(BATCH),)), 1.5 * torch.randn(len(BATCH), 3)
    return lambda pos: both(z, pos)[0], pos, net


CONVOLUTIONS = pytest.mark.parametrize("name", ["GCNConv", "GATConv"])
POOLS = pytest.mark.parametrize("pool", [None, "global_add_pool", "global_mean_pool"])
ENERGIES = pytest.mark.parametrize("network", [equivariant, schnet])


@POOLS
@CONVOLUTIONS
def test_a_batch_of_graphs_as_one_sample(name: str, pool: str | None) -> None:
    f, x = convolutions(name, pool), torch.randn(len(BATCH), 3)
    seconds = slopes(f, x, STEP, twice=True)
    compare(batch_jac(f, batch_dims=0)(x), slopes(f, x), FIRST)
    compare(hess_diag(f, batch_dims=0)(x), seconds, SECOND)
    compare(laplacian(f, batch_dims=0)(x), seconds.sum((-2, -1)), SECOND)


@POOLS
@CONVOLUTIONS
def test_graphs_and_their_nodes(name: str, pool: str | None) -> None:
    f, x = convolutions(name, pool), torch.randn(len(BATCH), 3)
    firsts, seconds = slopes(f, x), slopes(f, x, STEP, twice=True)
    own = (lambda dense: of_own(dense[BATCH])) if pool else padded
    compare(batch_jac(f, segments=BATCH)(x), own(firsts), FIRST)
    compare(hess_diag(f, segments=BATCH)(x), own(seconds), SECOND)
    compare(laplacian(f, segments=BATCH)(x), seconds.sum((-2, -1)), SECOND)
    if pool:
        compare(diag_jac(lambda x: f(x).sum(1), segments=BATCH)(x), own(firsts.sum(1)), FIRST)
    else:
        diagonal = main_diagonal(of_own(firsts))
        compare(diag_jac(f, segments=BATCH)(x), diagonal, FIRST)
        compare(divergence(f, segments=BATCH)(x), of_graphs(diagonal.sum(1)), FIRST)


@ENERGIES
def test_energies_of_graphs(network: Any) -> None:
    f, pos, _ = energies(network)
    curvature = force_slopes(f, pos)
    squares = main_diagonal(of_own(curvature))
    compare(diag_jac(f, segments=BATCH)(pos), of_own(slopes(f, pos)[BATCH]), FIRST)
    compare(hess_diag(f, segments=BATCH)(pos), squares, FIRST)
    compare(laplacian(f, segments=BATCH)(pos), of_graphs(squares.sum(1)), FIRST)
    compare(hessian(f, segments=BATCH)(pos), blocks(curvature), FIRST)


def test_new_positions_of_graphs() -> None:
    (both, _), z, pos = equivariant(), torch.randint(1, 9, (len(BATCH),)), torch.randn(len(BATCH), 3)
    f = lambda pos: both(z, pos)[1]
    firsts = slopes(f, pos)
    traces = main_diagonal(of_own(firsts)).sum(1)
    compare(divergence(f, batch_dims=0)(pos), traces.sum(), FIRST)
    compare(divergence(f, segments=BATCH)(pos), of_graphs(traces), FIRST)
    compare(batch_jac(f, segments=BATCH)(pos), padded(firsts), FIRST)


@ENERGIES
def test_an_energy_trained_by_forces_and_curvature(network: Any) -> None:
    f, pos, net = energies(network)

    def wanted() -> Tensor:
        traces = of_graphs(main_diagonal(of_own(force_slopes(f, pos))).sum(1))
        return slopes(lambda pos: f(pos).sum(), pos).square().sum() + traces.square().sum()

    found = diag_jac(f, segments=BATCH)(pos).square().sum() + laplacian(f, segments=BATCH)(pos).square().sum()
    compare_by_parameters(found, wanted, list(net.parameters()))


def test_graphs_that_an_edge_joins_are_refused() -> None:
    joined = torch.cat([EDGES, torch.tensor([[0], [4]])], 1)
    f, x = convolutions("GCNConv", index=joined), torch.randn(len(BATCH), 3)
    with pytest.raises(CoupledSamplesError):
        laplacian(f, segments=BATCH)(x)


# ---------------------------------------------------------------- molecules

SPECIES = torch.tensor([[8, 1, 1, -1], [6, 8, 1, 1], [6, 8, -1, -1]])
CLOSE, ROUNDED = 1e-6, 1e-7
"""A step that crosses no kink, as the second derivative of CELU jumps; and what rounding over it is, at most."""


def molecules(kind: str) -> tuple[Function, Tensor, nn.Module]:
    """Coordinates ``(N, A, 3)`` to energies ``(N,)``, as in ANI-1x or by what its builder takes today."""
    simple_ani = pytest.importorskip("torchani.arch", reason=REASON).simple_ani
    few = {"radial_shifts": 4, "angular_shifts": 2, "sections": 2}
    broad = {"radial_precision": 4.0, "angular_precision": 3.0, "angular_zeta": 4.0}
    other = {"activation": "celu", "repulsion": False, "cutoff_fn": "cosine"} if kind == "ANI-1x" else {}
    model = simple_ani(("H", "C", "O"), "wb97x-631gd", self_energies="zero", **few, **broad, **other).double()
    x = 1.1 * torch.eye(4, 3) + 0.1 * torch.randn(3, 4, 3)
    return lambda x: model((SPECIES, x)).energies, x, model


@pytest.mark.parametrize("kind", ["ANI-1x", "today"])
def test_molecules_with_padding(kind: str) -> None:
    f, x, _ = molecules(kind)
    gradients = diag_jac(f)(x)
    compare(gradients, slopes(lambda x: f(x).sum(), x, CLOSE), ROUNDED)
    assert not gradients[SPECIES < 0].any()
    curvature = torch.stack([of_one[:, :, n] for n, of_one in enumerate(force_slopes(f, x, CLOSE))])
    squares = main_diagonal(curvature.flatten(3).flatten(1, 2))
    compare(hessian(f)(x), curvature, ROUNDED)
    compare(hess_diag(f)(x), squares.reshape(x.shape), ROUNDED)
    compare(laplacian(f)(x), squares.sum(1), ROUNDED)


def test_a_potential_trained_by_forces() -> None:
    f, x, model = molecules("today")
    forces = torch.randn_like(x)
    wanted = lambda: (slopes(lambda x: f(x).sum(), x) + forces).square().sum()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    compare_by_parameters((diag_jac(f)(x) + forces).square().sum(), wanted, weights)


# ---------------------------------------------------------------- Gaussian processes

ROUNDING = {"check_tolerance": 1e-9}
"""A variance is the small difference of numbers about 1, and a Matern kernel subtracts the mean of the batch."""
KERNELS = pytest.mark.parametrize("kernel", ["rbf", "matern"])


def process(kernel: str) -> tuple[Any, Tensor]:
    """A posterior over two inputs, and where it was observed."""
    gpytorch = pytest.importorskip("gpytorch", reason=REASON)

    class Process(gpytorch.models.ExactGP):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean_module = gpytorch.means.ConstantMean()
            made = gpytorch.kernels.RBFKernel() if kernel == "rbf" else gpytorch.kernels.MaternKernel(nu=2.5)
            self.covar_module = gpytorch.kernels.ScaleKernel(made)

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    x = 2 * torch.rand(12, 2)
    model = Process(x, torch.sin(3 * x[:, 0]) + x[:, 1] ** 2).eval()
    model.likelihood.noise = 0.01
    model.covar_module.base_kernel.lengthscale = 0.8
    return model, x


@pytest.mark.parametrize("at_data", [False, True])
@pytest.mark.parametrize("output", ["mean", "variance"])
@KERNELS
def test_a_posterior(kernel: str, output: str, at_data: bool) -> None:
    model, observed = process(kernel)
    x = observed[:5].clone() if at_data else 2 * torch.rand(5, 2)
    f = lambda x: getattr(model(x), output)
    compare(diag_jac(f, **ROUNDING)(x), of_own(slopes(f, x)), FIRST)
    if at_data and kernel == "matern":  # torch has none there, and jets, which do, do not pass through GPyTorch
        with pytest.raises(UnsupportedOperationError, match="cdist where it is zero"):
            laplacian(f, **ROUNDING)(x)
        return
    curvature = of_own(force_slopes(f, x))
    compare(hessian(f, **ROUNDING)(x), curvature, FIRST)
    compare(hess_diag(f, **ROUNDING)(x), main_diagonal(curvature), FIRST)
    compare(laplacian(f, **ROUNDING)(x), main_diagonal(curvature).sum(1), FIRST)


@KERNELS
def test_hyperparameters_by_the_slope_of_a_posterior(kernel: str) -> None:
    gpytorch = pytest.importorskip("gpytorch", reason=REASON)
    model, _ = process(kernel)
    x, f = 2 * torch.rand(5, 2), lambda x: model(x).mean
    anew = lambda x: model.train().eval()(x).mean  # without what it keeps of its data
    with gpytorch.settings.detach_test_caches(False):
        f(x)  # which it keeps as the first call computes it: with a graph here
        found = diag_jac(f, **ROUNDING)(x).square().sum()
        compare_by_parameters(found, lambda: of_own(slopes(anew, x)).square().sum(), list(model.parameters()))


# ---------------------------------------------------------------- flow maps

FIXED = 1e-7
"""Of the derivative with the steps as they are, while differences move them too: by the tolerance below, 5e-9."""
SOLVERS = pytest.mark.parametrize(
    ("method", "how", "tolerated", "error"),
    [
        pytest.param("rk4", {"options": {"step_size": 0.1}}, {}, FIRST, id="rk4"),
        pytest.param("dopri5", {"rtol": 1e-10, "atol": 1e-11}, {"check_tolerance": 1e-4}, FIXED, id="dopri5"),
    ],
)


def flow(method: str, **how: Any) -> tuple[Function, Tensor, nn.Module]:
    """``(N, 2)`` at time 0 to ``(N, 2)`` at time 1."""
    torchdiffeq = pytest.importorskip("torchdiffeq", reason=REASON)
    net, times = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 2)), torch.tensor([0.0, 1.0])
    field = lambda t, x: net(torch.cat([x, t.expand(len(x), 1)], 1))
    return lambda x: torchdiffeq.odeint(field, x, times, method=method, **how)[-1], torch.randn(16, 2), net


def jacobians(f: Function, x: Tensor) -> Tensor:
    """``(N, 2, 2)``, all samples moved at once."""
    return torch.stack([stencil(lambda h, way=way: f(x + h * way), INNER) for way in torch.eye(2)], -1).detach()


@SOLVERS
def test_flow_maps(method: str, how: Any, tolerated: Any, error: float) -> None:
    f, x, _ = flow(method, **how)
    wanted = jacobians(f, x)
    compare(batch_jac(f, **tolerated)(x), wanted, error)
    compare(diag_jac(f, **tolerated)(x), main_diagonal(wanted), error)
    compare(divergence(f, **tolerated)(x), main_diagonal(wanted).sum(1), error)


@SOLVERS
def test_a_field_trained_by_the_divergence_of_its_flow(method: str, how: Any, tolerated: Any, error: float) -> None:
    f, x, net = flow(method, **how)
    found = divergence(f, **tolerated)(x).square().sum()
    compare_by_parameters(found, lambda: main_diagonal(jacobians(f, x)).sum(1).square().sum(), list(net.parameters()))


def test_adaptive_steps_are_refused_without_a_tolerance() -> None:
    f, x, _ = flow("dopri5", rtol=1e-6, atol=1e-7)
    with pytest.raises(CoupledSamplesError, match="adaptive ODE solver"):
        batch_jac(f)(x)

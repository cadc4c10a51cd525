"""Digits of exchanged operations where torch loses them: derivatives up to the fourth, beside closed forms.

What is true was computed with mpmath 1.4.1 in sixty digits (``mpmath.diff``).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from jacfunc import diag_jac, hess_diag, laplacian, partials

DOUBLE = torch.float64
METHODS = ["auto", *(pytest.param(method, marks=pytest.mark.slow) for method in ("taylor", "forward", "reverse"))]
BOTH = ["auto", "reverse", *METHODS[1:3]]
NAMES = "u_x u_xx u_xxx u_xxxx"
ATEN = torch.ops.aten
special = torch.special


def derivatives(f, points, method, dtype=DOUBLE):
    """The first four derivatives, a row for each point."""
    x = torch.tensor(points, dtype=dtype)[:, None]
    found = partials(f, NAMES, inputs="x", outputs="u", method=method)(x)
    return torch.stack([*found], 1)


def by_torch(f, points):
    """The same by torch's own reverse mode."""
    x, found = torch.tensor(points, dtype=DOUBLE), []
    for _ in range(4):
        f = grad(f)
        found.append(vmap(f)(x))
    return torch.stack(found, 1)


TRUE = {
    "log_ndtr": (special.log_ndtr, {
        -100.0: [100.00999800099926, -0.9999000599500517, 1.997602995862343e-06, 5.988020962773754e-08],
        -40.0: [40.02496884720726, -0.9993773316214086, 3.101744039648625e-05, 2.314770043891807e-06],
        -20.0: [20.04975306852785, -0.9975367383849478, 0.00024272657893584202, 3.570355158845659e-05],
        -10.0: [10.098093233962512, -0.9905546221743438, 0.0017864003921165069, 0.0004978538223794402],
        -5.0: [5.186503967125842, -0.9673035653828878, 0.0108257645063567, 0.0050878369738874465],
        -1.0: [1.525135276160981, -0.8009023344296512, 0.11693119540604884, 0.07917498368074563],
        2.0: [0.055247862678989956, -0.11354805168857644, 0.1843948150324776, -0.1878546856116097],
    }),
    "erfcx": (special.erfcx, {
        -1.0: [-11.14633932862008, 32.31063881876472, -109.20663495200976, 412.2771028166079],
        2.5: [-0.07434734678979467, 0.04987599417331381, -0.048009416292609644, 0.05920888357683463],
        4.0: [-0.032383506095021455, 0.014930866489951141, -0.010087092460476687, 0.008888459255893355],
        20.0: [-0.0014052174534598012, 0.00013999934371059262, -2.0896065415499418e-05, 4.15344564357909e-06],
        50.0: [-0.00022554056313532387, 9.016217115157223e-06, -5.405410255732525e-07, 4.3200133618082703e-08],
        200.0: [-1.4104210694014423e-05, 1.4103681832387135e-07, -2.115446509142475e-09, 4.2306286238238106e-11],
        10000.0: [-5.641895750849127e-09, 1.1283791332441388e-12, -3.3851373320296714e-16, 1.354054898960497e-19],
    }),
    "i0e": (special.i0e, {
        1e-08: [-0.9999999850000001, 1.4999999750000002, -2.4999999562500004, 4.374999921250001],
        0.25: [-0.6929045334423511, 0.9933585520952293, -1.618731119644079, 2.795064633112522],
        3.0: [-0.046173640864524544, 0.026738377296615472, -0.025128698593116713, 0.030822133618324355],
        40.0: [-0.0007960508007932696, 3.004587472548751e-05, -1.8902331277541837e-06, 1.6649939940399218e-07],
        10000.0: [-1.9947862106984187e-07, 2.992254131753587e-11, -7.480822382680316e-15, 2.618353307503456e-18],
    }),
    "i1e": (special.i1e, {
        1e-08: [0.4999999900000001, -0.9999999812500002, 1.8749999650000004, -3.499999934375001],
        0.001: [0.49900093691694, -0.9981267489067654, 1.8715032791884771, -3.493443683591705],
        0.25: [0.30045401865287813, -0.6253725675488498, 1.176333513468443, -2.1916274128786606],
        3.0: [-0.01943526356790907, 0.0016096787034987584, 0.00569343502520764, -0.013284681725484493],
        40.0: [-0.000766004926067782, 2.8155641597733327e-05, -1.7237337283501914e-06, 1.4764145801259073e-07],
        10000.0: [-1.9944869852852436e-07, 2.991506049515319e-11, -7.478204029372813e-15, 2.6171750190497645e-18],
    }),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRUE)
def test_derivatives_keep_their_digits(name, method):
    f, points = TRUE[name]
    truth = torch.tensor([*points.values()], dtype=DOUBLE)
    found = derivatives(f, [*points], method)
    assert ((found - truth) / truth).abs().max() < 1e-9


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", TRUE)
def test_torch_still_loses_them(name):
    f, points = TRUE[name]
    truth = torch.tensor([*points.values()], dtype=DOUBLE)
    lost = ((by_torch(f, [*points]) - truth) / truth).abs().max()
    assert lost > 1e-4, f"torch {torch.__version__} keeps the digits of {name}: its entry can go"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRUE)
def test_gradients_of_these_by_a_parameter(name, method):
    """Of ``g(p x)``: the derivative of ``sum p^2 g''(p x)`` at ``p = 1`` is ``sum 2 g'' + x g'''``."""
    f, points = TRUE[name]
    truth = torch.tensor([*points.values()], dtype=DOUBLE)
    x, p = torch.tensor([*points], dtype=DOUBLE)[:, None], torch.ones((), dtype=DOUBLE, requires_grad=True)
    found = hess_diag(lambda p, x: f(p * x), method=method)(p, x)
    torch.testing.assert_close(found.flatten(), truth[:, 1], rtol=1e-9, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), p)
    torch.testing.assert_close(slope, (2 * truth[:, 1] + x[:, 0] * truth[:, 2]).sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", TRUE)
def test_single_precision_and_what_is_infinite(name):
    f, points = TRUE[name]
    truth = torch.tensor([*points.values()], dtype=DOUBLE)
    x, held = torch.tensor([*points], dtype=torch.float32)[:, None], torch.tensor([*points], dtype=DOUBLE)
    within = (held == x[:, 0].double()) & (truth[:, 1].abs() > 1e-30)
    found = hess_diag(f)(x).flatten()
    torch.testing.assert_close(found[within].double(), truth[within, 1], rtol=1e-4, atol=0)
    far = torch.tensor([[math.inf], [-math.inf], [1e30], [-1e30]])
    for transform in (diag_jac, hess_diag):
        for method in ("taylor", "reverse"):
            value = transform(f, method=method, return_value=True)(far)[1]
            assert torch.equal(value, f(far))


CELUS = {
    "F": lambda x, a: F.celu(x, a),
    "module": lambda x, a: torch.nn.CELU(a)(x),
    "in place": lambda x, a: F.celu(1.0 * x, a, inplace=True),
    "torch": lambda x, a: torch.celu(x, alpha=a),
    "torch in place": lambda x, a: torch.celu_(x * 1.0, a),
    "aten": lambda x, a: ATEN.celu(x, a),
    "aten in place": lambda x, a: ATEN.celu_.default(x * 1.0, a),
    "elu": lambda x, a: F.elu(x / a, a),
    "selu": lambda x, a: F.selu(x / a) * (a / 1.0507009873554804934 / 1.6732632423543772848),
    "softplus": lambda x, a: F.softplus(x, 1 / a),
}


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("alpha", [0.3, 0.7])
@pytest.mark.parametrize("name", CELUS)
def test_parameters_of_activations_are_in_double_precision(name, alpha, method):
    points = [-1.0, -0.1, -3.0]
    x = torch.tensor(points, dtype=DOUBLE)
    if name == "softplus":
        s = torch.sigmoid(x / alpha)
        c = s * (1 - s)
        truth = torch.stack([s, c / alpha, c * (1 - 2 * s) / alpha**2, c * (1 - 6 * c) / alpha**3], 1)
    else:
        truth = torch.exp(x / alpha)[:, None] * alpha ** -torch.arange(4.0, dtype=DOUBLE)
    found = derivatives(lambda x: CELUS[name](x, alpha), points, method)
    torch.testing.assert_close(found, truth, rtol=1e-13, atol=0)


def test_celu_by_torch_is_off_and_by_taylor_is_taken():
    x = torch.tensor([[-1.0], [-0.1]], dtype=DOUBLE)
    off = by_torch(lambda x: F.celu(x, 0.3), [-1.0, -0.1])[:, :1] - torch.exp(x / 0.3)
    assert off.abs().max() > 1e-9
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        diag_jac(lambda x: F.celu(x, 0.0))(x)


def of_gamma(a, x):
    """The first two derivatives of ``gammainc(a, x)``."""
    density = torch.exp(-x) * x ** (a - 1) / math.gamma(a)
    falling = 0.0 if a == 1 else (a - 1) * x ** (a - 2)
    return density, torch.exp(-x) / math.gamma(a) * (falling - x ** (a - 1))


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("a", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 12.0])
def test_incomplete_gamma_functions_at_zero(a, method):
    x = torch.tensor([0.0, 1e-20, 1e-9, 1e-3, 0.09, 0.11, 2.0], dtype=DOUBLE)[:, None]
    held = torch.full_like(x, a)
    first, second = of_gamma(a, x)
    if (a, method) == (1.0, "forward"):  # torch's forward mode of x^1 at zero
        x, held, first, second = (t[1:] for t in (x, held, first, second))
    for function, sign in ((special.gammainc, 1), (special.gammaincc, -1), (torch.igamma, 1), (torch.igammac, -1)):
        f = lambda x, function=function: function(held.expand(x.shape), x)
        torch.testing.assert_close(diag_jac(f, method=method)(x).reshape(x.shape), sign * first, rtol=1e-9, atol=0)
        torch.testing.assert_close(hess_diag(f, method=method)(x).reshape(x.shape), sign * second, rtol=1e-9, atol=0)


def test_incomplete_gamma_functions_by_the_other_argument_are_refused():
    x = torch.rand(4, 3, dtype=DOUBLE) + 0.2
    for point in (x, x / 10):
        with pytest.raises((RuntimeError, NotImplementedError), match="not implemented|no route"):
            diag_jac(lambda a: special.gammainc(a, point))(x)  # noqa: B023


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gelu_by_tanh_ends(dtype, method):
    points = [13.0, 20.0, 60.0, -13.0, -20.0, -60.0, 1e20, -1e20]
    for f in (lambda x: F.gelu(x, approximate="tanh"), torch.nn.GELU("tanh")):
        found = derivatives(f, points[: 6 if method in ("auto", "taylor") else 8], method, dtype)
        assert torch.equal(found[:, 0], (torch.tensor(points[: len(found)], dtype=dtype) > 0).to(dtype))
        assert found[:, 1:].abs().max() < 1e-20


# -------------------------------------------------------------------- infinite at a zero


def row(method, f, points, dtype=DOUBLE):
    return derivatives(f, points, method, dtype)[:, :3].tolist()


INF = math.inf
SINGULAR = {
    "p log p": (lambda p: torch.xlogy(p, p), 0.0, [-INF, INF, -INF]),
    "p log 2p": (lambda p: torch.special.xlogy(p, 2 * p), 0.0, [-INF, INF, -INF]),
    "-p log p": (lambda p: torch.xlogy(-p, p), 0.0, [INF, -INF, INF]),
    "p^2 log p": (lambda p: torch.xlogy(p * p, p), 0.0, [0.0, -INF, INF]),
    "(p + p^2) log p": (lambda p: torch.xlogy(p + p * p, p), 0.0, [-INF, INF, -INF]),
    "log1p": (lambda p: special.xlog1py(p + 1, p), -1.0, [-INF, INF, -INF]),
    "entr": (special.entr, 0.0, [INF, -INF, INF]),
    "kl_div": (lambda p: F.kl_div(p, p, reduction="none"), 0.0, [-INF, INF, -INF]),
    "a constant factor": (lambda p: torch.xlogy(torch.ones(1, dtype=p.dtype), p), 0.0, [INF, -INF, INF]),
    "x^1.5": (lambda p: p**1.5, 0.0, [0.0, INF, -INF]),
    "norm": (lambda p: torch.linalg.vector_norm(torch.cat([p, p + 1], 1), 1.5, 1, True), 0.0, [1.0, INF, None]),
    "p^(p + 1)": (lambda p: p ** (p + 1), 0.0, [1.0, None, None]),
    "p^(p + 2)": (lambda p: p ** (p + 2), 0.0, [0.0, 2.0, None]),
    "p log p^2": (lambda p: torch.xlogy(p, p * p), 0.0, [-INF, None, None]),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("method", BOTH)
def test_no_derivative_is_finite_that_is_infinite(name, method):
    f, point, truth = SINGULAR[name]
    (found,) = row(method, f, [point])
    for number, true in zip(found, truth, strict=True):
        if true is None or (method in ("forward", "reverse") and number != true):
            assert not math.isfinite(number)
        else:
            assert number == true


def test_beside_a_singular_point_all_is_as_it_was():
    x = torch.tensor([[0.0, 0.3], [0.2, 0.0], [0.5, 2.0]], dtype=DOUBLE)
    entropy = lambda p: torch.xlogy(p, p).sum(1)
    found = hess_diag(entropy)(x)
    torch.testing.assert_close(found, 1 / x, rtol=1e-14, atol=0)
    assert laplacian(entropy)(x).tolist()[:2] == [INF, INF]
    # What does not move has derivatives there: of a constant zero, and of a row that leaves it alone.
    still = lambda p: (
        torch.xlogy(F.relu(p - 3), F.relu(p - 3)).sum(1)
        + torch.linalg.vector_norm(torch.cat([F.relu(p - 3), p + 1], 1), 1.5, 1)
    )
    assert hess_diag(still)(x).isfinite().all() and laplacian(still)(x).isfinite().all()
    w = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    seconds = hess_diag(lambda w, p: torch.xlogy(w * p, w * p).sum(1))(w, x)[2]
    (slope,) = torch.autograd.grad(seconds.sum(), w)
    torch.testing.assert_close(slope, 1 / x[2])

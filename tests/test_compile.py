"""Under torch.compile(fullgraph=True): right values and gradients, one graph for all later batch sizes."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from backends import by_backend
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from jacfunc import (
    ShapeError,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    divergence,
    hess_diag,
    laplacian,
    make_functional,
    partials,
)
from jacfunc.jet.layers import LAYERS as LAYER_TYPES

OLD = torch.__version__ < (2, 12)

TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian]


@pytest.fixture(autouse=True)
def _reset():
    torch._dynamo.reset()


def net(norm: bool = False) -> nn.Module:
    middle = [nn.LayerNorm(8)] if norm else []
    return nn.Sequential(nn.Linear(3, 8), *middle, nn.Tanh(), nn.Linear(8, 3)).double()


SOME = [
    (batch_jac, "taylor", None),
    (diag_jac, "forward", None),
    (diag_jac, "reverse", 2),
    (diag_jac, "taylor", 2),
    (laplacian, "auto", None),
]
BY_ORDER = [pytest.param(batch_jac, marks=pytest.mark.slow), laplacian]
"""Each order; whoever traces second derivatives has traced the first."""
ALL = list(product(TRANSFORMS, ["auto", "taylor", "forward", "reverse"], [None, 2]))


@pytest.mark.parametrize(
    ("transform", "method", "chunk_size"),
    [*SOME, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in SOME)],
)
def test_one_graph_for_three_batch_sizes(transform, method, chunk_size):
    if OLD and transform in (hess_diag, laplacian) and method == "reverse":
        pytest.skip("torch 2.11 asks a BatchedTensor in autograd.grad for its sizes, which are symbolic")
    f, params = make_functional(net())
    derivative = transform(f, method=method, chunk_size=chunk_size)
    counter = CompileCounter()
    compiled = torch.compile(derivative, fullgraph=True, backend=counter)
    try:
        for size in (4, 6, 9):
            x = torch.randn(size, 3, dtype=torch.float64)
            torch.testing.assert_close(compiled(params, x), derivative(params, x))
    except torch._dynamo.exc.Unsupported as error:  # f would be evaluated for each chunk
        assert transform in (hess_diag, laplacian) or method == "taylor"
        assert chunk_size == 2
        assert "export it without chunk_size" in str(error)
        return
    assert counter.frame_count == 2  # the first size, then any size


@pytest.mark.slow  # in every run Inductor compiles in tests/call/test_compiled.py and tests/jet/test_tanh.py
@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_inductor_with_parameter_gradients(transform):
    f, params = make_functional(net(norm=True))
    derivative = transform(f)
    compiled = torch.compile(derivative, fullgraph=True)
    for size in (4, 6, 9):
        x = torch.randn(size, 3, dtype=torch.float64)
        gradients = []
        for call in (compiled, derivative):
            for p in params.values():
                p.grad = None
            found = call(params, x)
            found.square().sum().backward()
            gradients.append([found.detach(), *(p.grad for p in params.values() if p.grad is not None)])
        torch.testing.assert_close(*gradients)


@by_backend("aot_eager")
def test_a_whole_training_loss_compiles(backend):
    module = net()
    f, params = make_functional(module)

    def loss(params, x):
        derivative, value = diag_jac(f, return_value=True)(params, x)
        return (laplacian(f)(params, x) + derivative - value).square().mean()

    x = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend=backend)(params, x), loss(params, x))


def test_trees_modules_and_aux_compile():
    module = net()

    def f(s):
        return {"u": module(s["x"]), "v": s["t"] * s["x"]}, s["x"] + 1

    s = {"x": torch.randn(5, 3, dtype=torch.float64), "t": torch.randn(5, 1, dtype=torch.float64)}
    derivative = batch_jac(f, has_aux=True, return_value=True)
    found = torch.compile(derivative, fullgraph=True, backend="aot_eager")(s)
    torch.testing.assert_close(found, derivative(s))
    x = s["x"]
    torch.testing.assert_close(
        torch.compile(divergence(module), fullgraph=True, backend="aot_eager")(x), divergence(module)(x)
    )


def test_transforms_made_inside_the_compiled_function():
    module = net()
    x = torch.randn(5, 3, dtype=torch.float64)

    def f(x):
        return laplacian(module)(x) + diag_jac(lambda x: module(x))(x)

    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(x), f(x))


NORMS = {"batch norm": lambda: nn.BatchNorm1d(8).eval(), "layer norm": lambda: nn.LayerNorm(8)}
FORMS = ["module", "functional", "made inside"]
QUICK = {("functional", "layer norm"), ("made inside", "batch norm")}


@pytest.mark.parametrize(
    ("form", "layer"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in product(FORMS, NORMS)],
)
def test_one_graph_for_later_batch_sizes_through_norms(layer, form):
    if OLD and form == "made inside":
        pytest.skip("Dynamo of torch 2.11 cannot list a module's __dict__ inside a graph")
    module = nn.Sequential(nn.Linear(3, 8), NORMS[layer](), nn.Tanh(), nn.Linear(8, 3)).double()
    f, params = make_functional(module)

    def made_inside(x):
        f, params = make_functional(module)
        return diag_jac(f)(params, x)

    derivative = {
        "module": diag_jac(module),
        "functional": lambda x: diag_jac(f)(params, x),
        "made inside": made_inside,
    }
    counter = CompileCounter()
    compiled = torch.compile(derivative[form], fullgraph=True, backend=counter)
    for size in (4, 6, 9):
        x = torch.randn(size, 3, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), derivative[form](x))
    assert counter.frame_count == 2


@pytest.mark.slow
@pytest.mark.parametrize("transform", [batch_jac, laplacian])
def test_attention_compiles(transform):
    # Anew for every batch size, as torch.func.vjp of it does (torch.compile fixes the size in its reshapes).
    module = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    compiled = torch.compile(transform(module), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), transform(module)(x))


def bags(x):
    """Six rows of a weight in three bags for every sample."""
    places, starts = torch.tensor([0, 2, 1, 1, 2, 0]), torch.tensor([0, 3, 3])
    rows = [w.reshape(3, 1) for w in x]
    weighted = [F.embedding_bag(places, w, starts, mode="sum", per_sample_weights=w.sin()[places, 0]) for w in rows]
    largest = [F.embedding_bag(places, w, starts, mode="max", padding_idx=1) for w in rows]
    direct = [torch.embedding_bag(w, places, starts, mode=1)[0] for w in rows]
    return torch.stack([(a * b.exp() + c**2)[:, 0] for a, b, c in zip(weighted, largest, direct, strict=True)])


TABLE = {
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid of C": torch._C._nn.hardsigmoid,
    "hardsigmoid in place": lambda x: F.hardsigmoid(x.sin(), inplace=True),
    "hardsigmoid_ of C": lambda x: torch._C._nn.hardsigmoid_(x.sin()),
    "Hardsigmoid": nn.Hardsigmoid(),
    "data of the input": lambda x: x.data.sin(),
    "data": lambda x: x.sin().data,
    "mish": lambda x: torch._C._nn.mish(x + 800),
    "sinc_": lambda x: x.sin().sinc_(),
    "det": lambda x: torch._linalg_det(x[:, :1, None])[0][:, None],
    "bags": bags,
}


@pytest.mark.parametrize(
    "transform",
    [laplacian, pytest.param(lambda f: diag_jac(diag_jac(f)), marks=pytest.mark.slow)],
    ids=["laplacian", "nested"],
)
def test_the_table_holds_when_compiled(transform):
    f = lambda operation: lambda x: x * operation(x)
    x = torch.randn(4, 3, dtype=torch.float64)
    together = transform(lambda x: {name: f(operation)(x) for name, operation in TABLE.items()})
    found = torch.compile(together, fullgraph=True, backend="aot_eager")(x)
    for name, operation in TABLE.items():
        torch.testing.assert_close(
            found[name], transform(f(operation))(x), msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("transform", [laplacian, lambda f: diag_jac(diag_jac(f))], ids=["laplacian", "nested"])
def test_each_of_the_table_holds_when_compiled_alone(name, transform):
    f = transform(lambda x: x * TABLE[name](x))
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x))


def test_gradients_through_a_compiled_hardsigmoid():
    f, params = make_functional(nn.Sequential(nn.Linear(3, 8), nn.Hardsigmoid(), nn.Linear(8, 3)).double())
    x = torch.randn(5, 3, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(call(params, x).square().sum(), params["0.weight"])
        for call in (diag_jac(f), torch.compile(diag_jac(f), fullgraph=True, backend="aot_eager"))
    ]
    torch.testing.assert_close(*gradients)


def test_refusals_of_the_table_hold_when_compiled():
    compiled = torch.compile(laplacian(lambda x: x * x.sin().detach_()), fullgraph=True, backend="eager")
    with pytest.raises((UnsupportedOperationError, torch._dynamo.exc.Unsupported), match="detach_ has no second"):
        compiled(torch.ones(4, 3))


def test_nested_transforms_compile():
    f, params = make_functional(net())
    nested = diag_jac(diag_jac(f))
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(nested, fullgraph=True, backend="aot_eager")(params, x), nested(params, x))


def test_dropout_has_one_mask_when_compiled():
    f = lambda x: nn.functional.dropout(x * 3, 0.5)
    compiled = torch.compile(diag_jac(f, return_value=True), fullgraph=True, backend="aot_eager")
    x = torch.rand(6, 3) + 1
    derivative, value = compiled(x)
    torch.testing.assert_close(derivative, value / x)
    assert 0 < int((value == 0).sum()) < value.numel()


def test_shapes_are_refused_when_compiled():
    with pytest.raises((ShapeError, torch._dynamo.exc.Unsupported), match="batch_jac"):
        torch.compile(diag_jac(lambda x: x[:, :2]), fullgraph=True, backend="eager")(torch.ones(4, 3))


def test_a_compiled_module_is_transformed():
    module = net()
    x = torch.randn(5, 3, dtype=torch.float64)
    compiled = torch.compile(module, backend="aot_eager")
    torch.testing.assert_close(diag_jac(compiled)(x), diag_jac(module)(x))
    f, params = make_functional(compiled)
    torch.testing.assert_close(laplacian(f)(params, x), laplacian(module)(x))
    torch.testing.assert_close(f({name: 2 * p for name, p in params.items()}, x).isfinite().all(), torch.tensor(True))


def test_unsupported_is_no_silent_number_when_chunks_would_draw_anew():
    derivative = hess_diag(lambda x: nn.functional.dropout(x.sin(), 0.5), chunk_size=1, method="forward")
    with pytest.raises((UnsupportedOperationError, torch._dynamo.exc.Unsupported), match="chunk_size"):
        torch.compile(derivative, fullgraph=True, backend="eager")(torch.ones(4, 3))


MADE = {
    nn.LayerNorm: lambda: nn.Sequential(nn.LayerNorm(6), nn.Tanh()),
    nn.Unflatten: lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Tanh(), nn.LayerNorm((2, 3)), nn.Flatten()),
}
LAYERS = sorted(LAYER_TYPES - {nn.Sequential, nn.Linear, nn.Flatten}, key=lambda layer: layer.__name__)


CHAIN = ["all of them", *(pytest.param(layer, marks=pytest.mark.slow) for layer in LAYERS)]


@pytest.mark.parametrize("layer", CHAIN)
@pytest.mark.parametrize("transform", BY_ORDER)
def test_layers_that_jets_are_traced_through(layer, transform):
    made = [MADE.get(each, each)() for each in (LAYERS if layer == "all of them" else [layer])]
    between = [part for each in made for part in (each, nn.Linear(6, 6))][:-1]
    f, params = make_functional(nn.Sequential(nn.Linear(3, 6), *between, nn.Linear(6, 2)).double())
    assert f.of_plain_layers
    x = torch.randn(4, 3, dtype=torch.float64)
    compiled = torch.compile(lambda params, x: transform(f)(params, x), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(params, x), transform(f, method="reverse")(params, x))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.last(torch.tanh(self.one(x)) * torch.sigmoid(self.other(x)))


def scaled(x):
    with torch.no_grad():
        length = x.abs().mul(2).sum(1, keepdim=True)
    return x * length


def padded(x, mode):
    return F.pad(x[:, None], (1, 1), mode)[:, 0]


def image(x):
    return x.reshape(-1, 1, 2, 2)


TRACED = {
    "layer norm": nn.LayerNorm(4),
    "RMS norm": nn.RMSNorm(4),
    "group norm": nn.GroupNorm(1, 4),
    "batch norm": nn.BatchNorm1d(4).eval(),
    "softmax": nn.Softmax(-1),
    "convolution": nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten()),
    "gated": Gated(),
    "from a number": lambda x: 1 - x * x,
    "over a number": lambda x: 1 / (x.exp() + 2),
    "power of a number": lambda x: 2**x,
    "length": lambda x: x / x.norm(dim=1, keepdim=True),
    "normalised": lambda x: F.normalize(x, dim=1),
    "F.tanh": lambda x: F.tanh(x) * F.sigmoid(x),
    "cut": lambda x: torch.cat([part * part for part in x.split(2, dim=1)], 1),
    "cut by torch": lambda x: torch.cat([part.sin() for part in torch.split(x, 2, dim=1)], 1),
    "einsum": lambda x: torch.einsum("ni,nj->nij", x, x).flatten(1),
    "angle": lambda x: F.cosine_similarity(x, torch.arange(4.0, dtype=x.dtype)[None] + x.sin(), dim=1)[:, None],
    "in place": lambda x: x.clone().add_(x * x),
    "constant under no_grad": scaled,
    "layer norm by F": lambda x: F.layer_norm(x, (4,)),
    **{f"padded, {mode}": partial(padded, mode=mode) for mode in ("constant", "reflect", "replicate", "circular")},
    "resampled": lambda x: F.interpolate(x[:, None], scale_factor=2.0)[:, 0],
    "interpolated": lambda x: F.interpolate(image(x), scale_factor=2.0, mode="bilinear").flatten(1),
    "pooled": lambda x: F.adaptive_avg_pool2d(image(x), (1, 2)).flatten(1),
    "unfolded": lambda x: F.unfold(image(x), (1, 2)).flatten(1),
    "half gated": lambda x: F.glu(x.repeat(1, 2)),
    "squared error": lambda x: F.mse_loss(x, x.sin(), reduction="none"),
    "cross entropy": lambda x: F.cross_entropy(x, torch.arange(5) % 4, reduction="none")[:, None],
    "responses": lambda x: F.local_response_norm(image(x), 2).flatten(1),
}


def traced(name):
    torch.manual_seed(0)
    function = TRACED[name].double() if isinstance(TRACED[name], nn.Module) else TRACED[name]
    return lambda x: torch.tanh(function(x))


@pytest.mark.parametrize("transform", BY_ORDER)
def test_operations_are_traced_on_the_taylor_route(transform):
    """All in one graph, as most of a compilation is what they share."""
    functions = {name: traced(name) for name in TRACED}
    x = torch.rand(5, 4, dtype=torch.float64) + 0.5
    together = transform(lambda x: {name: f(x) for name, f in functions.items()}, method="taylor")
    found = torch.compile(together, fullgraph=True, backend="eager")(x)
    for name, f in functions.items():
        torch.testing.assert_close(
            found[name], transform(f, method="reverse")(x), msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("transform", [batch_jac, laplacian])
def test_each_operation_is_traced_alone(name, transform):
    f = traced(name)
    x = torch.rand(5, 4, dtype=torch.float64) + 0.5
    compiled = torch.compile(transform(f, method="taylor"), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), transform(f, method="reverse")(x))


@pytest.mark.parametrize("transform", BY_ORDER)
def test_a_convolution_is_traced_on_the_route_that_is_chosen(transform):
    f = traced("convolution")
    x = torch.rand(5, 4, dtype=torch.float64) + 0.5
    compiled = torch.compile(transform(f), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), transform(f, method="reverse")(x))


def test_a_matrix_product_whose_operands_dynamo_exchanges_is_refused():
    x, weight = torch.rand(4, 4, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64)
    true = batch_jac(lambda x: x.tanh() @ weight, method="reverse")(x)
    with pytest.raises(Exception, match="Observed exception|write torch.matmul"):
        torch.compile(batch_jac(lambda x: x.tanh() @ weight, method="taylor"), fullgraph=True, backend="eager")(x)
    for f, keywords in [
        (lambda x: torch.matmul(x.tanh(), weight), {"method": "taylor"}),
        (lambda x: x.tanh().matmul(weight), {"method": "taylor"}),
        (lambda x: x.tanh() @ weight, {}),
    ]:
        compiled = torch.compile(batch_jac(f, **keywords), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), true)
    torch.testing.assert_close(batch_jac(lambda x: x.tanh() @ weight, compile=True)(x), true)


def test_other_functions_are_compiled_on_other_routes():
    x = torch.randn(4, 3, dtype=torch.float64)
    f = lambda x: F.glu(torch.cat([x, x], 1), 1)  # which Dynamo takes no jet through
    compiled = torch.compile(diag_jac(f), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), diag_jac(f, method="reverse")(x))


def test_first_partials_in_chunks():
    f, params = make_functional(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double())
    first = partials(f, "u u_t u_x", inputs="t x", outputs="u", chunk_size=1)
    tx = torch.randn(5, 2, dtype=torch.float64)
    compiled = torch.compile(lambda params, tx: tuple(first(params, tx)), fullgraph=True, backend="eager")
    for got, want in zip(compiled(params, tx), first(params, tx), strict=True):
        torch.testing.assert_close(got, want)
    second = partials(f, "u_tt u_xx", inputs="t x", outputs="u", chunk_size=1)
    with pytest.raises(Exception, match="export it without chunk_size"):
        torch.compile(lambda params, tx: tuple(second(params, tx)), fullgraph=True, backend="eager")(params, tx)

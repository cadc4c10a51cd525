"""``torch.export`` of modules that take derivatives in their forward: saved, loaded, and run on batches of any size."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Residual
from torch import nn

from jacfunc import (
    CoupledSamplesError,
    UnsupportedOperationError,
    batch_jac,
    biharmonic,
    diag_jac,
    divergence,
    hess_diag,
    laplacian,
    make_functional,
    partials,
    residual,
)

SIZES = (7, 2, 1, 13)
ANY = torch.export.Dim("n")  # by name, which refuses what DYNAMIC would let pass: any guard on the size


@pytest.fixture(autouse=True)
def _double() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Holding(nn.Module):
    """A module whose forward is a function of its network and its arguments."""

    def __init__(self, net: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        return self.function(self.net, x) if y is None else self.function(self.net, x, y)


class Ready(nn.Module):
    """A module that makes its transform when it is made."""

    def __init__(self, net: nn.Module, made: Callable[[nn.Module], Callable[..., Any]], named: bool = False) -> None:
        super().__init__()
        self.net, self.derivative, self.named = net, made(net), named

    def forward(self, x: torch.Tensor) -> Any:
        given = (dict(self.net.named_parameters()), x) if self.named else (x,)
        found = self.derivative(*given)
        return found if isinstance(found, torch.Tensor) else tuple(found)


class Sines(nn.Module):
    def __init__(self, inputs: int, outputs: int = 1) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(inputs, 6), nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.sin(3 * self.hidden(x)))


class Normed(nn.Module):
    """A block with LayerNorm, of which torch gets second derivatives wrong, and a way around it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(inputs, 6), nn.LayerNorm(6), nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).tanh()
        return self.last(hidden + nn.functional.gelu(self.norm(hidden)))


class Signals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(1, 3, 3, padding=1), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x[:, None, :]).tanh().flatten(1))


class Beside(nn.Module):
    """The input is used beside its narrow first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.last = nn.Linear(6, 2), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.narrow(x).tanh(), x.sin()], 1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.last = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.gru(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


class Counting(nn.Module):
    """A forward that counts its calls, in place or by another tensor."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(3, 2), in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.calls.add_(1)
        else:
            self.calls = self.calls + 1
        return self.linear(x).sin() * self.calls


class Withheld(nn.Module):
    """What happens under ``no_grad`` is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.linear(x).tanh()
        with torch.no_grad():
            factor = hidden.sin()
        return hidden * factor


def mlp(inputs: int, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, outputs))


def of(transform: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The network and a derivative of a function around it."""
    return lambda net, x: (net(x), transform(lambda x: net(x), **options)(x))


def named(names: str, inputs: str = "t x") -> Callable[..., Any]:
    return lambda net, x: tuple(partials(net, names, inputs=inputs, outputs="u")(x))


def burgers(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    d = partials(net, "u, u_t, u_x, u_xx", inputs="t x", outputs="u")(x)
    return d.u_t + d.u * d.u_x - 0.01 * d.u_xx


def heat(net: nn.Module, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    d = partials(lambda t, x: net(torch.stack([t, x], -1))[:, 0], "u_t, u_xx", inputs="t x", outputs="u")(t, x)
    return d.u_t - d.u_xx


def both(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    return batch_jac(lambda x, y: net(torch.cat([x, y], 1)), argnums=(0, 1))(x, y)


def in_forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    f, params = make_functional(net)
    return divergence(f)(params, x)


def elementwise(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return hess_diag(lambda x: torch.where(x > 0, net(x).exp(), torch.atan(x)).clamp(-5, 5) * (1 - x) / (2 + x * x))(x)


def written(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 0] = net(x)[:, 0]
        y[:, 1] *= 2
        return y.prod(1)

    return laplacian(f)(x)


def functional_diagonal(net: nn.Module) -> Callable[..., Any]:
    return diag_jac(make_functional(net)[0])


def seen_residual(net: nn.Module) -> Callable[..., Any]:
    equation = residual(net, lambda d: d.u_t + d.u * d.u_x - 0.1 * d.u_xx, inputs="t x", outputs="u")
    equation(torch.randn(5, 2))
    return equation


FAST: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "sines, laplacian": (lambda: Holding(Sines(3), of(laplacian)), ((3,),)),
    "a transform of make_functional": (lambda: Ready(mlp(3, 3), functional_diagonal, named=True), ((3,),)),
}
SLOW: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "convolution, batch_jac": (lambda: Holding(Signals(), of(batch_jac)), ((4,),)),
    "burgers": (lambda: Holding(mlp(2), burgers), ((2,),)),
    "mlp, hess_diag": (lambda: Holding(mlp(3, 2), of(hess_diag)), ((3,),)),
    "norm, laplacian": (lambda: Holding(Normed(3, 2), of(laplacian)), ((3,),)),
    "norm, divergence": (lambda: Holding(Normed(3, 3), of(divergence)), ((3,),)),
    "residual block, laplacian": (lambda: Holding(Residual(), of(laplacian)).eval(), ((2, 3, 3),)),
    "convolution, hess_diag": (lambda: Holding(Signals(), of(hess_diag)), ((4,),)),
    "make_functional in the forward": (lambda: Holding(mlp(3, 3), in_forward), ((3,),)),
    "a transform of the module": (lambda: Ready(mlp(3), laplacian), ((3,),)),
    "a residual": (lambda: Ready(mlp(2), seen_residual), ((2,),)),
    "partials of order four": (lambda: Holding(Sines(2), named("u_xxtt, u_ttt")), ((2,),)),
    "sums": (lambda: Holding(mlp(2), named("u_t-0.1*u_xx, u_x")), ((2,),)),
    "separate inputs": (lambda: Holding(mlp(2), heat), ((), ())),
    "two arguments": (lambda: Holding(mlp(5, 2), both), ((3,), (2,))),
    "biharmonic": (lambda: Holding(mlp(2), lambda net, x: biharmonic(net)(x)), ((2,),)),
    "elementwise": (lambda: Holding(mlp(3, 3), elementwise), ((3,),)),
    "written in place": (lambda: Holding(mlp(3), written), ((3,),)),
    "the input beside a narrow layer": (lambda: Holding(Beside(), of(laplacian)), ((6,),)),
    "recurrent": (lambda: Holding(Recurrent(), of(batch_jac)), ((2, 2),)),
    "attention": (lambda: Holding(Attending(), of(laplacian)), ((3, 4),)),
    "attention between layers": (
        lambda: Holding(nn.Sequential(nn.Linear(4, 4), Attending(), nn.Linear(4, 1)), of(diag_jac)),
        ((3, 4),),
    ),
    "broadcast diagonal": (lambda: Holding(nn.Linear(1, 4), of(diag_jac)), ((3, 1),)),
    "an inner no_grad": (lambda: Holding(Withheld(), of(diag_jac)), ((3,),)),
    "blocks of samples of any number": (
        lambda: Holding(mlp(3), of(laplacian, sample_chunk_size="auto")),
        ((3,),),
    ),
}


def arguments(shapes: tuple[tuple[int, ...], ...], count: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(count, *shape) for shape in shapes)


def exported(module: nn.Module, shapes: tuple[tuple[int, ...], ...], **options: Any) -> torch.export.ExportedProgram:
    return torch.export.export(module, arguments(shapes, 7), dynamic_shapes=tuple({0: ANY} for _ in shapes), **options)


def loaded(program: torch.export.ExportedProgram) -> nn.Module:
    kept = io.BytesIO()
    torch.export.save(program, kept)
    kept.seek(0)
    return torch.export.load(kept).module()


def check(module: nn.Module, shapes: tuple[tuple[int, ...], ...], **options: Any) -> torch.export.ExportedProgram:
    """Saved and loaded, the program gives the eager numbers, and the same gradients of parameters."""
    program = exported(module, shapes, **options)
    again = loaded(program)
    for count in SIZES:
        given = arguments(shapes, count)
        torch.testing.assert_close(again(*given), module(*given), rtol=1e-10, atol=1e-12)
    gradients = [gradients_of(part, given) for part in (again, module)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    return program


def gradients_of(module: nn.Module, given: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    parameters = dict(module.named_parameters())
    outputs = module(*given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum(output.square().sum() for output in outputs)
    found = torch.autograd.grad(total, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("name", FAST)
def test_saved_loaded_and_run(name: str) -> None:
    make, shapes = FAST[name]
    program = check(make(), shapes)
    assert "set_grad_enabled" not in str(program.graph)
    assert "jacfunc" not in {getattr(node.target, "namespace", None) for node in program.graph.nodes}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_more_saved_loaded_and_run(name: str) -> None:
    make, shapes = SLOW[name]
    check(make(), shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["norm, laplacian", "mlp, hess_diag", "recurrent"])
def test_where_no_graph_is_recorded(name: str) -> None:
    """Exported under ``no_grad``, the program is the same."""
    make, shapes = SLOW[name]
    with torch.no_grad():
        program = check_values(make(), shapes)
    assert "set_grad_enabled" not in str(program.graph)


def check_values(module: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> torch.export.ExportedProgram:
    program = exported(module, shapes)
    again = loaded(program)
    for count in SIZES:
        given = arguments(shapes, count)
        torch.testing.assert_close(again(*given), module(*given), rtol=1e-10, atol=1e-12)
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sines, laplacian",
        "a transform of make_functional",
        "convolution, batch_jac",
        "norm, laplacian",
        "residual block, laplacian",
        "the input beside a narrow layer",
        "a residual",
    ],
)
def test_strictly(name: str) -> None:
    """By Dynamo, which hands over Python's operators themselves."""
    torch._dynamo.reset()
    make, shapes = (FAST | SLOW)[name]
    check(make(), shapes, strict=True)


@pytest.mark.slow
def test_strictly_partials_made_before() -> None:
    torch._dynamo.reset()
    check(Ready(mlp(2), lambda net: partials(net, "u_t, u_xx", inputs="t x", outputs="u")), ((2,),), strict=True)


@pytest.mark.parametrize("in_place", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_buffer_is_not_written_by_a_derivative(in_place: bool) -> None:
    module = Holding(Counting(in_place), lambda net, x: laplacian(net)(x))
    program = exported(module, ((3,),))
    assert not program.graph_signature.buffers_to_mutate
    again, given = loaded(program), torch.randn(4, 3)
    for _ in range(2):
        torch.testing.assert_close(again(given), module(given), rtol=1e-10, atol=1e-12)
    assert module.net.calls == 0


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


def twice(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return diag_jac(lambda x: laplacian(net)(x).expand(-1, 3))(x)


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "a function of autograd": (lambda net, x: laplacian(lambda x: Doubling.apply(net(x)))(x), "autograd.Function"),
    "a transform inside": (twice, "cannot be exported: .*a transform inside"),
    "another route": (of(laplacian, method="reverse"), "method='reverse' is made of torch.func"),
    "chunks of rows": (of(laplacian, chunk_size=2), "chunk_size makes this derivative evaluate f several times"),
    "blocks of samples": (of(laplacian, sample_chunk_size=3), "sample_chunk_size=3 cuts the batch"),
    "a residual never called": (
        lambda net, x: residual(net, lambda d: d.u_x, inputs="x y z", outputs="u")(x),
        "found out at its first call",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name: str) -> None:
    function, told = REFUSED[name]
    with pytest.raises(UnsupportedOperationError, match=told) as caught:
        exported(Holding(nn.Linear(3, 1), function), ((3,),))
    assert "\n" not in str(caught.value)


def test_coupled_samples_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with pytest.raises(CoupledSamplesError, match="BatchNorm1d '1' .* call .eval"):
        exported(Holding(net, lambda net, x: laplacian(net)(x)), ((3,),))


def test_nothing_is_left_behind() -> None:
    """Where exporting fails, eager calls are what they were."""
    module, x = Holding(mlp(3), of(laplacian)), torch.randn(5, 3)
    before = module(x)
    with pytest.raises(UnsupportedOperationError):
        exported(Holding(module.net, REFUSED["a function of autograd"][0]), ((3,),))
    assert torch.is_grad_enabled()
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)


ONNX_NOT_INSTALLED = "the package is not installed; the same programs run without it"


BY_ONNX = {  # in which precision, and how close
    "sines, laplacian": (torch.float64, 1e-12),
    "burgers": (torch.float64, 1e-8),  # the exporter writes 0.01, a number of Python, in single precision
    "norm, laplacian": (torch.float32, 1e-5),  # whose erf onnxruntime has in single precision only
    "separate inputs": (torch.float64, 1e-12),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_ONNX)
def test_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason=ONNX_NOT_INSTALLED)
    runtime = pytest.importorskip("onnxruntime", reason=ONNX_NOT_INSTALLED)
    make, shapes = (FAST | SLOW)[name]
    dtype, room = BY_ONNX[name]
    module = make().to(dtype)
    dynamic = tuple({0: torch.export.Dim("n")} for _ in shapes)
    example = tuple(x.to(dtype) for x in arguments(shapes, 7))
    program = torch.onnx.export(module, example, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    program.save(tmp_path / "module.onnx")
    session = runtime.InferenceSession(tmp_path / "module.onnx")
    for count in SIZES:
        given = tuple(x.to(dtype) for x in arguments(shapes, count))
        inputs = {place.name: x.numpy() for place, x in zip(session.get_inputs(), given, strict=True)}
        found = [torch.from_numpy(array) for array in session.run(None, inputs)]
        wanted = module(*given)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        torch.testing.assert_close(found, [w.detach() for w in wanted], rtol=room, atol=room)


@pytest.mark.slow
def test_compiled_ahead_of_time(tmp_path: Path) -> None:
    module, x = Holding(Normed(3, 2), of(laplacian)), torch.randn(5, 3)
    program = exported(module, ((3,),))
    package = str(tmp_path / "module.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=package)
    compiled = torch._inductor.aoti_load_package(package)
    for count in SIZES:
        x = torch.randn(count, 3)
        torch.testing.assert_close(list(compiled(x)), [y.detach() for y in module(x)], rtol=1e-9, atol=1e-11)

"""Which samples of PyTorch's databases become functions, and how: ``g(p, x)`` from R^3 (or three samples of it) to R^3."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from jacfunc.jet import Jet
from jacfunc.modules.functional import FunctionalModule

Tensor = torch.Tensor

# Random operations set the seed inside of each call there, which would leave the transforms nothing to replay.
common_methods_invocations.wrapper_set_seed = lambda operation, *args, **kwargs: operation(*args, **kwargs)

SAMPLES = 5
LARGEST = 20_000
"""How many samples of one operation are taken, and the most input elements of one."""
BATCH = 3
WIDTH = 3
LAYOUTS = (("cat", "all"), ("stack", "all"), ("cat", "input"), ("stack", "input"))
"""How three samples may become one call: which way joined, and whether all arguments are or only the first."""


class FilteredError(Exception):
    """The sample says nothing about derivatives; the message is the reason."""


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


# -------------------------------------------------------------------- one sample of an operation


@dataclass
class Template:
    """One sample: its arguments flattened, which of them vary, and the call."""

    name: str
    call: Callable[..., Any]
    leaves: list[Any]
    spec: Any
    varying: list[int]
    scopes: dict[str, set[int]]
    outputs: tuple[int, ...] = ()
    random: bool = False
    dtype: torch.dtype = torch.float64

    def run(self, values: list[Tensor], layout: tuple[str, str] | None = None) -> list[Tensor]:
        """The call with these values in place of the varying leaves, its differentiable outputs."""
        leaves = [self._constant(position, leaf, layout) for position, leaf in enumerate(self.leaves)]
        for position, value in zip(self.varying, values, strict=True):
            leaves[position] = value
        leaves = [self._cast(leaf) for leaf in leaves]
        results = pytree.tree_leaves(self.call(*pytree.tree_unflatten(leaves, self.spec)))
        return [results[index] for index in self.outputs] if self.outputs else results

    def _cast(self, leaf: Any) -> Any:
        return leaf.to(self.dtype) if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 else leaf

    def _constant(self, position: int, leaf: Any, layout: tuple[str, str] | None) -> Any:
        if not isinstance(leaf, Tensor) or position in self.varying:
            return leaf
        if layout is None or position not in self.scopes[layout[1]]:
            return leaf.clone()  # batch_norm and the like write into theirs
        return (torch.cat if layout[0] == "cat" else torch.stack)([leaf] * BATCH)

    @property
    def shapes(self) -> list[torch.Size]:
        return [self.leaves[position].shape for position in self.varying]


def _is_varying(leaf: Any) -> bool:
    return (
        isinstance(leaf, Tensor) and leaf.dtype == torch.float64 and leaf.requires_grad and leaf.layout == torch.strided
    )


def _template(name: str, call: Callable[..., Any], arguments: tuple[Any, ...], inputs: tuple[int, ...]) -> Template:
    """``inputs`` are the arguments that carry samples, of which the first is the one."""
    leaves, spec = pytree.tree_flatten(arguments)
    varying = [position for position, leaf in enumerate(leaves) if _is_varying(leaf)]
    count = sum(leaves[position].numel() for position in varying)
    if not 0 < count <= LARGEST:
        raise FilteredError("no real input that requires a gradient" if count == 0 else "too large")
    spans, start = [], 0
    for argument in arguments:
        stop = start + len(pytree.tree_leaves(argument))
        spans.append(set(range(start, stop)))
        start = stop
    scopes = {"all": set().union(*(spans[index] for index in inputs)), "input": spans[inputs[0]]}
    leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    template = Template(name, call, leaves, spec, varying, scopes)
    _find_outputs(template)
    return template


def _find_outputs(template: Template) -> None:
    seed = seed_of(template.name)
    values = [template.leaves[position].clone() for position in template.varying]
    torch.manual_seed(seed)
    results = template.run([value.requires_grad_() for value in values])
    template.outputs = tuple(
        index
        for index, result in enumerate(results)
        if isinstance(result, Tensor) and result.requires_grad and result.layout == torch.strided and result.numel()
    )
    if not template.outputs:
        raise FilteredError("no output that is differentiable, strided and not empty")
    again = template.run(values)
    torch.manual_seed(seed)
    same = template.run(values)
    first = [results[index] for index in template.outputs]
    if not _equal(first, same):
        raise FilteredError("not a function of its arguments and the random state")
    template.random = not _equal(first, again)


def _equal(these: list[Tensor], those: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(these, those, strict=True))


# -------------------------------------------------------------------- the function of three numbers


def _rows(results: list[Tensor], batch: int) -> Tensor:
    """All outputs of ``batch`` samples as real rows ``(batch, m)``."""
    real = [torch.view_as_real(result.resolve_conj()) if result.is_complex() else result for result in results]
    return torch.cat([result.reshape(batch, -1).double() for result in real], dim=1)


@dataclass
class Case:
    """``g(p, x)`` of one template at one random point, as single samples and, with a layout, as a batch."""

    template: Template
    layout: tuple[str, str] | None
    base: Tensor
    shared: Tensor
    directions: Tensor
    along: Tensor
    projection: Tensor
    x: Tensor
    p: Tensor
    seed: int
    spread: float

    @property
    def batch_dims(self) -> int:
        return 0 if self.layout is None else 1

    @property
    def samples(self) -> int:
        return len(self.x)

    def single(self, sample: int, p: Tensor, x: Tensor) -> Tensor:
        """One sample by itself, as the truth sees it: the random state is set at every call."""
        torch.manual_seed(self.seed)
        return self._one(self.base[sample], p, x)

    def _one(self, base: Tensor, p: Tensor, x: Tensor) -> Tensor:
        vector = base + self.directions @ x + p * self.along
        return self.projection @ _rows(self.template.run(_cut(vector, self.template.shapes)), 1)[0]

    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What the transforms are given."""
        if self.layout is None:
            return lambda p, x: self._one(self.base[0], p, x)
        return self._batched

    def _batched(self, p: Tensor, x: Tensor) -> Tensor:
        assert self.layout is not None
        how, scope = self.layout
        vectors = self.base + x @ self.directions.T + p * self.along
        alone = _cut(self.shared + p * self.along, self.template.shapes)
        joined = _cut(vectors, self.template.shapes)
        joins = [position in self.template.scopes[scope] for position in self.template.varying]
        if how == "cat":
            joined = [value.flatten(0, 1) if join else value for value, join in zip(joined, joins, strict=True)]
        values = [value if join else one for value, one, join in zip(joined, alone, joins, strict=True)]
        return _rows(self.template.run(values, self.layout), BATCH) @ self.projection.T

    @property
    def point(self) -> Tensor:
        """The ``x`` that the function takes."""
        return self.x[0] if self.layout is None else self.x


def _cut(vector: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """The pieces of a vector (of each row), with storages of their own as the operation's inputs have."""
    pieces = vector.split([shape.numel() for shape in shapes], dim=-1)
    return [piece.reshape((*vector.shape[:-1], *shape)).clone() for piece, shape in zip(pieces, shapes, strict=True)]


def make_case(
    template: Template, layout: tuple[str, str] | None, spread: float, attempt: int, folded: bool = False
) -> Case:
    """A random point and directions of size ``spread`` relative to each input's own size; ``folded`` into (0, 1)."""
    seed = seed_of(f"{template.name} {attempt}")
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    leaves = [template.leaves[position] for position in template.varying]
    if folded:
        leaves = [leaf.nan_to_num().abs() / (1 + leaf.nan_to_num().abs()) for leaf in leaves]
    start = torch.cat([leaf.reshape(-1) for leaf in leaves])
    scale = spread * torch.cat([_size(leaf).expand(leaf.numel()) for leaf in leaves])
    samples = 1 if layout is None else BATCH
    own = torch.ones_like(start)
    if layout is not None:
        joins = [position in template.scopes[layout[1]] for position in template.varying]
        own = torch.cat([torch.full((leaf.numel(),), float(j)).double() for leaf, j in zip(leaves, joins, strict=True)])
    base = start + 0.3 * scale * own * normal(samples, len(start))
    directions = (scale * own)[:, None] * normal(len(start), WIDTH)
    along = scale * normal(len(start))
    x, p = 0.3 * normal(samples, WIDTH), torch.tensor(0.1, dtype=torch.float64)
    case = Case(template, layout, base, start, directions, along, torch.empty(0), x, p, seed_of(template.name), spread)
    vectors = _cut(base[0] + directions @ x[0] + p * along, template.shapes)
    torch.manual_seed(case.seed)
    count = _rows(template.run(vectors), 1).shape[1]
    case.projection = normal(WIDTH, count) / count**0.5
    return case


def _size(leaf: Tensor) -> Tensor:
    size = leaf.square().mean().sqrt() if leaf.numel() else leaf.new_zeros(())
    return torch.where((size > 0) & size.isfinite(), size, torch.ones_like(size))


def layout_of(template: Template) -> tuple[str, str] | None:
    """The first way to join samples that keeps them apart, found by trying."""
    if template.random:
        return None
    for layout in LAYOUTS:
        if not any(position in template.scopes[layout[1]] for position in template.varying):
            continue
        # Far apart as well, where a maximum over samples that lie close together shows itself.
        if _keeps_apart(template, layout, 0.05, 1e-12) and _keeps_apart(template, layout, 3.0, 1e-6) is not False:
            return layout
    return None


def _keeps_apart(template: Template, layout: tuple[str, str], spread: float, tolerance: float) -> bool | None:
    """Whether samples give together what they give apart; None where they give nothing, as outside of the domain."""
    try:
        case = make_case(template, layout, spread, 0)
        apart = torch.stack([case.single(n, case.p, case.x[n]) for n in range(BATCH)])
    except Exception:
        return None
    try:
        together = case._batched(case.p, case.x)
    except Exception:
        return False
    if not apart.isfinite().all():
        return None
    return bool((together - apart).abs().max() <= tolerance * apart.abs().max())


# -------------------------------------------------------------------- the databases


@cache
def operations() -> dict[str, Any]:
    """Every entry of both databases by a name that is its own."""
    named: dict[str, Any] = {}
    for entry in (*op_db, *module_db):
        name = _name(entry)
        while name in named:
            name += "'"
        named[name] = entry
    return named


def _name(entry: Any) -> str:
    if hasattr(entry, "module_cls"):
        return f"torch.{entry.name}"
    return f"{entry.name}.{entry.variant_test_name}" if entry.variant_test_name else entry.name


def templates(name: str) -> Iterator[tuple[int, Template | str]]:
    """Up to five samples of an entry, spread over its list, or for one that is filtered the reason."""
    entry = operations()[name]
    torch.manual_seed(seed_of(name))
    if hasattr(entry, "module_cls"):
        samples = list(_module_samples(name, entry))
    else:
        refused = _refused(entry)
        if refused:
            yield -1, refused
            return
        samples = [
            (f"{name} {index}", sample)
            for index, sample in enumerate(entry.sample_inputs("cpu", torch.float64, requires_grad=True))
        ]
    taken, reasons = 0, set()
    for index in _spread(len(samples)):
        if taken == SAMPLES:
            return
        label, sample = samples[index]
        try:
            template = sample() if callable(sample) else _operation(label, entry, sample)
        except FilteredError as reason:
            reasons.add(str(reason))
        except Exception as error:
            reasons.add(f"the sample itself raises {type(error).__name__}: {str(error).splitlines()[:1]}")
        else:
            taken += 1
            yield index, template
    if not taken:
        yield -1, "; ".join(sorted(reasons)) or "no samples"


def _refused(entry: Any) -> str | None:
    if not entry.supports_autograd:
        return "no autograd (supports_autograd=False)"
    if torch.float64 not in entry.supported_dtypes("cpu") or torch.float64 not in entry.supported_backward_dtypes(
        "cpu"
    ):
        return "not in float64 on the CPU"
    return None


def _spread(count: int) -> list[int]:
    """All indices, the evenly spread ones first and the others as their substitutes."""
    first = sorted({round(i * (count - 1) / max(SAMPLES - 1, 1)) for i in range(min(SAMPLES, count))})
    return first + [index for index in range(count) if index not in first][:20]


def _operation(label: str, entry: Any, sample: Any) -> Template:
    operation = entry.get_op()

    def call(input: Any, args: Any, kwargs: Any) -> Any:
        return sample.output_process_fn_grad(entry.gradcheck_wrapper(operation, input, *args, **kwargs))

    return _template(label, call, (sample.input, tuple(sample.args), dict(sample.kwargs)), (0, 1, 2))


def _module_samples(name: str, entry: Any) -> Iterator[tuple[str, Callable[[], Template]]]:
    for training in (True, False) if entry.train_and_eval_differ else (True,):
        inputs = entry.module_inputs_func(entry, "cpu", torch.float64, True, training)
        for index, given in enumerate(inputs):
            if given.forward_input is not None:
                label = f"{name} {'train' if training else 'eval'} {index}"
                yield label, lambda label=label, given=given, training=training: _module(label, entry, given, training)


def _module(label: str, entry: Any, given: Any, training: bool) -> Template:
    made = given.constructor_input
    torch.manual_seed(seed_of(label))
    module = entry.module_cls(*made.args, **made.kwargs).to(torch.float64).train(training)
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters()):
        module(*given.forward_input.args, **given.forward_input.kwargs)  # which gives a lazy module its shapes
    buffers = {key: buffer.detach() for key, buffer in module.named_buffers()}
    parameters = dict(module.named_parameters())

    f = FunctionalModule(module, with_buffers=True)

    def call(first: Any, rest: Any, kwargs: Any, parameters: Any, buffers: Any) -> Any:
        if any(isinstance(parameter, Jet) for parameter in parameters.values()):  # which torch's own does not take
            return f(parameters, buffers, *first, *rest, **kwargs)[0]
        return torch.func.functional_call(module, {**parameters, **buffers}, (*first, *rest), kwargs)

    args = tuple(given.forward_input.args)
    arguments = (args[:1], args[1:], dict(given.forward_input.kwargs), parameters, buffers)
    return _template(label, call, arguments, (0, 1, 2))

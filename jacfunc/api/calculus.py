"""Vector calculus beyond the divergence and the Laplacian: ``curl``, ``biharmonic``, ``directional``.

Each says which entries or mixed derivatives it wants and how its result is built, as the transforms in
``transforms.py`` do; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Unpack, overload

import torch
from torch import Tensor

from ..call.inside import values
from ..call.quantity import EntriesOf, Outcome, PartialsOf, Quantity
from ..call.request import Request, as_function, state_arguments
from ..call.shapes import refuse_curl
from ..core import trees
from ..core.keywords_only import keywords_only
from ..core.levels import tracing
from ..core.reasons import a_type, name_of
from ..core.subclasses import dressed, undressed
from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from ..jet.layout import Terms
from ..jet.multiindices import MultiIndices, index_of
from ..keywords import (
    Alone,
    Aux,
    Both,
    Keywords,
    RowsAlone,
    RowsAux,
    RowsBoth,
    RowsKeywords,
    RowsSeveral,
    RowsValue,
    Value,
)
from ..options import Options
from ..routes.collect import Block
from .calling import Uncalled
from .meshed import meshed, on_own_samples
from .places import in_front
from .results import by_output, per_argument, sizes
from .segments import segmented
from .transform import Network, Result_co, Transform, X, Y, transform_of, with_signature

# -------------------------------------------------------------------- curl


def _curl(request: Request, outcome: Outcome) -> torch.Tensor:
    (jacobian,) = outcome.results.values()  # (*batch, output, input)

    def circulation(i: int, j: int) -> torch.Tensor:
        return jacobian[..., j, i] - jacobian[..., i, j]

    if request.input_shapes[0] == (2,):
        return circulation(0, 1)
    return torch.stack([circulation(1, 2), circulation(2, 0), circulation(0, 1)], -1)


CURL = Quantity("curl", 1, EntriesOf(1, Block), _curl, refuse=refuse_curl)


@overload
def curl(f: Callable[[Tensor], Any], **keywords: Unpack[Alone]) -> Transform[Tensor]: ...
@overload
def curl(f: Callable[..., Any], **keywords: Unpack[Alone]) -> Transform[Tensor]: ...
@overload
def curl(f: Callable[..., Y], **keywords: Unpack[Value]) -> Transform[tuple[Tensor, Y]]: ...
@overload
def curl(f: Callable[..., tuple[Any, X]], **keywords: Unpack[Aux]) -> Transform[tuple[Tensor, X]]: ...
@overload
def curl(f: Callable[..., tuple[Y, X]], **keywords: Unpack[Both]) -> Transform[tuple[Tensor, Y, X]]: ...
@overload
def curl(f: Callable[..., Any], **keywords: Unpack[Keywords]) -> Transform[Any]: ...
@with_signature
def curl(f: Callable[..., Any], **keywords: Unpack[Keywords]) -> Transform[Any]:
    r"""The curl of each sample of a vector field in two or three dimensions.

    .. math:: \nabla \times f = (\partial_1 f_2 - \partial_2 f_1, \; \partial_2 f_0 - \partial_0 f_2, \;
        \partial_0 f_1 - \partial_1 f_0)

    and in two dimensions the last of these alone.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, 3)`` to ``(N, 3)``, or ``(N, 2)`` to ``(N, 2)``.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has shape ``(N, 3)``, or ``(N,)`` in two dimensions, and
        the dtype of ``x``.

    Raises:
        ShapeError: a field of another shape.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import curl
        >>> curl(lambda x: torch.stack([-x[:, 1], x[:, 0]], dim=1))(torch.ones(2, 2))
        tensor([2., 2.])
    """
    return transform_of(CURL, f, keywords)


# -------------------------------------------------------------------- biharmonic


def _coordinates(request: Request, span: slice) -> range:
    """The coordinates of the leaves of one argument."""
    found = sizes(request)
    return range(sum(found[: span.start]), sum(found[: span.stop]))


def _twice_laplacian(request: Request, span: slice) -> Terms:
    """The biharmonic operator over the leaves of one argument, as a combination of fourth derivatives."""
    count = sum(sizes(request))
    places = _coordinates(request, span)
    return tuple([(index_of((i, i, j, j), count), 1.0 if i == j else 2.0) for i in places for j in places if i <= j])


def _fourth_derivatives(request: Request) -> MultiIndices:
    return MultiIndices.around((), [_twice_laplacian(request, argument.span) for argument in request.arguments])


def _biharmonic(request: Request, outcome: Outcome) -> Any:
    wanted = [_twice_laplacian(request, argument.span) for argument in request.arguments]
    return by_output(
        outcome, lambda output: per_argument(request, [outcome.combined(output, terms) for terms in wanted])
    )


def _refuse_empty(request: Request) -> None:
    for argument in request.arguments:
        if not len(_coordinates(request, argument.span)):
            raise ShapeError(
                f"args[{argument.position}] has no coordinate, so there is nothing to differentiate by; pass "
                "one with some"
            )


BIHARMONIC = Quantity("biharmonic", 4, PartialsOf(_fourth_derivatives), _biharmonic, refuse_inputs=_refuse_empty)


@overload
def biharmonic(f: Network, **keywords: Unpack[RowsAlone]) -> Transform[Y]: ...
@overload
def biharmonic(f: Network, **keywords: Unpack[RowsValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def biharmonic(f: Callable[[Tensor], Y], **keywords: Unpack[RowsAlone]) -> Transform[Y]: ...
@overload
def biharmonic(f: Callable[..., Y], **keywords: Unpack[RowsAlone]) -> Transform[Y]: ...
@overload
def biharmonic(f: Callable[..., Y], **keywords: Unpack[RowsValue]) -> Transform[tuple[Y, Y]]: ...
@overload
def biharmonic(f: Callable[..., tuple[Y, X]], **keywords: Unpack[RowsAux]) -> Transform[tuple[Y, X]]: ...
@overload
def biharmonic(f: Callable[..., tuple[Y, X]], **keywords: Unpack[RowsBoth]) -> Transform[tuple[Y, Y, X]]: ...
@overload
def biharmonic(f: Callable[..., Tensor], **keywords: Unpack[RowsSeveral]) -> Transform[tuple[Tensor, ...]]: ...
@overload
def biharmonic(f: Callable[..., Any], **keywords: Unpack[RowsKeywords]) -> Transform[Any]: ...
@with_signature
def biharmonic(
    f: Callable[..., Any], *, segments: torch.Tensor | None = None, **keywords: Unpack[Keywords]
) -> Transform[Any]:
    r"""The biharmonic operator of every output, ``(N, *O)``: the Laplacian of the Laplacian, over the whole input.

    .. math:: \Delta^2 y_{no} = \sum_{ij} \frac{\partial^4 y_{no}}{\partial x_{ni}^2 \, \partial x_{nj}^2}

    It comes from one propagation of ``3 d (d + 1) / 2 + 1`` rows beside the value: the fourth derivatives travel as
    their sum.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, as for
            :func:`diag_jac`, four times differentiable where the result is to mean something.
        segments: for rows of segments, as in :func:`laplacian`.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has shape ``(N, *O)`` and the dtype of ``x``; all leaves
        of one argument are its coordinates, and a tuple ``argnums`` gives a tuple.

    Raises:
        JacfuncError: as :func:`diag_jac`, but that only an input without coordinates is refused for its shape.

    Example:
        >>> import torch
        >>> from jacfunc import biharmonic
        >>> biharmonic(lambda x: x[:, 0] ** 2 * x[:, 1] ** 2)(torch.ones(2, 2))
        tensor([8., 8.])
    """
    return segmented(transform_of(BIHARMONIC, f, keywords), segments)


# -------------------------------------------------------------------- directional


@dataclass(frozen=True, eq=False)
class Along:
    """``f(.., x + s v, ..)`` of the arguments of ``f``, then v and s, one number for each sample."""

    transformed: Callable[..., Any]
    number: int
    batch_dims: int
    added_arguments = 2  # no field

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of ``f`` on the line."""
        own, (direction, s) = list(args[:-2]), args[-2:]
        leaves, structure = trees.flatten(own[self.number])
        along = trees.flatten(direction)[0]
        own[self.number] = structure.build([self._moved(x, v, s) for x, v in zip(leaves, along, strict=True)])
        return self.transformed(*own, **kwargs)

    def _moved(self, x: torch.Tensor, v: torch.Tensor, s: Any) -> Any:
        moved = s.reshape(*s.shape, *(1 for _ in x.shape[self.batch_dims :])) * undressed(v) + undressed(x)
        return dressed(moved, x)

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.number, self.batch_dims, self.transformed)

    def __repr__(self) -> str:
        return name_of(self.transformed)


LAST = "the direction comes last, after all arguments of f"


@dataclass(frozen=True, eq=False)
class Directional(Uncalled, Generic[Result_co]):
    """A function of the arguments of ``f`` and then a direction that returns a derivative along it."""

    transform: Transform[Result_co]
    options: Options

    def __call__(self, *args: Any, **kwargs: Any) -> Result_co:
        """The derivative of ``f`` at its arguments along the direction that comes last."""
        if not tracing() and meshed(args, kwargs):
            place = self._position(list(args[:-1]))
            beside = frozenset([len(args) - 1])
            return on_own_samples(self, self.options, args, kwargs, (place,), beside)  # type: ignore[no-any-return]
        transform, args = self.resolved(args, kwargs)
        return transform(*args, **kwargs)

    @property
    def transformed(self) -> Callable[..., Any]:
        """The function that it is a derivative of."""
        return self.transform.transformed

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.transform,)

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform[Result_co], tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        *own, direction = self._checked(args)
        first = undressed(trees.flatten(own[self._position(own)])[0][0])
        s = first.new_zeros(first.shape[: self.options.batch_dims])
        return self.transform, (*own, direction, s)

    def input_shapes(self, args: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
        """The sample shapes of the argument that the direction belongs to."""
        own = list(args[:-1])
        leaves = trees.flatten(own[self._position(own)])[0]
        return tuple([tuple(leaf.shape[self.options.batch_dims :]) for leaf in leaves])

    def _checked(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments of which the last is a direction for the differentiated one."""
        *own, direction = args if args else (None,)
        position = self._position(own)
        (*own, direction), _ = values(args, {})
        f = self.transform.transformed.transformed  # type: ignore[attr-defined]
        try:
            request = Request(f, self.options, tuple(own), {}, traced=tracing())
        except ArgumentError as error:
            if len(own) > state_arguments(f):
                raise
            raise ArgumentError(
                f"the last of the {len(args)} positional arguments is the direction, so no input is left beside the "
                f"parameters of {f!r}; pass the parameters, the input and then the direction"
            ) from error
        vectors, structure = trees.flatten(direction)
        leaves, own_structure = trees.flatten(own[position])
        if structure != own_structure or not all(isinstance(vector, torch.Tensor) for vector in vectors):
            raise ArgumentTypeError(
                f"the direction, the last argument, is built as {structure!r} and args[{position}] as "
                f"{own_structure!r}; {LAST}, so pass one that is built as args[{position}] there"
            )
        for vector, leaf, path, shape in zip(vectors, leaves, request.input_paths(), request.input_shapes, strict=True):
            if vector.shape not in (leaf.shape, torch.Size(shape)):
                raise ShapeError(
                    f"the direction has shape {tuple(vector.shape)} for {path} of shape {tuple(leaf.shape)}; "
                    "pass one of "
                    f"shape {tuple(shape)} for all samples, or {tuple(leaf.shape)}; {LAST}"
                )
            if vector.dtype != leaf.dtype:
                raise ArgumentTypeError(
                    f"the direction has dtype {vector.dtype} and {path} {leaf.dtype}; convert it with .to({leaf.dtype})"
                )
        return args

    def _position(self, own: list[Any]) -> int:
        number = self.options.numbers[0]
        if not own:
            raise ArgumentError(
                "the last positional argument is the direction, and no other came in; pass those of f before it, and "
                "the direction by position too, as in directional(f)(x, v)"
            )
        position = number + len(own) if number < 0 else number
        if not 0 <= position < len(own):
            raise ArgumentError(
                f"argnums={number} selects nothing among the {len(own)} arguments before the direction; pass the "
                "arguments of f, and then the direction"
            )
        return position

    def __repr__(self) -> str:
        changed = [f"order={self.transform.quantity.order}", *self.options.changed()]
        return f"directional({self.transform.transformed!r}, {', '.join(changed)})"


def _along(request: Request, outcome: Outcome) -> Any:
    ordered = [outcome.results[key] for key in sorted(outcome.results)]
    return outcome.outputs.structure.build(ordered)


@overload
def directional(f: Network, order: int = 1, **keywords: Unpack[Alone]) -> Directional[Y]: ...
@overload
def directional(f: Network, order: int = 1, **keywords: Unpack[Value]) -> Directional[tuple[Y, Y]]: ...
@overload
def directional(f: Callable[..., Y], order: int = 1, **keywords: Unpack[Alone]) -> Directional[Y]: ...
@overload
def directional(f: Callable[..., Y], order: int = 1, **keywords: Unpack[Value]) -> Directional[tuple[Y, Y]]: ...
@overload
def directional(f: Callable[..., tuple[Y, X]], order: int = 1, **keywords: Unpack[Aux]) -> Directional[tuple[Y, X]]: ...
@overload
def directional(
    f: Callable[..., tuple[Y, X]], order: int = 1, **keywords: Unpack[Both]
) -> Directional[tuple[Y, Y, X]]: ...
@overload
def directional(f: Callable[..., Any], order: int = 1, **keywords: Unpack[Keywords]) -> Directional[Any]: ...
@keywords_only
def directional(f: Callable[..., Any], order: int = 1, **keywords: Unpack[Keywords]) -> Directional[Any]:
    r"""The k-th derivative of every output along a direction of the input, ``(N, *O)``.

    .. math:: D_v^k y_{no} = \left. \frac{d^k}{ds^k} f(\theta, x_n + s v_n)_o \right|_{s=0}

    One propagation of k rows beside the value, however many coordinates the input has.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, as for
            :func:`diag_jac`.
        order: k, 1 or more.
        **keywords: those of :func:`diag_jac` but ``sample_chunk_size`` and ``in_dims``; ``argnums`` is an int, and
            counts the arguments before the direction.

    Returns:
        A function of the arguments of ``f`` and then a direction ``v``, of shape ``I``, the same for all samples, or
        ``(N, *I)``, and the dtype of ``x``; a tree where ``x`` is one.  Its result has shape ``(N, *O)`` and the
        dtype of ``x``, in the output's tree.

    Raises:
        ArgumentError: an order below 1.
        ShapeError: a direction of another shape than the input's.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import directional
        >>> x, v = torch.ones(2, 3), torch.tensor([1.0, 0.0, 1.0])
        >>> directional(lambda x: x.square().sum(dim=1), order=2)(x, v)
        tensor([4., 4.])
    """
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        tensor = isinstance(order, torch.Tensor)
        found = f"order is {a_type(order)}, which" if tensor else f"order={order!r}"
        way = "; call what it returns, as in directional(f)(x, v)" if tensor else ""
        raise ArgumentError(f"{found} is not the order of a derivative, 1 or more{way}")
    options = Options.of("directional", keywords)
    if not isinstance(options.argnums, int):
        raise ArgumentError(f"argnums={options.argnums!r} selects several arguments; a direction is that of one")
    if options.sample_chunk_size is not None or options.in_dims is not None:
        raise ArgumentError(
            "directional takes no sample_chunk_size and no in_dims, as the direction may carry samples; leave them out"
        )
    quantity = Quantity("directional", order, PartialsOf(MultiIndices.around([(order,)])), _along, key=order)
    along = Along(in_front(as_function(f), options), options.argnums, options.batch_dims)
    inner = Options.of("directional", {**keywords, "argnums": -1})
    return Directional(Transform(along, quantity, inner), options)

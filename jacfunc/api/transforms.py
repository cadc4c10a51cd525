"""The transforms of one batched pass: each says which entries it wants; what all transforms are.

Arguments are checked in ``request.py``, the route is chosen in ``plan.py``.  A :class:`Transform` is what they
return: a function of the same arguments that ``explain`` can ask about.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, Unpack

import torch

from ..call.compiled import call_compiled
from ..call.entrance import Entrance
from ..call.fast_path import NOTHING, Known, known_call, remember_call
from ..call.independence import probe_now
from ..call.inside import followed
from ..call.plan import Plan
from ..call.quantity import EntriesOf, Quantity
from ..call.refusals import JetsGivenError
from ..call.request import Request, as_function, requested
from ..call.run import run
from ..call.sample_chunks import Blocks, cut_arguments
from ..call.shapes import refuse_unequal_trees, refuse_without_diagonal
from ..core.levels import tracing
from ..core.reasons import name_of
from ..options import Keywords, Options
from ..routes.collect import Block, Diagonal, HessianDiagonal
from .calling import Uncalled, keywords_only
from .places import in_front, put_back
from .results import by_pair, trace

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Transform(Entrance, Uncalled):
    """A function of the same arguments as ``f`` that returns a derivative of it."""

    transformed: Callable[..., Any]
    quantity: Quantity
    options: Options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The derivative of ``f`` at its arguments."""
        traced = tracing()
        if self.options.sample_chunk_size is not None:
            return self._in_blocks(args, kwargs, traced)
        if self.options.compile and not traced:
            return call_compiled(self, args, kwargs)
        if traced:  # which cannot trace a question about inference mode
            return self.traced(self.transformed, args, kwargs)
        try:
            if not torch.is_inference_mode_enabled():
                known = known_call(self, args, kwargs)
                request, plan = known.call or (
                    Request(self.transformed, self.options, args, kwargs, fingerprint=known.fingerprint),
                    None,
                )
                if plan is not None or not request.inference:
                    return self._result(request, plan, known)
            with requested(self.transformed, self.options, args, kwargs) as request:
                return self._result(request)
        except JetsGivenError:
            pass
        return followed(self, args, kwargs)

    def traced(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], known: Plan | None = None
    ) -> Any:
        """The result for another function while ``torch.compile`` traces, by the plan that is known if there is one."""
        return self.outcome(Request(function, self.options, args, kwargs, traced=True), known)[0]

    def _result(self, request: Request, plan: Plan | None = None, known: Known = NOTHING) -> Any:
        result, found = self.outcome(request, plan)
        if known.kind is not None and found is not plan:
            remember_call(known, request, found)
        return result

    def outcome(self, request: Request, known: Plan | None = None) -> tuple[Any, Plan]:
        """The result for a request, by the plan that is known if there is one, and how it was computed."""
        if self.options.in_dims is not None:
            cut_arguments(request, self.options)
        outcome, plan = run(request, self.quantity, known)
        result = self.quantity.assemble(request, outcome)
        parts = result if self.quantity.gradient else (result,)
        results = [put_back(part, self.options, request.traced) for part in parts]
        if self.options.return_value:
            values = [put_back(value, self.options, request.traced) for value in outcome.evaluation.outputs]
            results.append(outcome.outputs.structure.build(values))
        if self.options.has_aux:
            results.append(outcome.build_aux(outcome.evaluation.aux))
        return (results[0] if len(results) == 1 else tuple(results)), plan

    def _in_blocks(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        whole = replace(self, options=self.options.whole)
        blocks = Blocks.of(self.transformed, self.options, self.quantity, args, kwargs, traced)
        if len(blocks.starts()) == 1:
            return whole(*args, **kwargs)
        if not traced:
            blocks.settle_independence(args, kwargs)
        return blocks.joined([whole(*blocks.samples(args, start), **kwargs) for start in blocks.starts()])

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own: itself, and these."""
        return self, args

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.quantity.identity, self.options.argnums, self.options.batch_dims, self.transformed)

    def __repr__(self) -> str:
        gradient = ["return_gradient=True"] if self.quantity.gradient else []
        told = [name_of(self.transformed), *gradient, *self.options.changed()]
        return f"{self.quantity.name}({', '.join(told)})"


DIAG_JAC = Quantity("diag_jac", 1, EntriesOf(1, Diagonal), by_pair, refuse=refuse_without_diagonal)
BATCH_JAC = Quantity("batch_jac", 1, EntriesOf(1, Block), by_pair)
DIVERGENCE = Quantity("divergence", 1, EntriesOf(1, Diagonal, paired=True), trace, refuse=refuse_unequal_trees)
HESS_DIAG = Quantity("hess_diag", 2, EntriesOf(2, HessianDiagonal), by_pair)


def with_signature(transform: F) -> F:
    """Show the keywords that all transforms share, after its own, where ``help`` and editors look for them."""
    given = inspect.signature(transform, eval_str=False).parameters.values()
    own = [parameter for parameter in given if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    shared = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
        for option in fields(Options)
        if option.init
    ]
    function = inspect.Parameter("f", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Callable[..., Any]")
    made = keywords_only(transform)
    made.__signature__ = inspect.Signature([function, *own, *shared], return_annotation="Transform")  # type: ignore[attr-defined]
    return made


def transform_of(quantity: Quantity, f: Callable[..., Any], keywords: Keywords) -> Transform:
    """The transform of ``f`` that computes a quantity."""
    options = Options.of(quantity.name, keywords)
    return Transform(in_front(as_function(f), options), quantity, options)


@with_signature
def diag_jac(f: Callable[..., Any], **keywords: Unpack[Keywords]) -> Transform:
    r"""The diagonal of each sample's Jacobian, without the Jacobian.

    .. math:: D_{nb} = \partial y_{nb} / \partial x_{nb}, \qquad y = f(\theta, x)

    where the smaller of the sample shapes ``I`` of ``x`` and ``O`` of ``y`` is broadcast to the larger: they have
    the same rank with each axis of the smaller equal or 1, or one of them has a single element.

    ============================  ===========  ==================================================
    sample input -> output        result       meaning
    ============================  ===========  ==================================================
    ``(d,) -> (d,)``              ``(N, d)``   the main diagonal of each square Jacobian
    ``(1,)`` or ``() -> (m,)``    ``(N, m)``   the derivative of every output by the one coordinate
    ``(d,) -> (1,)`` or ``()``    ``(N, d)``   the gradient
    ============================  ===========  ==================================================

    Args:
        f: a function or an ``nn.Module``: ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, each sample on its
            own.  ``x`` and ``y`` may be trees (dicts, tuples, whatever ``optree`` knows).
        **keywords: ``argnums=-1``, ``batch_dims=1``, ``method="auto"``, ``chunk_size=None``,
            ``sample_chunk_size=None``, ``in_dims=None``, ``out_dims=None``, ``has_aux=False``, ``return_value=False``,
            ``check=True``, ``check_tolerance=None``, ``compile=False``, described at :class:`jacfunc.options.Options`.

    Returns:
        A function of the same arguments as ``f``.  Its result has the larger of ``O`` and ``I``: ``(N, *larger)``, the
        dtype and device of ``x``; for trees the output's tree is outside, then the tuple of a tuple ``argnums``, the
        input's tree innermost.  With ``return_value=True`` it is ``(derivative, value)``, aux comes last.

    Raises:
        ArgumentError: ``argnums`` selects nothing or the parameters, ``chunk_size`` or ``method`` cannot be meant.
        ArgumentTypeError: an argument or output leaf is no floating-point tensor.
        ShapeError: an output without the batch in front, or shapes without a common diagonal.
        CoupledSamplesError: a sample of the output depends on other samples of the input.
        UnsupportedOperationError: no route can differentiate an operation inside ``f``.

    Example:
        >>> import torch
        >>> from jacfunc import diag_jac
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> diag_jac(lambda x: x**2)(x)
        tensor([[2., 4.],
                [6., 8.]])
    """
    return transform_of(DIAG_JAC, f, keywords)


@with_signature
def batch_jac(f: Callable[..., Any], **keywords: Unpack[Keywords]) -> Transform:
    r"""The Jacobian of each sample, ``(N, *O, *I)``, without the zeros between samples.

    .. math:: J_{noi} = \partial y_{no} / \partial x_{ni}

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``, as for
            :func:`diag_jac`.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has shape ``(N, *O, *I)``, trees as in :func:`diag_jac`.

    Raises:
        JacfuncError: as :func:`diag_jac`, for whose shapes nothing is refused here.

    Example:
        >>> import torch
        >>> from jacfunc import batch_jac
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> batch_jac(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 0]], dim=1))(x)
        tensor([[[2., 1.],
                 [1., 0.]]])
    """
    return transform_of(BATCH_JAC, f, keywords)


@with_signature
def divergence(f: Callable[..., Any], **keywords: Unpack[Keywords]) -> Transform:
    r"""The divergence of each sample, ``(N,)``: the sum of the main diagonal of its Jacobian.

    .. math:: \nabla \cdot f = \sum_b \partial y_{nb} / \partial x_{nb}

    Args:
        f: a function or an ``nn.Module`` whose output has the shape (and the tree) of its input.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``, whose result has the shape of the sample axes; over a tree the
        leaves are paired one by one and summed.

    Raises:
        ShapeError: the output is not built and shaped as the input.
        JacfuncError: as :func:`diag_jac`.

    Example:
        >>> import torch
        >>> from jacfunc import divergence
        >>> divergence(lambda x: x**2)(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([ 6., 14.])
    """
    return transform_of(DIVERGENCE, f, keywords)


@with_signature
def hess_diag(f: Callable[..., Any], **keywords: Unpack[Keywords]) -> Transform:
    r"""The second derivative of every output by every input element, ``(N, *O, *I)``.

    .. math:: H_{noi} = \partial^2 y_{no} / \partial x_{ni}^2

    Args:
        f: as for :func:`batch_jac`, twice differentiable where its second derivative is to mean something.
        **keywords: those of :func:`diag_jac`.

    Returns:
        A function of the same arguments as ``f``: entries of :func:`batch_jac`'s shape, ``(N, *O, *I)``, in its trees.

    Raises:
        JacfuncError: as :func:`batch_jac`, and for an operation without a second derivative.

    Example:
        >>> import torch
        >>> from jacfunc import hess_diag
        >>> hess_diag(lambda x: x.pow(3).sum(dim=1))(torch.tensor([[1.0, 2.0]]))
        tensor([[ 6., 12.]])
    """
    return transform_of(HESS_DIAG, f, keywords)


@dataclass(frozen=True)
class _Check:
    function: Callable[..., Any]
    options: Options

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        with requested(self.function, self.options, args, kwargs) as request:
            return probe_now(request)


@keywords_only
def check_independent(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    out_dims: int | None = None,
    has_aux: bool = False,
    check_tolerance: float | None = None,
) -> Callable[..., bool]:
    """Whether the samples of a batch are computed independently: True, or an error that says what couples them.

    The batch is evaluated once, then a few times with some of its samples replaced by others and by outliers; the
    output of a sample must not move beyond rounding between two evaluations that give it the same value.  Every
    transform does this by itself on the first call for a function and the kind of its arguments (``check=True``).  A
    coupling that is inactive at the given data, as in ``relu(x.mean() - 3)`` far below its kink, cannot be seen.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``.
        argnums: the positional arguments that carry the samples to replace.
        batch_dims: how many leading axes are sample axes.
        out_dims: the axis of the outputs that the samples lie on; None for the first.
        has_aux: ``f`` returns ``(output, aux)``; aux is not looked at.
        check_tolerance: by which part of its size an output may move; None for rounding alone.

    Returns:
        A function of the same arguments as ``f`` that returns True.

    Raises:
        CoupledSamplesError: names an output that moved and what usually causes it.
        JacfuncError: for arguments that cannot be a batch of samples.

    Example:
        >>> import torch
        >>> from jacfunc import check_independent
        >>> check_independent(lambda x: x.softmax(dim=1))(torch.randn(4, 3))
        True
        >>> check_independent(lambda x: x - x.mean(dim=0))(torch.randn(4, 3))
        Traceback (most recent call last):
        ...
        jacfunc.errors.CoupledSamplesError: ...
    """
    keywords: Keywords = {
        "argnums": argnums,
        "batch_dims": batch_dims,
        "out_dims": out_dims,
        "has_aux": has_aux,
        "check_tolerance": check_tolerance,
    }
    options = Options.of("check_independent", keywords)
    return _Check(in_front(as_function(f), options), options)

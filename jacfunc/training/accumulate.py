"""``accumulate``: the gradients of a loss over any number of points, forward and backward block by block.

Here is what is asked for and in which order things are done; ``passing.py`` runs the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from ..core.keywords_only import keywords_only
from ..core.levels import compiling, exporting, inside_transform, tracing, untraced
from ..core.reasons import a_type
from ..errors import ArgumentError, ArgumentTypeError, JacfuncError, UnsupportedOperationError
from ..options import check_flag
from .blocks import Bar, Sizes, check_size, check_tqdm
from .parallel import Parallel, check_extra, check_group, is_extra
from .passing import Pass
from .seeds import seeded
from .terms import Term, check_mass, divisor, no_points, read_terms, told_apart

OUTSIDE = (
    "accumulate writes to .grad, which torch.func and torch.compile do not follow; call it outside of them and compile "
    "the loss"
)


class Keywords(TypedDict, total=False):
    """The keywords of :func:`accumulate`, with their meaning, as editors show it."""

    sample_chunk_size: int | Literal["auto"]
    """At most so many points in a block; ``"auto"`` for as many as fit caches."""
    reduction: Literal["mean", "sum"]
    """``"mean"``, by the number of points or the sum of weights of each term, or ``"sum"``."""
    scaler: Any
    """A ``torch.amp.GradScaler``, by which losses are scaled."""
    seed: int | None
    """Draw the same random numbers at every call; None to go on drawing."""
    group: Any
    """Without a wrapper, the process group that shares the points, or ``"alone"``."""
    modules: Sequence[Any]
    """Modules and tensors that the loss trains and does not close over."""
    progress: bool
    """Show a bar of the points that are done."""


@overload
def accumulate(
    loss: Callable[[torch.Tensor], torch.Tensor], *terms: Any, **keywords: Unpack[Keywords]
) -> torch.Tensor: ...
@overload
def accumulate(loss: Callable[..., torch.Tensor], *terms: Any, **keywords: Unpack[Keywords]) -> torch.Tensor: ...
@overload
def accumulate(
    loss: tuple[Any, ...], *terms: tuple[Any, ...], **keywords: Unpack[Keywords]
) -> tuple[torch.Tensor, ...]: ...
@keywords_only
def accumulate(
    loss: Callable[..., torch.Tensor] | tuple[Any, ...],
    *terms: Any,
    sample_chunk_size: int | Literal["auto"] = "auto",
    reduction: Literal["mean", "sum"] = "mean",
    scaler: Any = None,
    seed: int | None = None,
    group: Any = None,
    modules: Sequence[Any] = (),
    progress: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    r"""Add the gradients of a loss over any number of points to ``.grad``, in memory that does not grow with them.

    .. math:: L = \sum_k L_k, \qquad L_k = \lambda_k \frac{\sum_n w_{kn} \ell_k(x_{kn})}{\sum_n w_{kn}}

    Forward and backward run block by block, and no graph outlives its block.  Nothing is zeroed and no step is made;
    what optimisers expect of ``loss.backward()`` holds for ``accumulate``.  Hooks of a parameter (``register_hook``,
    ``register_post_accumulate_grad_hook``) run once, in the end, with its whole gradient, over all ranks where there
    are several.  Hooks of modules, and of tensors that the loss computes, run in every block.

    Where the loss runs what ``DistributedDataParallel`` or ``fully_shard`` made, every rank calls ``accumulate`` with
    points of its own, as many as it has, or none.  Sums then run over the points of all ranks: gradients and results
    are those of one process with all points, so that the wrapper's average over ranks is undone.  Gradients of a
    ``DistributedDataParallel`` are added up by one all-reduce at the end, which is not its communication hook's; what
    backwards under its ``no_sync`` left in ``.grad`` before is averaged with it, as by its own next backward.  Those
    of ``fully_shard`` are reduced in the last block, and not sharded until then.

    Args:
        loss: a function of one block of points that returns one number for each, ``(n,)``, such as a squared residual;
            or the first of several terms.
        *terms: the points: a tensor ``(N, ..)``, several with as many rows each, which ``loss`` is given as as many
            arguments, or an iterable of blocks of them, such as a ``DataLoader``.  Or, where ``loss`` is one too, terms
            ``(loss, points)`` or ``(loss, points, weight)``, several tensors in a tuple.  A number as weight is a
            factor :math:`\lambda_k` of its term; a tensor ``(N,)`` weighs each point, and the mean is divided by the
            sum of these :math:`w_{kn}`.
        sample_chunk_size: how many points a block has at most; ``"auto"`` as many as fit caches, by what the graph of a
            first block of 256 keeps, and for an iterable its own blocks.
        reduction: ``"mean"``, by the number of points (or the sum of weights) of each term by itself, or ``"sum"``.
        scaler: a ``torch.amp.GradScaler``, by which losses are scaled; results are not, and it makes no step.
        seed: draw the same random numbers at every call, and leave the generators as they were, which a closure of
            ``torch.optim.LBFGS`` needs if its loss draws.  Each rank adds its number to it.  Without, draws go on from
            block to block and from call to call.
        group: without a wrapper, the process group that shares the points, or ``"alone"``.
        modules: modules and tensors that the loss trains, where it does not close over them but reaches them in another
            way; only needed with several ranks.
        progress: show a bar of the points that are done, on rank 0 (needs the extra ``progress``).

    Returns:
        The value :math:`L_k`, a tensor ``()`` without a graph, or for terms a tuple of them, whose sum is what the
        gradients are of.  In half precision gradients are added up in float32, and rounded once.

    Raises:
        ShapeError: a loss that is not one number for each point, or tensors of points with different numbers of rows.
        ArgumentError: there are no points, an option that cannot be meant, nothing that requires gradients, or
            gradients that ``fully_shard`` has not reduced yet.
        ArgumentTypeError: a loss, points or a weight of another type, such as a ``DTensor``.
        UnsupportedOperationError: ``torch.func`` or ``torch.compile`` is around, or ``FullyShardedDataParallel``, or
            in ``DistributedDataParallel`` a ``checkpoint`` with ``use_reentrant=True``.
        JacfuncError: another rank raised.  After any error, the loss's own too, every ``.grad`` is as it was; only an
            error in a hook of ``register_post_accumulate_grad_hook`` comes when gradients are there.

    Example:
        >>> import torch
        >>> from jacfunc import accumulate
        >>> w = torch.tensor(2.0, requires_grad=True)
        >>> x = torch.arange(6.0)
        >>> accumulate(lambda x: (w * x) ** 2, x, sample_chunk_size=4)
        tensor(36.6667)
        >>> w.grad  # of the mean of w^2 x^2 over all points
        tensor(36.6667)
    """
    if compiling() and not exporting():
        asked = {"sample_chunk_size": sample_chunk_size, "reduction": reduction, "scaler": scaler, "seed": seed}
        asked |= {"group": group, "modules": modules, "progress": progress}
        return untraced(accumulate, OUTSIDE, loss, *terms, **asked)  # type: ignore[no-any-return]
    if inside_transform() or tracing():
        raise UnsupportedOperationError(OUTSIDE)
    given: list[tuple[Any, ...]] = []
    error = None
    try:
        given = told_apart(loss, terms)
        _check(sample_chunk_size, reduction, scaler, seed, progress)
        check_extra(modules)
        check_group(group)
    except JacfuncError as raised:  # which other ranks have to be told, as soon as it is known who they are
        error = raised
    try:
        parallel = Parallel.of(*_usable(loss, terms, group, modules))
    except JacfuncError as raised:
        raise (error or raised) from None
    single, mean = not isinstance(loss, tuple), reduction == "mean"
    tensors = [tensor for _, points, _ in given for tensor in _tensors(points)]
    own_seed = None if seed is None or error is not None else seed + parallel.rank
    with seeded(own_seed, (*parallel.parameters, *tensors), parallel.generators):
        read, masses = _read(given, 1 if single else 1 + len(terms), single, parallel, mean, error)
        bar = Bar(check_tqdm() if progress and parallel.rank == 0 else None, _count(read))
        try:
            results = Pass(read, parallel, Sizes(sample_chunk_size), scaler, bar).run(masses, mean)
        finally:
            bar.close()
    return results[0] if single else tuple(results)


def _check(size: Any, reduction: Any, scaler: Any, seed: Any, progress: Any) -> None:
    check_size(size)
    check_flag("progress", progress)
    if progress:
        check_tqdm()
    if reduction not in {"mean", "sum"}:
        raise ArgumentError(f'reduction={reduction!r} is not known; pass "mean" or "sum"')
    if scaler is not None and not callable(getattr(scaler, "scale", None)):
        raise ArgumentTypeError(f"scaler is {a_type(scaler)}; pass a torch.amp.GradScaler, or leave it out")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ArgumentError(f"seed={seed!r} is no number from 0; pass one, or None to go on drawing")
    if not torch.is_grad_enabled():
        raise ArgumentError(
            "gradients are disabled here, by torch.no_grad() or inference_mode() around accumulate; call it outside"
        )


def _usable(loss: Any, terms: tuple[Any, ...], group: Any, modules: Any) -> tuple[list[Any], Any, Any]:
    """The losses, the group and the modules, without those that cannot be meant."""
    told = [loss] if not isinstance(loss, tuple) else [term[0] for term in (loss, *terms) if _has_loss(term)]
    extra = modules if isinstance(modules, list | tuple) else ()
    with suppress(JacfuncError):
        check_group(group)
        return [each for each in told if callable(each)], group, [each for each in extra if is_extra(each)]
    return [each for each in told if callable(each)], None, [each for each in extra if is_extra(each)]


def _has_loss(term: Any) -> bool:
    return isinstance(term, tuple) and len(term) > 0


def _read(
    given: list[tuple[Any, ...]],
    number: int,
    single: bool,
    parallel: Parallel,
    mean: bool,
    error: Exception | None,
) -> tuple[list[Term], list[float | None]]:
    """The terms, and over all ranks what the mean of each divides by, None where only the blocks tell.

    An error on one rank, be it one that was found before, is raised on all.
    """
    terms, numbers = [], [0.0] * (2 * number)
    try:
        if error is not None:
            raise error
        parallel.check_nothing_pending()
        terms = read_terms(given, single)
        wholes = [term.supply.whole for term in terms]
        numbers = [float(whole.count) if whole else 0.0 for whole in wholes]
        numbers += [whole.mass() if whole else 0.0 for whole in wholes]
    except Exception as raised:
        error = raised
    numbers = parallel.raise_together(error, numbers)
    masses: list[float | None] = []
    for place, term in enumerate(terms):
        count, mass = numbers[place], numbers[len(terms) + place]
        if term.supply.whole is not None and count == 0:
            raise no_points(term.supply.name)
        known = term.supply.whole is not None
        check_mass(mass, term.supply.name)
        masses.append((divisor(mass, term.supply.name) if mean else mass) if known else None)
    return terms, masses


def _count(terms: Sequence[Term]) -> int | None:
    """How many points there are, if that is known."""
    wholes = [term.supply.whole for term in terms]
    return None if None in wholes else sum(whole.count for whole in wholes if whole is not None)


def _tensors(points: Any) -> list[torch.Tensor]:
    items = points if isinstance(points, tuple) else (points,)
    return [item for item in items if isinstance(item, torch.Tensor)]

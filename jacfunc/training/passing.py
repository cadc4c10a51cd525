"""All blocks of all terms, run one after the other, and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core.graphs import leaves
from ..core.reasons import add_note
from ..errors import ArgumentError, UnsupportedOperationError
from .blocks import Bar, Sizes
from .gradients import SetAside, Sums, reduce, wide
from .graph import reentrant
from .hooks import Held
from .parallel import Parallel
from .terms import Block, Term, check_values, no_points, summed

WHOLE = "what it closes over for all points is not cut into blocks: pass it along, as in accumulate(loss, x, y)"


class Pass:
    """One call of ``accumulate``: what is run, and what is added up on this rank.

    Terms whose points are known are run as one stage.  One whose points an iterable gives is a stage by itself, with
    sums of its own, since only its end tells what they are divided by.  ``values`` are the sums of the losses of each
    term on this rank, ``counts`` its points.
    """

    def __init__(self, terms: Sequence[Term], parallel: Parallel, sizes: Sizes, scaler: Any, bar: Bar) -> None:
        self.terms, self.parallel, self.sizes, self.scaler, self.bar = terms, parallel, sizes, scaler, bar
        self.sharded = parallel.sharded()
        self.aside = SetAside()
        self.held = Held()
        self.values: list[torch.Tensor | None] = [None] * len(terms)
        self.counts = [0] * len(terms)
        self.like: list[torch.Tensor | None] = [None] * len(terms)

    def run(self, masses: Sequence[float | None], mean: bool) -> list[torch.Tensor]:
        """Add all gradients to ``.grad``, or none if anything fails; the value of each term, over all ranks."""
        factors = [
            None if mass is None else term.factor / (mass if mean else 1.0)
            for term, mass in zip(self.terms, masses, strict=True)
        ]
        sums = {place: Sums() for place, factor in enumerate(factors) if factor is None}
        known = Sums()
        try:
            for leaf in (*self.parallel.parameters, *(leaf for leaf, _ in self.sharded.values())):
                self._put(leaf)
            error = self._stages(factors, known, sums)
            values, counts, used, pending = self._of_all_ranks(error, [known, *sums.values()])
            ends = [self._factor(place, factor, counts[place], mean) for place, factor in enumerate(factors)]
            for place, each in sums.items():
                known.merge(each, ends[place])
            self.aside.average(pending, self.parallel.ranks())
            reduce(
                [*((known, leaf) for leaf in used), *((self.aside.averaged, leaf) for leaf in pending)],
                self.parallel.groups,
            )
            self.held.back()
            self.held.on_gradients(known)
        except BaseException:
            self.held.back()
            self.parallel.forget()
            self.aside.back()
            raise
        self.held.after(self.aside.finish(known))
        return [self._result(value, end, like) for value, end, like in zip(values, ends, self.like, strict=True)]

    # -------------------------------------------------------------------- the blocks

    def _stages(self, factors: Sequence[float | None], known: Sums, sums: dict[int, Sums]) -> Exception | None:
        """Run everything; an error comes back where other ranks can still be told of it."""
        together = [(place, factor) for place, factor in enumerate(factors) if factor is not None]
        try:
            with self.parallel.quiet():
                for number, (place, factor) in enumerate(together):
                    self._term(place, factor, known, last=number == len(together) - 1)
                for place, each in sums.items():
                    self._term(place, 1.0, each, last=True)
        except Exception as error:
            if self.sharded:  # other ranks wait inside of the module, where they cannot be told
                raise
            return error
        return None

    def _term(self, place: int, factor: float, sums: Sums, last: bool) -> None:
        """Run all blocks of a term; what is sharded is reduced in the last of the last term."""
        term, first = self.terms[place], True
        more = self._more(term)
        while more or (first and last and self.sharded):
            size = self.sizes.next(place, term.supply.whole is None)
            block = term.supply.take(size) if term.supply.more() else term.supply.none()
            more = self._more(term)
            try:
                values = term.loss(*block.points)
            except (RuntimeError, IndexError, ValueError) as error:
                add_note(error, f"jacfunc: raised inside {term.name} on a block of {block.count} points; {WHOLE}")
                raise
            values = check_values(values, block.count, term.name)
            self._backward(place, block, values, factor, sums, last and not more)
            self.bar.update(block.count)
            first = False

    def _more(self, term: Term) -> bool:
        """Whether there is another block; what is sharded has to run alike on all ranks, so that all are asked.

        They also tell each other what an iterable raised, or that it gave one of them nothing to run.
        """
        if not self.sharded:
            return term.supply.more()
        here, error = False, None
        try:
            here = term.supply.more()
            if not here:
                term.supply.none()
        except Exception as raised:
            error = raised
        return self.parallel.raise_together(error, [float(here)])[0] > 0

    def _backward(
        self, place: int, block: Block, values: torch.Tensor, factor: float, sums: Sums, reduced: bool
    ) -> None:
        self.like[place] = values.new_empty((), dtype=wide(values.dtype), requires_grad=False)
        self.sizes.note(place, block, values)
        again = reentrant(values)
        if again and self.parallel.wrapped:
            raise UnsupportedOperationError(
                f"{self.terms[place].name} runs checkpoint with use_reentrant=True, whose backward of its own "
                "DistributedDataParallel hears of; pass use_reentrant=False"
            )
        trained = self._put_aside(block, values)
        weighted = values if block.weights is None else values * block.weights.to(values.dtype)
        value, before = summed(weighted), self.values[place]
        self.values[place] = value if before is None else before + value
        self.counts[place] += block.count
        # The sums of what is sharded are its own, and take no factor: the loss has it.  Elsewhere the mean of the block
        # goes backward, which overflows in no half precision.
        inside, after = (factor, 1.0) if self.sharded else (1.0 / max(block.count, 1), factor * block.count)
        total = weighted.sum() * inside
        self.parallel.reduce_next(reduced)
        total = total if self.scaler is None else self.scaler.scale(total)
        try:
            if self.sharded or again:
                total.backward()
                self.aside.collect(sums, {key: by for key, (_, by) in self.sharded.items()}, after)
                return
            # Beside ``.grad``, so that a wrapper hears of nothing: a static graph would take this for its first step.
            found = torch.autograd.grad(total, trained, allow_unused=True) if trained else ()
        except RuntimeError as error:
            if "backward through the graph a second time" not in str(error):
                raise
            raise ArgumentError(
                f"{self.terms[place].name} uses a tensor that was computed from parameters outside of it, and one "
                "block's backward freed the graph of it; compute it inside of the loss"
            ) from error
        for leaf, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                sums.add(leaf, gradient, after)

    def _put(self, leaf: torch.Tensor) -> None:
        """Take away what a leaf has in ``.grad``, and hold its hooks back."""
        if leaf not in self.aside:
            self.aside.put(leaf)
            self.held.put(leaf, id(leaf) in self.sharded)

    def _put_aside(self, block: Block, values: torch.Tensor) -> list[torch.Tensor]:
        """Do so for the leaves of a block but its points; with other ranks each of them has to be known."""
        whole, trained = self.parallel.whole(), []
        own = {id(tensor) for tensor in block.points}
        for leaf in leaves([values]):
            if id(leaf) in whole or id(leaf) in own:
                continue
            trained.append(leaf)
            if leaf in self.aside:
                continue
            if self.parallel.groups:
                raise ArgumentError(
                    f"the loss trains a tensor of shape {tuple(leaf.shape)} that is not found in what it closes "
                    "over, so that ranks cannot add up its gradient; pass it, or the (wrapped) module it belongs to, "
                    "in modules=[..]"
                )
            self._put(leaf)
        return trained

    # -------------------------------------------------------------------- the end

    def _of_all_ranks(
        self, error: Exception | None, sums: Sequence[Sums]
    ) -> tuple[list[torch.Tensor], list[float], list[torch.Tensor], list[torch.Tensor]]:
        """Values and counts over all ranks, the parameters with a gradient on any, and those with one from before.

        Raises what any of them did.
        """
        if not self.parallel.groups:
            if error is not None:
                raise error
            values = [torch.zeros(()) if value is None else value for value in self.values]
            return values, [float(count) for count in self.counts], [], []
        terms, parameters, averaged = len(self.terms), self.parallel.parameters, self.parallel.averaged()
        numbers = [0.0 if value is None else float(value) for value in self.values]
        numbers += [float(count) for count in self.counts]
        numbers += [float(any(id(leaf) in each.of for each in sums)) for leaf in parameters]
        numbers += [float(self.aside.before[id(leaf)] is not None) for leaf in averaged]
        numbers = self.parallel.raise_together(error, numbers)
        asked = iter(numbers[2 * terms :])
        used = [leaf for leaf in parameters if next(asked)]
        pending = [leaf for leaf in averaged if next(asked)]
        values = [torch.tensor(value, dtype=torch.float64) for value in numbers[:terms]]
        return values, numbers[terms : 2 * terms], used, pending

    def _factor(self, place: int, factor: float | None, count: float, mean: bool) -> float:
        """What a term is multiplied by in the end, where its points are counted."""
        term = self.terms[place]
        if factor is not None:
            return factor
        if not count:
            raise no_points(term.supply.name)
        return term.factor / count if mean else term.factor

    def _result(self, value: torch.Tensor, factor: float, like: torch.Tensor | None) -> torch.Tensor:
        """A value times its factor, of the dtype and device of the losses, or of a parameter where no block was run."""
        leaves = [*self.parallel.parameters, *(leaf for leaf, _ in self.sharded.values())]
        if like is None and leaves:
            like = torch.empty((), dtype=wide(leaves[0].dtype), device=leaves[0].device)
        return value.mul(factor) if like is None else value.mul(factor).to(like)

"""Where the sample axis goes in a program: a proof that every sample is computed of itself alone, whatever the numbers.

It is the first axis, and it has to stay that: each operation on what carries samples is asked whether it keeps it in
front and mixes nothing along it.  What is not known to do so mixes, and what is computed of that is mixed as well; the
program is proved if no output is.  The absence of a proof says nothing: then numbers are looked at
(``call/independence.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..core.levels import inside_function
from .program import Program
from .recorder import Inputs, Recorder
from .sample_axis_rules import ELEMENTWISE, FRESH, LEAVES, RULES, TABLES, WRITING, function_name, name_of, tensors_in


class Prover(Recorder):
    """Notes a plain forward, and follows the sample axis through it."""

    def begin(self, leaves: Inputs, parameters: Inputs, others: Inputs, on_jets: bool = False) -> None:
        """An evaluation begins, whose samples are in the leaves."""
        leaves = list(leaves)
        self.carrying = {id(leaf) for leaf in leaves}
        self.mixed: set[int] = set()
        self.lost, self.obstacle = False, ""
        super().begin(leaves, parameters, others, on_jets)

    def before(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """An operation is about to run."""
        super().before(function, args, kwargs)
        self.blamed = ""
        self.lost |= inside_function()  # whose backward may do anything
        operands = list(tensors_in((*args, *kwargs.values())))
        self.operands = [operand for operand in operands if id(operand) in self.carrying]
        self.taints = any(id(operand) in self.mixed for operand in operands)
        name = name_of(function)
        if name in FRESH:
            self.operands, self.taints = [], False
        if not (self.operands or self.taints):
            return
        writes = name.endswith("_") or name in WRITING
        self.keeps = not self.taints and self._keeps(name.rstrip("_"), args, kwargs)
        written_whole = self.keeps and bool(args) and id(args[0]) in self.carrying
        # Else another name of what is written to would not be known to have become another.
        self.lost |= (
            function_name(function) in LEAVES or kwargs.get("out") is not None or (writes and not written_whole)
        )
        if not self.obstacle and (self.lost or not (self.keeps or self.taints)):
            self.blamed = "an autograd.Function" if inside_function() else function_name(function) or "a transform in f"

    def after(self, result: Any) -> None:
        """It has run, and this is its result."""
        super().after(result)
        carries = bool(self.operands) or self.taints
        tensors = list(tensors_in((result,)))
        if tensors or self.lost:  # else it asked for a shape, say, and mixes nothing
            self.obstacle = self.obstacle or self.blamed
        for tensor in tensors:
            self.carrying.discard(id(tensor))
            self.mixed.discard(id(tensor))
            if carries:
                kept = self.keeps and tensor.dim() > 0 and tensor.shape[0] == self.samples
                (self.carrying if kept else self.mixed).add(id(tensor))

    def end(self, outputs: Iterable[object]) -> None:
        """The evaluation has ended with these outputs."""
        outputs = list(outputs)
        super().end(outputs)
        self.lost |= any(id(output) in self.mixed or id(output) not in self.numbers for output in outputs)

    def proved(self, elsewhere: Callable[[], Program | None]) -> Program | None:
        """What has run, when all that only it held is gone: proved, if it is.

        What came from outside and is gone by then was made by what torch tells nobody of; unless it is the same in the
        program that ran ``elsewhere``, for other samples, it was made of the samples.
        """
        program = self.program
        if program is not None and program.passing():
            other = elsewhere()
            program = program if other is None else program.constants(other)
        if program is None or not (self.lost or program.passing()):
            return None if program is None else program.sure()
        return replace(program, obstacle=self.obstacle or "what torch tells nobody of")

    def _keeps(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Whether an operation keeps the axis of all that carries samples."""
        axes = self.operands[0].dim()
        if any(operand.dim() != axes or operand.shape[:1] != (self.samples,) for operand in self.operands):
            return False
        wider = any(tensor.dim() > axes for tensor in tensors_in((*args, *kwargs.values())))
        if wider and name not in TABLES:  # which may put axes in front
            return False
        if name in ELEMENTWISE or (name in ("max", "min") and len(args) > 1 and isinstance(args[1], torch.Tensor)):
            return True
        rule = RULES.get(name)
        return rule is not None and rule(args, kwargs, self.operands)

"""Where a function goes another way with what is no ``torch.Tensor``: the lines of it that run, compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from ..core.reasons import ours
from ..core.unasked import unasked

MOST = 100_000
"""Lines that are noted."""

Line = tuple[CodeType, int]


@unasked()
def parting(with_tensors: Callable[[], Any], with_jets: Callable[[], Any]) -> str:
    """Where the lines of the user's that two evaluations run part, if they do."""
    one, other = _lines(with_tensors), _lines(with_jets)
    for at, (line, jets) in enumerate(zip(one, other, strict=False)):
        if line != jets:
            code, number = one[max(at - 1, 0)]
            return f" (in {code.co_name}, line {number} of {Path(code.co_filename).name})"
    return ""


def _lines(evaluate: Callable[[], Any]) -> list[Line]:
    lines: list[Line] = []

    def noted(frame: FrameType, event: str, argument: Any) -> Any:
        if ours(frame.f_code.co_filename) or frame.f_code.co_filename.startswith("<") or len(lines) > MOST:
            return None
        if event == "line":
            lines.append((frame.f_code, frame.f_lineno))
        return noted

    before = sys.gettrace()
    sys.settrace(noted)
    try:
        with suppress(Exception):
            evaluate()
    finally:
        sys.settrace(before)
    return lines

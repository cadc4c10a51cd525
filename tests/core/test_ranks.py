"""``jacfunc/core/ranks.py``: how many processes there are, and numbers that all of them add up."""

from __future__ import annotations

from ranks import on_ranks

from jacfunc.core.ranks import count, summed


def of_all(rank: int) -> tuple[int, list[float]]:
    return count(), summed([rank + 1.0, 0.5])


def test_numbers_are_added_up() -> None:
    assert on_ranks(of_all) == [(2, [3.0, 1.0])] * 2


def test_alone() -> None:
    assert (count(), summed([2])) == (1, [2.0])

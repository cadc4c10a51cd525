"""``jacfunc/evaluation/program.py``: when what was found of one program holds for another one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_recorder import batch, mixed_by, recorded, sizes

from jacfunc.evaluation.program import CONTENT, FEW, Held, Met, Program, alike, origin

SIN, COS = torch.sin, torch.cos


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([SIN, origin(0)], [SIN, origin(0)], True),
        ([SIN, origin(0)], [SIN, origin(1)], False),
        ([SIN, origin(0)], [COS, origin(0)], False),
        ([SIN, 6], [SIN, 8], True),  # twice 3 samples, and twice 4
        ([SIN, 6], [SIN, 6], False),
        ([SIN, 3], [SIN, 3], False),
        ([SIN, 5], [SIN, 5], True),
        ([SIN, 5], [SIN, 7], False),
        ([SIN, (3, 5)], [SIN, (4, 5)], True),
        ([SIN, 0], [SIN, 0], True),
        ([SIN, -1], [SIN, -1], True),
        ([SIN], [SIN, 0], False),
    ],
)
def test_steps_of_three_and_other_samples(one: list[object], other: list[object], same: bool) -> None:
    assert alike(one, other, 3, 4) is same


def test_of_the_same_samples_they_are_the_same_only_if_equal() -> None:
    assert alike([SIN, 3], [SIN, 3], 3, 3) and not alike([SIN, 3], [SIN, 6], 3, 3)


def test_few_samples_tell_of_just_as_many() -> None:
    few, many = (Program([[SIN]], samples, ()) for samples in (FEW - 1, FEW))
    assert few.fits(FEW - 1) and not few.fits(FEW - 2) and not few.fits(FEW)
    assert many.fits(FEW + 1) and not many.fits(FEW - 1)
    assert few.sure().fits(FEW) and few.covers(few) and few.sure().covers(many) and not few.covers(many)


def test_a_tensor_is_known_again_by_identity_and_version_or_by_what_it_holds() -> None:
    tensor = torch.tensor([1.0, float("nan")])
    held = Held.of(tensor)
    assert held.is_now(Met.now(tensor)) and held.is_now(Met.now(tensor.clone())) and held.same(Held.of(tensor.clone()))
    assert not held.is_now(Met.now(tensor.double())) and not held.is_now(Met.now(tensor[:1]))
    tensor += 1
    assert not held.is_now(Met.now(tensor)) and not held.same(Held.of(tensor))


def test_of_a_large_one_nothing_is_kept() -> None:
    large = torch.zeros(CONTENT + 1, dtype=torch.uint8)
    held = Held.of(large)
    assert held.content is None and held.is_now(Met.now(large)) and not held.is_now(Met.now(large.clone()))
    assert held.same(Held.of(large)) and not held.same(Held.of(large.clone()))


def test_inference_tensors_have_no_version() -> None:
    with torch.inference_mode():
        tensor = torch.ones(2)
    held = Held.of(tensor)
    assert held.version is None and held.is_now(Met.now(tensor)) and not held.is_now(Met.now(tensor + 1))


def test_what_one_program_was_found_of_holds_for_its_like() -> None:
    one, other, else_ = (recorded(mixed_by(k * torch.eye(4, dtype=torch.double))) for k in (1, 1, 2))
    assert one.covers(other) and not one.covers(else_) and one.sure().covers(else_)
    assert recorded(sizes, batch(17)).covers(recorded(sizes, batch(11)))
    assert not one.covers(recorded(torch.sin)) and one.depends and not recorded(torch.sin).depends
    assert recorded(lambda x: x[np.arange(4)]).depends

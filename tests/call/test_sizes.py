"""``jacfunc/call/sizes.py``: bytes of the results of one forward, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc.call.request import Request
from jacfunc.call.sizes import bytes_per_sample, forward_bytes
from jacfunc.options import Options


def request(f: Callable[..., Any], samples: int = 4, dtype: torch.dtype = torch.float32) -> Request:
    return Request(f, Options(), (torch.ones(samples, 3, dtype=dtype),), {})


def results(f: Callable[..., Any], **given: Any) -> list[int]:
    """Those of the function itself: what goes in are copies, which count as well."""
    copies = forward_bytes(request(lambda x: x, **given))
    found = forward_bytes(request(f, **given))
    assert found[: len(copies)] == copies
    return found[len(copies) :]


def test_every_result_counts_in_its_order_and_views_do_not() -> None:
    weight = torch.ones(3, 5)
    assert results(lambda x: (x.T.T[:, :2] + 1).exp()) == [4 * 2 * 4, 4 * 2 * 4]
    assert results(lambda x: (x @ weight).sum(1)) == [4 * 5 * 4, 4 * 4]
    assert results(lambda x: x.expand(2, 4, 3)[0].reshape(4, 3)) == []
    assert results(lambda x: x.sin(), dtype=torch.double) == [4 * 3 * 8]


def test_a_result_of_several_tensors_counts_each() -> None:
    assert results(lambda x: x.sort(1)[0]) == [4 * 3 * 4, 4 * 3 * 8]


def test_what_goes_in_counts_as_the_copies_that_it_is() -> None:
    copies = forward_bytes(request(lambda x: x))
    assert copies and set(copies) == {4 * 3 * 4}


@pytest.mark.parametrize("samples", [(2, 5), (1, 2)])
def test_what_grows_most_with_each_sample(samples: tuple[int, int]) -> None:
    wide, big = torch.ones(3, 7), torch.ones(100, 100)
    f = lambda x: (x @ wide).sum(1) + (big @ big).sum()  # what is largest does not grow
    fewer, more = (request(f, count) for count in samples)
    assert bytes_per_sample(fewer, more) == 7 * 4
    outer = lambda x: x[:, :, None] * x[:, None, :]
    assert bytes_per_sample(request(outer, samples[0]), request(outer, samples[1])) == 9 * 4


def test_where_other_operations_run_the_larger_call_counts_alone() -> None:
    f = lambda x: x * 2 if len(x) < 3 else (x * 2).sin().repeat(1, 4)
    assert bytes_per_sample(request(f, 2), request(f, 4)) == 4 * 12 * 4 / 2


def test_counting_draws_nothing_and_changes_nothing() -> None:
    norm = nn.BatchNorm1d(3, affine=False)
    generator = torch.Generator().manual_seed(1)
    state = torch.get_rng_state(), generator.get_state()
    forward_bytes(request(lambda x: norm(x) * torch.rand(3) * torch.rand(3, generator=generator)))
    assert torch.equal(torch.get_rng_state(), state[0]) and torch.equal(generator.get_state(), state[1])
    assert norm.num_batches_tracked == 0


def test_inside_a_transform_the_size_of_what_comes_in_stands_for_it() -> None:
    found = []

    def f(x: torch.Tensor) -> torch.Tensor:
        found.append(forward_bytes(Request(torch.sin, Options(), (x,), {})))
        return x

    torch.func.vmap(f)(torch.ones(2, 4, 3))
    assert found == [[4 * 3 * 4]]

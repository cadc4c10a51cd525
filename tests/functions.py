"""Functions of torch.autograd that one route or another cannot take, and jobs in threads; no test lives here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Saving(torch.autograd.Function):
    """One whose formulas need its inputs."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


class OnlyOnce(Saving):
    """A backward that torch.func silently takes for a constant."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Detaching(OnlyOnce):
    @staticmethod
    def backward(ctx, g):
        return (g * ctx.saved_tensors[0].cos()).detach()


class Dual(OnlyOnce):
    """The same with a forward formula."""

    @staticmethod
    def jvp(ctx, t):
        return t * ctx.saved_tensors[0].cos()


class Cubic(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**2


class Looking(torch.autograd.Function):
    """A product whose backward looks at values, which vmap forbids."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return a * b

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        assert g.isfinite().all().item()
        return g * b, g * a


class NoVmap(OnlyOnce):
    """Cannot go back for many rows at a time, neither once nor twice."""

    @staticmethod
    def backward(ctx, g):
        assert g.isfinite().all().item()
        return Looking.apply(g, ctx.saved_tensors[0].cos())


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Run every job in a thread of its own, all started together; their results."""
    barrier = threading.Barrier(len(jobs))

    def start(job):
        barrier.wait(timeout=10)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(start, job) for job in jobs]]

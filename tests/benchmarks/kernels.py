"""What `jacfunc/jet/kernels.py` should say of a processor: oneDNN's time over the time of torch's own kernels.

    cd tests && python -m benchmarks.kernels

Single precision, all threads, alternating, medians.  Below 1 oneDNN is faster; a row of the table holds from the sizes
on from which both columns of the products, or that of tanh, stay below 1.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from jacfunc.jet import gemm, kernels
from jacfunc.jet import tanh as room

PRODUCTS = [
    (500, 64, 64),
    (1500, 64, 64),
    (6000, 64, 64),
    (24000, 64, 64),
    (120000, 64, 64),
    (100, 256, 256),
    (400, 256, 256),
    (10200, 256, 256),
    (300, 1024, 1024),
    (2000, 512, 512),
    (33000, 16, 16),
    (66000, 16, 16),
    (100000, 2, 64),
    (200000, 64, 16),
]
ENTRIES = [2**14, 2**16, 2**18, 2**20, 2**22]


def ratio(one: Callable[[], object], other: Callable[[], object], times: int = 60) -> float:
    """How long ``one`` takes where the other takes 1."""
    taken: dict[int, list[float]] = {0: [], 1: []}
    for place in range(2 * times + 4):
        start = time.perf_counter()
        (one, other)[place % 2]()
        taken[place % 2].append(time.perf_counter() - start)
    return statistics.median(taken[0][2:]) / statistics.median(taken[1][2:])


def gradients(product: Callable[..., torch.Tensor], *operands: torch.Tensor) -> None:
    """The product and both of its gradients."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    y = product(*leaves)
    torch.autograd.grad(y, leaves, torch.ones_like(y))


if __name__ == "__main__":
    processor = kernels._maker(), torch.backends.cpu.get_cpu_capability()
    print(*processor, torch.get_num_threads(), "threads", torch.__version__)
    print("| rows x in x out | entries of the result | multiplications | product | with gradients |")
    print("|---|---|---|---|---|")
    for n, k, m in PRODUCTS:
        operands = torch.randn(n, k), torch.randn(m, k)
        by_value = ratio(partial(gemm._convolved, *operands), partial(F.linear, *operands))
        whole = ratio(partial(gradients, gemm._convolved, *operands), partial(gradients, F.linear, *operands))
        print(f"| {n} x {k} x {m} | {n * m:,} | {n * k * m:,} | {by_value:.2f} | {whole:.2f} |")
    print("\n| entries | tanh |\n|---|---|")
    for n in ENTRIES:
        x = torch.randn(n)
        print(f"| {n:,} | {ratio(partial(room._by_onednn, x), partial(torch.tanh, x)):.2f} |")

"""Many independent estimates at once: what they are on average, told by one joint test.

Test vectors are drawn for each sample, so copies of one sample are as many independent draws.  Where parameters are
copied too, the gradient of the sum of all estimates is that of each.
"""

from __future__ import annotations

import torch

SEED = 20261201
"""Of all draws: the day on which these tests were written."""
DRAWS = 2000
LEVEL = 1e-3
"""The probability with which right estimators fail, all of them together."""


def p_value(draws: torch.Tensor, truth: torch.Tensor) -> float:
    """How probable a mean so far from the truth is, of independent ``draws`` ``(n, k)`` (Hotelling's test).

    What does not vary is compared as it is: 0 if it is something else, and left out if it is the truth.
    """
    count = len(draws)
    centred = draws - truth
    size = truth.abs().clamp_min(1.0)
    fixed = draws.std(0) < 1e-9 * size
    if (centred.mean(0)[fixed].abs() > 1e-8 * size[fixed]).any():
        return 0.0
    centred = centred[:, ~fixed]
    if not centred.shape[1]:
        return 1.0
    scaled = centred / centred.std(0)
    mean = scaled.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(scaled.T).reshape(len(mean), len(mean)))
    kept = values > 1e-6 * values[-1]  # entries that are sums of each other tell nothing more
    along = vectors.T @ mean
    statistic = count * (along[kept].square() / values[kept]).sum()
    degrees = torch.tensor(int(kept.sum()) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic.double() / 2))


def copies(tensor: torch.Tensor, count: int = DRAWS) -> torch.Tensor:
    """So many of one sample."""
    return tensor.expand(count, *tensor.shape).clone()

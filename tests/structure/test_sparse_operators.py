"""Torch's own database of operators and arguments: no entry of a dense Jacobian is missing in the pattern."""

from __future__ import annotations

import pytest
import torch
from patterns import derivative, found_of
from quick import mostly_slow
from torch.testing._internal.common_methods_invocations import op_db

from jacfunc.core.trees import tensors

DOUBLE = torch.float64
LARGEST = 400, 3000  # elements that go in, and that come out

WRONG = {
    "__rpow__": "NaN for a negative base",
    "as_strided_scatter": "has what was overwritten",
    "nn.functional.max_unpool1d": "has what was overwritten, where a place is named twice",
    "nn.functional.max_unpool2d": "has what was overwritten, where a place is named twice",
    "nn.functional.max_unpool3d": "has what was overwritten, where a place is named twice",
}
"""Operators whose dense derivative torch gets wrong, and how."""


def differentiable():
    usual = [op for op in op_db if DOUBLE in op.supported_dtypes("cpu") and op.supports_autograd]
    return [op for op in usual if op.name not in WRONG]


def ran(op, sample):
    """The operator as a function of one tensor to one; None if it is not of the kind that patterns are of."""

    def f(x):
        torch.manual_seed(0)
        out = op(x.clone(), *sample.args, **sample.kwargs)
        found = [y.to(DOUBLE).reshape(-1) for y in tensors(out) if y.is_floating_point() and y.layout is torch.strided]
        return torch.cat(found)

    x = sample.input
    plain = isinstance(x, torch.Tensor) and x.is_floating_point() and x.requires_grad and x.layout is torch.strided
    return f if plain and 0 < x.numel() <= LARGEST[0] else None


def jacobians(op, samples):
    for sample in samples:
        f = ran(op, sample)
        if f is None:
            continue
        x = sample.input.detach()
        try:
            y = f(x)
            if not 0 < y.numel() <= LARGEST[1]:
                continue
            jac = derivative(f, x)
        except (RuntimeError, NotImplementedError, IndexError, TypeError, ValueError):
            continue  # torch has no derivative of it, or it returns no numbers
        yield f, x, jac


BLOCKS = 60


@pytest.mark.parametrize("block", mostly_slow(range(BLOCKS), [7]))
@pytest.mark.filterwarnings("ignore")
def test_no_entry_is_missing(block):
    count = 0
    for op in differentiable()[block::BLOCKS]:
        samples = list(op.sample_inputs("cpu", DOUBLE, requires_grad=True))[:12]
        for f, x, jac in jacobians(op, samples):
            missing = (jac != 0) & ~found_of(f, x).pattern.to_dense()
            assert not missing.any(), (op.name, x.shape, missing.nonzero()[:5].tolist())
            count += 1
    assert count > 3

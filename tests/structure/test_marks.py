"""``structure/marks.py``: writes through views, in every way there is, against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, derivative, differences

DOUBLE = torch.float64
case = Cases()


@case
def tril_in_place(x):
    y = x.clone()
    y.tril_()
    return y


@case
def fill_tensor(x):
    y = x.clone()
    y[0].fill_(x[1, 1])
    return y


@case
def copy_broadcast(x):
    y = torch.zeros(2, 3, 4).to(DOUBLE)
    y.copy_(x)
    return y


@case
def copy_dtype(x):
    y = torch.zeros(3, 4)
    y.copy_(x)
    return y.to(DOUBLE)


@case
def copy_to_int(x):
    y = torch.zeros(3, 4).long()
    y.copy_(x)
    return y.to(DOUBLE) + x


@case
def resize_in_place(x):
    y = x.clone()
    y.resize_(2, 2)
    return y


@case
def resize_grow(x):
    y = x.clone()
    y.resize_(4, 4)
    return torch.nan_to_num(y[:3]) * 1.0


@case
def set_in_place(x):
    y = torch.zeros(3, 4).to(DOUBLE)
    y.set_(x * 2)
    return y


@case
def data_write(x):
    y = x.clone()
    y.data[0] = x[1]
    return y * 1


@case
def dtype_view_half(x):
    y = x.clone()
    z = y.view(torch.float32)
    z[0] = z[1]
    return y


@case
def dtype_view_complex(x):
    y = x.contiguous().clone()
    z = y.view(torch.complex128)
    z[0] = z[1] * 2
    return y


@case
def view_as_complex_write(x):
    y = x.reshape(3, 2, 2).clone()
    z = torch.view_as_complex(y)
    z[0] *= z[1]
    return y


@case
def complex_real_write(x):
    z = torch.complex(x, x.roll(1, 0))
    z.real[0] = x[1]
    z.imag.copy_(x.roll(2, 0))
    return torch.view_as_real(z)


@case
def conj(x):
    z = torch.complex(x, x.roll(1, 0))
    w = z.conj()
    w[0] = z[1]
    return torch.view_as_real(z.resolve_conj())


@case
def conj_imag(x):
    z = torch.complex(x, x.roll(1, 0)).conj()
    z.imag[0] = x[2]
    return z.real + z.imag


@case
def neg_view(x):
    z = torch.complex(x, x.roll(1, 0)).conj().imag
    z[0] = x[2]
    return z.clone()


@case
def t_write(x):
    y = x.clone()
    y.T[0] = y.T[1]
    return y


@case
def mt_h(x):
    y = x.clone()
    y.mH[0] *= y.mT[1].clone()
    return y


@case
def unbind_write(x):
    y = x.clone()
    a, b, c = y.unbind(0)
    a.copy_(b * c)
    c.zero_()
    return y


@case
def split_write(x):
    y = x.clone()
    a, b = y.split(2, 1)
    a.mul_(b)
    return y


@case
def tensor_split_write(x):
    y = x.clone()
    a, b, _ = y.tensor_split(3, 1)
    a.mul_(b)
    return y


@case
def chunk_write(x):
    y = x.clone()
    a, b = y.chunk(2, 1)
    b.copy_(a.flip(0))
    return y


@case
def diagonal_write(x):
    y = x.clone()
    y.diagonal(1).copy_(x[:, 0])
    return y


@case
def unfold_write(x):
    y = x.clone()
    y.unfold(1, 2, 2)[:, 0].copy_(x[:, 2:])
    return y


@case
def ravel_flatten(x):
    y = x.clone()
    y.ravel()[3] = x[0, 0]
    y.flatten()[5] = x[0, 1]
    return y


@case
def reshape_view(x):
    y = x.clone()
    y.reshape(2, 6)[0] = y.reshape(2, 6)[1]
    return y


@case
def unsqueeze_in_place(x):
    y = x.clone()
    y.unsqueeze_(1)
    y[:, 0, 0] = x[:, 1]
    y.squeeze_(1)
    y.t_()
    y[0] = 3 * y[1]
    return y


BY_DIFFERENCES = [
    "chunk_write",
    "data_write",
    "dtype_view_complex",
    "dtype_view_half",
    "resize_grow",
    "resize_in_place",
    "set_in_place",
    "split_write",
    "tensor_split_write",
    "unbind_write",
    "view_as_complex_write",
]
"""What torch cannot differentiate, or gets wrong."""
LOOSE = ["conj", "dtype_view_complex", "resize_grow", "resize_in_place"]
"""Where more counts as possible than is nonzero: an index that depends on ``x``, a choice, no rule."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, name not in LOOSE, differences if name in BY_DIFFERENCES else derivative)

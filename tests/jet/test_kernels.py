"""``jacfunc/jet/kernels.py``: what was measured on a processor is taken there, and nothing elsewhere."""

import pytest
import torch

from jacfunc.jet import kernels
from jacfunc.jet.kernels import Kernels


@pytest.mark.parametrize(
    ("maker", "capability", "libraries", "product", "compiled"),
    [
        ("AuthenticAMD", "AVX512", True, True, True),
        ("AuthenticAMD", "AVX2", True, True, False),
        ("GenuineIntel", "AVX512", True, False, False),
        ("", "DEFAULT", True, False, False),
        ("AuthenticAMD", "AVX512", False, False, False),
    ],
)
def test_what_was_measured_on_this_kind_of_processor(monkeypatch, maker, capability, libraries, product, compiled):
    monkeypatch.setattr(kernels, "_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: libraries)
    here = kernels.measured_here()
    assert set(here) == ({torch.float32} if product else set())
    found = here.get(torch.float32, Kernels())
    assert (found.product is not None, found.compiled) == (product, compiled)


def test_by_dtype_and_device(monkeypatch):
    row = Kernels(tanh=7)
    monkeypatch.setattr(kernels, "HERE", {torch.float32: row})
    assert kernels.kernels(torch.zeros(2)) is row
    assert kernels.kernels(torch.zeros(2).double()) == Kernels()
    assert kernels.kernels(torch.zeros(2, device="meta")) == Kernels()


def test_the_maker_is_told_by_the_processor(monkeypatch, tmp_path):
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor : 0\nvendor_id\t: GenuineIntel\nvendor_id\t: other\n")
    monkeypatch.setattr(kernels, "Path", lambda _: listed)
    assert kernels._maker() == "GenuineIntel"
    listed.unlink()
    monkeypatch.setattr(kernels.platform, "processor", lambda: "AMD64 Family 25 Model 1, AuthenticAMD")
    assert kernels._maker() == "AuthenticAMD"


def test_each_row_helps_somewhere():
    assert all(row != Kernels() for row in kernels.MEASURED.values())
    assert all(row.product for row in kernels.MEASURED.values() if row.compiled)

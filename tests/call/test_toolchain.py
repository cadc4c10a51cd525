"""``jacfunc/call/toolchain.py``: what the first compilation of a process asks of the compiler, and what it leaves out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch._inductor import codecache, config, cpu_vec_isa

from jacfunc.call.toolchain import prepared
from jacfunc.core import caches

WITHOUT = {"cpp_cache_precompile_headers": False}
X = torch.ones(2, 3)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A process that has compiled nothing, and an event that tells that the compiler was asked."""
    event = threading.Event()
    monkeypatch.setattr(caches.TOOLCHAIN, "asked", False)
    monkeypatch.setattr(codecache, "_HEADER_DIR", str(tmp_path))
    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", event.set)
    return event


def test_the_first_compilation_goes_without_the_header_and_asks_beside_it(asked):
    assert prepared([X]) == WITHOUT
    assert asked.wait(60)
    assert prepared([X]) == {}


@pytest.mark.parametrize("name", ["header.h.gch", "header.h.pch"])
def test_a_header_that_is_there_is_used(asked, tmp_path, name):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "header.h").touch()
    assert prepared([X]) == WITHOUT
    caches.TOOLCHAIN.asked = False
    (tmp_path / "c" / name).touch()
    assert prepared([X]) == {}


def test_the_users_choice_stands(asked):
    with config.patch(cpp_cache_precompile_headers=False):
        assert prepared([X]) == {}


def test_other_devices_need_no_compiler(asked):
    assert prepared([X.to("meta")]) == {}
    assert not asked.is_set()


def test_what_torch_cannot_find_out_it_finds_out_itself(asked, monkeypatch, recwarn):
    ended = threading.Event()

    def fails():
        ended.set()
        raise OSError("no compiler")

    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", fails)
    prepared([X])
    assert ended.wait(60)
    assert not recwarn.list  # as of an exception that a thread has left


SCRIPT = """
import torch
from pathlib import Path
from torch._inductor import codecache
from jacfunc import laplacian

found = []
for width in (8, 16):
    net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    x = torch.randn(5, 3)
    torch.testing.assert_close(laplacian(net, compile=True)(x), laplacian(net)(x))
    found.append(any(Path(codecache._HEADER_DIR).rglob("*.?ch")))
print(found)
"""


@pytest.mark.slow
def test_the_second_compilation_makes_the_header(tmp_path):
    surroundings = {**os.environ, "TMPDIR": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=surroundings, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[False, True]", run.stderr

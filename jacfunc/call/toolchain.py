"""The C++ compiler's share of the first compilation of a process, made shorter.

Which vector instructions there are torch finds out by compiling and loading a program, and everything waits: here it is
asked beside the tracing.  Then it compiles the header of all kernels in advance, which takes as long as five kernels:
here that is left to the second compilation, as many programs have but one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..core import caches
from ..core.torch_private import header_folder, inductor


def prepared(tensors: Iterable[torch.Tensor]) -> dict[str, Any]:
    """The options of Inductor for a compilation that is about to come; of the first one the compiler is asked ahead."""
    with caches.LOCK:
        first, caches.TOOLCHAIN.asked = not caches.TOOLCHAIN.asked, True
    if not first or any(tensor.device.type != "cpu" for tensor in tensors):
        return {}
    codecache, config, cpu_vec_isa = inductor()
    caches.TOOLCHAIN.thread = threading.Thread(target=_ask, args=(cpu_vec_isa,), daemon=True)
    caches.TOOLCHAIN.thread.start()
    wanted = config.cpp_cache_precompile_headers and not _has_header(codecache)
    return {"cpp_cache_precompile_headers": False} if wanted else {}


def answered() -> None:
    """Wait until the compiler has answered, if it was asked."""
    thread = caches.TOOLCHAIN.thread
    if thread is not None:
        thread.join()


def _ask(cpu_vec_isa: Any) -> None:
    """Torch keeps the answer, and asks again where there was none."""
    with suppress(Exception):
        cpu_vec_isa.valid_vec_isa_list()


def _has_header(codecache: Any) -> bool:
    folder = header_folder(codecache)
    return folder is None or any(found.suffix in (".gch", ".pch") for found in Path(folder).rglob("*"))

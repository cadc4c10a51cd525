"""The peak memory of one call, and the processes to measure it in; what is measured is in ``measure.py``."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Windows has no fork server
    from multiprocessing.context import ForkServerContext, SpawnContext

# What torch imports by itself, but only when a derivative is first taken; a name it no longer has is skipped.  Written
# here, for this file is also read where there is no torch, to measure other libraries.
LATE_IMPORTS = ("torch", "torch._dynamo")


def processes() -> ForkServerContext | SpawnContext:
    """How to start a process that measures: quickly, and without the memory of this one."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imports take seconds and a call milliseconds: the server imports once, and every process is forked from it.
    context.set_forkserver_preload([*LATE_IMPORTS])
    return context


@contextmanager
def started(target: Callable[..., None], *told: object) -> Iterator[tuple[Connection, BaseProcess]]:
    """A process that calls ``target(connection, *told)``, and what it sends; none is left behind."""
    context = processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(sender, *told))
    process.start()
    sender.close()  # or its end would not show here
    try:
        yield receiver, process
    finally:
        process.kill()
        process.join()


def import_late() -> None:
    """Do the late imports here while the fork server, where there is one, does them too."""
    if sys.platform == "linux":
        from multiprocessing.forkserver import ensure_running

        processes()
        ensure_running()
    for name in LATE_IMPORTS:
        with suppress(ImportError):
            import_module(name)


def growth(call: Callable[[], object]) -> int | None:
    """The bytes by which the resident memory grows during a call, at its peak; None where it is not known."""
    with suppress(OSError):  # elsewhere than on Linux the peak of the imports is not forgotten
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident()
    call()
    after = resident()
    return max(0, after[1] - before[0]) if before and after else None


def resident() -> tuple[int, int] | None:
    """The bytes resident now and at most so far."""
    with suppress(OSError, KeyError):
        # Not getrusage: on Linux a process starts with the ru_maxrss of the one that started it.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most

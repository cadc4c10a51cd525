"""What disturbs a measurement: others that use the machine, and memory that goes back to the system between calls.

Torch's threads wait for each other, so beside a busy neighbour a call takes hundreds of times as long.  Pages that the C
library gave back cost a fault each when they are taken again: half of a call, or nothing, as it happens to be.
"""

from __future__ import annotations

import ctypes
import sys
import time
from contextlib import suppress
from pathlib import Path

QUIET = 0.1
"""The share of all cores that others may use."""

PAGES_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(10**9), "MALLOC_TRIM_THRESHOLD_": str(2 * 10**9)}
"""The environment of a process whose C library (glibc) gives nothing back; for this one there is ``keep_pages``."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_pages() -> None:
    """Let the C library keep from now on what this process frees."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has none
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, 10**9)
            mallopt(M_TRIM_THRESHOLD, 2 * 10**9)


def busy(seconds: float = 0.3) -> float:
    """The share of all cores in use while this process sleeps; 0 where the system does not tell."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None:
        return 0.0
    idle, every = after[0] - before[0], after[1] - before[1]
    return 1 - idle / every if every else 0.0


def _ticks() -> tuple[int, int] | None:
    """How long all cores were idle, and how long in all."""
    with suppress(OSError, ValueError):  # elsewhere than on Linux
        numbers = [int(number) for number in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
        return numbers[3] + numbers[4], sum(numbers)
    return None


def wait(seconds: float) -> float:
    """Wait until the machine is quiet, at most so long; how busy it is then."""
    end = time.monotonic() + seconds
    share = busy()
    while share > QUIET and time.monotonic() < end:
        time.sleep(1)
        share = busy()
    return share

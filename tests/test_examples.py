"""``docs/examples``: scripts that run on one process and, by torchrun, on two, to the same losses, also after a death."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "examples" / "burgers_many.py"
ALONE = [sys.executable, str(SCRIPT)]
LINE = re.compile(r"step (\d+) loss (\S+)")


def by_torchrun(*options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *options,
        str(SCRIPT),
    ]


def started(command: list[str], folder: Path, steps: int) -> subprocess.Popen[str]:
    options = ["--checkpoints", str(folder), "--steps", str(steps), "--every", "5", "--points", "64", "--timeout", "15"]
    return subprocess.Popen(
        [*command, *options, "--sample-chunk-size", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(command: list[str], folder: Path, steps: int = 10) -> dict[int, float]:
    process = started(command, folder, steps)
    told, _ = process.communicate(timeout=240)
    assert process.returncode == 0, told
    return {int(step): float(loss) for step, loss in LINE.findall(told)}


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    alone, two = losses(ALONE, tmp_path / "one"), losses(by_torchrun("--max-restarts", "3"), tmp_path / "two")
    assert list(alone) == list(two) == list(range(10))
    assert two == pytest.approx(alone, rel=1e-10)
    assert alone[9] < alone[0]
    longer = losses(ALONE, tmp_path / "two", steps=12)  # one process goes on where two have stopped
    assert list(longer) == [10, 11]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="which process is a rank is asked of /proc")
def test_a_rank_is_killed_and_all_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    alone = losses(ALONE, tmp_path / "one", steps=30)
    process = started(by_torchrun("--max-restarts", "20"), tmp_path / "two", 30)
    assert process.stdout is not None
    told, killed = [], False
    for line in process.stdout:
        told.append(line)
        if line.startswith("step 12 ") and not killed:
            ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(ranks[-1]), signal.SIGKILL)
            killed = True
    assert process.wait(timeout=60) == 0, "".join(told)
    steps = [int(step) for step, _ in LINE.findall("".join(told))]
    assert killed
    again = next(step for before, step in itertools.pairwise(steps) if step <= before)
    assert again % 5 == 0  # the last checkpoint, not the beginning
    assert 10 <= again <= 15
    found = {int(step): float(loss) for step, loss in LINE.findall("".join(told))}
    assert found == pytest.approx(alone, rel=1e-10)

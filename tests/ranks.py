"""A function run by several processes of one gloo group, with what each of them returned or raised."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed.fsdp", "jacfunc"])
SECONDS = 60
"""After which a rank that has not returned is said to hang."""


class RankError(RuntimeError):
    """What a rank raised, or that it hung."""


def on_ranks(work: Callable[..., Any], *args: Any, ranks: int = 2, seconds: float = SECONDS) -> list[Any]:
    """What ``work(rank, *args)`` returns on each rank of a gloo group; ``work`` is a function of a module."""
    found = outcomes(work, *args, ranks=ranks, seconds=seconds)
    for rank, (_, error) in enumerate(found):
        if error is not None:
            raise RankError(f"rank {rank}: {error}")
    return [result for result, _ in found]


def outcomes(
    work: Callable[..., Any], *args: Any, ranks: int = 2, seconds: float = SECONDS
) -> list[tuple[Any, str | None]]:
    """For each rank what it returned, or None and what it raised; nothing that hangs outlives the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            CONTEXT.Process(target=_run, args=(work, rank, ranks, str(Path(folder) / "store"), pipes[rank][1], args))
            for rank in range(ranks)
        ]
        for process, (_, end_of_pipe) in zip(processes, pipes, strict=True):
            process.start()
            end_of_pipe.close()  # so that the death of the process is told
        try:
            end = time.monotonic() + seconds
            return [_received(pipes[rank][0], processes[rank], end) for rank in range(ranks)]
        finally:
            for process in processes:
                process.join(2)
                process.kill()


def _received(pipe: Any, process: Any, end: float) -> tuple[Any, str | None]:
    if not pipe.poll(max(0.1, end - time.monotonic())):
        return None, "hangs" if process.is_alive() else "died"
    try:
        result: tuple[Any, str | None] = pickle.loads(pipe.recv())
    except EOFError:
        return None, "died"
    return result


def _run(work: Callable[..., Any], rank: int, ranks: int, store: str, pipe: Any, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=SECONDS)
    )
    try:
        pipe.send(pickle.dumps((work(rank, *args), None)))  # by value: tensors outlive the process
    except BaseException as error:
        pipe.send(pickle.dumps((None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))
    finally:
        distributed.destroy_process_group()

"""Entries judged in processes of their own, so that a crash or a hang costs one entry and not the sweep."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

LIMIT = 120.0
"""Seconds that one entry may take before its process is ended."""


def _work(connection: Connection) -> None:
    import torch

    from .judge import judged

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    while (name := connection.recv()) is not None:
        try:
            for record in judged(name):
                connection.send(record)
        except Exception as error:
            connection.send({"broken": f"the sweep itself raises {type(error).__name__}: {error}"})
        connection.send(None)


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.records: list[dict[str, Any]] = []
        self.name = ""
        self.begun = 0.0
        self.gone = False

    def begin(self, name: str) -> None:
        self.name, self.records, self.begun = name, [], time.monotonic()
        self.connection.send(name)

    def received(self) -> bool:
        """Take one message; whether the entry is finished, by an answer or by the end of the process."""
        try:
            record = self.connection.recv()
        except EOFError:
            return self._end("the process crashed")
        if record is not None:
            self.records.append(record)
        return record is None

    def late(self) -> bool:
        if time.monotonic() - self.begun < LIMIT + 60 * (not self.records):  # the imports take part of the first
            return False
        return self._end(f"not finished after {LIMIT:g} s")

    def _end(self, why: str) -> bool:
        self.records.append({"broken": why})
        self.process.kill()
        self.gone = True
        return True


def in_processes(names: list[str], processes: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each entry and its records, in the order in which they finish."""
    waiting = list(reversed(names))
    workers: list[_Worker] = []
    while waiting or workers:
        while waiting and len(workers) < processes:
            workers.append(_Worker())
            workers[-1].begin(waiting.pop())
        ready = wait([worker.connection for worker in workers], timeout=1)
        for worker in list(workers):
            if (worker.connection in ready and worker.received()) or worker.late():
                yield worker.name, worker.records
                if worker.gone:
                    workers.remove(worker)
                elif waiting:
                    worker.begin(waiting.pop())
                else:
                    worker.connection.send(None)
                    workers.remove(worker)

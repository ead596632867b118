"""Processes that do one risky piece of work at a time each, lent to one caller after another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from server.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence


class WorkerPool:
    """Owns the processes. Each starts when it is first needed, or with `start`."""

    def __init__(self, command: Sequence[str], num_workers: int) -> None:
        self._workers = [WorkerProcess(command) for _ in range(num_workers)]
        self._free: asyncio.LifoQueue[WorkerProcess] = asyncio.LifoQueue()
        for worker in self._workers:
            self._free.put_nowait(worker)

    async def start(self) -> None:
        """Start all processes, so that nobody waits for it. Raises as `WorkerProcess.start` does."""
        await asyncio.gather(*(worker.start() for worker in self._workers))

    async def take(self) -> WorkerProcess:
        """Wait for a process that is free, the one that was busy last. It has to be given back."""
        return await self._free.get()

    def give_back(self, worker: WorkerProcess) -> None:
        """Let others have a process that was taken."""
        self._free.put_nowait(worker)

    async def stop(self) -> None:
        """Kill the processes."""
        for worker in self._workers:
            await worker.stop()

"""The server's end of a process that does one risky piece of work at a time; see `worker_frames`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import TYPE_CHECKING

from server.engine_link import child_environment
from server.worker_frames import LENGTH

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Sequence

START_TIMEOUT_S = 30.0


class WorkerLostError(Exception):
    """The process ended before it answered, or could not be started."""

    def __init__(self, why: str, exit_code: int | None = None) -> None:
        """`exit_code` is None if there was no process."""
        super().__init__(why)
        self.exit_code = exit_code


class WorkerProcess:
    """One process, killed when its work takes too long. `start` starts it again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    async def ask(self, payload: bytes, limit_s: float) -> bytes:
        """Send a frame to the process, which has been started, and return the answer.

        Raises:
            TimeoutError: there was no answer within `limit_s`; the process has been killed.
            WorkerLostError: the process has ended.
        """
        assert self._process is not None
        return await self._exchange(self._process, payload, limit_s)

    async def start(self, setting: Callable[[], bytes] = bytes) -> None:
        """Start the process if there is none, send it its setting, and wait until it is ready.

        Raises:
            TimeoutError, WorkerLostError: it cannot be started.
        """
        if self._process is not None:
            return
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # hostile input must not fill the operator's log
                env=child_environment(),
            )
        except OSError as error:  # the machine has no room for one
            raise WorkerLostError(str(error)) from error
        await self._exchange(process, setting(), START_TIMEOUT_S)

    async def stop(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()

    async def _exchange(self, process: Process, payload: bytes, limit_s: float) -> bytes:
        try:
            async with asyncio.timeout(limit_s):
                return await _ask(process, payload)
        except TimeoutError:
            await self.stop()
            raise
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            exit_code = await process.wait()
            await self.stop()
            raise WorkerLostError(f"exit code {exit_code}", exit_code) from error


async def _ask(process: Process, payload: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(LENGTH.pack(len(payload)) + payload)
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    return await process.stdout.readexactly(length)

"""One engine process and the server's end of the channel to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import engine
from engine.channel import LENGTH, MAX_FRAME_BYTES, decode_frame, encode_command, pack
from engine.messages import Shutdown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from engine.config import EngineConfig
    from engine.messages import Command, Frame

# -P: a folder called "engine" where the server was started is not ours.
ENGINE_COMMAND = (sys.executable, "-P", "-m", "engine")

logger = logging.getLogger(__name__)


class EngineLink:
    """A running engine process. Commands go in, frames come out; it dies with its channel."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, config: EngineConfig, command: Sequence[str] = ENGINE_COMMAND) -> EngineLink:
        """Start a process. It is a fresh one, not a fork: gRPC and CUDA survive no fork.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            arguments = [
                f"--channel-fd={theirs.fileno()}",
                f"--config={msgspec.json.encode(config).decode()}",
            ]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    *arguments,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=child_environment(),
                )
            except OSError:
                writer.close()
                raise
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command; it is lost if the process has gone."""
        self._writer.write(pack(encode_command(command)))

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Yield frames until the process closes its end."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                assert length <= MAX_FRAME_BYTES, length
                yield decode_frame(await self._reader.readexactly(length))

    def kill(self) -> None:
        """End the process at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    self._process.pid, signal.SIGKILL
                )  # Process.kill would take its exit code from asyncio

    async def shut_down(self, grace_s: float) -> None:
        """Ask the process to end, and end it if it does not within `grace_s`."""
        self.send(Shutdown())
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()

    async def close(self) -> int:
        """End the process if it still runs, and return its exit code, or minus the signal that ended it."""
        self.kill()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        exit_code = await self._process.wait()
        logger.info("the engine process %d ended with exit code %d", self.pid, exit_code)
        return exit_code


def child_environment() -> dict[str, str]:
    """Ours, with our packages importable from wherever we found them."""
    folders = [str(Path(engine.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}

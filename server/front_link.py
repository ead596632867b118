"""One front process, and the server's end of the channel to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from server.engine_link import child_environment
from server.front_call import FrontCall
from server.front_channel import FrontChannel
from server.front_messages import (
    Failed,
    FrontConfig,
    Left,
    Listening,
    Opened,
    Received,
    Report,
    Stop,
    Written,
    decode_report,
    encode_config,
)
from server.listeners import PortError

if TYPE_CHECKING:
    from server.front_call import Find

# -P: a folder called "server" where the server was started is not ours.
_COMMAND = (sys.executable, "-P", "-m", "server.front")
_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class FrontLink:
    """A running front. It ends with its channel; the calls that it has then are over."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._channel = FrontChannel(decode_report, self._take, self._lose, self._kill_frozen)
        self._calls: dict[int, FrontCall] = {}
        self._listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    async def start(self, config: FrontConfig) -> None:
        """Start the process, and wait until it listens. It is a fresh one, not a fork: gRPC survives none.

        Raises:
            PortError: it cannot be started, or cannot listen.
        """
        try:
            await self._start_process(config)
        except OSError as error:
            self._lose()
            raise PortError(f"a front process cannot be started: {error}") from error
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self.listening()
        except TimeoutError as error:
            self._kill()
            raise PortError(f"a front process did not listen within {_START_TIMEOUT_S:g} s") from error
        self._channel.watch(config.silence_timeout_s)

    async def _start_process(self, config: FrontConfig) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            await self._channel.open(ours)
            self._process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                f"--channel-fd={theirs.fileno()}",
                f"--config={encode_config(config).decode()}",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=child_environment(),
            )

    async def listening(self) -> None:
        """Wait until it listens. Raises PortError where it cannot."""
        await asyncio.shield(self._listening)

    async def ended(self) -> int | None:
        """Wait for the end of the process, and return its exit code; None if it could not be started."""
        await self._lost.wait()
        if self._process is None:
            return None
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                return await self._process.wait()
        except TimeoutError:
            self._kill()
            return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """End the process; calls may go on for `grace_s`. Afterwards no handler of them runs."""
        self._channel.send(Stop(grace_s))
        try:
            async with asyncio.timeout(grace_s + _END_TIMEOUT_S):
                await self._lost.wait()
        except TimeoutError:
            self._kill()  # while it is frozen, a channel with something left to send does not close
        self._channel.close()
        await self.ended()
        await asyncio.gather(*(call.ended() for call in self._calls.values()))

    def _kill_frozen(self) -> None:
        logger.error("the front process %d is silent and is killed", self.pid)
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _take(self, report: Report) -> None:
        match report:
            case Opened(number):
                call = self._calls[number] = FrontCall(report, self._channel.send)
                call.start(self._find, lambda: self._forget(number))
            case Listening():
                self._listening.set_result(None)
            case Failed(text):
                self._listening.set_exception(PortError(text))
            case _:
                self._tell(report)

    def _tell(self, report: Received | Written | Left) -> None:
        call = self._calls.get(report.call)
        match report:
            case _ if call is None:
                return  # its handler has ended meanwhile
            case Received(_, message):
                call.take(message)
            case Written():
                call.note_written()
            case Left():
                call.leave()

    def _forget(self, number: int) -> None:
        del self._calls[number]

    def _lose(self) -> None:
        """The process has gone, and its callers with it."""
        for call in self._calls.values():
            call.leave()
        if not self._listening.done():
            self._listening.set_exception(PortError("a front process ended before it listened"))
            self._listening.exception()  # nobody may be waiting for it
        self._lost.set()

"""Does harm to a service, one fault at a time, and waits until all is well again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import httpx
from processes import command_line, descendants, num_files
from soak.history import History, Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from processes import House
    from soak.proxy import Proxy

FREEZE_S = 3.0
LIMIT_S = 5.0
STORM_S = 5.0
SPARE_FILES = 3
RECOVERY_S = 120.0
"""Longest wait until all is well: a server that was killed loads its model anew."""
CALM_S = 6.0


@dataclass(frozen=True)
class Fault:
    """A kind of harm."""

    name: str
    does: Callable[[], AbstractAsyncContextManager[None]]
    """Its body runs while the harm lasts."""
    lasts_s: float = 0.0
    breaks_connections: bool = False
    is_on_the_way: bool = False


class Nemesis:
    """Harms one house."""

    def __init__(self, house: House, proxies: Sequence[Proxy], history: History) -> None:
        self._house = house
        self._proxies = proxies
        self._history = history
        self.faults = [
            Fault("kill engine", lambda: self._signal("engine", signal.SIGKILL)),
            Fault("freeze engine", lambda: self._freeze("engine"), FREEZE_S),
            Fault("kill translator", lambda: self._signal("translate", signal.SIGKILL), 0.0, True),
            Fault("freeze translator", lambda: self._freeze("translate"), FREEZE_S, True),
            Fault("kill template processes", lambda: self._signal("server.template_worker", signal.SIGKILL)),
            Fault("storm on the way", self._storm, STORM_S, True, True),
            Fault("freeze server", lambda: self._freeze("serve"), FREEZE_S, True),
            Fault("few files", self._few_files, LIMIT_S, True),
            Fault("full disk for logs", self._full_disk, LIMIT_S),
            Fault("kill server", lambda: self._signal("serve", signal.SIGKILL), 0.0, True),
        ]

    async def strike(self, fault: Fault) -> None:
        """Do it, undo it, wait for recovery, and write it down."""
        start_s = time.monotonic()
        async with fault.does():
            await asyncio.sleep(fault.lasts_s)
        await self.until_well()
        window = Window(fault.name, start_s, time.monotonic(), fault.breaks_connections, fault.is_on_the_way)
        self._history.windows.append(window)

    async def until_well(self) -> None:
        """Wait until both doors take requests."""
        deadline_s = time.monotonic() + RECOVERY_S
        while not await asyncio.to_thread(self._is_well):
            assert time.monotonic() < deadline_s, f"not well again after {RECOVERY_S} s"
            assert self._house.process.poll() is None, "pagewire up has ended"
            await asyncio.sleep(0.1)

    def pids(self, word: str) -> list[int]:
        """Find the house's processes that have this word in their command."""
        return [pid for pid in descendants(self._house.process.pid) if word in command_line(pid)]

    def _is_well(self) -> bool:
        with contextlib.suppress(grpc.RpcError, httpx.TransportError):
            ready = httpx.get(f"{self._house.base_url}/health/ready", timeout=5)
            return self._house.stats().ready and ready.status_code == 200
        return False

    @contextlib.asynccontextmanager
    async def _signal(self, word: str, number: int) -> AsyncIterator[None]:
        for pid in self.pids(word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        yield

    @contextlib.asynccontextmanager
    async def _freeze(self, word: str) -> AsyncIterator[None]:
        frozen = self.pids(word)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):  # the watchdog may have ended it
                    os.kill(pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def _storm(self) -> AsyncIterator[None]:
        for proxy in self._proxies:
            proxy.storm()
        try:
            yield
        finally:
            for proxy in self._proxies:
                proxy.calm()

    @contextlib.asynccontextmanager
    async def _few_files(self) -> AsyncIterator[None]:
        """Both servers may open only a few more files and connections."""
        pids = [*self.pids("serve"), *self.pids("translate")]
        limits = {pid: num_files(pid) + SPARE_FILES for pid in pids}
        with contextlib.ExitStack() as stack:
            for pid, limit in limits.items():
                stack.enter_context(_limited(pid, resource.RLIMIT_NOFILE, limit))
            yield

    @contextlib.asynccontextmanager
    async def _full_disk(self) -> AsyncIterator[None]:
        """Logs cannot grow."""
        size = self._house.log.stat().st_size
        with contextlib.ExitStack() as stack:
            for pid in [*self.pids("serve"), *self.pids("translate")]:
                stack.enter_context(_limited(pid, resource.RLIMIT_FSIZE, size))
            yield


@contextlib.contextmanager
def _limited(pid: int, kind: int, limit: int) -> Iterator[None]:
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, before)

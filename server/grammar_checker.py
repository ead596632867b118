"""Compiles grammars before their requests are taken in, so that a bad one is an error of the request.

That happens in processes that are killed when a grammar takes too long or needs too much memory: neither the
server nor the engine waits for it, and other grammars go to the other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import subprocess
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from server.engine_link import child_environment
from server.errors import QueueFullError
from server.fields import invalid
from server.grammar_worker import LENGTH, Compiled

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from server.grammars import Grammar
    from server.served_model import ServedModel

WORKER_COMMAND = (sys.executable, "-P", "-m", "server.grammar_worker")
NUM_WORKERS = 2
LIMIT_S = 2.0
"""A grammar may take this long to compile."""
MAX_WAIT_S = 8.0
"""For a process that is free."""
START_TIMEOUT_S = 30.0
MAX_VERDICTS = 512
LAPSE_S = 60.0
"""A grammar that took too long may be tried again after this: perhaps the machine was busy."""

_TOO_SLOW = "it takes too long to compile"
_TOO_LARGE = "it needs too much memory to compile"


class GrammarChecker:
    """Owns the processes, which start when they are first needed, and remembers what came of grammars."""

    def __init__(self, command: Sequence[str] = WORKER_COMMAND, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._workers = [_Worker(command) for _ in range(NUM_WORKERS)]
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._free.put_nowait(worker)
        self._verdicts: OrderedDict[bytes, Compiled] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Compiled | None]] = {}

    @property
    def num_compiling(self) -> int:
        """Grammars that are compiled now or wait for it. Any thread may ask."""
        return len(self._running)

    async def check(self, grammar: Grammar, model: ServedModel) -> str:
        """Compile a grammar. Return its text for the engine.

        Raises:
            InvalidRequestError: it is wrong, matches nothing, or is too complex.
            QueueFullError: too many grammars wait to be compiled.
        """
        text = grammar.text
        key = hashlib.sha256(text.encode()).digest()
        compiled = self._verdicts.get(key)
        if compiled is None:
            task = self._running.get(key)
            if task is None:
                task = self._running[key] = asyncio.create_task(self._compile(key, text, model))
                task.add_done_callback(lambda _: self._running.pop(key))
            compiled = await asyncio.shield(task)
        else:
            self._verdicts.move_to_end(key)
        if compiled is None:
            raise QueueFullError("too many grammars wait to be compiled")
        if compiled.error:
            raise invalid(grammar.path, f"cannot be followed: {compiled.error}")
        return compiled.text

    async def close(self) -> None:
        """End the processes."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for worker in self._workers:
            await worker.stop()

    async def _compile(self, key: bytes, text: str, model: ServedModel) -> Compiled | None:
        """Compile and remember; None where no process became free in time."""
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                worker = await self._free.get()
        except TimeoutError:
            return None
        try:
            compiled = await worker.compile(text, model, self._limit_s)
        finally:
            self._free.put_nowait(worker)
        self._remember(key, compiled)
        return compiled

    def _remember(self, key: bytes, compiled: Compiled) -> None:
        self._verdicts[key] = compiled
        if len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)
        if compiled.error == _TOO_SLOW:
            asyncio.get_running_loop().call_later(LAPSE_S, self._verdicts.pop, key, None)


class _Worker:
    """One process, started when it is needed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: Process | None = None

    async def compile(self, text: str, model: ServedModel, limit_s: float) -> Compiled:
        """Compile a grammar. Where it takes longer than it may, the process is killed."""
        process = self._process or await self._start(model)
        try:
            async with asyncio.timeout(limit_s):
                return await _ask(process, text.encode())
        except TimeoutError:
            failure = Compiled(error=_TOO_SLOW)
        except (asyncio.IncompleteReadError, ConnectionError):
            failure = Compiled(error=_TOO_LARGE)
        await self.stop()
        return failure

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

    async def _start(self, model: ServedModel) -> Process:
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # hostile grammars must not fill the operator's log
            env=child_environment(),
        )
        setting = msgspec.msgpack.encode((model.vocabulary, model.info.vocab_size))
        async with asyncio.timeout(START_TIMEOUT_S):
            await _ask(process, setting)
        return process


async def _ask(process: Process, payload: bytes) -> Compiled:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(LENGTH.pack(len(payload)) + payload)
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    return msgspec.msgpack.decode(await process.stdout.readexactly(length), type=Compiled)

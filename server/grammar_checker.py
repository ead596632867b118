"""Compiles grammars before their requests are taken in, so that a bad one is an error of the request.

That happens in processes that are killed when a grammar takes too long or needs too much memory: neither the
server nor the engine waits for it, and other grammars go to the other process.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from server.errors import NotReadyError, QueueFullError, ServiceError
from server.fields import invalid
from server.grammar_worker import Compiled
from server.histogram import Histogram
from server.worker_pool import WorkerPool
from server.worker_process import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.grammars import Grammar
    from server.served_model import ServedModel
    from server.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "server.grammar_worker")
NUM_WORKERS = 2
LIMIT_S = 2.0
"""A grammar may take this long to compile."""
MAX_WAIT_S = 8.0
"""For a process that is free."""
MAX_CACHED_BYTES = 16 << 20
"""Of grammars whose verdict is remembered."""
ENTRY_BYTES = 512
"""What an entry takes beside its texts, roughly."""
LAPSE_S = 60.0
"""A grammar that took too much may be tried again after this: perhaps the machine was busy."""
NUM_ATTEMPTS = 2
"""For a grammar whose process could not be started, or was killed by somebody else."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_TOO_SLOW = "it takes too long to compile"
_TOO_LARGE = "it needs too much memory to compile"


@dataclass(slots=True)
class _Compilation:
    """What those share who ask for the same grammar."""

    task: asyncio.Task[Compiled | ServiceError]
    """Returns errors, for there may be nobody left whom to tell."""
    num_callers: int = 0
    has_process: bool = False


class GrammarChecker:
    """Owns the processes, which start when they are first needed, and remembers what came of grammars."""

    def __init__(self, command: Sequence[str] = WORKER_COMMAND, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._workers = WorkerPool(command, NUM_WORKERS)
        self._verdicts: OrderedDict[bytes, Compiled] = OrderedDict()
        self._cached_bytes = 0
        self._running: dict[bytes, _Compilation] = {}
        self.seconds = Histogram(_SECONDS)
        """What compiling took, to whatever end."""

    @property
    def num_compiling(self) -> int:
        """Grammars that are compiled now or wait for it. Any thread may ask."""
        return len(self._running)

    async def check(self, grammar: Grammar, model: ServedModel) -> str:
        """Compile a grammar. Return its text for the engine.

        Raises:
            InvalidRequestError: it is wrong, matches nothing, or is too complex.
            QueueFullError: too many grammars wait to be compiled.
            NotReadyError: the processes cannot be started.
        """
        text = grammar.text
        key = hashlib.sha256(text.encode()).digest()
        compiled = self._verdicts.get(key)
        if compiled is None:
            compiled = await self._shared(key, text, model)
        else:
            self._verdicts.move_to_end(key)
        if compiled.error:
            raise invalid(grammar.path, f"cannot be followed: {compiled.error}")
        return compiled.text

    async def close(self) -> None:
        """End the processes."""
        tasks = [compilation.task for compilation in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workers.stop()

    async def _shared(self, key: bytes, text: str, model: ServedModel) -> Compiled:
        """Wait for a compilation. The last who leaves takes it out of the queue, but not from a process."""
        compilation = self._running.get(key)
        if compilation is None:
            compilation = _Compilation(asyncio.create_task(self._compile(key, text, model)))
            self._running[key] = compilation
        compilation.num_callers += 1
        try:
            result = await asyncio.shield(compilation.task)
        finally:
            compilation.num_callers -= 1
            if not compilation.num_callers and not compilation.has_process:
                compilation.task.cancel()
                del self._running[key]
        if isinstance(result, ServiceError):
            raise result
        return result

    async def _compile(self, key: bytes, text: str, model: ServedModel) -> Compiled | ServiceError:
        """Compile and remember."""
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                worker = await self._workers.take()
        except TimeoutError:
            return QueueFullError("too many grammars wait to be compiled")
        self._running[key].has_process = True
        began_s = time.monotonic()
        try:
            compiled = await self._ask(worker, text, model)
            self.seconds.observe(time.monotonic() - began_s)
        except NotReadyError as error:
            return error
        finally:
            self._workers.give_back(worker)
            del self._running[key]
        self._remember(key, compiled)
        return compiled

    async def _ask(self, worker: WorkerProcess, text: str, model: ServedModel) -> Compiled:
        def setting() -> bytes:
            return msgspec.msgpack.encode((model.vocabulary, model.info.vocab_size))

        is_to_blame = True
        for _ in range(NUM_ATTEMPTS):
            try:
                await worker.start(setting)
            except (TimeoutError, WorkerLostError) as error:
                logger.warning("a process that compiles grammars cannot be started: %r", error)
                is_to_blame = False
                continue
            try:
                answer = await worker.ask(text.encode(), self._limit_s)
            except TimeoutError:
                return Compiled(error=_TOO_SLOW)
            except WorkerLostError as error:
                if error.exit_code != -signal.SIGKILL:
                    return Compiled(error=_TOO_LARGE)
            else:
                return msgspec.msgpack.decode(answer, type=Compiled)
        if is_to_blame:
            return Compiled(error=_TOO_LARGE)
        raise NotReadyError("the processes that compile grammars cannot be started")

    def _remember(self, key: bytes, compiled: Compiled) -> None:
        self._forget(key)
        self._verdicts[key] = compiled
        self._cached_bytes += _size(compiled)
        while self._cached_bytes > MAX_CACHED_BYTES:
            self._forget(next(iter(self._verdicts)))
        if compiled.error in (_TOO_SLOW, _TOO_LARGE):
            asyncio.get_running_loop().call_later(LAPSE_S, self._forget, key)

    def _forget(self, key: bytes) -> None:
        compiled = self._verdicts.pop(key, None)
        if compiled is not None:
            self._cached_bytes -= _size(compiled)


def _size(compiled: Compiled) -> int:
    return sys.getsizeof(compiled.text) + sys.getsizeof(compiled.error) + ENTRY_BYTES

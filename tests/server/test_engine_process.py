"""A real engine process: killed, stopped, hanging, failing, and told to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.config import EngineConfig
from engine.messages import EngineRequest, FinishReason, SamplingParams
from server.engine import EngineUnavailableError
from server.engine_process import EngineProcess, EngineStartError
from server.restart_policy import MAX_FAILURES, WINDOW_S, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "engine_program.py"))
MANY = 4000


class Watched:
    """An engine process whose changes of readiness can be waited for."""

    def __init__(self, **settings: Any) -> None:
        self._changed = asyncio.Event()
        self.progress: asyncio.Queue[tuple[str, int, int]] = asyncio.Queue()
        self.engine = EngineProcess(
            lambda *stage: self.progress.put_nowait(stage), self._changed.set, command=COMMAND, **settings
        )

    async def until(self, ready: bool) -> None:
        while (self.engine.not_ready_reason is None) != ready:
            self._changed.clear()
            await self._changed.wait()


@contextlib.asynccontextmanager
async def running(behaviour: str = "well", **settings: Any) -> AsyncIterator[Watched]:
    watched = Watched(**settings)
    run = asyncio.create_task(watched.engine.run(EngineConfig(model_path=behaviour)))
    try:
        await watched.until(ready=True)
        yield watched
    finally:
        await watched.engine.stop(5)
        await run


def request(request_id: str, max_tokens: int = MANY) -> EngineRequest:
    return EngineRequest(request_id, [2, 3, 4], SamplingParams(max_tokens=max_tokens))


async def tokens_of(engine: EngineProcess, request_id: str, max_tokens: int) -> list[int]:
    token_ids = []
    async for output in engine.submit(request(request_id, max_tokens)):
        token_ids += output.token_ids
    return token_ids


async def test_a_request_runs_and_its_blocks_come_back() -> None:
    async with running() as watched:
        engine = watched.engine
        assert await watched.progress.get() == ("loading", 1, 2)
        assert engine.info.num_blocks == engine.stats.num_free_blocks or engine.stats.num_steps == 0
        assert len(await tokens_of(engine, "r", 5)) == 5
        assert engine.stats.num_owned_blocks == 0
        assert engine.stats.num_finished == 1
        assert engine.not_ready_reason is None
    with pytest.raises(EngineUnavailableError):
        engine.submit(request("late"))


async def test_aborted_sequences_end_at_once_and_free_their_blocks() -> None:
    async with running() as watched:
        engine = watched.engine
        outputs = engine.submit(request("r"))
        await anext(outputs)
        engine.abort("r")
        engine.abort("r")
        engine.abort("never heard of")
        assert [output.finish_reason async for output in outputs][-1] is FinishReason.ABORTED
        other = engine.submit(request("s"))
        await anext(other)
        await other.aclose()
        await tokens_of(engine, "t", 3)
        assert engine.stats.num_owned_blocks == 0
        assert engine.stats.num_aborted == 2


async def test_a_killed_engine_fails_its_streams_and_is_started_again() -> None:
    async with running() as watched:
        engine = watched.engine
        streams = [engine.submit(request(str(index))) for index in range(8)]
        for stream in streams:
            await anext(stream)
        assert engine.pid is not None
        assert engine.last_step_age_s is not None
        before = engine.totals
        assert before.num_running == 8
        os.kill(engine.pid, signal.SIGKILL)
        for stream in streams:
            with pytest.raises(EngineUnavailableError):
                async with asyncio.timeout(2):
                    [output async for output in stream]
        assert engine.not_ready_reason is not None
        await watched.until(ready=True)
        assert engine.num_restarts == 1
        lost = engine.totals
        assert (lost.num_running, engine.stats.num_steps) == (0, 0)
        assert lost.num_steps >= before.num_steps > 0
        assert len(await tokens_of(engine, "again", 5)) == 5
        assert engine.totals.num_generated_tokens == lost.num_generated_tokens + 5
        assert engine.stats.num_generated_tokens == 5


async def test_a_short_pause_is_harmless() -> None:
    async with running() as watched:
        assert watched.engine.pid is not None
        os.kill(watched.engine.pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)
        os.kill(watched.engine.pid, signal.SIGCONT)
        assert len(await tokens_of(watched.engine, "r", 5)) == 5
        assert watched.engine.num_restarts == 0


async def test_a_stopped_engine_is_not_ready_within_five_seconds_and_replaced() -> None:
    async with running() as watched:
        engine = watched.engine
        stream = engine.submit(request("r"))
        await anext(stream)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        async with asyncio.timeout(5):
            await watched.until(ready=False)
        with pytest.raises(EngineUnavailableError):
            [output async for output in stream]
        await watched.until(ready=True)
        assert len(await tokens_of(engine, "again", 5)) == 5


async def test_a_step_that_does_not_end_is_stuck_though_the_process_lives() -> None:
    async with running("hang", step_timeout_s=0.5) as watched:
        with pytest.raises(EngineUnavailableError):
            await tokens_of(watched.engine, "r", 5)
        await watched.until(ready=True)


async def test_a_model_that_cannot_be_loaded_is_not_tried_again() -> None:
    watched = Watched()
    with pytest.raises(EngineStartError, match="no weights here"):
        await watched.engine.run(EngineConfig(model_path="fatal"))
    assert watched.engine.num_restarts == 0


async def test_a_loading_engine_can_be_stopped() -> None:
    watched = Watched()
    run = asyncio.create_task(watched.engine.run(EngineConfig(model_path="well")))
    await watched.progress.get()
    await watched.engine.stop(0)
    await run


def test_restarts_wait_longer_each_time_and_end() -> None:
    policy = RestartPolicy()
    delays = [policy.delay_after_failure(10.0 * index) for index in range(MAX_FAILURES)]
    assert delays == [1, 2, 4, 8, None]


def test_failures_long_ago_are_forgotten() -> None:
    policy = RestartPolicy()
    delays = [policy.delay_after_failure((WINDOW_S + 1) * index) for index in range(2 * MAX_FAILURES)]
    assert delays == [1] * (2 * MAX_FAILURES)

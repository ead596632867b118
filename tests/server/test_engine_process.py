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
from engine.messages import EngineRequest, Fatal, FatalCause, FinishReason, SamplingParams
from server.engine import EngineUnavailableError
from server.engine_failure import EngineFailure, FailureReason
from server.engine_process import EngineGivenUpError, EngineProcess, EngineStartError
from server.mailbox import outputs_of
from server.restart_policy import RestartLimits, RestartPolicy
from server.watchdog import LOADING_SILENCE_TIMEOUT_S, TICK_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "engine_program.py"))
MANY = 4000


class Watched:
    """An engine process whose changes of readiness can be waited for."""

    def __init__(self, **settings: Any) -> None:
        self._changed = asyncio.Event()
        self.reasons: list[str | None] = []
        self.progress: asyncio.Queue[tuple[str, int, int]] = asyncio.Queue()
        self.engine = EngineProcess(
            lambda *stage: self.progress.put_nowait(stage), self._note, **{"command": COMMAND, **settings}
        )

    def _note(self) -> None:
        self.reasons.append(self.engine.not_ready_reason)
        self._changed.set()

    def is_ready(self) -> bool:
        return self.engine.not_ready_reason is None

    async def until(self, ready: bool) -> None:
        while self.is_ready() != ready:
            self._changed.clear()
            await self._changed.wait()


class Ticks:
    """The watchdog's time, which passes when a test says so."""

    def __init__(self) -> None:
        self._due = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        assert seconds == TICK_S
        await self._due.acquire()

    async def let_pass(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self._due.release()
            await _settle()


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


async def _settle() -> None:
    """Let the loop take in all that has arrived."""
    for _ in range(20):
        await asyncio.sleep(0)


async def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    await _settle()


def request(request_id: str, max_tokens: int = MANY) -> EngineRequest:
    return EngineRequest(request_id, [2, 3, 4], SamplingParams(max_tokens=max_tokens))


async def tokens_of(engine: EngineProcess, request_id: str, max_tokens: int) -> list[int]:
    token_ids = []
    async for output in outputs_of(engine, request(request_id, max_tokens)):
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
        outputs_of(engine, request("late"))


async def test_aborted_sequences_end_at_once_and_free_their_blocks() -> None:
    async with running() as watched:
        engine = watched.engine
        outputs = outputs_of(engine, request("r"))
        await anext(outputs)
        engine.abort("r")
        engine.abort("r")
        engine.abort("never heard of")
        assert [output.finish_reason async for output in outputs][-1] is FinishReason.ABORTED
        other = outputs_of(engine, request("s"))
        await anext(other)
        await other.aclose()
        await tokens_of(engine, "t", 3)
        assert engine.stats.num_owned_blocks == 0
        assert engine.stats.num_aborted == 2


@pytest.mark.check("R01")
async def test_a_killed_engine_fails_its_streams_and_is_started_again() -> None:
    async with running() as watched:
        engine = watched.engine
        streams = [outputs_of(engine, request(str(index))) for index in range(8)]
        for stream in streams:
            await anext(stream)
        assert engine.pid is not None
        assert engine.last_step_age_s is not None
        before = engine.totals
        assert before.num_running == 8
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailableError, match="the engine process ended"):
            [output async for output in streams[0]]
        assert not watched.is_ready()  # before any stream hears of it
        for stream in streams[1:]:
            with pytest.raises(EngineUnavailableError):
                [output async for output in stream]
        await watched.until(ready=True)
        assert "the engine failed (signal SIGKILL) and is being started again" in watched.reasons
        assert engine.restarts == {FailureReason.KILLED: 1}
        lost = engine.totals
        assert (lost.num_running, engine.stats.num_steps) == (0, 0)
        assert lost.num_steps >= before.num_steps > 0
        assert len(await tokens_of(engine, "again", 5)) == 5
        assert engine.totals.num_generated_tokens == lost.num_generated_tokens + 5
        assert engine.stats.num_generated_tokens == 5


@pytest.mark.check("R02")
async def test_a_short_pause_is_harmless() -> None:
    ticks = Ticks()
    async with running(sleep=ticks.sleep) as watched:
        assert watched.engine.pid is not None
        stream = outputs_of(watched.engine, request("r", 50))
        await anext(stream)
        await freeze(watched.engine.pid)
        await ticks.let_pass(2)
        os.kill(watched.engine.pid, signal.SIGCONT)
        assert sum([len(output.token_ids) async for output in stream]) > 0
        await ticks.let_pass(2)
        assert len(await tokens_of(watched.engine, "s", 5)) == 5
        assert not watched.engine.restarts


@pytest.mark.check("R02")
async def test_a_stopped_engine_is_not_ready_within_five_seconds_and_replaced() -> None:
    ticks = Ticks()
    async with running(sleep=ticks.sleep) as watched:
        engine = watched.engine
        stream = outputs_of(engine, request("r"))
        await anext(stream)
        assert engine.pid is not None
        await freeze(engine.pid)
        await ticks.let_pass(3.5)
        assert watched.is_ready()
        await ticks.let_pass(0.25)
        assert not watched.is_ready()
        with pytest.raises(EngineUnavailableError, match="stuck"):
            [output async for output in stream]
        await watched.until(ready=True)
        assert "the engine failed (no heartbeat) and is being started again" in watched.reasons
        assert engine.restarts == {FailureReason.STUCK: 1}
        assert len(await tokens_of(engine, "again", 5)) == 5


@pytest.mark.check("R02")
async def test_an_engine_that_is_frozen_while_it_loads_is_replaced(tmp_path: Path) -> None:
    """Also the very first one."""
    ticks = Ticks()
    hold = tmp_path / "hold"
    hold.touch()
    watched = Watched(sleep=ticks.sleep, limits=RestartLimits(first_delay_s=0.01))
    engine = watched.engine
    run = asyncio.create_task(engine.run(EngineConfig(model_path=str(tmp_path))))
    for num_restarts in range(2):
        await watched.progress.get()
        lost = engine.pid
        assert lost is not None
        await freeze(lost)
        await ticks.let_pass(LOADING_SILENCE_TIMEOUT_S - 1)
        assert engine.pid == lost
        assert engine.restarts.get(FailureReason.STUCK, 0) == num_restarts
        await ticks.let_pass(1.25)
    hold.unlink()
    await watched.until(ready=True)
    assert watched.reasons.count("the engine failed (no heartbeat) and is being started again") == 2
    assert engine.restarts == {FailureReason.STUCK: 2}
    assert len(await tokens_of(engine, "again", 5)) == 5
    await engine.stop(5)
    await run


@pytest.mark.check("R02")
@pytest.mark.parametrize(
    ("behaviour", "settings", "cause"),
    [("hang", {}, "no heartbeat"), ("spin", {"step_timeout_s": 0.5}, "a step does not end")],
)
async def test_a_step_that_does_not_end_is_stuck_though_the_process_lives(
    behaviour: str, settings: dict[str, Any], cause: str
) -> None:
    """A step that waits has no pulse; one that computes is given the time of a step."""
    async with running(behaviour, **settings) as watched:
        with pytest.raises(EngineUnavailableError):
            await tokens_of(watched.engine, "r", 5)
        await watched.until(ready=True)
        assert f"the engine failed ({cause}) and is being started again" in watched.reasons


@pytest.mark.check("R02", "S23")
async def test_a_step_that_raises_ends_the_process_and_its_text_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running("raise") as watched:
        streams = [outputs_of(watched.engine, request(str(index))) for index in range(3)]
        for stream in streams:
            with pytest.raises(EngineUnavailableError) as raised:
                [output async for output in stream]
            assert str(raised.value) == "the engine process ended"
        await watched.until(ready=True)
        assert "the engine failed (an internal error) and is being started again" in watched.reasons
        assert "secret" not in repr(watched.reasons)
        assert watched.engine.restarts == {FailureReason.INTERNAL: 1}
        assert "RuntimeError: secret" in caplog.text


@pytest.mark.check("R19")
async def test_a_model_that_cannot_be_loaded_is_not_tried_again() -> None:
    watched = Watched()
    with pytest.raises(EngineStartError, match="no weights here"):
        await watched.engine.run(EngineConfig(model_path="fatal"))
    assert not watched.engine.restarts
    assert watched.reasons[-1] == "the engine cannot be started (the model cannot be loaded)"


@pytest.mark.check("R19")
async def test_an_engine_that_keeps_crashing_is_given_up() -> None:
    watched = Watched(limits=RestartLimits(first_delay_s=0.01))
    with pytest.raises(EngineGivenUpError, match="at last: exit code 9"):
        await watched.engine.run(EngineConfig(model_path="crash"))
    assert watched.engine.restarts == {FailureReason.EXITED: 4}
    assert watched.reasons.count("the engine failed (exit code 9) and is being started again") == 4
    assert watched.reasons[-1] == "the engine failed too often and is given up (at last: exit code 9)"


@pytest.mark.check("R19", "R23")
async def test_a_process_that_cannot_be_started_counts_as_a_failure() -> None:
    watched = Watched(command=("/nowhere/python",), limits=RestartLimits(first_delay_s=0.01))
    with pytest.raises(EngineGivenUpError):
        await watched.engine.run(EngineConfig(model_path="well"))
    assert watched.engine.restarts == {FailureReason.NOT_STARTED: 4}
    assert watched.reasons[-1] is not None
    assert "No such file or directory" in watched.reasons[-1]
    assert "nowhere" not in watched.reasons[-1]


async def test_a_loading_engine_can_be_stopped() -> None:
    watched = Watched()
    run = asyncio.create_task(watched.engine.run(EngineConfig(model_path="well")))
    await watched.progress.get()
    await watched.engine.stop(0)
    await run


@pytest.mark.parametrize("cause", FatalCause)
def test_every_cause_that_an_engine_tells_has_a_reason(cause: FatalCause) -> None:
    failure = EngineFailure.reported(Fatal("last words", cause))
    assert (failure.message, failure.cause) == ("last words", str(cause))
    assert failure.reason in FailureReason


@pytest.mark.check("R19")
def test_restarts_wait_longer_each_time_and_end() -> None:
    policy = RestartPolicy(RestartLimits())
    assert [policy.delay_after_failure(10.0 * index) for index in range(5)] == [1, 2, 4, 8, None]
    patient = RestartPolicy(RestartLimits(max_failures=9))
    assert [patient.delay_after_failure(index) for index in range(9)] == [1, 2, 4, 8, 16, 30, 30, 30, None]


@pytest.mark.check("R19")
def test_failures_long_ago_are_forgotten() -> None:
    limits = RestartLimits()
    policy = RestartPolicy(limits)
    delays = [policy.delay_after_failure((limits.window_s + 1) * index) for index in range(10)]
    assert delays == [1] * 10

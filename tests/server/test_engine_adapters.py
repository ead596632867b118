"""Adapters of an engine process that is lost and started again, with the fake runner in it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.errors import AdapterError
from engine.messages import AdapterLoaded, AdapterRefused, LoadAdapter, UnloadAdapter
from server.engine import EngineUnavailableError
from server.engine_adapters import EngineAdapters
from server.engine_process import EngineProcess

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "engine_program.py"))


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, command: object) -> None:
        self.sent.append(command)


async def test_an_engine_that_is_started_again_has_its_adapters() -> None:
    changed = asyncio.Event()
    engine = EngineProcess(lambda *_: None, changed.set, command=COMMAND)
    run = asyncio.create_task(engine.run(EngineConfig(model_path="", max_loras=1)))
    await engine.loaded()
    assert await engine.load_adapter(1, "/adapters/sql") == 8
    with pytest.raises(AdapterError, match="broken"):
        await engine.load_adapter(2, "/broken")
    assert engine.has_adapter(1)
    assert not engine.has_adapter(2)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    for is_ready in (False, True):
        while (engine.not_ready_reason is None) is not is_ready:
            changed.clear()
            await changed.wait()
    assert engine.has_adapter(1)
    engine.unload_adapter(1)
    assert not engine.has_adapter(1)
    await engine.stop(10)
    await run


async def test_an_adapter_is_unloaded_while_the_engine_is_started_again(tmp_path: Path) -> None:
    changed, loads = asyncio.Event(), asyncio.Event()
    engine = EngineProcess(lambda *_: loads.set(), changed.set, command=COMMAND)
    run = asyncio.create_task(engine.run(EngineConfig(model_path=str(tmp_path), max_loras=1)))
    await engine.loaded()
    await engine.load_adapter(1, "/adapters/sql")
    (tmp_path / "hold").touch()
    loads.clear()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await loads.wait()
    engine.unload_adapter(1)
    (tmp_path / "hold").unlink()
    while engine.not_ready_reason is not None:
        changed.clear()
        await changed.wait()
    assert await engine.load_adapter(2, "/adapters/art") == 8  # it has followed all that it was told before
    assert sum(engine.restarts.values()) == 1
    await engine.stop(10)
    await run


async def begin(adapters: EngineAdapters, link: Any, adapter: int) -> asyncio.Future[int]:
    loading = asyncio.ensure_future(adapters.load(link, adapter, "/x"))
    await asyncio.sleep(0)
    return loading


def new_engine() -> tuple[EngineAdapters, Any]:
    return EngineAdapters(), FakeLink()


async def started_again(*numbers: int) -> tuple[EngineAdapters, Any]:
    """Adapters whose process was lost, and a link to the next one."""
    adapters, link = new_engine()
    for number in numbers:
        loading = await begin(adapters, link, number)
        adapters.take(link, AdapterLoaded(number, 8))
        assert await loading == 8
    adapters.lose("the engine process ended")
    return adapters, FakeLink()


async def test_an_adapter_whose_files_are_gone_is_lost_and_the_others_come_back() -> None:
    adapters, link = await started_again(1, 2)
    adapters.bring_back(link)
    assert not adapters.are_complete
    replies = (AdapterRefused(1, "gone"), AdapterLoaded(2, 4), AdapterLoaded(3, 4))
    assert [adapters.take(link, reply) for reply in replies] == [False, True, False]
    assert 1 not in adapters
    assert 2 in adapters


async def test_an_adapter_that_was_unloaded_before_the_engine_is_ready_does_not_come_back() -> None:
    adapters, link = await started_again(1)
    adapters.unload(link, 1)
    adapters.bring_back(link)
    assert adapters.are_complete
    assert link.sent == []


async def test_an_adapter_that_is_unloaded_while_it_comes_back_goes_when_it_has_come() -> None:
    adapters, link = await started_again(1)
    adapters.bring_back(link)
    adapters.unload(link, 1)
    assert link.sent == [LoadAdapter(1, "/x")]
    assert 1 not in adapters
    assert not adapters.are_complete
    assert adapters.take(link, AdapterLoaded(1, 8))
    assert link.sent == [LoadAdapter(1, "/x"), UnloadAdapter(1)]


async def test_an_adapter_that_is_unloaded_while_it_comes_back_may_be_refused() -> None:
    adapters, link = await started_again(1)
    adapters.bring_back(link)
    adapters.unload(link, 1)
    assert adapters.take(link, AdapterRefused(1, "gone"))
    assert link.sent == [LoadAdapter(1, "/x")]


async def test_an_engine_does_not_keep_what_nobody_waits_for() -> None:
    adapters, link = new_engine()
    loading = await begin(adapters, link, 7)
    loading.cancel()
    await asyncio.wait([loading])
    adapters.take(link, AdapterLoaded(7, 16))
    assert 7 not in adapters
    assert link.sent == [LoadAdapter(7, "/x"), UnloadAdapter(7)]


async def test_an_engine_does_not_keep_what_comes_as_the_caller_leaves() -> None:
    adapters, link = new_engine()
    loading = await begin(adapters, link, 7)
    adapters.take(link, AdapterLoaded(7, 16))
    loading.cancel()
    await asyncio.wait([loading])
    assert loading.cancelled()
    assert 7 not in adapters
    assert link.sent == [LoadAdapter(7, "/x"), UnloadAdapter(7)]


async def test_a_load_fails_with_its_engine() -> None:
    adapters, link = new_engine()
    loading = await begin(adapters, link, 1)
    adapters.lose("the engine process ended")
    with pytest.raises(EngineUnavailableError, match="ended"):
        await loading
    assert 1 not in adapters

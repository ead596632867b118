"""Adapters of an engine process that is lost and started again, with the fake runner in it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import AdapterError
from engine.messages import AdapterLoaded, AdapterRefused
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


async def load(adapters: EngineAdapters, link: FakeLink, reply: AdapterLoaded | AdapterRefused) -> int:
    loading = asyncio.ensure_future(adapters.load(link, reply.adapter, "/x"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    adapters.take(reply)
    return await loading


async def test_an_adapter_whose_files_are_gone_is_lost_and_the_others_come_back() -> None:
    adapters, link = EngineAdapters(), FakeLink()
    assert await load(adapters, link, AdapterLoaded(1, 8)) == 8
    await load(adapters, link, AdapterLoaded(2, 4))
    adapters.lose("the engine process ended")
    adapters.bring_back(link)  # type: ignore[arg-type]
    assert not adapters.are_complete
    replies = (AdapterRefused(1, "gone"), AdapterLoaded(2, 4), AdapterLoaded(3, 4))
    assert [adapters.take(reply) for reply in replies] == [False, True, False]
    assert 1 not in adapters
    assert 2 in adapters


async def test_a_load_fails_with_its_engine() -> None:
    adapters, link = EngineAdapters(), FakeLink()
    loading = asyncio.ensure_future(adapters.load(link, 1, "/x"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    adapters.lose("the engine process ended")
    with pytest.raises(EngineUnavailableError, match="ended"):
        await loading
    assert 1 not in adapters

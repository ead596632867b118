"""What reaches an event loop late."""

from __future__ import annotations

import asyncio
import threading

import pytest
from event_loops import TestLoop


def test_a_closed_loop_drops_what_comes_late() -> None:
    late: list[int] = []
    loop = TestLoop()
    loop.close()
    assert loop.call_soon_threadsafe(late.append, 1).cancelled()
    assert late == []
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon(late.append, 1)


def test_an_open_loop_runs_what_another_thread_hands_over() -> None:
    async def hear_from_a_thread() -> int:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[int] = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(heard.set_result, 7))
        thread.start()
        try:
            return await heard
        finally:
            thread.join()

    with asyncio.Runner(loop_factory=TestLoop) as runner:
        assert runner.run(hear_from_a_thread()) == 7

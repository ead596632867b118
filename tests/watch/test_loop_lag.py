"""How late an event loop is, also while it is blocked."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import watch.loop_lag
from watch.loop_lag import LoopLag

if TYPE_CHECKING:
    import pytest


async def test_a_block_is_seen_while_it_lasts_and_remembered() -> None:
    lag = LoopLag()
    try:
        time.sleep(0.5)  # noqa: ASYNC251 - the block itself
        assert lag.seconds >= 0.3
        before_s = lag.seconds
        await asyncio.sleep(0.2)
        assert lag.seconds >= before_s
    finally:
        lag.close()


async def test_what_was_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch.loop_lag, "PERIOD_S", 0.001)
    monkeypatch.setattr(watch.loop_lag, "WINDOW_S", 0.05)
    lag = LoopLag()
    try:
        time.sleep(1.0)  # noqa: ASYNC251 - the block itself
        blocked_s = lag.seconds
        async with asyncio.timeout(60):
            while lag.seconds >= blocked_s:  # noqa: ASYNC110 - only time tells
                await asyncio.sleep(0.01)
    finally:
        lag.close()

"""What steps cost a server, asked of a real one over a fake engine."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from fakes import FakeEngine, serve

from cli.own_server import OwnServer
from cli.step_costs import ask_stats, step_figures
from engine.messages import StepWork
from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire import PagewireError

KEY = "operator-key"


async def figures_of(*works: StepWork) -> dict[str, float]:
    """Of these steps, which follow one that came before."""
    engine = FakeEngine()
    engine.steps.add(StepWork(5, 0.5, 0.5, works[0].busy_s))
    async with serve(engine, admin_keys=KeyRing([parse_key(KEY)])) as server:
        own = OwnServer(server.target, server.admin_target, KEY)
        before = await asyncio.to_thread(ask_stats, own)
        for work in works:
            engine.steps.add(work)
        engine.stats = msgspec.structs.replace(engine.stats, num_steps=engine.stats.num_steps + len(works))
        return step_figures(before, await asyncio.to_thread(ask_stats, own), wall_s=2.0)


async def test_steps_of_a_gpu() -> None:
    figures = await figures_of(StepWork(1, 0.0002, 0.5, busy_s=0.75), StepWork(1, 0.0004, 0.25, busy_s=0.75))
    assert figures == {"host_us": 300.0, "wait_us": 375_000.0, "idle_between": 0.25}


async def test_a_cpu_has_none() -> None:
    assert await figures_of(StepWork(1, 0.25, 0.5)) == {}


async def test_nothing_ran() -> None:
    engine = FakeEngine()
    engine.steps.add(StepWork(1, 0.1, 0.1, busy_s=0.1))
    async with serve(engine) as server:
        stats = await asyncio.to_thread(ask_stats, OwnServer(server.target, server.admin_target, KEY))
    assert step_figures(stats, stats, wall_s=1.0) == {}


async def test_another_key() -> None:
    async with serve(FakeEngine(), admin_keys=KeyRing([parse_key(KEY)])) as server:
        with pytest.raises(PagewireError):
            await asyncio.to_thread(
                ask_stats, OwnServer(server.target, server.admin_target, "other-operator-key")
            )

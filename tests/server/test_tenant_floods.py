"""How long a light tenant waits while another one floods a server and its engine process, in figures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from typing import TYPE_CHECKING, cast

import pytest
from fakes import serve
from figures import in_ms, percentile, show
from real_engine import real_engine

from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fakes import FakeEngine

pytestmark = [pytest.mark.check("R18"), pytest.mark.slow, pytest.mark.timeout(600)]

NUM_FLOOD = 100
NUM_REQUESTS = 200
MOST_PAUSE_S = 0.1
MOST_DELAY = 4.0
"""Of the median. What the scheduler owes is counted in steps, and under a flood a step is longer."""


async def wait_s(client: AsyncClient, dice: random.Random) -> float:
    """Ask for the first token, after any pause, and see how long it takes."""
    await asyncio.sleep(dice.random() * MOST_PAUSE_S)
    prompt = dice.choices(range(2, 32), k=8)
    began_s = time.monotonic()
    await client.generate(prompt, max_tokens=1)
    return time.monotonic() - began_s


async def flood(client: AsyncClient, numbers: Iterator[int]) -> None:
    """Ask one question after another."""
    for number in numbers:
        prompt = random.Random(number).choices(range(2, 32), k=32)
        await client.generate(prompt, max_tokens=4 + number % 8, ignore_eos=True)


@pytest.mark.parametrize("num_rows", [8, 128])
async def test_a_light_tenant_hardly_waits_for_a_flood(num_rows: int) -> None:
    dice, numbers = random.Random(0), itertools.count()
    ring = KeyRing([parse_key("flood:key-of-flood"), parse_key("light:key-of-light")])
    async with (
        real_engine(num_rows) as engine,
        serve(cast("FakeEngine", engine), keys=ring, max_queued_requests=2 * NUM_FLOOD) as server,
        AsyncClient(server.target, api_key="key-of-flood") as heavy,
        AsyncClient(server.target, api_key="key-of-light") as light,
    ):
        alone_s = [await wait_s(light, dice) for _ in range(NUM_REQUESTS)]
        tasks = [asyncio.create_task(flood(heavy, numbers)) for _ in range(NUM_FLOOD)]
        await asyncio.sleep(1.0)
        num_before = next(numbers)
        beside_s = [await wait_s(light, dice) for _ in range(NUM_REQUESTS)]
        num_meanwhile = next(numbers) - num_before
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    delays = {share: percentile(beside_s, share) / percentile(alone_s, share) for share in (0.5, 0.99)}
    show(
        "R18",
        num_rows=num_rows,
        requests_of_flood=num_meanwhile,
        alone_ms=in_ms(alone_s),
        beside_ms=in_ms(beside_s),
        delays={f"p{round(100 * share)}": round(delay, 3) for share, delay in delays.items()},
    )
    assert delays[0.5] < MOST_DELAY

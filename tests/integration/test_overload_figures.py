"""What overload does to real processes, in figures: `make test-slow`, on a machine that does nothing else.

What must hold on any machine is counted in tests/server/test_overload.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fake_house import PYTHONPATH, FakeHouse
from figures import in_ms, show

from pagewire import AsyncClient, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Few long answers: so ten times the capacity is no load for whoever sends it.
NUM_ROWS = 4
NUM_QUEUED = 8
MAX_TOKENS = 40
SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "60"))
PROBE = str(Path(__file__).parents[1] / "health_probe.py")
OPTIONS: dict[str, Any] = {"max_tokens": MAX_TOKENS, "ignore_eos": True}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    settings: dict[str, Any] = {"engine": {"max_num_seqs": NUM_ROWS}, "max_queued_requests": NUM_QUEUED}
    with FakeHouse(tmp_path_factory.mktemp("overload"), **settings) as house:
        yield house


def _refused(retry_after_s: float | None) -> bool:
    """Look at a refusal: it says when to come back, and is no answer."""
    assert retry_after_s == 1
    return False


class Load:
    """Requests by both doors, and what became of them."""

    def __init__(self, house: FakeHouse, grpc_client: AsyncClient, http: httpx.AsyncClient) -> None:
        self._house = house
        self._grpc = grpc_client
        self._http = http
        self.counts: Counter[str] = Counter()
        self.refusals_s: list[float] = []

    async def one(self, number: int) -> None:
        began_s = time.monotonic()
        done = await (self._by_http() if number % 2 else self._by_grpc(number))
        self.counts["done" if done else "refused"] += 1
        if not done:
            self.refusals_s.append(time.monotonic() - began_s)

    async def _by_grpc(self, number: int) -> bool:
        try:
            response = await self._grpc.generate([2 + number % 20, 3], **OPTIONS)
        except OverloadedError as error:
            return _refused(error.retry_after_s)
        assert response.usage.num_completion_tokens == MAX_TOKENS
        return True

    async def _by_http(self) -> bool:
        body = {"model": "tiny-model", "prompt": [2, 3], **OPTIONS}
        response = await self._http.post("/v1/completions", json=body)
        if response.status_code == 429:
            return _refused(float(response.headers["retry-after"]))
        assert response.json()["usage"]["completion_tokens"] == MAX_TOKENS
        return True

    async def closed(self, num_callers: int, seconds: float) -> float:
        """So many callers, each with one request at a time. Return the answers in a second."""
        began_s = time.monotonic()

        async def call(caller: int) -> None:
            number = caller
            while time.monotonic() - began_s < seconds:
                await self.one(number)
                number += num_callers

        await asyncio.gather(*(call(caller) for caller in range(num_callers)))
        return self.counts["done"] / (time.monotonic() - began_s)

    async def open(self, per_second: float, seconds: float) -> float:
        """So many requests in a second, whatever becomes of them. Return the answers in a second."""
        began_s = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        while (passed_s := time.monotonic() - began_s) < seconds:
            while len(tasks) < passed_s * per_second:
                tasks.append(asyncio.create_task(self.one(len(tasks))))
            await asyncio.sleep(0.01)
        num_done, seconds = self.counts["done"], time.monotonic() - began_s
        await asyncio.gather(*tasks)
        return num_done / seconds


@pytest.mark.check("R03", "R08")
async def test_goodput_and_health_under_ten_times_the_load(house: FakeHouse) -> None:
    limits = httpx.Limits(max_connections=None)
    async with (
        AsyncClient(house.target) as client,
        httpx.AsyncClient(base_url=house.base_url, timeout=100, limits=limits) as http,
    ):
        capacity = await Load(house, client, http).closed(NUM_ROWS + NUM_QUEUED // 2, SECONDS / 4)
        idle = await probe(house, SECONDS / 4)
        load = Load(house, client, http)
        goodput, busy = await asyncio.gather(load.open(10 * capacity, SECONDS), probe(house, SECONDS))
        house.wait_until_idle()
        again = await Load(house, client, http).closed(NUM_ROWS, 2.0)
    figures: dict[str, Any] = {
        "capacity": round(capacity, 1),
        "goodput": round(goodput, 1),
        "again": round(again, 1),
        "counts": dict(load.counts),
        "refusals": in_ms(load.refusals_s),
    }
    for door in ("http", "grpc"):
        assert idle[door]["num_failed"] == busy[door]["num_failed"] == 0
        figures[f"{door}, idle"] = in_ms(idle[door]["times"])
        figures[door] = in_ms(busy[door]["times"])
    show("R03, R08", **figures)
    assert goodput >= 0.95 * capacity, figures
    assert again > 0.5 * capacity, figures
    for door in ("http", "grpc"):
        assert figures[door]["p99"] < 50, figures
        assert figures[door]["p100"] < 500, figures
    assert figures["refusals"]["p99"] <= 50, figures


async def probe(house: FakeHouse, seconds: float) -> dict[str, Any]:
    """Ask for health as long as that, from another process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PROBE, house.base_url, house.target, str(seconds)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )
    output, _ = await process.communicate()
    result: dict[str, Any] = json.loads(output)
    return result

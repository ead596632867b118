"""Nothing grows over thousands of requests by both doors, of whom some leave and some are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import resource
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from fake_doors import FakeDoors, fake_doors
from figures import show

import pagewire
from watch import heap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.check("R20")

NUM_WARM_UP = 1_000
NUM_REQUESTS = 5_000
MANY_REQUESTS = 50_000
ROUND = 500
"""Requests between two looks, when nothing runs."""
NUM_AT_ONCE = 8
MOST_GROWTH_BYTES = 4 << 20
MOST_OBJECTS = 2_000
"""That may be new: caches of libraries still fill. A leak of one object a request is more."""


@dataclass(frozen=True)
class Look:
    """What the process holds while nothing runs."""

    rss_bytes: int
    num_objects: int
    num_files: int
    num_threads: int
    num_tasks: int
    latency_s: float
    """99th percentile of the requests before it."""


class Visitors:
    """Callers of both doors, on the event loop of the test."""

    def __init__(self, doors: FakeDoors, client: pagewire.AsyncClient, http: httpx.AsyncClient) -> None:
        self._doors = doors
        self._client = client
        self._http = http
        self._ways: list[Callable[[str], Awaitable[None]]] = [
            *(8 * [self._grpc_unary]),
            *(3 * [self._grpc_stream]),
            *(2 * [self._grpc_chat]),
            *(2 * [self._http_unary]),
            *(2 * [self._http_stream]),
            self._grpc_leaver,
            self._http_leaver,
            self._grpc_mistake,
        ]

    async def make_round(self) -> Look:
        """Send as many requests as a round has, and look."""
        latencies: list[float] = []

        async def visit(first: int) -> None:
            for number in range(first, ROUND, NUM_AT_ONCE):
                start_s = time.perf_counter()
                await self._ways[number % len(self._ways)](f"question {number}")
                latencies.append(time.perf_counter() - start_s)

        await asyncio.gather(*(visit(first) for first in range(NUM_AT_ONCE)))
        await asyncio.to_thread(self._doors.portal.call, self._doors.engine.until, 0)
        return await self._look(statistics.quantiles(latencies, n=100)[98])

    async def _look(self, latency_s: float) -> Look:
        # The fake remembers what it was asked, for other tests.
        self._doors.engine.requests.clear()
        self._doors.engine.aborted.clear()
        num_tasks = await asyncio.to_thread(self._doors.portal.call, _num_tasks)
        gc.collect()
        statm = Path("/proc/self/statm").read_text().split()  # noqa: ASYNC240 - it is no disk's file
        return Look(
            rss_bytes=int(statm[1]) * resource.getpagesize(),
            num_objects=len(gc.get_objects()),
            num_files=len(list(Path("/proc/self/fd").iterdir())),  # noqa: ASYNC240
            num_threads=threading.active_count(),
            num_tasks=num_tasks + len(asyncio.all_tasks()),
            latency_s=latency_s,
        )

    async def _grpc_unary(self, prompt: str) -> None:
        response = await self._client.generate(prompt, max_tokens=4)
        assert response.choices[0].text == prompt[:4]

    async def _grpc_chat(self, prompt: str) -> None:
        await self._client.chat([{"role": "user", "content": prompt}], max_tokens=4)

    async def _grpc_stream(self, prompt: str) -> None:
        async with self._client.stream(prompt, max_tokens=4) as stream:
            assert "".join([text async for text in stream.texts()]) == prompt[:4]

    async def _grpc_leaver(self, prompt: str) -> None:
        async with self._client.stream(prompt * 5, max_tokens=100) as stream:
            await anext(stream)

    async def _grpc_mistake(self, prompt: str) -> None:
        with pytest.raises(pagewire.InvalidRequestError):
            await self._client.generate(prompt, temperature=-1.0)

    async def _http_unary(self, prompt: str) -> None:
        response = await self._http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 4})
        assert response.json()["choices"][0]["text"] == prompt[:4]

    async def _http_stream(self, prompt: str) -> None:
        body = {"prompt": prompt, "max_tokens": 4, "stream": True}
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            assert [line async for line in response.aiter_lines() if line][-1] == "data: [DONE]"

    async def _http_leaver(self, prompt: str) -> None:
        body = {"prompt": prompt * 5, "max_tokens": 100, "stream": True}
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            await anext(response.aiter_lines())


async def _num_tasks() -> int:
    """Of the event loop behind the doors, once those of the last requests have ended."""
    for _ in range(20):
        await asyncio.sleep(0)
    return len(asyncio.all_tasks())


def looks(num_requests: int, num_warm_up: int) -> list[Look]:
    """One after each round, the first when all is warm.

    A process of its own takes them: what other tests have left in this one is a gigabyte that moves.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(take_looks, num_requests, num_warm_up).result()


def take_looks(num_requests: int, num_warm_up: int) -> list[Look]:
    """Within that process, whose heap is as those of the doors are."""
    heap.share_arena()
    return asyncio.run(visit_and_look(num_requests, num_warm_up))


async def visit_and_look(num_requests: int, num_warm_up: int) -> list[Look]:
    with fake_doors() as doors:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(pagewire.AsyncClient(doors.grpc_target))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=doors.url, timeout=60))
            visitors = Visitors(doors, client, http)
            taken = [await visitors.make_round() for _ in range((num_warm_up + num_requests) // ROUND)]
            return taken[num_warm_up // ROUND - 1 :]


def check_flat(taken: list[Look]) -> None:
    first, last = taken[0], taken[-1]
    assert last.num_objects - first.num_objects < MOST_OBJECTS, taken
    assert last.num_files <= first.num_files + NUM_AT_ONCE, taken
    # Pools of threads grow to their size when they are busiest.
    assert last.num_threads <= first.num_threads + NUM_AT_ONCE, taken
    assert last.num_tasks <= first.num_tasks + NUM_AT_ONCE, taken


@pytest.mark.timeout(600)
def test_nothing_grows_over_5000_requests() -> None:
    taken = looks(NUM_REQUESTS, NUM_WARM_UP)
    check_flat(taken)
    assert taken[-1].rss_bytes - taken[0].rss_bytes < MOST_GROWTH_BYTES, taken


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_grows_over_50000_requests() -> None:
    """After the first tenth the memory has no slope to speak of, and requests take as long as before."""
    taken = looks(MANY_REQUESTS * 9 // 10, MANY_REQUESTS // 10)
    check_flat(taken)
    growth = statistics.linear_regression(range(len(taken)), [look.rss_bytes for look in taken])
    tenth = len(taken) // 10
    early, late = (
        statistics.median(look.latency_s for look in part) for part in (taken[:tenth], taken[-tenth:])
    )
    show(
        "R20",
        rss_mib=round(taken[0].rss_bytes / (1 << 20), 1),
        growth_mib=round(growth.slope * len(taken) / (1 << 20), 2),
        new_objects=taken[-1].num_objects - taken[0].num_objects,
        p99_ms={"early": round(1000 * early, 1), "late": round(1000 * late, 1)},
    )
    assert growth.slope * len(taken) < 0.02 * taken[0].rss_bytes, taken
    assert late <= 1.1 * early, taken

"""Readers of both doors who take what comes, and note how long they waited for each piece of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import httpx

from pagewire import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fake_house import FakeHouse


class SteadyReaders:
    """As many of one door as of the other, each with one stream that outlasts them."""

    def __init__(self, house: FakeHouse, number: int, prompt: Sequence[int], max_tokens: int) -> None:
        self._house = house
        self._number = number
        self._prompt = prompt
        self._options: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": True}
        self.gaps_s: list[float] = []

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """They all read while the body runs; none of them may fail."""
        async with (
            AsyncClient(self._house.target) as client,
            httpx.AsyncClient(base_url=self._house.base_url, timeout=100) as http,
        ):
            doors = [lambda: self._by_grpc(client), lambda: self._by_http(http)]
            tasks = [asyncio.create_task(self._note(doors[number % 2]())) for number in range(self._number)]
            await asyncio.to_thread(self._house.wait_until_running, self._number)
            yield
            assert not any(task.done() for task in tasks), tasks
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _note(self, pieces: AsyncIterator[Any]) -> None:
        last_s = None
        async for _ in pieces:
            now_s = time.monotonic()
            if last_s is not None:
                self.gaps_s.append(now_s - last_s)
            last_s = now_s

    async def _by_grpc(self, client: AsyncClient) -> AsyncIterator[Any]:
        async with client.stream(list(self._prompt), **self._options) as stream:
            async for event in stream:
                yield event

    async def _by_http(self, http: httpx.AsyncClient) -> AsyncIterator[Any]:
        body = {"model": "tiny-model", "prompt": list(self._prompt), "stream": True, **self._options}
        async with http.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line:
                    yield line

"""Readers who take what comes: `python tests/steady_readers.py URL TARGET NUMBER PROMPT MAX_TOKENS`.

PROMPT is a JSON array of token ids. As many read at one door as at the other, each one stream that outlasts
them, until standard input ends. Then it prints a JSON array: for each piece that came, when, on the clock of
`time.monotonic`, and how long its reader had waited for it, in seconds.

A process of its own: who makes trouble must not be who measures what it does to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
from fake_house import PYTHONPATH

from pagewire import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from fake_house import FakeHouse

Gap = tuple[float, float]
"""When a piece came, and the seconds since the one before."""


class SteadyReaders:
    """The program, run."""

    def __init__(self, house: FakeHouse, number: int, prompt: Sequence[int], max_tokens: int) -> None:
        self._house = house
        self._number = number
        self._words = [house.base_url, house.target, str(number), json.dumps(list(prompt)), str(max_tokens)]
        self._gaps: list[Gap] = []

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """They all read while the body runs; none of them may fail."""
        process = subprocess.Popen(
            [sys.executable, __file__, *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )
        with process:
            try:
                self._house.wait_until_running(self._number)
                yield
                output, _ = process.communicate()
            finally:
                process.kill()
        assert process.returncode == 0
        self._gaps = json.loads(output)

    def gaps_s(self, since_s: float, until_s: float) -> list[float]:
        """How long they waited for what came between two times. Asked when they have read."""
        return [gap_s for at_s, gap_s in self._gaps if since_s < at_s <= until_s]


async def _note(pieces: AsyncIterator[Any], gaps: list[Gap]) -> None:
    last_s = None
    async for _ in pieces:
        now_s = time.monotonic()
        if last_s is not None:
            gaps.append((now_s, now_s - last_s))
        last_s = now_s


async def _by_grpc(client: AsyncClient, prompt: list[int], options: dict[str, Any]) -> AsyncIterator[Any]:
    async with client.stream(prompt, **options) as stream:
        async for event in stream:
            yield event


async def _by_http(http: httpx.AsyncClient, prompt: list[int], options: dict[str, Any]) -> AsyncIterator[Any]:
    body = {"model": "tiny-model", "prompt": prompt, "stream": True, **options}
    async with http.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line:
                yield line


async def main(base_url: str, target: str, number: int, prompt: list[int], max_tokens: int) -> list[Gap]:
    gaps: list[Gap] = []
    options: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": True}
    async with AsyncClient(target) as client, httpx.AsyncClient(base_url=base_url, timeout=100) as http:
        doors = [lambda: _by_grpc(client, prompt, options), lambda: _by_http(http, prompt, options)]
        tasks = [asyncio.create_task(_note(doors[index % 2](), gaps)) for index in range(number)]
        gc.freeze()
        await asyncio.to_thread(sys.stdin.read)
        assert not any(task.done() for task in tasks), tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return gaps


if __name__ == "__main__":
    _, url, grpc_target, how_many, prompt_json, most_tokens = sys.argv
    found = asyncio.run(main(url, grpc_target, int(how_many), json.loads(prompt_json), int(most_tokens)))
    json.dump(found, sys.stdout)

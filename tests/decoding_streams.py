"""Streams, and when their tokens came: `python tests/decoding_streams.py TARGET MAX_TOKENS`.

A line of standard input is a JSON array of prompts, each of token ids. The program prints "open" when all
streams have tokens, and when its input ends, for each stream a JSON array of ticks.

It is a process of its own: who sends a long prompt must not be who measures what that does to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pagewire import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STREAMS_PER_PROCESS = 8
"""Few enough that a process is idle for most of the time, with a token in two milliseconds for each."""
CLIENT = Path(__file__).parents[1] / "clients" / "python" / "src"

Tick = tuple[float, int]
"""When a delta came, on the clock of `time.monotonic`, and its number of tokens."""


class DecodingStreams:
    """The program, run as often as the streams need."""

    def __init__(self, target: str, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        self._target = target
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._streams: list[list[Tick]] = []

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """All decode while the body runs; none of them may end."""
        starts = range(0, len(self._prompts), STREAMS_PER_PROCESS)
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(self._process(self._prompts[start : start + STREAMS_PER_PROCESS]))
                for start in starts
            ]
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
            yield
            outputs = [process.communicate()[0] for process in processes]
        self._streams = [ticks for output in outputs for ticks in json.loads(output)]

    @contextlib.contextmanager
    def _process(self, prompts: Sequence[Sequence[int]]) -> Iterator[subprocess.Popen[str]]:
        paths = (str(CLIENT), os.environ.get("PYTHONPATH", ""))
        process = subprocess.Popen(
            [sys.executable, __file__, self._target, str(self._max_tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        with process:
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps([list(prompt) for prompt in prompts]) + "\n")
                process.stdin.flush()
                yield process
            finally:
                process.kill()

    def num_tokens(self, begin_s: float, end_s: float) -> list[int]:
        """How many tokens of each stream came in this time. Asked when they have decoded."""
        return [sum(count for at_s, count in ticks if begin_s < at_s <= end_s) for ticks in self._streams]

    def gaps(self, begin_s: float, end_s: float) -> list[tuple[float, float]]:
        """The seconds between two deltas of a stream, as far as they touch this time, and when each ended."""
        return [
            (after_s - before_s, after_s)
            for ticks in self._streams
            for (before_s, _), (after_s, _) in itertools.pairwise(ticks)
            if begin_s < after_s and before_s <= end_s
        ]


async def _decode(client: AsyncClient, prompt: list[int], max_tokens: int, ticks: list[Tick]) -> None:
    async with client.stream(prompt, max_tokens=max_tokens, ignore_eos=True, temperature=0.0) as stream:
        async for event in stream:
            ticks += ((time.monotonic(), choice.num_tokens) for choice in event.delta.choices)


async def main(target: str, prompts: list[list[int]], max_tokens: int) -> list[list[Tick]]:
    streams: list[list[Tick]] = [[] for _ in prompts]
    async with AsyncClient(target, timeout=300) as client:
        decodes = (
            _decode(client, prompt, max_tokens, ticks) for prompt, ticks in zip(prompts, streams, strict=True)
        )
        tasks = [asyncio.create_task(decode) for decode in decodes]
        while not all(streams):
            await asyncio.wait(tasks, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
            assert not any(task.done() for task in tasks), tasks
        gc.collect()
        gc.freeze()  # the collector's pauses are not the server's
        sys.stdout.write("open\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        assert not any(task.done() for task in tasks), tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return streams


if __name__ == "__main__":
    given = json.loads(sys.stdin.readline())
    json.dump(asyncio.run(main(sys.argv[1], given, int(sys.argv[2]))), sys.stdout)

"""Drives the console in a real Chromium.

Looks for chromium on the path, or at $CHROMIUM. Without one nothing is checked, and it says so.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripted_backend import delta, finished, serving, started

from gate.keys import parse_key
from pagewire.v1 import admin_pb2, admin_pb2_grpc, inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripted_backend import Event

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SCRIPT = Path(__file__).parent / "browser" / "console.mjs"
_MARKDOWN = """\
**Paged attention** keeps keys and values in *blocks*, as an operating system keeps memory in pages:

1. A sequence owns a list of blocks, not one long stretch.
2. Blocks are shared while a prefix is the same.

```python
def num_blocks(num_tokens: int, block_size: int = 16) -> int:
    return -(-num_tokens // block_size)
```

So memory is lost in the last block alone. See [the paper](https://arxiv.org/abs/2309.06180).
"""
_UNSAFE = 'Not [this](javascript:alert(1)) nor <img src=x onerror="alert(1)">.'
_THOUGHTS = "They ask how the cache is laid out. I should name blocks, sharing, and what is lost."


class _Stats(admin_pb2_grpc.AdminServiceServicer):
    """An engine whose counters move with each question."""

    def __init__(self) -> None:
        self._engine = admin_pb2.EngineStats(num_free_blocks=1391, num_cached_blocks=402, block_size=16)

    async def GetStats(self, request: admin_pb2.GetStatsRequest, context: Any) -> admin_pb2.GetStatsResponse:
        engine = self._engine
        wave = math.sin(engine.num_steps / 130)
        engine.num_steps += 43
        engine.num_generated_tokens += round(420 + 130 * wave)
        engine.num_prompt_tokens += round(900 + 500 * math.sin(engine.num_steps / 57))
        engine.num_prefix_query_tokens = engine.num_prompt_tokens
        engine.num_prefix_hit_tokens = round(engine.num_prompt_tokens * 0.62)
        engine.num_running = round(9 + 4 * wave)
        engine.num_waiting = max(0, round(3 * wave))
        engine.num_owned_blocks = 40 * engine.num_running
        engine.num_free_blocks = 2048 - engine.num_owned_blocks - engine.num_cached_blocks
        engine.num_finished += 2
        return admin_pb2.GetStatsResponse(engine=engine, ready=True)


async def _script(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Event]:
    """Answer as the last message asks: with thoughts or words without end, with Markdown, or with an echo."""
    asked = spec.chat.messages[-1].text
    yield started(num_prompt_tokens=24, num_cached_tokens=16)
    if "ponder" in asked:
        for number in range(10_000):
            yield delta("", reasoning_text=f"{number} ")
            await asyncio.sleep(0.01)
    if "code" in asked:
        yield delta("```text\nfirst\n```\n```")
        await asyncio.sleep(0.1)
        yield delta("text\n")
    if "forever" in asked:
        for number in range(10_000):
            yield delta(f"{number} ")
            await asyncio.sleep(0.01)
    if "attention" in asked:
        for word in _THOUGHTS.split(" "):
            yield delta("", reasoning_text=word + " ")
        for line in (_MARKDOWN + _UNSAFE * ("unsafely" in asked)).splitlines(keepends=True):
            for word in line.split(" "):
                yield delta(word if word.endswith("\n") else word + " ")
                await asyncio.sleep(0.005)
    else:
        yield delta(f"You said: {asked} (temperature {spec.sampling.temperature:g})")
    yield finished()


def main() -> int:
    """Return the exit code of the browser's script."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        print("SKIPPED: the console was not checked, for there is no chromium here. See CONTRIBUTING.md.")  # noqa: T201
        return 0
    stats = _Stats()  # type: ignore[abstract]  # the console asks for nothing else
    with serving(stats) as house, serving(api_keys=(parse_key("right"),)) as locked:
        house.servicer.script = locked.servicer.script = _script
        command = ["node", str(_SCRIPT), browser, house.url, locked.url]
        return subprocess.run(command, check=False, timeout=240).returncode


if __name__ == "__main__":
    sys.exit(main())

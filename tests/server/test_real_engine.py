"""The real engine process with a tiny model: it answers, is killed, and answers the same again."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
from tiny_model import make_tiny_model

from engine.config import EngineConfig
from engine.messages import EngineRequest, SamplingParams
from server.engine import EngineUnavailableError
from server.engine_process import EngineProcess
from server.mailbox import outputs_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from engine.messages import RequestOutput


def submit(engine: EngineProcess, request_id: str, max_tokens: int) -> AsyncGenerator[RequestOutput, None]:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return outputs_of(engine, EngineRequest(request_id, [5, 6, 7, 8], sampling))


async def output_of(engine: EngineProcess, request_id: str) -> list[int]:
    outputs = [output async for output in submit(engine, request_id, 8)]
    return [token_id for output in outputs for token_id in output.token_ids]


@pytest.mark.check("R01")
async def test_a_killed_engine_comes_back_with_the_same_answers(tmp_path: Path) -> None:
    changed = asyncio.Event()
    engine = EngineProcess(lambda *_: None, changed.set)
    model_path = str(make_tiny_model(tmp_path / "tiny"))
    run = asyncio.create_task(engine.run(EngineConfig(model_path=model_path, device="cpu", num_threads=1)))
    info = await engine.loaded()
    assert info.architecture == "LlamaForCausalLM"
    first = await output_of(engine, "first")
    assert len(first) == 8
    assert engine.stats.num_owned_blocks == 0

    streams = [submit(engine, f"open {index}", 400) for index in range(3)]
    for stream in streams:
        await anext(stream)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(EngineUnavailableError):
            [output async for output in stream]
    while engine.not_ready_reason is not None:
        changed.clear()
        await changed.wait()
    assert await output_of(engine, "second") == first
    await engine.stop(10)
    await run

"""A real engine process for a server of the test's own. It has a real scheduler, and a fake model."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import EngineConfig
from server.engine_process import EngineProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = (sys.executable, str(Path(__file__).with_name("engine_program.py")))


@contextlib.asynccontextmanager
async def real_engine(max_num_seqs: int) -> AsyncIterator[EngineProcess]:
    """Run it until the body ends."""
    engine = EngineProcess(lambda *_: None, lambda: None, command=COMMAND)
    running = asyncio.create_task(engine.run(EngineConfig(model_path="", max_num_seqs=max_num_seqs)))
    await engine.loaded()
    try:
        yield engine
    finally:
        await engine.stop(10.0)
        await running

"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from event_loops import TestLoop
from hypothesis import HealthCheck, settings

from engine.config import EngineConfig
from server.config import ServerConfig
from server.model_store import resolve_model

# Triton decides on its first import whether kernels are interpreted, and many tests import it.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same processes on every machine, however many cores it has. Tests that want several say so by a flag.
os.environ.setdefault("PAGEWIRE_API_SERVER_COUNT", "1")

# The same examples on every machine, however slow it is; a test that searches on asks for chance itself.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What runs asynchronous tests."""
    return "asyncio", {"loop_factory": TestLoop}


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The default model, downloaded into the user's cache the first time."""
    return resolve_model(ServerConfig(engine=EngineConfig(model_path="")), lambda *_: None)

"""Fixtures that several packages' tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.config import EngineConfig
from server.config import ServerConfig
from server.model_store import resolve_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The default model, downloaded into the user's cache the first time."""
    return resolve_model(ServerConfig(engine=EngineConfig(model_path="")), lambda *_: None)

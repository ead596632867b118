"""The whole house, started once for the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from processes import House, pagewire_serve, pagewire_up

from pagewire import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def house(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Server and translator, started by `pagewire up`, with the default model."""
    with pagewire_up(tmp_path_factory.mktemp("house") / "log") as house:
        house.wait_until_ready()
        yield house


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    with Client(house.grpc_target, timeout=100) as client:
        yield client


@pytest.fixture
def server(smollm2_path: Path, tmp_path: Path) -> Iterator[House]:
    """A server of its own, started by `pagewire serve`."""
    with pagewire_serve(tmp_path / "log") as server:
        server.wait_until_ready()
        yield server

"""One translator for all tests of a module, with a fresh script for each. Every stream is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_backend import House, serving
from stream_law import LawfulClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="module")
def running_house() -> Iterator[House]:
    with serving() as house:
        yield house


@pytest.fixture
def house(running_house: House) -> House:
    running_house.servicer.reset()
    return running_house


@pytest.fixture
def http(house: House) -> Iterator[httpx.Client]:
    with LawfulClient(base_url=house.url, timeout=20) as client:
        yield client

"""One server at a time on the device, kept for as long as the next check asks for the same flags.

In the order of their files the checks need the fewest servers.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from checked_device import SIZES, device_memory_bytes
from processes import pagewire_serve
from qwen3_folder import write_qwen3_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from processes import House

KEYS = tuple(f"tenant{number}:key-of-{number}" for number in range(SIZES.num_tenants))


class Device:
    """Holds the server that runs on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_servers = 0
        self._flags: tuple[str, ...] | None = None
        self._house: House | None = None
        self._stack = contextlib.ExitStack()
        self.model = write_qwen3_folder(folder / "qwen3", **SIZES.model)
        self.empty_bytes, _ = device_memory_bytes()
        """In use while there is no server."""

    def serve(self, *flags: str) -> House:
        """Return a server with these flags: the one that runs if it has them, else a fresh one."""
        if self._house is None or self._flags != flags or self._house.process.poll() is not None:
            self.clear()
            log = self._folder / f"log{self._num_servers}"
            self._num_servers += 1
            model = (f"--model={self.model}", "--load-format=dummy")
            self._house = self._stack.enter_context(pagewire_serve(log, *model, *SIZES.flags, *flags))
            self._flags = flags
            self._house.wait_until_ready()
        return self._house

    def clear(self) -> None:
        """Stop the server; it must end with 0."""
        self._house = None
        self._stack.close()


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    device = Device(tmp_path_factory.mktemp("device"))
    yield device
    device.clear()


@pytest.fixture(scope="session")
def serve_tight(device: Device) -> Callable[[], House]:
    """Starts a server with a small pool and small chunks, open to the tenants of KEYS alone."""
    return lambda: device.serve(*SIZES.tight, "--api-key", *KEYS)


@pytest.fixture(scope="session")
def keys() -> list[str]:
    """What the tenants of that server show."""
    return [key.partition(":")[2] for key in KEYS]

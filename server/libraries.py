"""What we rely on in libraries, verified at the start rather than found out by an attacker."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.internal import api_implementation

from server.listeners import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FLOORS = {
    "grpcio": "1.75.1",  # HPACK that leaks between proxied clients before 1.65.4; stubs need 1.75.1
    "jinja2": "3.1.6",  # ways out of the sandbox
    "protobuf": "6.31.1",  # endless recursion in pure Python; stubs need 6.31.1
    "transformers": "5.3",  # code of a model run though nobody trusts it
}
"""The oldest versions without holes that are known to us."""


class LibraryError(Exception):
    """A library is not what we rely on; the text says which and how."""


def check_libraries() -> None:
    """Look at what is installed.

    Raises:
        LibraryError: the server would not be safe on it.
    """
    check_versions(FLOORS)
    check_parser(api_implementation.Type())
    check_options(OPTIONS)


def check_versions(floors: Mapping[str, str]) -> None:
    """Compare what is installed with the oldest versions that will do. Raises LibraryError."""
    for package, floor in floors.items():
        version = importlib.metadata.version(package)
        if _numbers(version) < _numbers(floor):
            raise LibraryError(f"{package} {version} is installed; expected {floor} or newer")


def check_parser(kind: str) -> None:
    """The parser written in Python recurses as deep as a message is nested. Raises LibraryError."""
    if kind != "upb":
        raise LibraryError(
            f"protobuf parses by {kind!r}; expected 'upb': is PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION set?"
        )


def check_options(names: Iterable[str]) -> None:
    """An option whose name gRPC does not know has no effect, and says nothing. Raises LibraryError."""
    spec = importlib.util.find_spec("grpc._cython.cygrpc")
    assert spec is not None
    assert spec.origin is not None
    with (
        Path(spec.origin).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code,
    ):
        unknown = [name for name in names if code.find(name.encode() + b"\0") < 0]
    if unknown:
        raise LibraryError(f"this grpcio does not know the options {', '.join(unknown)}")


def _numbers(version: str) -> tuple[int, ...]:
    """1.85.0rc1 is (1, 85, 0)."""
    return tuple(int(part[0]) for part in map(re.compile(r"\d+").match, version.split(".")) if part)

"""The header of a GGUF file: its key-value metadata, and where its tensors lie.

The `gguf` package's reader makes several objects of each array element, which takes seconds for a
vocabulary; this one takes tens of milliseconds. Layout: magic, version, counts, then key, type and value
of each entry, then name, shape, type and offset of each tensor, all little-endian
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from engine.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TYPE_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING = 8
ARRAY = 9
DEFAULT_ALIGNMENT = 32

Value = str | int | float | bool | list["Value"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    """Rows before columns, as torch has it; the file has it the other way round."""
    kind: int
    """A `gguf.GGMLQuantizationType`."""
    offset: int
    """Of its first byte in the file."""


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """All that stands before the tensors' data."""

    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]


def read_gguf_metadata(path: Path) -> dict[str, Value]:
    """Return the metadata of a GGUF file.

    Raises:
        ModelLoadError: the file cannot be read, or is not a GGUF file of version 2 or 3.
    """
    return _read(path, lambda reader: reader.metadata())


def read_gguf_header(path: Path) -> GGUFHeader:
    """Return the metadata of a GGUF file and the list of its tensors.

    Raises:
        ModelLoadError: the file cannot be read, or is not a GGUF file of version 2 or 3.
    """
    return _read(path, lambda reader: reader.header())


_Read = TypeVar("_Read")


def _read(path: Path, read: Callable[[_Reader], _Read]) -> _Read:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read(_Reader(data))
    except OSError as error:
        raise ModelLoadError(f"{path.name}: cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path.name}: not a readable GGUF file: {error}") from error


class _Reader:
    """A position in the file. Its methods read one thing and move on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._offset = 0
        self._num_tensors = 0

    def header(self) -> GGUFHeader:
        metadata = self.metadata()
        entries = [self._tensor() for _ in range(self._num_tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}")
        start = -(-self._offset // alignment) * alignment
        return GGUFHeader(
            metadata, tuple(TensorInfo(name, shape, kind, start + at) for name, shape, kind, at in entries)
        )

    def metadata(self) -> dict[str, Value]:
        magic = self._data[:4]
        if magic != b"GGUF":
            raise ValueError(f"it starts with {magic!r}")
        self._offset = 4
        (version,) = self._numbers("I", 1)
        if version not in (2, 3):
            raise ValueError(f"version {version} is not supported, only 2 and 3")
        num_tensors, num_entries = self._numbers("Q", 2)
        self._num_tensors = int(num_tensors)
        return {self._string(): self._value(self._type()) for _ in range(int(num_entries))}

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return name, shape, type, and offset from the start of the data."""
        name = self._string()
        (num_dims,) = self._numbers("I", 1)
        shape = tuple(int(size) for size in reversed(self._numbers("Q", int(num_dims))))
        kind = self._type()
        (offset,) = self._numbers("Q", 1)
        return name, shape, kind, int(offset)

    def _type(self) -> int:
        return int(self._numbers("I", 1)[0])

    def _value(self, kind: int) -> Value:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        return self._numbers(_code(kind), 1)[0]

    def _array(self) -> list[Value]:
        kind = self._type()
        (length,) = self._numbers("Q", 1)
        if length > len(self._data):
            raise ValueError(f"an array claims {length} elements")
        if kind in (STRING, ARRAY):
            return [self._value(kind) for _ in range(int(length))]
        return list(self._numbers(_code(kind), int(length)))

    def _string(self) -> str:
        (length,) = self._numbers("Q", 1)
        start, self._offset = self._offset, self._offset + int(length)
        if self._offset > len(self._data):
            raise ValueError("a text runs past its end")
        return self._data[start : self._offset].decode()

    def _numbers(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        layout = f"<{count}{code}"
        values = struct.unpack_from(layout, self._data, self._offset)
        self._offset += struct.calcsize(layout)
        return values


def _code(kind: int) -> str:
    if kind not in TYPE_CODES:
        raise ValueError(f"unknown value type {kind}")
    return TYPE_CODES[kind]

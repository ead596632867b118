"""Model files that somebody has tampered with: a byte here, a number there."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

NUMBERS = (0, 1, -1, 2**31, 2**32 - 1, 2**62, 2**64, 10**30)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    0.5,
    "",
    "F32",
    "F64",
    "Q9",
    None,
    True,
    [],
    [0, 0],
    [8, 0],
    [2**40, 2],
    {},
)


def broken_bytes(data: bytes, random: Random, region: int) -> bytes:
    """Change, cut or insert some of the first `region` bytes, or cut off the end."""
    broken = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        start = random.randrange(min(region, len(broken)))
        match random.randrange(4):
            case 0:
                broken[start] = random.randrange(256)
            case 1:
                broken[start : start + 8] = random.choice(NUMBERS[:6]).to_bytes(9, "little", signed=True)[:8]
            case 2:
                broken[start : start + random.randrange(5)] = random.randbytes(random.randrange(5))
            case _:
                del broken[random.randrange(len(broken)) :]
                broken.extend(bytes(max(0, region - len(broken))))
    return bytes(broken)


def broken_json(text: str, random: Random) -> str:
    """Put something else in the place of one to three values."""
    value = json.loads(text)
    for _ in range(random.randrange(1, 4)):
        _replace_one(value, random)
    return json.dumps(value)


def _replace_one(value: Any, random: Random) -> None:
    """Walk to some place below `value`, which is a list or an object, and change what is there."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = random.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and random.random() < 0.8:
            value = inner
        elif random.random() < 0.15:
            del value[key]
            return
        else:
            value[key] = copy.deepcopy(random.choice(VALUES))
            return


def broken_safetensors(data: bytes, random: Random) -> bytes:
    """A file whose header has been tampered with."""
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.4:
        return broken_bytes(data, random, 8 + length)
    header = broken_json(data[8 : 8 + length].decode(), random).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]

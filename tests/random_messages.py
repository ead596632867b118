"""Random protobuf messages, made from their descriptors, and random bytes that are nearly messages."""

from __future__ import annotations

import math
import string
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

MAX_DEPTH = 4
TEXTS = (
    "",
    "{}",
    '{"a": [1]}',
    '{"type": "object"}',
    "user",
    "fake-model",
    "a+",
    "\0",
    "\n",
    "é漢\U0001f389",
)
REALS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-30, 3e38, math.inf, -math.inf, math.nan)
VALUES: dict[int, Callable[[Random], Any]] = {
    FieldDescriptor.CPPTYPE_INT32: lambda random: random.choice([-(2**31), -1, 0, 1, 2, 7, 2**31 - 1]),
    FieldDescriptor.CPPTYPE_INT64: lambda random: random.choice([-(2**63), -1, 0, 1, 5, 2**63 - 1]),
    FieldDescriptor.CPPTYPE_UINT32: lambda random: random.choice([0, 1, 2, 65, 259, 260, 2**32 - 1]),
    FieldDescriptor.CPPTYPE_UINT64: lambda random: random.choice([0, 1, 2**64 - 1]),
    FieldDescriptor.CPPTYPE_ENUM: lambda random: random.choice([-1, 0, 1, 2, 3, 99]),
    FieldDescriptor.CPPTYPE_FLOAT: lambda random: random.choice([*REALS, random.random()]),
    FieldDescriptor.CPPTYPE_DOUBLE: lambda random: random.choice([*REALS, random.random()]),
    FieldDescriptor.CPPTYPE_BOOL: lambda random: random.random() < 0.5,
    FieldDescriptor.CPPTYPE_STRING: lambda random: random.choice([*TEXTS, _text(random)]),
}


def random_message(descriptor: Descriptor, random: Random, depth: int = 0) -> Message:
    """A message with some of its fields set, each to some value of its type."""
    message = GetMessageClass(descriptor)()
    if depth > MAX_DEPTH:
        return message
    # Often there are few fields, so that some requests are good ones.
    share = random.choice([0.3, 1.0]) if depth == 0 else random.choice([0.1, 0.3, 0.6])
    for field in descriptor.fields:
        if random.random() < share:
            _set(message, field, random, depth)
    return message


def random_bytes(descriptor: Descriptor, random: Random) -> bytes:
    """Bytes by chance, or a message with a few of its bytes changed, left out or put in."""
    if random.random() < 0.5:
        return random.randbytes(random.randrange(80))
    data = bytearray(random_message(descriptor, random).SerializeToString())
    for _ in range(random.randrange(1, 5)):
        start = random.randrange(len(data) + 1)
        data[start : start + random.randrange(4)] = random.randbytes(random.randrange(4))
    return bytes(data)


def _set(message: Message, field: FieldDescriptor, random: Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        getattr(message, field.name)[_value(key, random, depth)] = _value(value, random, depth)
    elif field.is_repeated:
        values = [_value(field, random, depth) for _ in range(random.randrange(3))]
        getattr(message, field.name).extend(values)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(_value(field, random, depth))
    else:
        setattr(message, field.name, _value(field, random, depth))


def _value(field: FieldDescriptor, random: Random, depth: int) -> Any:
    if field.message_type is not None:
        return random_message(field.message_type, random, depth + 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.randbytes(random.randrange(8))
    return VALUES[field.cpp_type](random)


def _text(random: Random) -> str:
    return "".join(random.choices(string.printable, k=random.randrange(12)))

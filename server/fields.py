"""Collects the refused fields of a request, so that a caller hears of all of them at once."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

import numpy as np

from server.errors import InvalidRequestError, Violation

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

    from google.protobuf.message import Message

_MAX_VIOLATIONS = 16
_MAX_VALUE_CHARACTERS = 64


class Fields:
    """The fields that were refused so far."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def refuse(self, path: str, description: str) -> None:
        """Refuse the field at `path`."""
        if len(self._violations) < _MAX_VIOLATIONS:
            self._violations.append(Violation(path, description))

    def require(self, holds: bool, path: str, description: str) -> None:
        """Refuse the field unless a condition holds."""
        if not holds:
            self.refuse(path, description)

    def within(self, path: str, value: float, low: float, high: float, *, above_low: bool = False) -> None:
        """Refuse a number outside [low, high], or (low, high] with `above_low`. NaN lies in no range."""
        if not ((low < value if above_low else low <= value) and value <= high):
            least, most = _figure(low), _figure(high)
            expected = f"above {least} and at most {most}" if above_low else f"from {least} to {most}"
            self.refuse(path, f"{_figure(value)} is out of range; expected a value {expected}")

    def finite(self, path: str, value: float) -> None:
        """Refuse NaN and infinities."""
        self.require(math.isfinite(value), path, f"{value} is out of range; expected a finite number")

    def at_most(self, path: str, values: Sized, limit: int, what: str) -> None:
        """Refuse a collection or text that is too long."""
        self.require(len(values) <= limit, path, f"{len(values)} {what}; expected at most {limit}")

    def token_ids(self, path: str, token_ids: Sequence[int], vocab_size: int) -> None:
        """Refuse token ids beyond the vocabulary."""
        if token_ids and _largest(token_ids) >= vocab_size:
            index = next(index for index, id_ in enumerate(token_ids) if id_ >= vocab_size)
            self.refuse(
                f"{path}[{index}]",
                f"{token_ids[index]} is not a token id; expected less than {vocab_size}, the vocabulary size",
            )

    def enum(self, path: str, value: int, known: Sequence[int]) -> None:
        """Refuse an enum value that this version does not know."""
        expected = ", ".join(map(str, known))
        self.require(value in known, path, f"{value} is not a known value; expected one of {expected}")

    def check(self) -> None:
        """Raise InvalidRequestError if any field was refused."""
        if self._violations:
            raise InvalidRequestError(self._violations)


def is_given(message: Message, path: str) -> bool:
    """Whether the field at `path` is present, or not empty where it is repeated."""
    name, _, rest = path.partition(".")
    given = {field.name: value for field, value in message.ListFields()}
    return name in given and (not rest or is_given(given[name], rest))


def shown(text: str) -> str:
    """A value of the caller's, quoted and cut for an error message."""
    return repr(text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "…")


def _largest(token_ids: Sequence[int]) -> int:
    """Of a long prompt, too, without a Python object for each token."""
    return int(np.frombuffer(token_ids, np.uint32).max()) if isinstance(token_ids, array) else max(token_ids)


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def invalid(path: str, description: str) -> InvalidRequestError:
    """The error for one refused field."""
    return InvalidRequestError([Violation(path, description)])

"""What is known of one request field."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Endpoint(enum.Flag):
    """The routes that take a field."""

    CHAT = enum.auto()
    COMPLETIONS = enum.auto()
    RESPONSES = enum.auto()
    MESSAGES = enum.auto()
    EMBEDDINGS = enum.auto()
    TOKENIZE = enum.auto()
    DETOKENIZE = enum.auto()
    LOAD_ADAPTER = enum.auto()
    UNLOAD_ADAPTER = enum.auto()
    BOTH = CHAT | COMPLETIONS


class Support(enum.Enum):
    """What becomes of a field."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    """It cannot change the answer here, whatever its value."""
    REFUSED = "refused"
    """A value that asks for something is answered with 400, naming the field."""


CHAT, COMPLETIONS, BOTH = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.BOTH
RESPONSES, MESSAGES, EMBEDDINGS = Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.EMBEDDINGS
TOKENIZE, DETOKENIZE = Endpoint.TOKENIZE, Endpoint.DETOKENIZE
LOAD_ADAPTER, UNLOAD_ADAPTER = Endpoint.LOAD_ADAPTER, Endpoint.UNLOAD_ADAPTER


@dataclass(frozen=True, slots=True)
class Field:
    """One request field."""

    name: str
    endpoint: Endpoint
    support: Support
    note: str = ""
    """What it does, or why it is ignored or refused."""
    contract: str = ""
    """Where its value goes: a path in `GenerationSpec`. Empty for what the translator does itself."""
    plain: bool = False
    """Whether the value goes there unchanged."""
    neutral: tuple[object, ...] = ()
    """Values of a refused field, beside null and empty ones, that ask for nothing."""


def plain(name: str, contract: str, note: str, endpoint: Endpoint = BOTH) -> Field:
    """A field whose value goes into the contract unchanged."""
    return Field(name, endpoint, Support.HONOURED, note, contract, plain=True)


def honoured(name: str, contract: str, note: str, endpoint: Endpoint = BOTH) -> Field:
    """A field that code of its own writes into the contract, or that the translator uses itself."""
    return Field(name, endpoint, Support.HONOURED, note, contract)


def ignored(name: str, note: str, endpoint: Endpoint = BOTH) -> Field:
    """A field that cannot change the answer; the note says why."""
    return Field(name, endpoint, Support.IGNORED, note)


def refused(name: str, note: str, *neutral: object, endpoint: Endpoint = BOTH) -> Field:
    """A field that is answered with 400, but for null, empty and neutral values."""
    return Field(name, endpoint, Support.REFUSED, note, neutral=neutral)

"""Parsers of flag values. Each raises ValueError with what it expects."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# As vLLM reads them: small letters count in thousands, capitals in 1024s.
_UNITS = {
    "": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40,
}  # fmt: skip


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Parse whole numbers such as 4096, 4k (4000), 4K (4096) or 25.6k (25600)."""
    limits = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"

    def parse(text: str) -> int:
        match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)([kmgtKMGT]?)", text.strip())
        value = Decimal(match[1]) * _UNITS[match[2]] if match else None
        if (
            value is None
            or value != int(value)
            or value < minimum
            or (maximum is not None and value > maximum)
        ):
            raise ValueError(f"a whole number {limits}")
        return int(value)

    return parse


def model_len(text: str) -> int | None:
    """Parse a length in tokens. auto and -1 stand for the longest that fits, as if nothing were given."""
    if text.strip() in ("auto", "-1"):
        return None
    try:
        return integer(1)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from error


def number(minimum: float, maximum: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Parse decimal numbers from `minimum` (with `above`: greater than it) to `maximum`."""
    lower = f"greater than {minimum:g}" if above else f"of at least {minimum:g}"
    upper = "" if maximum == math.inf else f" and at most {maximum:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        in_range = minimum < value <= maximum if above else minimum <= value <= maximum
        if not in_range or value == math.inf:
            raise ValueError(f"a number {lower}{upper}")
        return value

    return parse


def choice(values: Mapping[str, str] | tuple[str, ...]) -> Callable[[str], str]:
    """Parse one of these names; a mapping gives what each stands for."""
    meanings = values if not isinstance(values, tuple) else {value: value for value in values}

    def parse(text: str) -> str:
        if text not in meanings:
            raise ValueError(f"one of {', '.join(meanings)}")
        return meanings[text]

    return parse


def exactly_one(text: str) -> int:
    """Parse a degree of parallelism; this version runs on one device."""
    if text.strip() != "1":
        raise ValueError("1, since this version runs a model on one device")
    return 1


def existing_file(text: str) -> Path:
    """Parse the path of a file that is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("the path of a file")
    return path


def file_or_template(text: str) -> Path | str:
    """Parse the path of a file that is there, or the text of a Jinja template."""
    return text if any(mark in text for mark in ("{{", "{%", "\n")) else existing_file(text)


def folder(text: str) -> Path:
    """Parse the path of a folder, which need not be there yet."""
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("the path of a folder")
    return path


def filled(text: str) -> str:
    """Parse text that is not empty."""
    if not text.strip():
        raise ValueError("a text that is not empty")
    return text


def target(text: str) -> str:
    """Parse a gRPC target: HOST:PORT or unix:PATH."""
    if not re.fullmatch(r"unix:.+|(dns:///?)?[^\s/]+:\d{1,5}", text):
        raise ValueError("HOST:PORT or unix:PATH")
    return text


def json_list(items: list[str]) -> list[str]:
    """Return the items, or those of a JSON list that they make together: commas may have divided it."""
    text = ",".join(items)
    if not text.lstrip().startswith("["):
        return items
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise ValueError("a JSON list of texts") from error


def origin(text: str) -> str:
    """Parse a web origin, or * for all."""
    if not re.fullmatch(r"\*|https?://[^/\s]+", text):
        raise ValueError("an origin such as https://example.org, or *")
    return text

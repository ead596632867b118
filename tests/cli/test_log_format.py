"""Log records as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any

from cli.log_format import JsonFormatter, TextFormatter


def record_of(message: str, *values: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("server.app", logging.INFO, __file__, 1, message, values, None)
    record.__dict__.update(extra)
    return record


def with_traceback(text: str) -> logging.LogRecord:
    record = record_of("it failed")
    try:
        raise ValueError(text)
    except ValueError:
        record.exc_info = sys.exc_info()
    return record


def parsed(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    value: dict[str, Any] = json.loads(line)
    return value


def test_a_message_is_one_json_object() -> None:
    line = parsed(record_of("ready on %s", "here"))
    assert datetime.fromisoformat(line.pop("ts")).tzinfo is not None
    assert line == {"level": "info", "logger": "server.app", "message": "ready on here"}


def test_fields_stand_for_the_message() -> None:
    line = parsed(record_of("what people read", fields={"request_id": "r-1", "total_s": 0.25}))
    assert (line["request_id"], line["total_s"]) == ("r-1", 0.25)
    assert "message" not in line


def test_a_traceback_stays_in_its_line() -> None:
    line = parsed(with_traceback("a\nb"))
    assert "Traceback" in line["exception"]
    assert "ValueError: a\nb" in line["exception"]


def test_whatever_is_logged_makes_one_line() -> None:
    nasty = "a\nb\r\x1b[31m\u2028{}\x85\ud800"
    assert parsed(record_of("id %s", nasty))["message"] == f"id {nasty}"
    text = TextFormatter().format(record_of("id %s", nasty))
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert r"a\nb\r\x1b[31m" in text

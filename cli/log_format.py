"""How log records are written: as text for people, or as one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

TEXT = "%(asctime)s %(levelname)s %(name)s{process}: %(message)s"

# A line break that somebody else chose must not begin a line of ours.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


class TextFormatter(logging.Formatter):
    """A line of text; only a traceback adds lines."""

    def __init__(self, process: int | None = None) -> None:
        """`process` is the number of this one, where a command has several."""
        super().__init__(TEXT.format(process="" if process is None else f"[{process}]"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's name
        """Return the line, with control characters escaped."""
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    A record that has `fields` is written by these, and its text, which says the same, is left out.
    """

    def __init__(self, process: int | None = None) -> None:
        """`process` is the number of this one, where a command has several."""
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if self._process is not None:
            line["process"] = self._process
        fields = getattr(record, "fields", None)
        line |= fields if isinstance(fields, dict) else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)

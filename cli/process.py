"""What the long-running commands have in common: logging to standard error, and draining."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cli.flags import Flag
from cli.log_format import JsonFormatter, TextFormatter
from cli.log_writer import LogWriter
from cli.values import choice, number

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}
LEVELS = ("debug", "info", "warning", "error")

LOG_LEVEL = Flag(
    name="log-level",
    field="log_level",
    help=f"What is logged: {', '.join(LEVELS)}.",
    parse=choice(LEVELS),
    metavar="LEVEL",
    default="info",
)
LOG_FORMAT = Flag(
    name="log-format",
    field="log_format",
    help="How it is logged: text, or json (one object a line).",
    parse=choice(tuple(FORMATTERS)),
    metavar="FORMAT",
    default="text",
)
DRAIN_TIMEOUT = Flag(
    name="drain-timeout",
    field="drain_timeout_s",
    help="How long open requests may go on after SIGTERM, in seconds.",
    parse=number(0),
    metavar="SECONDS",
    default="30",
)


def set_up_logging(values: Mapping[str, object]) -> None:
    """Log to standard error, at the given level and in the given form."""
    level = str(values.get("log_level", "info")).upper()
    handler = LogWriter()
    handler.setFormatter(FORMATTERS[str(values.get("log_format", "text"))]())
    logging.basicConfig(level=level, handlers=[handler])

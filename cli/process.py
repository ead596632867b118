"""What the long-running commands have in common: logging to standard error, and draining."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from cli.flags import Flag
from cli.log_format import JsonFormatter, TextFormatter
from cli.log_writer import LogWriter
from cli.values import choice, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    aliases=("--shutdown-timeout",),
    field="drain_timeout_s",
    help="How long open requests may go on after SIGTERM, in seconds.",
    parse=number(0),
    metavar="SECONDS",
    default="30",
)


def set_up_logging(values: Mapping[str, object], process: int | None = None) -> None:
    """Log to standard error, at the given level and in the given form. Lines tell which of several it is."""
    level = str(values.get("log_level", "info")).upper()
    handler = LogWriter()
    handler.setFormatter(FORMATTERS[str(values.get("log_format", "text"))](process))
    logging.basicConfig(level=level, handlers=[handler])


def pagewire_command(name: str, flags: Sequence[str]) -> list[str]:
    """Return the words that start a command of ours."""
    # -P: a folder called server/ or engine/ where the user stands must not be taken for ours.
    return [sys.executable, "-P", "-m", "cli", name, *flags]

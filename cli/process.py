"""What the long-running commands have in common: logging to standard error, and draining."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cli.flags import Flag
from cli.values import choice, number

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = ("debug", "info", "warning", "error")

LOG_LEVEL = Flag(
    name="log-level",
    field="log_level",
    help=f"What is logged: {', '.join(LEVELS)}.",
    parse=choice(LEVELS),
    metavar="LEVEL",
    default="info",
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
    """Log to standard error at the given level."""
    level = str(values.get("log_level", "info")).upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

"""How long an HTTP caller waits, as its headers say.

`X-Request-Timeout` is the caller's word: seconds from the arrival of the headers until the whole answer must
be there. OpenAI's and Anthropic's clients note their own timeout in `X-Stainless-Timeout` or
`X-Stainless-Read-Timeout`. They give up when no answer has begun by then, so it limits an answer in one piece
altogether, and a stream's time in the queue.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from translator.errors import ApiError
from translator.requests import arrived_s_of

if TYPE_CHECKING:
    from starlette.requests import Request

TIMEOUT_HEADER = "X-Request-Timeout"
_CLIENTS_HEADERS = ("x-stainless-timeout", "x-stainless-read-timeout")


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds from now; infinite where nothing limits it."""

    total_s: float = math.inf
    """Until the answer must be there."""
    queue_s: float = math.inf
    """Until it must have begun."""


ENDLESS = Patience()


def patience_of(request: Request, *, streams: bool, background: bool = False) -> Patience:
    """Return what the headers say, and that nobody waits for an answer that is made in the background.

    Raises:
        ApiError: 400; X-Request-Timeout is no number of seconds.
    """
    total_s, noted_s = _asked(request), _noted(request)
    if background:
        return ENDLESS
    return Patience(total_s, noted_s) if streams else Patience(min(total_s, noted_s))


def _asked(request: Request) -> float:
    """What is left of the caller's word."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return math.inf
    seconds = _seconds(text)
    if seconds is None:
        message = f"{TIMEOUT_HEADER}: expected a number of seconds greater than 0, got {text[:40]!a}."
        raise ApiError(400, message, param=TIMEOUT_HEADER)
    return max(0.0, arrived_s_of(request) + seconds - time.monotonic())


def _noted(request: Request) -> float:
    """A client's own note. What is no number was not meant for us."""
    noted = (_seconds(request.headers.get(name, "")) for name in _CLIENTS_HEADERS)
    return min((seconds for seconds in noted if seconds is not None), default=math.inf)


def _seconds(text: str) -> float | None:
    if "_" in text:  # float() reads 1_0 as 10
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None

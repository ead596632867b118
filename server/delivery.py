"""One sequence's way from the engine to its outlet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.messages import RequestOutput
    from server.engine import Outlet
    from server.histogram import Histogram


class Delivery:
    """Passes on what comes, and counts how long each token took to come after the one before."""

    __slots__ = ("_last_token_s", "_outlet", "_token_gaps")

    def __init__(self, outlet: Outlet, token_gaps: Histogram) -> None:
        """`token_gaps` counts the seconds between the sequence's tokens."""
        self._outlet = outlet
        self._token_gaps = token_gaps
        self._last_token_s: float | None = None

    def put(self, output: RequestOutput) -> None:
        """Pass on an output."""
        if output.token_ids:
            self._note_gap(len(output.token_ids))
        self._outlet.put(output)

    def fail(self, error: BaseException) -> None:
        """Pass on that no more comes."""
        self._outlet.fail(error)

    def _note_gap(self, num_tokens: int) -> None:
        now_s = time.monotonic()
        if self._last_token_s is not None:
            self._token_gaps.observe((now_s - self._last_token_s) / num_tokens, num_tokens)
        self._last_token_s = now_s

"""What the engine's steps took and brought, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.histogram import Histogram

if TYPE_CHECKING:
    from engine.messages import StepWork

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(2**power) for power in (0, *range(3, 15)))


class StepTotals:
    """Since the server started. Filled in on the event loop, read from any thread."""

    def __init__(self) -> None:
        self.tokens = Histogram(_TOKENS)
        """Of each step."""
        self.token_gaps = Histogram(_SECONDS)
        """Seconds from a token of a sequence to its next, as they come from the engine."""
        self.host_s = 0.0
        """The engine's loop worked."""
        self.device_s = 0.0
        """It waited for steps to end."""
        self.busy_s: float | None = None
        """A GPU was at steps; None on a CPU, and before the first step."""

    def add(self, work: StepWork | None) -> None:
        """A step has ended; None where none did."""
        if work is None:
            return
        if work.num_tokens:
            self.tokens.observe(work.num_tokens)
        self.host_s += work.host_s
        self.device_s += work.device_s
        if work.busy_s is not None:
            self.busy_s = (self.busy_s or 0.0) + work.busy_s

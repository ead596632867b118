"""What the engine's steps took, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.histogram import Histogram

if TYPE_CHECKING:
    from engine.messages import StepWork

_TOKENS = tuple(float(2**power) for power in (0, *range(3, 15)))


class StepTotals:
    """Since the server started. Filled in on the event loop, read from any thread."""

    def __init__(self) -> None:
        self.tokens = Histogram(_TOKENS)
        """Of each step."""
        self.host_s = 0.0
        """The engine's loop worked."""
        self.device_s = 0.0
        """It waited for steps to end."""

    def add(self, work: StepWork | None) -> None:
        """A step has ended; None where none did."""
        if work is None:
            return
        if work.num_tokens:
            self.tokens.observe(work.num_tokens)
        self.host_s += work.host_s
        self.device_s += work.device_s

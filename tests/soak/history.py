"""What happened: each call as its caller saw it, and each fault."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soak.oracle import Question

DEADLINE_S = 30.0
"""Of every call."""
PATIENCE_S = 1.0
"""After its deadline a call hangs."""


class Outcome(enum.Enum):
    """How a call ended."""

    FINISHED = "finished"
    REFUSED = "refused"
    """With an error of ours, before anything was accepted."""
    FAILED = "failed"
    """With an error of ours, after that."""
    EXPIRED = "expired"
    LEFT = "left"
    """By the caller's wish."""
    BROKEN = "broken"
    """The connection ended without a word."""
    HUNG = "hung"


@dataclass
class Call:
    """One call."""

    kind: str
    question: Question
    uses_proxy: bool
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float = 0.0
    outcome: Outcome | None = None
    error: str = ""
    """Its code, where it failed."""
    is_accepted: bool = False
    ends: list[str] = field(default_factory=list)
    """Every end that was said: finish reasons, errors, and the stream's own mark."""
    token_ids: list[int] = field(default_factory=list)
    text: str = ""


@dataclass(frozen=True)
class Window:
    """From a fault until all is well again."""

    name: str
    start_s: float
    end_s: float
    breaks_connections: bool
    """Whether callers may lose their connection without a word."""
    is_on_the_way: bool
    """Whether it harms only those who come through the proxy."""

    def touches(self, call: Call) -> bool:
        """Whether the call may have noticed."""
        overlaps = call.started_s <= self.end_s and call.ended_s >= self.start_s
        return overlaps and (call.uses_proxy or not self.is_on_the_way)


@dataclass
class History:
    """Everything, in the order in which it ended."""

    patience_s: float = PATIENCE_S
    calls: list[Call] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)

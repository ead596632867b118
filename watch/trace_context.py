"""W3C trace context: which trace a request belongs to. It is passed on whether or not spans are made here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

# A version of tomorrow may append fields; ff is no version.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_STATE = re.compile(r"[ -~]{1,512}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that others can be children of."""

    trace_id: int
    span_id: int
    flags: int = 1
    """Bit 0: the span is recorded."""
    state: str = ""
    """What tracing systems pass on for themselves."""

    @property
    def trace_name(self) -> str:
        """The trace's id as logs and collectors show it."""
        return f"{self.trace_id:032x}"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """As HTTP headers or gRPC metadata."""
        parent = f"00-{self.trace_name}-{self.span_id:016x}-{self.flags:02x}"
        state = ((TRACESTATE, self.state),) if self.state else ()
        return ((TRACEPARENT, parent), *state)


def trace_context_of(pairs: Iterable[tuple[str, str | bytes]] | None) -> TraceContext | None:
    """Read headers or metadata. What cannot be used is as if it were not there."""
    given = {key: value for key, value in pairs or () if isinstance(value, str)}
    found = _PARENT.fullmatch(given.get(TRACEPARENT, ""))
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups()[:3])
    if not trace_id or not span_id:
        return None
    state = given.get(TRACESTATE, "").strip()
    return TraceContext(trace_id, span_id, flags & 1, state if _STATE.fullmatch(state) else "")

"""Who asks: what is passed on with each sequence that a call needs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.errors import QueueTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class Caller:
    """Of one call. Times are those of `time.monotonic`."""

    request_id: str
    arrived_s: float
    deadline_s: float | None
    """When the caller gives up; None if it never does."""
    tenant: str
    """Whose key it has shown; empty where nobody needs one."""
    weight: float
    """The tenant's share."""

    def deadline_to_begin_s(self, queue_timeout_s: float | None) -> float | None:
        """When it is too late to begin, for one that waits no longer than `queue_timeout_s`."""
        deadlines = [] if self.deadline_s is None else [self.deadline_s]
        if queue_timeout_s is not None:
            deadlines.append(self.arrived_s + queue_timeout_s)
        return min(deadlines, default=None)


@contextlib.asynccontextmanager
async def in_time(caller: Caller, queue_timeout_s: float | None) -> AsyncIterator[None]:
    """Do something that belongs to waiting.

    Raises:
        QueueTimeoutError: more than `queue_timeout_s` have passed since the call arrived.
    """
    waited_s = time.monotonic() - caller.arrived_s
    try:
        async with asyncio.timeout(None if queue_timeout_s is None else queue_timeout_s - waited_s):
            yield
    except TimeoutError as error:
        raise QueueTimeoutError(f"the request waited for more than {queue_timeout_s:g} seconds") from error

"""Who is admitted next: by arrival and priority, and nobody is passed over for ever.

Waiting makes up for priority, at the same rate for all, so the order of two sequences never changes:
a rank is fixed on arrival. A sequence that cannot be admitted yet may be bypassed by a few of those
behind it; then they wait with it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.request import Rank, Request

AGEING_STEPS = 64
"""Steps of waiting that are worth one level of priority."""
MAX_AGEING_LEVELS = 32
"""Priorities beyond this, either way, order only sequences that would otherwise be equal."""
MAX_BYPASSES = 8
"""Sequences that may be admitted past one that stands before them."""
MAX_SCANNED = 16
"""Sequences that may be passed over in one step."""

_by_rank = attrgetter("rank")


def rank_of(priority: int, num_steps: int, num_arrivals: int) -> Rank:
    """The rank of a sequence that arrives after so many steps and other sequences. Lower is earlier."""
    level = max(-MAX_AGEING_LEVELS, min(priority, MAX_AGEING_LEVELS))
    return num_steps + level * AGEING_STEPS, priority, num_arrivals


class WaitingQueue:
    """The sequences without a row, lowest rank first."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Put a sequence in its place."""
        insort(self._requests, request, key=_by_rank)

    def remove(self, request: Request) -> None:
        """Take out a sequence that is in the queue."""
        index = bisect_left(self._requests, request.rank, key=_by_rank)
        assert self._requests[index] is request, request.request_id
        del self._requests[index]

    def has_shorter(self, num_tokens: int) -> bool:
        """Whether one of those that may be admitted soon has fewer known tokens."""
        return any(len(request.token_ids) < num_tokens for request in self._requests[:MAX_SCANNED])

    def offer(self, admit: Callable[[Request], bool]) -> None:
        """Call `admit` with one sequence after another; where it returns True, the sequence leaves."""
        num_passed = 0
        while num_passed < min(len(self._requests), MAX_SCANNED):
            if admit(self._requests[num_passed]):
                self._requests.pop(num_passed).num_bypasses = 0
                for passed in self._requests[:num_passed]:
                    passed.num_bypasses += 1
            else:
                num_passed += 1
            if any(passed.num_bypasses >= MAX_BYPASSES for passed in self._requests[:num_passed]):
                break

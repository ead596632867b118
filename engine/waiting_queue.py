"""Who is admitted next: the tenant served least, and of its sequences the first by priority and arrival.
Nobody is passed over for ever.

Between tenants this is weighted fair queueing of tokens: start-time fair queueing (Goyal, Vin and Cheng,
1996) with the counters of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024). Nobody
knows beforehand how many tokens a sequence will take, so a tenant is charged for them when they are served,
over its weight. A tenant that comes back to the queue starts from where the others are: for the time that
it was away it is owed nothing.

Within a tenant, and so where there is but one, waiting makes up for priority, at the same rate for all. The
order of two sequences never changes, so a rank is fixed on arrival.

A sequence that was to begin by a time that has passed leaves the queue when its turn comes.

A sequence that cannot be admitted yet may be bypassed by a few of those behind it; then they wait with it.

To put a sequence in its place or to find the next one takes as many comparisons as the logarithm of the
number of those that wait.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from contextlib import closing
from heapq import heappop, heappush, heapreplace
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from engine.account import Account

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

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
    """The sequences without a row, in the order in which they are to be admitted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is that of the deadlines."""
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        # A heap of the accounts with waiting sequences, by (served, number). Both only grow, so an entry that
        # is too low is put right when it comes to the top.
        self._order: list[tuple[float, int, Account]] = []
        self._num_waiting = 0
        self._num_turns = 0
        self._least_served = 0.0  # the first tenant's when somebody was last admitted

    def __len__(self) -> int:
        return self._num_waiting

    @property
    def first(self) -> Request | None:
        """The one that is to be admitted next; None where nobody waits."""
        account = self._first()
        return None if account is None else account.waiting[0]

    def add(self, request: Request) -> None:
        """Put a sequence in its place."""
        account = request.account = self._accounts.setdefault(request.tenant, Account())
        account.weight = request.weight
        if not account.waiting:
            account.served = max(account.served, self._least_served)
            self._num_turns += 1
            account.number = self._num_turns
            if not account.is_listed:
                self._list(account)
        insort(account.waiting, request, key=_by_rank)
        self._num_waiting += 1

    def remove(self, request: Request) -> None:
        """Take out a sequence that is in the queue."""
        waiting = request.account.waiting
        index = bisect_left(waiting, request.rank, key=_by_rank)
        assert waiting[index] is request, request.request_id
        del waiting[index]
        self._num_waiting -= 1

    def drop_late(self) -> list[Request]:
        """Let those leave that are first while it is too late for them to begin. Return them."""
        late = []
        while (request := self.first) is not None and request.is_too_late(self._clock):
            self.remove(request)
            late.append(request)
        return late

    def settle(self) -> None:
        """Forget what was served, for nothing is left to be served."""
        assert not self._num_waiting, self._num_waiting
        self._accounts.clear()
        self._order.clear()
        self._least_served = 0.0

    def has_shorter(self, num_tokens: int) -> bool:
        """Whether one of those that may be admitted soon has fewer known tokens."""
        with closing(self.in_order()) as order:
            return any(len(request.token_ids) < num_tokens for request in islice(order, MAX_SCANNED))

    def offer(self, admit: Callable[[Request], bool]) -> list[Request]:
        """Call `admit` with one sequence after another; where it returns True, the sequence leaves.

        Returns:
            Those that left without being offered, as it was too late for them to begin.
        """
        passed: list[Request] = []
        expired: list[Request] = []
        with closing(self.in_order()) as order:
            for request in order:
                if request.is_too_late(self._clock):
                    self.remove(request)
                    expired.append(request)
                    continue
                least_served = (passed or [request])[0].account.served
                if not admit(request):
                    passed.append(request)
                else:
                    self.remove(request)
                    request.num_bypasses = 0
                    self._least_served = max(self._least_served, least_served)
                    for each in passed:
                        each.num_bypasses += 1
                if len(passed) == MAX_SCANNED or any(each.num_bypasses >= MAX_BYPASSES for each in passed):
                    break
        return expired

    def in_order(self) -> Generator[Request]:
        """Yield the sequences, each as if all before it had been admitted and their known tokens served.

        A sequence may be removed when it was yielded. Close the generator before anything else is changed.
        """
        begun: list[
            tuple[float, int, int, Account]
        ] = []  # served by then, number, index of the next sequence
        unlisted: list[Account] = []
        try:
            while True:
                first = self._first()
                if first is not None and (not begun or (first.served, first.number) < begun[0][:2]):
                    heappop(self._order)
                    unlisted.append(first)
                    served, index, account = first.served, 0, first
                elif begun:
                    served, _, index, account = heappop(begun)
                else:
                    return
                request, num_waiting = account.waiting[index], len(account.waiting)
                yield request
                index += len(account.waiting) == num_waiting
                if index < len(account.waiting):
                    served += len(request.token_ids) / account.weight
                    heappush(begun, (served, account.number, index, account))
        finally:
            for account in unlisted:
                self._list(account)

    def _list(self, account: Account) -> None:
        account.is_listed = True
        heappush(self._order, (account.served, account.number, account))

    def _first(self) -> Account | None:
        """The account that was served least, of those with waiting sequences."""
        while self._order:
            served, number, account = self._order[0]
            if not account.waiting:
                heappop(self._order)
                account.is_listed = False
            elif (served, number) != (account.served, account.number):
                heapreplace(self._order, (account.served, account.number, account))
            else:
                return account
        return None

"""The order of the waiting queue as `waiting_queue.py` describes it, worked out anew each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.request import Request


class FairOrder:
    """Is told what happens, and says who should come next."""

    def __init__(self) -> None:
        self.served: dict[str, float] = {}
        self.waiting: dict[str, list[Request]] = {}
        self._turns: dict[str, int] = {}
        self._num_turns = 0
        self._least_served = 0.0

    def arrive(self, request: Request) -> None:
        waiting = self.waiting.setdefault(request.tenant, [])
        if not waiting:
            self.served[request.tenant] = max(self.served.get(request.tenant, 0.0), self._least_served)
            self._num_turns += 1
            self._turns[request.tenant] = self._num_turns
        waiting.append(request)
        waiting.sort(key=lambda each: each.rank)

    def leave(self, request: Request) -> None:
        self.waiting[request.tenant].remove(request)

    def admit(self, order: Iterable[Request]) -> None:
        """Take out those of the order that have a row now."""
        passed: list[Request] = []
        for request in order:
            if request.row is None:
                passed.append(request)
                continue
            first = (passed or [request])[0]
            self._least_served = max(self._least_served, self.served[first.tenant])
            self.leave(request)
            if not request.num_preemptions:
                self.charge(request, request.num_prompt_tokens - request.num_cached_tokens)

    def charge(self, request: Request, num_tokens: int) -> None:
        self.served[request.tenant] += num_tokens / request.weight

    def in_order(self) -> list[Request]:
        served, indices = dict(self.served), dict.fromkeys(self.waiting, 0)
        order: list[Request] = []
        while True:
            left = [name for name, waiting in self.waiting.items() if indices[name] < len(waiting)]
            if not left:
                return order
            tenant = min(left, key=lambda name: (served[name], self._turns[name]))
            request = self.waiting[tenant][indices[tenant]]
            indices[tenant] += 1
            served[tenant] += len(request.token_ids) / request.weight
            order.append(request)

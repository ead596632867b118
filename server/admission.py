"""Who may come in: the bounded queues, and the list of requests that are being served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from server.errors import NotReadyError, QueueFullError, TenantLimitError
from server.waiting_room import Ticket, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from server.readiness import Readiness
    from server.rpc import Call
    from server.tenants import Tenants


class Admission:
    """Takes requests in, or refuses them before they cost anything."""

    def __init__(self, readiness: Readiness, max_waiting: int, tenants: Tenants) -> None:
        self._readiness = readiness
        self._max_waiting = max_waiting
        self._tenants = tenants
        self._room = WaitingRoom(max_waiting, tenants.weight)
        self._side_room = WaitingRoom(max_waiting, tenants.weight)
        self._num_live: Counter[str] = Counter()  # by tenant
        self._tickets: set[Ticket] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_live(self) -> int:
        """Requests that are being served."""
        return len(self._tickets)

    @property
    def num_waiting(self) -> int:
        """Those that the engine does not run yet. Any thread may ask."""
        return len(self._room)

    def census(self) -> tuple[int, int, int]:
        """How many requests for the engine run, wait, and wait for their readers, at one moment.

        Any thread may ask.
        """
        tickets = [ticket for ticket in tuple(self._tickets) if ticket.room is self._room]
        num_waiting = sum(ticket.waits for ticket in tickets)
        num_stalled = sum(ticket.call.is_stalled for ticket in tickets)
        return len(tickets) - num_waiting, num_waiting, num_stalled

    def adapters(self) -> tuple[list[str], list[str]]:
        """The adapters of requests that run, and of requests that wait. Any thread may ask."""
        tickets = [ticket for ticket in tuple(self._tickets) if ticket.adapter]
        running = {ticket.adapter for ticket in tickets if not ticket.waits}
        waiting = {ticket.adapter for ticket in tickets if ticket.waits}
        return sorted(running), sorted(waiting)

    def admit(self, call: Call) -> AbstractContextManager[Ticket]:
        """Hold a place for a call.

        Raises:
            NotReadyError: nothing can be run now.
            TenantLimitError: too many requests of the caller's tenant are live.
            QueueFullError: too many requests wait.
        """
        return self._hold(call, self._room, self._readiness.not_ready_reason)

    def admit_aside(self, call: Call) -> AbstractContextManager[Ticket]:
        """Hold a place for a call that needs no engine, in a queue of its own, where it stays to its end.

        Raises as `admit` does.
        """
        return self._hold(call, self._side_room, self._readiness.refusal)

    @contextlib.contextmanager
    def _hold(self, call: Call, room: WaitingRoom, reason: str | None) -> Iterator[Ticket]:
        if reason is not None:
            raise NotReadyError(reason)
        limit = self._tenants.limit(call.tenant)
        if limit is not None and self._num_live[call.tenant] >= limit:
            raise TenantLimitError(f"{limit} requests of this key's tenant are being served")
        ticket = self._enter(call, room)
        try:
            yield ticket
        finally:
            self._leave(ticket)

    def _enter(self, call: Call, room: WaitingRoom) -> Ticket:
        ticket = Ticket(call, room)
        if room.is_full:
            displaced = room.last_beyond_share(call.tenant)
            if displaced is None:
                raise QueueFullError(f"{self._max_waiting} requests are waiting already")
            displaced.stop_waiting()
            displaced.call.end(
                QueueFullError("the queue is full, and others have a right to this place in it")
            )
        room.enter(ticket)
        self._num_live[call.tenant] += 1
        self._tickets.add(ticket)
        self._idle.clear()
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        ticket.stop_waiting()
        self._num_live[ticket.call.tenant] -= 1
        if not self._num_live[ticket.call.tenant]:
            del self._num_live[ticket.call.tenant]
        self._tickets.remove(ticket)
        if not self._tickets:
            self._idle.set()

    def end(self, request_id: str, error: Exception) -> bool:
        """End the live requests of that id; returns whether there was one."""
        calls = [ticket.call for ticket in self._tickets if ticket.call.request_id == request_id]
        for call in calls:
            call.end(error)
        return bool(calls)

    def end_all(self, error: Exception) -> None:
        """End all live requests."""
        for ticket in self._tickets:
            ticket.call.end(error)

    async def drain(self, timeout_s: float, error: Exception) -> int:
        """Wait for the live requests, then end those that are left and return their number."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            num_ended = self.num_live
            self.end_all(error)
            await self._idle.wait()
            return num_ended
        return 0

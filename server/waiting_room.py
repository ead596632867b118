"""Requests that wait: so many and no more, and no tenant keeps all others out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.rpc import Call


class Ticket:
    """A request's place: it waits until the engine runs it."""

    def __init__(self, call: Call, room: WaitingRoom) -> None:
        self.call = call
        self.room = room
        self.waits = False
        """Whether the ticket is in the room. Any thread may ask."""
        self.adapter = ""
        """The name of the adapter that it asks for."""

    def stop_waiting(self) -> None:
        """Note that the engine runs the request, or that it has ended. May be called more than once."""
        if self.waits:
            self.room.leave(self)


class WaitingRoom:
    """Holds tickets by tenant.

    While there is room, everybody may enter. When it is full, a newcomer takes the place of the newest ticket
    of the tenant that has the most for its weight, unless the newcomer's own would have more then. So what a
    flood drops is its own. (Stealing from the longest queue: McKenney, "Stochastic Fairness Queueing", 1990.)
    """

    def __init__(self, size: int, weight: Callable[[str], float]) -> None:
        """`weight` is a tenant's share of the room."""
        self._size = size
        self._weight = weight
        self._tickets: dict[str, dict[Ticket, None]] = {}  # in the order of their coming
        self._num_tickets = 0

    def __len__(self) -> int:
        return self._num_tickets

    @property
    def is_full(self) -> bool:
        """Whether somebody has to leave before somebody may enter."""
        return self._num_tickets >= self._size

    def enter(self, ticket: Ticket) -> None:
        """Let a ticket wait. There must be room."""
        assert not self.is_full
        self._tickets.setdefault(ticket.call.tenant, {})[ticket] = None
        self._num_tickets += 1
        ticket.waits = True

    def leave(self, ticket: Ticket) -> None:
        """Let a ticket go that waits."""
        tickets = self._tickets[ticket.call.tenant]
        del tickets[ticket]
        if not tickets:
            del self._tickets[ticket.call.tenant]
        self._num_tickets -= 1
        ticket.waits = False

    def last_beyond_share(self, tenant: str) -> Ticket | None:
        """Return who has to leave a full room for a newcomer of `tenant`; None if the newcomer has to."""
        if not self._tickets:
            return None
        largest = max(self._tickets, key=lambda name: len(self._tickets[name]) / self._weight(name))
        num_own, num_largest = len(self._tickets.get(tenant, ())), len(self._tickets[largest])
        if (num_own + 1) / self._weight(tenant) > (num_largest - 1) / self._weight(largest):
            return None
        return next(reversed(self._tickets[largest]))

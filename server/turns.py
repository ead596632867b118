"""Turns: so many for each tenant, so that what one tenant sends waits for its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Callable


class Turns:
    """Lets each tenant do so many things at once.

    Whoever queues for something else with a turn in hand queues behind `num_each` of each other tenant at
    most, however many of them have come.
    """

    def __init__(self, num_each: int) -> None:
        self._num_each = num_each
        # Whoever waits for a turn or has one keeps his tenant's alive.
        self._by_tenant: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def take(self, tenant: str) -> Callable[[], None]:
        """Wait for a turn, after those of the tenant who came before. Returns what gives it back."""
        turns = self._by_tenant.setdefault(tenant, asyncio.Semaphore(self._num_each))
        await turns.acquire()
        return turns.release

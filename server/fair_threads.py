"""Threads for work that takes CPU time, shared fairly between tenants."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from server.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class FairThreads:
    """Owns the threads: one more than a tenant may hold, so that a flood of one leaves one for the others."""

    def __init__(self, name: str, num_each: int) -> None:
        self._turns = Turns(num_each)
        self._executor = ThreadPoolExecutor(num_each + 1, name)

    async def run(
        self,
        tenant: str,
        work: Callable[_Parameters, _Result],
        *arguments: _Parameters.args,
        **named: _Parameters.kwargs,
    ) -> _Result:
        """Run work of a tenant in its turn, and return or raise what it does.

        A caller that is cancelled leaves the queue. What has begun goes on, and keeps its turn until it ends.
        """
        end_turn = await self._turns.take(tenant)
        loop = asyncio.get_running_loop()
        future = self._executor.submit(work, *arguments, **named)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(end_turn))
        return await asyncio.wrap_future(future)

    async def aclose(self) -> None:
        """Wait for what has begun, and end the threads."""
        await asyncio.to_thread(self._executor.shutdown)

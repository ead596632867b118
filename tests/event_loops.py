"""The event loop of asynchronous tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import TypeVarTuple, Unpack

    Arguments = TypeVarTuple("Arguments")


class TestLoop(asyncio.SelectorEventLoop):
    """An event loop that drops what reaches it after its end.

    gRPC's completion queue serves all loops of a process: the running one hands over the events of calls
    that were begun in others. A call that nobody awaits may end after its test did, and handing that over
    would raise in the test that runs then (grpc/_cython/_cygrpc/aio/completion_queue.pyx.pxi).
    """

    __test__ = False

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As the base class, but for a loop that is closed: then the handle is a cancelled one."""
        if not self.is_closed():
            return super().call_soon_threadsafe(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        handle.cancel()
        return handle

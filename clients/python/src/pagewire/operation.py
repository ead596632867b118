"""An operation of gRPC, from now to its end.

gRPC never frees a message whose `await` was cancelled. So an operation goes on, whoever stops waiting for it.
And it begins at once, not a turn of the event loop later: where hundreds of streams have something to say in
one turn, the first one need not wait until all have prepared it. A task of Python 3.12 can be eager, too; but
it is cancelled with whoever waits for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

Result = TypeVar("Result")


def begin(work: Awaitable[Result]) -> asyncio.Future[Result]:
    """Run a coroutine up to its first wait, and the rest as what it waits for comes.

    Return a future of what it returns or raises. Cancelling that future leaves the coroutine alone. It is no
    task: `asyncio.timeout` does not work in it.
    """
    operation = _Operation(work)
    operation.advance()
    return operation.ended


def is_cancelled() -> bool:
    """Tell whether the task that runs is cancelled, where it may also be what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Operation(Generic[Result]):
    """Does for a coroutine what `asyncio.Task` does, but for cancelling it."""

    __slots__ = ("_loop", "_steps", "ended")

    def __init__(self, work: Awaitable[Result]) -> None:
        self._steps = work.__await__()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Result] = self._loop.create_future()

    def advance(self, _: object = None) -> None:
        try:
            waits_for = self._steps.send(None)
        except StopIteration as end:
            if not self.ended.done():
                self.ended.set_result(end.value)
        except asyncio.CancelledError:
            self.ended.cancel()
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            if not self.ended.done():
                self.ended.set_exception(error)
        else:
            if waits_for is None:  # `asyncio.sleep(0)`
                self._loop.call_soon(self.advance)
                return
            waits_for._asyncio_future_blocking = False  # what a task tells a future that has yielded itself
            waits_for.add_done_callback(self.advance)

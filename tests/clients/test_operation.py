from __future__ import annotations

import asyncio
import gc

import pytest

from pagewire.operation import begin


class Writes:
    """Waits for the other end, and notes how far each write has come."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def write(self) -> str:
        self.notes.append("begun")
        try:
            said = await self.sent
            await asyncio.sleep(0)
            return said
        finally:
            self.notes.append("ended")


async def test_it_begins_at_once_and_goes_on_as_what_it_waits_for_comes() -> None:
    writes = Writes()
    ended = begin(writes.write())
    assert writes.notes == ["begun"]
    writes.sent.set_result("well")
    assert await ended == "well"
    assert writes.notes == ["begun", "ended"]


async def test_what_waits_for_nothing_has_ended() -> None:
    async def write() -> int:
        return 5

    assert begin(write()).result() == 5


@pytest.mark.parametrize("fault", [KeyError("gone"), asyncio.CancelledError()])
@pytest.mark.parametrize("waits", [True, False])
async def test_a_fault_is_raised_where_it_is_awaited(fault: BaseException, waits: bool) -> None:
    async def write() -> None:
        if waits:
            await asyncio.sleep(0)
        raise fault

    with pytest.raises(type(fault)):
        await begin(write())


@pytest.mark.parametrize("succeeds", [True, False])
async def test_it_goes_on_though_nobody_waits(succeeds: bool) -> None:
    """Result: the caller who is cancelled leaves at once; what becomes of the write is no news to anybody."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    writes = Writes()

    async def call() -> None:
        await begin(writes.write())

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert writes.notes == ["begun"]
    if succeeds:
        writes.sent.set_result("well")
    else:
        writes.sent.set_exception(KeyError("gone"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert writes.notes == ["begun", "ended"]
    gc.collect()
    assert told == []

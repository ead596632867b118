"""The generations of one HTTP request: one for each prompt, read as one stream of events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pagewire.v1 import inference_pb2
from translator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from translator.backend import Event, Generation

    GroupEvent = inference_pb2.Started | Event
    Arrived = asyncio.Queue[tuple[int, GroupEvent] | Exception | None]


class GenerationGroup:
    """Generations that fail and end together, and start together where there is room for all.

    A server that has room for some of them would refuse all of them for ever. So those that are refused for
    want of room wait for the others, and follow as these end. Nothing that has begun is given up for them:
    from then on only their deadline ends them.
    """

    def __init__(
        self, generations: Sequence[Generation], admit: Callable[[inference_pb2.Started], None]
    ) -> None:
        """Each start is shown to `admit`; an ApiError from it refuses the whole request."""
        assert generations
        self._generations = tuple(generations)
        self._admit = admit
        self._held: dict[int, ApiError] = {}
        """Why those wait that there was no room for, by index."""
        self._num_open = 0
        """Calls that run, or ask whether they may."""
        self._chances = asyncio.Semaphore(0)
        """One for each reason to believe that there is room again."""

    def __len__(self) -> int:
        return len(self._generations)

    async def start(self) -> dict[int, inference_pb2.Started]:
        """Wait until all are admitted but for those that wait for the others. Return the admitted, by index.

        Raises:
            ApiError: one was refused, or there is room for none.
        """
        if len(self._generations) == 1:
            return {0: await self._start(self._generations[0])}
        tasks = [asyncio.create_task(self._started_or_refusal(each)) for each in self._generations]
        try:
            answers = await asyncio.gather(*tasks)
        except ApiError as error:
            self._cut(error)
            raise
        finally:
            await _stop(tasks)
        starts = {
            index: answer for index, answer in enumerate(answers) if isinstance(answer, inference_pb2.Started)
        }
        self._held = {index: answer for index, answer in enumerate(answers) if isinstance(answer, ApiError)}
        self._num_open = len(starts)
        if not starts:
            raise self._held[0]
        return starts

    async def events(self) -> AsyncGenerator[tuple[int, GroupEvent], None]:
        """Yield each event with its generation's index; the last one ends the last generation.

        Those that waited begin with `started`.

        Raises:
            ApiError: one has failed.
        """
        if len(self._generations) == 1:
            async with aclosing(self._generations[0].events()) as events:
                async for event in events:
                    yield 0, event
            return
        # Bounded, so that a slow reader slows the calls down.
        arrived: Arrived = asyncio.Queue(len(self._generations))
        tasks = [
            asyncio.create_task(_reporting(self._run(index, arrived), arrived))
            for index in range(len(self._generations))
        ]
        try:
            num_running = len(tasks)
            while num_running:
                item = await arrived.get()
                if isinstance(item, ApiError):
                    self._cut(item)
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    num_running -= 1
                else:
                    yield item
        finally:
            await _stop(tasks)

    def cancel(self) -> None:
        """Give all of them up."""
        for generation in self._generations:
            generation.cancel()

    def _cut(self, error: ApiError) -> None:
        """End all for the failure of one: that is what their client hears."""
        for generation in self._generations:
            generation.cut(error)

    async def _run(self, index: int, arrived: Arrived) -> None:
        generation = self._generations[index]
        if index in self._held:
            started = await self._start_late(generation, self._held[index])
            await arrived.put((index, started))
        async for event in generation.events():
            await arrived.put((index, event))
        self._num_open -= 1
        self._chances.release()

    async def _start_late(self, generation: Generation, refusal: ApiError) -> inference_pb2.Started:
        """Ask again at each chance, and from time to time while nothing runs that could give one."""
        while True:
            if self._num_open or not self._chances.locked():
                await self._chances.acquire()
            else:
                assert refusal.retry_after_s is not None
                await asyncio.sleep(min(refusal.retry_after_s, generation.left_s))
            generation.reopen()
            self._num_open += 1
            answer = await self._started_or_refusal(generation)
            if isinstance(answer, inference_pb2.Started):
                self._chances.release()  # where one was let in, another may be
                return answer
            refusal = answer
            self._num_open -= 1

    async def _started_or_refusal(self, generation: Generation) -> inference_pb2.Started | ApiError:
        """Wait until one is admitted, or there is no room for it."""
        try:
            return await self._start(generation)
        except ApiError as error:
            if not error.is_overload:
                raise
            return error

    async def _start(self, generation: Generation) -> inference_pb2.Started:
        started = await generation.start()
        try:
            self._admit(started)
        except ApiError as error:
            generation.cut(error)
            raise
        return started


async def _reporting(work: Coroutine[Any, Any, None], arrived: Arrived) -> None:
    """Tell how the work ended."""
    try:
        await work
        await arrived.put(None)
    except Exception as error:  # noqa: BLE001 - whoever reads the events raises it
        await arrived.put(error)


async def _stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

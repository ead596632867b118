"""The generations of one HTTP request: one for each prompt, read as one stream of events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from translator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pagewire.v1 import inference_pb2
    from translator.backend import Event, Generation


class GenerationGroup:
    """Generations that start, fail and end together."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        assert generations
        self._generations = tuple(generations)

    async def start(self) -> list[inference_pb2.Started]:
        """Wait until all are admitted.

        Raises:
            ApiError: one was refused.
        """
        if len(self._generations) == 1:
            return [await self._generations[0].start()]
        starts = [asyncio.create_task(generation.start()) for generation in self._generations]
        try:
            return list(await asyncio.gather(*starts))
        finally:
            await _stop(starts)

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """Yield each event with its generation's index; the last one ends the last generation.

        Raises:
            ApiError: one has failed.
        """
        if len(self._generations) == 1:
            async with aclosing(self._generations[0].events()) as events:
                async for event in events:
                    yield 0, event
            return
        # Bounded, so that a slow reader slows the calls down.
        arrived: asyncio.Queue[tuple[int, Event] | ApiError | None] = asyncio.Queue(len(self._generations))
        tasks = [
            asyncio.create_task(_forward(index, generation, arrived))
            for index, generation in enumerate(self._generations)
        ]
        try:
            num_running = len(tasks)
            while num_running:
                item = await arrived.get()
                if isinstance(item, ApiError):
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


async def _forward(
    index: int, generation: Generation, arrived: asyncio.Queue[tuple[int, Event] | ApiError | None]
) -> None:
    try:
        async for event in generation.events():
            await arrived.put((index, event))
        await arrived.put(None)
    except ApiError as error:
        await arrived.put(error)


async def _stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

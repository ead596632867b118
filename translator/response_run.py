"""A response while it is generated, read by the client that asked for it."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from pagewire.v1 import inference_pb2
from translator.errors import ApiError, internal_error
from translator.sse import encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from translator.backend import Generation
    from translator.response_events import Event
    from translator.response_items import Item
    from translator.response_object import Body
    from translator.response_plan import ResponsePlan
    from translator.response_store import ResponseStore

log = logging.getLogger("translator")


class ResponseRun:
    """Runs one plan. Whoever made it calls `close` in the end, finished or not."""

    def __init__(self, plan: ResponsePlan, generation: Generation, store: ResponseStore) -> None:
        self._plan = plan
        self._writer = plan.writer
        self._generation = generation
        self._store = store
        self._is_started = False
        self._cancelled = ApiError(499, "The response was cancelled.", code="cancelled")
        """What ends the generation when the API is asked to cancel it."""
        self.error: ApiError | None = None
        """Why it failed, where it did."""

    @property
    def owner(self) -> str:
        """Whose response it is."""
        return self._plan.owner

    @property
    def body(self) -> Body:
        """The response so far."""
        return self._writer.body

    @property
    def input_items(self) -> list[Item]:
        """The request's own input items."""
        return self._plan.input_items

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self.body["status"] not in ("queued", "in_progress")

    def opening(self) -> list[Event]:
        """Return the first events."""
        return list(self._writer.create())

    async def start(self) -> None:
        """Wait until the server has admitted the request.

        Raises:
            ApiError: it was refused.
        """
        self._writer.start(await self._generation.start())
        self._is_started = True

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """Yield the events after the first ones, as they come together. The last ones tell of a failure."""
        try:
            if not self._is_started:
                await self.start()
            yield list(self._writer.begin())
            async with aclosing(self._generation.events()) as events:
                async for event in events:
                    if isinstance(event, inference_pb2.Finished):
                        yield list(self._writer.finish(event))
                    else:
                        yield [made for choice in event.choices for made in self._writer.add(choice)]
        except ApiError as error:
            self.error = error
            yield list(self._writer.cancel() if error is self._cancelled else self._writer.fail(error))
        except Exception:
            log.exception("response %s failed", self.body["id"])
            self.error = internal_error()
            yield list(self._writer.fail(self.error))

    async def whole(self) -> Body:
        """Generate to the end and return the response.

        Raises:
            ApiError: the generation failed.
        """
        async with aclosing(self.events()) as batches:
            async for _ in batches:
                pass
        if self.error is not None:
            raise self.error
        self.keep()
        return self.body

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield the frames of a stream. The response is kept before its client reads that it is done."""
        yield encode_events(self.opening())
        async with aclosing(self.events()) as batches:
            async for batch in batches:
                if self.is_done:
                    self.keep()
                if batch:
                    yield encode_events(batch)

    def keep(self, frames: Sequence[bytes] = ()) -> None:
        """Put the response into the store, if it was to be stored."""
        if self._plan.is_stored:
            self._store.put(self.owner, self.body, self.input_items, frames)

    def stop(self) -> None:
        """End the generation; the response becomes a cancelled one."""
        self._generation.cut(self._cancelled)

    def close(self) -> None:
        """Give the generation up."""
        self._generation.cancel()


def encode_events(events: Iterable[Event]) -> bytes:
    """Return the frames of events, one after another."""
    return b"".join(encode_event(event["type"], event) for event in events)

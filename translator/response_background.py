"""Responses that run in the background: without a client, but for any number of readers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from translator.sse import encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from translator.response_events import Event
    from translator.response_run import ResponseRun


class BackgroundRun:
    """One response, with all frames of its stream so far."""

    def __init__(self, run: ResponseRun, forget: Callable[[], None]) -> None:
        """Begin to generate.

        Args:
            run: what to run.
            forget: called when the response has ended and is in the store.
        """
        self.run = run
        self._forget = forget
        self._frames: list[bytes] = []
        """By sequence number."""
        self._changed = asyncio.Event()
        self._note(run.opening())
        self._task = asyncio.create_task(self._work())

    async def until_admitted(self, timeout_s: float) -> None:
        """Wait until the server has admitted the request, but not longer than this.

        Raises:
            ApiError: it was refused meanwhile.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.run.body["status"] == "queued":
                    await self._changed.wait()
        except TimeoutError:
            return
        if self.run.error is not None:
            raise self.run.error

    async def until_done(self) -> None:
        """Wait until nothing more will come."""
        await asyncio.wait({self._task})

    async def tail(self, starting_after: int) -> AsyncGenerator[bytes, None]:
        """Yield the frames after that sequence number, and go on until the response has ended."""
        num_sent = starting_after + 1
        while True:
            changed = self._changed
            if num_sent < len(self._frames):
                new = self._frames[num_sent:]
                num_sent += len(new)
                yield b"".join(new)
            elif self.run.is_done:
                return
            else:
                await changed.wait()

    def stop(self) -> None:
        """Cancel the response. It ends a little later."""
        self.run.stop()

    async def _work(self) -> None:
        try:
            async for batch in self.run.events():
                self._note(batch)
        finally:
            self.run.close()
            self.run.keep(self._frames)
            self._forget()

    def _note(self, events: list[Event]) -> None:
        self._frames.extend(encode_event(event["type"], event) for event in events)
        self._changed.set()
        self._changed = asyncio.Event()


class BackgroundRuns:
    """The responses that run in the background now, by owner and id."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], BackgroundRun] = {}

    def begin(self, run: ResponseRun) -> BackgroundRun:
        """Begin a response."""
        key = run.owner, run.body["id"]

        def forget() -> None:
            del self._runs[key]

        self._runs[key] = BackgroundRun(run, forget)
        return self._runs[key]

    def get(self, owner: str, response_id: str) -> BackgroundRun | None:
        """Return a response that runs; None if there is none."""
        return self._runs.get((owner, response_id))

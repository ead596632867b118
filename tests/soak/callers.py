"""Callers who ask one question after another, each in a way of its own, and write down what came."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
from soak import grpc_calls, http_calls
from soak.history import DEADLINE_S, Call, History, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from soak.http_calls import HttpDoor
    from soak.oracle import Question

    from pagewire import AsyncClient

    Way = Callable[[Call], Awaitable[None]]

MOST_BYTES = 12
"""That a dawdler reads."""
PAUSE_S = 0.02
"""After a call that failed, as a patient client does."""


@dataclass(frozen=True)
class Doors:
    """Both doors, straight and through proxies."""

    grpc: AsyncClient
    grpc_by_proxy: AsyncClient
    http: HttpDoor
    http_by_proxy: HttpDoor


def ways(doors: Doors, uses_proxy: bool, dice: random.Random) -> dict[str, tuple[int, Way]]:
    """Ways to ask, and how often each is chosen."""
    client = doors.grpc_by_proxy if uses_proxy else doors.grpc
    door = doors.http_by_proxy if uses_proxy else doors.http
    soon = dice.randint(1, 20)
    bind = functools.partial
    return {
        "grpc stream": (6, bind(grpc_calls.ask_stream, client)),
        "grpc unary": (4, bind(grpc_calls.ask_unary, client)),
        "grpc leaver": (2, bind(grpc_calls.ask_stream, client, leaves_after=soon)),
        "grpc in a hurry": (1, bind(grpc_calls.ask_unary, client, timeout_s=grpc_calls.SHORT_DEADLINE_S)),
        "http stream": (6, bind(http_calls.ask_stream, door)),
        "http unary": (4, bind(http_calls.ask_unary, door)),
        "http leaver": (2, bind(http_calls.ask_stream, door, leaves_after=soon)),
        "http resetter": (2, bind(http_calls.ask_stream, door, leaves_after=soon, resets=True)),
        "http wrong": (1, bind(http_calls.be_wrong, door)),
    }


class Crowd:
    """All callers, until they are told to stop."""

    def __init__(self, doors: Doors, questions: Sequence[Question], history: History, seed: int) -> None:
        self._doors = doors
        self._questions = questions
        self._history = history
        self._seed = seed
        self._stops = asyncio.Event()

    def stop(self) -> None:
        """Each caller ends after the call it is at."""
        self._stops.set()

    async def ask(self, number: int) -> None:
        """Be one caller. Every third comes through the proxy."""
        dice = random.Random(f"{self._seed}/{number}")
        uses_proxy = number % 3 == 0
        while not self._stops.is_set():
            choices = ways(self._doors, uses_proxy, dice)
            (kind,) = dice.choices(list(choices), [weight for weight, _ in choices.values()])
            call = Call(kind, dice.choice(self._questions), uses_proxy)
            await self._note(call, choices[kind][1])
            if call.outcome not in (Outcome.FINISHED, Outcome.LEFT):
                await asyncio.sleep(PAUSE_S)

    async def dawdle(self, number: int) -> None:
        """Be one who reads a byte a second."""
        dice = random.Random(f"{self._seed}/dawdler/{number}")
        while not self._stops.is_set():
            call = Call("http dawdler", dice.choice(self._questions), uses_proxy=False)
            read = functools.partial(
                http_calls.dawdle, self._doors.http, num_bytes=dice.randint(1, MOST_BYTES)
            )
            await self._note(call, read)
            if call.outcome is not Outcome.LEFT:
                await asyncio.sleep(1.0)

    async def _note(self, call: Call, way: Way) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S + self._history.patience_s):
                await way(call)
        except TimeoutError:
            call.outcome = Outcome.HUNG
        except (OSError, h11.RemoteProtocolError) as error:
            call.outcome = call.outcome or Outcome.BROKEN
            call.error = f"{type(error).__name__}: {error}"
        call.ended_s = time.monotonic()
        self._history.calls.append(call)

"""Sends a workload's requests from several processes, so that the sender is not what is measured."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from cli.doors import DoorError, Timing, open_door
from cli.workload import Workload, plan_requests

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from cli.workload import PlannedRequest

    Said = list[Timing] | str
    """Times of requests, none at first; or what is wrong."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is measured."""

    target: str
    """HOST:PORT of gRPC, or the base URL of HTTP."""
    model: str
    vocab_size: int
    temperature: float = 0.0
    api_key: str | None = field(default=None, repr=False)
    tls: Mapping[str, Path] = field(default_factory=dict)
    """Whom to trust and what to show: values of the flags of `cli.tls.CLIENT_TLS`."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of a workload."""

    workload: Workload
    timings: list[Timing]
    wall_s: float
    """From the first request to the last answer."""


def send_load(service: Service, workload: Workload, num_processes: int) -> LoadResult:
    """Send all requests and wait for the answers.

    Raises:
        DoorError: one of them failed, or a process that sends them.
    """
    num_processes = min(num_processes, workload.concurrency, workload.num_requests)
    requests = plan_requests(workload, service.vocab_size)
    # Not forked: gRPC has threads.
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    with ExitStack() as stack:
        senders = [
            stack.enter_context(
                _Sender(
                    context,
                    service,
                    workload,
                    requests[index::num_processes],
                    workload.concurrency // num_processes + (index < workload.concurrency % num_processes),
                    num_processes,
                    start,
                )
            )
            for index in range(num_processes)
        ]
        for sender in senders:
            assert sender.hear() == [], "each says first that it is there"
        begun = time.perf_counter()
        start.set()
        gathered = [sender.hear() for sender in senders]
        wall_s = time.perf_counter() - begun
    return LoadResult(workload, [timing for timings in gathered for timing in timings], wall_s)


class _Sender:
    """A process that sends a share of the requests, for as long as the `with` block lasts."""

    def __init__(self, context: SpawnContext, *work: object) -> None:
        self._answers, teller = context.Pipe(duplex=False)
        self._process = context.Process(target=_send, args=(teller, *work), daemon=True)
        self._process.start()
        teller.close()  # the process has the only one left, so that its death ends the answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def hear(self) -> list[Timing]:
        """Wait for what the process says next.

        Raises:
            DoorError: it says what failed, or has died.
        """
        try:
            said: Said = self._answers.recv()
        except EOFError:
            self._process.join()
            raise DoorError(f"a process that sends ended with code {self._process.exitcode}") from None
        if isinstance(said, str):
            raise DoorError(said)
        return said


def _send(
    teller: Connection[Said, None],
    service: Service,
    workload: Workload,
    requests: list[PlannedRequest],
    concurrency: int,
    num_processes: int,
    start: Event,
) -> None:
    """Run in a process of its own: one share of the requests. It says first that it is there."""
    teller.send([])
    start.wait()
    rate = workload.request_rate / num_processes
    said: Said
    try:
        said = asyncio.run(_send_all(service, requests, concurrency, rate, workload.seed))
    except* Exception as errors:  # noqa: BLE001 - the border of the process
        said = "; ".join(f"{type(error).__name__}: {error}" for error in errors.exceptions[:2])
    teller.send(said)


async def _send_all(
    service: Service, requests: list[PlannedRequest], concurrency: int, rate: float, seed: int
) -> list[Timing]:
    gate = asyncio.Semaphore(concurrency)
    numbers = random.Random(f"{seed}-{requests[0].token_ids[-1]}")

    async with (
        open_door(service.target, service.model, service.api_key, service.tls) as door,
        asyncio.TaskGroup() as group,
    ):

        async def send(request: PlannedRequest) -> Timing:
            try:
                return await door.generate(request, service.temperature)
            finally:
                gate.release()

        tasks = []
        for request in requests:
            if rate:
                await asyncio.sleep(numbers.expovariate(rate))
            await gate.acquire()
            tasks.append(group.create_task(send(request)))
    return [task.result() for task in tasks]

"""Sends a workload's requests from several processes, so that the sender is not what is measured."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.doors import DoorError, Timing, open_door
from cli.workload import Workload, plan_requests
from pagewire import PagewireError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from cli.workload import PlannedRequest

    Answers = Queue[list[Timing] | str | None]


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
        DoorError: one of them failed.
    """
    num_processes = min(num_processes, workload.concurrency)
    requests = plan_requests(workload, service.vocab_size)
    # Not forked: gRPC has threads.
    context = multiprocessing.get_context("spawn")
    answers: Answers = context.Queue()
    start = context.Event()
    shares = [
        workload.concurrency // num_processes + (index < workload.concurrency % num_processes)
        for index in range(num_processes)
    ]
    senders = [
        context.Process(
            target=_send,
            args=(service, workload, requests[index::num_processes], share, num_processes, start, answers),
            daemon=True,
        )
        for index, share in enumerate(shares)
    ]
    for sender in senders:
        sender.start()
    for _ in senders:
        assert answers.get() is None, "each says first that it is there"
    begun = time.perf_counter()
    start.set()
    gathered = [answers.get() for _ in senders]
    wall_s = time.perf_counter() - begun
    for sender in senders:
        sender.join()
    timings: list[Timing] = []
    for answer in gathered:
        if not isinstance(answer, list):
            raise DoorError(answer or "a sender ended early")
        timings += answer
    return LoadResult(workload, timings, wall_s)


def _send(
    service: Service,
    workload: Workload,
    requests: list[PlannedRequest],
    concurrency: int,
    num_processes: int,
    start: Event,
    answers: Answers,
) -> None:
    """Run in a process of its own: one share of the requests."""
    answers.put(None)
    start.wait()
    rate = workload.request_rate / num_processes
    try:
        answers.put(asyncio.run(_send_all(service, requests, concurrency, rate, workload.seed)))
    except* (DoorError, PagewireError, OSError) as errors:
        answers.put("; ".join(f"{type(error).__name__}: {error}" for error in errors.exceptions[:2]))


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

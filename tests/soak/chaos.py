"""Real processes, mixed traffic over both doors, and faults of all kinds for some minutes."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from processes import num_files, pagewire_up
from soak import oracle, validator
from soak.callers import Crowd, Doors
from soak.history import DEADLINE_S, PATIENCE_S, History
from soak.http_calls import HttpDoor
from soak.nemesis import CALM_S, Nemesis
from soak.proxy import Proxy
from tiny_model import make_tiny_model

from pagewire import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from processes import House
    from soak.nemesis import Fault
    from soak.oracle import Answer, Question

MODEL = "tiny"
NUM_CALLERS = 12
NUM_DAWDLERS = 3
NUM_BLOCKS = 256
MORE_FILES = 40
"""That a process may have open at the end beyond the start: connections that are kept alive."""


@dataclass(frozen=True)
class Report:
    """What a run came to."""

    lines: list[str]
    violations: list[str]


def run(
    minutes: float, seed: int, log: Path, faults: Sequence[str] = (), patience_s: float = PATIENCE_S
) -> Report:
    """Run for so long, and judge. What the processes log goes to the file `log`.

    Where `faults` are named, each comes once, in this order, and the minutes are the most that it may take.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_model(folder / "model")
        flags = (
            f"--model={folder / 'model'}",
            f"--served-model-name={MODEL}",
            f"--num-gpu-blocks-override={NUM_BLOCKS}",
            f"--request-timeout={DEADLINE_S:g}",
            "--num-threads=1",
        )
        with pagewire_up(log, *flags) as house:
            house.wait_until_ready()
            report = asyncio.run(_run(house, minutes * 60, seed, faults, History(patience_s)))
            house.wait_until_idle()
        return report


async def _run(house: House, seconds: float, seed: int, faults: Sequence[str], history: History) -> Report:
    dice = random.Random(seed)
    grpc_port, http_port = (int(url.rpartition(":")[2]) for url in (house.grpc_target, house.base_url))
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(port, dice)) for port in (grpc_port, http_port)]
        grpc_proxy, http_proxy = proxies
        straight, by_proxy = [
            await stack.enter_async_context(AsyncClient(target, timeout=DEADLINE_S))
            for target in (house.grpc_target, f"127.0.0.1:{grpc_proxy.port}")
        ]
        doors = Doors(straight, by_proxy, HttpDoor(http_port, MODEL), HttpDoor(http_proxy.port, MODEL))
        questions = oracle.questions()
        answers = {question: await oracle.ask_alone(doors.grpc, question) for question in questions}
        nemesis = Nemesis(house, proxies, history)
        files_before = _files(nemesis)
        crowd = Crowd(doors, questions, history, seed)
        async with asyncio.TaskGroup() as tasks:
            for number in range(NUM_CALLERS):
                tasks.create_task(crowd.ask(number))
            for number in range(NUM_DAWDLERS):
                tasks.create_task(crowd.dawdle(number))
            await _harm(nemesis, seconds, _order(nemesis, faults, dice))
            crowd.stop()
    return _judge(house, history, answers, files_before, _files(nemesis))


def _order(nemesis: Nemesis, names: Sequence[str], dice: random.Random) -> Iterator[Fault]:
    """The faults of these names; without names every fault in turn, in another order each time."""
    by_name = {fault.name: fault for fault in nemesis.faults}
    yield from (by_name[name] for name in names)
    while not names:
        yield from dice.sample(nemesis.faults, len(nemesis.faults))


async def _harm(nemesis: Nemesis, seconds: float, faults: Iterator[Fault]) -> None:
    """With calm before and after each of them."""
    end_s = time.monotonic() + seconds
    await asyncio.sleep(CALM_S)
    for fault in faults:
        if time.monotonic() > end_s:
            return
        await nemesis.strike(fault)
        await asyncio.sleep(CALM_S)


def _files(nemesis: Nemesis) -> dict[str, int]:
    return {word: num_files(pid) for word in ("serve", "translate") for pid in nemesis.pids(word)}


def _judge(
    house: House,
    history: History,
    answers: Mapping[Question, Answer],
    files_before: dict[str, int],
    files_after: dict[str, int],
) -> Report:
    house.wait_until_idle()
    engine = house.stats().engine
    found = validator.violations(history, answers)
    if engine.num_free_blocks + engine.num_cached_blocks != NUM_BLOCKS:
        found.append(f"blocks are lost: {engine}")
    for word, before in files_before.items():
        if files_after.get(word, 0) > before + MORE_FILES:
            found.append(f"{word} had {before} files open, and has {files_after[word]}")
    share, num_calm = validator.availability(history)
    longest = {window.name: 0.0 for window in history.windows}
    for window in history.windows:
        longest[window.name] = max(longest[window.name], window.end_s - window.start_s)
    lines = [
        f"{len(history.calls)} calls: {dict(validator.outcomes(history))}",
        f"{share:.3%} of {num_calm} accepted calls outside of faults were finished",
        f"{len(history.windows)} faults; longest until all was well again:",
        *(f"  {name}: {seconds:.1f} s" for name, seconds in sorted(longest.items())),
        "errors, by what happened meanwhile:",
        *(f"  {where}: {dict(counts)}" for where, counts in sorted(validator.errors(history).items())),
        f"open files before and after: {files_before}, {files_after}",
        f"engine restarts of the last server: {house.stats().num_engine_restarts}",
    ]
    return Report(lines, found)

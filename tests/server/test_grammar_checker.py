"""The processes that compile grammars: real ones, and one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes import fake_model
from schema_set import BOMB

import server.grammar_checker
import server.worker_process
from server.errors import InvalidRequestError, NotReadyError, QueueFullError
from server.grammar_checker import NUM_WORKERS, GrammarChecker
from server.grammars import Grammar, gbnf_part, json_part, regex_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.grammars import Part

MODEL = fake_model()
MISBEHAVING = (sys.executable, str(Path(__file__).parents[1] / "misbehaving_worker.py"))


def grammar(part: Part) -> Grammar:
    return Grammar("spec.constraint.regex", "start: @answer", (("answer", part),))


@contextlib.asynccontextmanager
async def checking(**options: object) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker(**options)  # type: ignore[arg-type]
    try:
        yield checker
    finally:
        await checker.close()


def checks(checker: GrammarChecker, pattern: str) -> asyncio.Task[str]:
    return asyncio.create_task(checker.check(grammar(regex_part(pattern)), MODEL))


async def hang_all(checker: GrammarChecker) -> list[asyncio.Task[str]]:
    """Give each process a grammar with which it hangs."""
    hanging = [checks(checker, f"hang {index}") for index in range(NUM_WORKERS)]
    await turn(3)
    return hanging


async def turn(num_turns: int) -> None:
    """Let the others go on."""
    for _ in range(num_turns):
        await asyncio.sleep(0)


async def leave(*callers: asyncio.Task[str]) -> None:
    for caller in callers:
        caller.cancel()
    for caller in callers:
        with pytest.raises(asyncio.CancelledError):
            await caller


async def refusal(checker: GrammarChecker, part: Part) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        await checker.check(grammar(part), MODEL)
    assert [violation.field for violation in raised.value.violations] == ["spec.constraint.regex"]
    return str(raised.value)


@pytest.mark.check("S10")
async def test_real_processes() -> None:
    """One test for all, for each process takes a while to start."""
    async with checking() as checker:
        good = grammar(regex_part("a+"))
        assert await checker.check(good, MODEL) == good.text
        assert "lark_grammar" in await checker.check(grammar(gbnf_part('root ::= "a"')), MODEL)
        assert "unclosed group" in await refusal(checker, regex_part("(a"))
    async with checking(limit_s=2.0) as checker:
        bomb = asyncio.create_task(refusal(checker, json_part(BOMB)))
        for index in range(20):
            await checker.check(grammar(regex_part(f"a{{{index + 1}}}")), MODEL)
        assert "takes too long" in await bomb
        assert "takes too long" in await refusal(checker, json_part(BOMB))
        assert await checker.check(good, MODEL) == good.text


async def test_a_process_that_dies_or_hangs_costs_only_its_grammar() -> None:
    async with checking(command=MISBEHAVING, limit_s=3.0) as checker:
        assert await checker.check(grammar(regex_part("good")), MODEL)
        assert "too much memory" in await refusal(checker, regex_part("die"))
        assert "takes too long" in await refusal(checker, regex_part("hang"))
        assert await checker.check(grammar(regex_part("fine")), MODEL)


async def test_a_process_that_others_kill_costs_nobody_anything() -> None:
    async with checking(command=MISBEHAVING) as checker:
        await checker.check(grammar(regex_part("good")), MODEL)
        for worker in checker._workers._workers:
            if worker.pid is not None:
                os.kill(worker.pid, signal.SIGKILL)
        assert "fine" in await checker.check(grammar(regex_part("fine")), MODEL)
        assert "too much memory" in await refusal(checker, regex_part("killed"))


async def test_what_took_too_much_may_be_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server.grammar_checker, "LAPSE_S", 0.0)
    log = tmp_path / "log"
    async with checking(command=(*MISBEHAVING, str(log))) as checker:
        for _ in range(2):
            assert "too much memory" in await refusal(checker, regex_part("die"))
            await asyncio.sleep(0.01)
    assert len(log.read_text().splitlines()) == 2


async def test_equal_grammars_are_compiled_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with checking(command=(*MISBEHAVING, str(log))) as checker:
        await asyncio.gather(*(checker.check(grammar(regex_part("good")), MODEL) for _ in range(9)))
        await checker.check(grammar(regex_part("good")), MODEL)
    assert len(log.read_text().splitlines()) == 1


async def test_a_caller_that_leaves_does_not_disturb_the_process() -> None:
    async with checking(command=MISBEHAVING) as checker:
        await checker.check(grammar(regex_part("good")), MODEL)
        leaving = checks(checker, "other")
        await turn(3)
        await leave(leaving)
        assert checker.num_compiling == 1
        assert "other" in await checker.check(grammar(regex_part("other")), MODEL)


@pytest.mark.parametrize("num_turns", [1, 3])
async def test_grammars_whose_callers_left_are_not_compiled(num_turns: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with checking(command=(*MISBEHAVING, str(log)), limit_s=1.0) as checker:
        hanging = await hang_all(checker)
        leaving = [checks(checker, f"left {index}") for index in range(40)]
        await turn(num_turns)
        await leave(*leaving)
        assert checker.num_compiling == NUM_WORKERS
        assert "good" in await checks(checker, "good")
        await asyncio.gather(*hanging, return_exceptions=True)
        assert checker.num_compiling == 0
    assert "left" not in log.read_text()


async def test_a_caller_that_leaves_the_queue_leaves_others_of_his_grammar_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with checking(command=(*MISBEHAVING, str(log)), limit_s=1.0) as checker:
        hanging = await hang_all(checker)
        first, second = checks(checker, "good"), checks(checker, "good")
        await turn(3)
        await leave(first)
        assert checker.num_compiling == NUM_WORKERS + 1
        assert "good" in await second
        await asyncio.gather(*hanging, return_exceptions=True)
    assert log.read_text().count("good") == 1


async def test_who_comes_when_the_last_caller_has_left_the_queue_is_served() -> None:
    async with checking(command=MISBEHAVING, limit_s=1.0) as checker:
        hanging = await hang_all(checker)
        leaving = checks(checker, "good")
        await turn(3)
        await leave(leaving)
        assert "good" in await checker.check(grammar(regex_part("good")), MODEL)
        await asyncio.gather(*hanging, return_exceptions=True)


AFTER_FAILURE = 'test -e "$0" || { %s; }; exec "$@"'
"""Shell: fails to start until there is a file of this name."""


@pytest.mark.parametrize("failure", ["exit 1", "kill -KILL $$", "exec sleep 600"])
async def test_a_process_that_cannot_be_started_is_not_told_as_the_grammars_fault(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    command = ("/bin/sh", "-c", AFTER_FAILURE % failure, str(flag), *MISBEHAVING)
    async with checking(command=command) as checker:
        with monkeypatch.context() as patch:
            patch.setattr(server.worker_process, "START_TIMEOUT_S", 0.2)
            with pytest.raises(NotReadyError, match="cannot be started"):
                await checker.check(grammar(regex_part("good")), MODEL)
        assert checker.num_compiling == 0
        flag.touch()
        assert "good" in await checker.check(grammar(regex_part("good")), MODEL)


async def test_a_process_that_starts_when_it_is_tried_again_costs_nobody_anything(tmp_path: Path) -> None:
    failure = 'touch "$0"; exit 1'
    command = ("/bin/sh", "-c", AFTER_FAILURE % failure, str(tmp_path / "flag"), *MISBEHAVING)
    async with checking(command=command) as checker:
        assert "good" in await checker.check(grammar(regex_part("good")), MODEL)


async def test_when_all_processes_are_busy_for_long_others_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server.grammar_checker, "MAX_WAIT_S", 0.05)
    async with checking(command=MISBEHAVING, limit_s=30.0) as checker:
        hanging = await hang_all(checker)
        with pytest.raises(QueueFullError):
            await checker.check(grammar(regex_part("good")), MODEL)
        await leave(*hanging)

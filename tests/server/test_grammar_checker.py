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
from server.errors import InvalidRequestError, QueueFullError
from server.grammar_checker import GrammarChecker
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
        leaving = asyncio.create_task(checker.check(grammar(regex_part("other")), MODEL))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert "other" in await checker.check(grammar(regex_part("other")), MODEL)


async def test_when_all_processes_are_busy_for_long_others_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server.grammar_checker, "MAX_WAIT_S", 0.05)
    async with checking(command=MISBEHAVING, limit_s=30.0) as checker:
        hanging = [
            asyncio.create_task(checker.check(grammar(regex_part(f"hang {index}")), MODEL))
            for index in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await checker.check(grammar(regex_part("good")), MODEL)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

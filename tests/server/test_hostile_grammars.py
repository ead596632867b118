"""Sixty hostile constraints: each gets a verdict from a process that may be killed, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from fakes import fake_model
from google.protobuf import json_format
from hostile_grammars import BOMBS, HARMLESS, REFUSED
from processes import descendants

import server.grammar_checker
from pagewire.v1 import inference_pb2
from server.constraints import parse_constraint
from server.errors import InvalidRequestError
from server.fields import Fields
from server.grammar_checker import GrammarChecker
from server.grammars import Grammar, regex_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Any

pytestmark = pytest.mark.check("S10")

MODEL = fake_model()
PATIENT_S = 60.0
"""For what is harmless, on a machine that is slow."""
IMPATIENT_S = 0.5


@contextlib.asynccontextmanager
async def checking(limit_s: float) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker(limit_s=limit_s)
    try:
        yield checker
    finally:
        await checker.close()


async def check(checker: GrammarChecker, fields: Mapping[str, Any]) -> str:
    """Parse and compile; return what the engine would get."""
    refused = Fields()
    grammar = parse_constraint(refused, json_format.ParseDict(dict(fields), inference_pb2.Constraint()))
    refused.check()
    assert grammar is not None
    return await checker.check(grammar, MODEL)


def test_there_are_sixty() -> None:
    assert len(BOMBS | REFUSED | HARMLESS) == len(BOMBS) + len(REFUSED) + len(HARMLESS) >= 60


async def test_what_cannot_be_followed_is_refused_with_its_cause() -> None:
    async with checking(PATIENT_S) as checker:
        for name, fields in REFUSED.items():
            with pytest.raises(InvalidRequestError) as raised:
                await check(checker, fields)
            (violation,) = raised.value.violations
            assert violation.field.startswith("spec.constraint."), name
            assert "takes too long" not in violation.description, name
            assert "too much memory" not in violation.description, name
            assert len(violation.description) < 2_000, name


async def test_what_only_looks_hostile_is_followed() -> None:
    async with checking(PATIENT_S) as checker:
        for fields in HARMLESS.values():
            assert await check(checker, fields)


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_ended_with_its_process(name: str) -> None:
    before = descendants(os.getpid())
    async with checking(IMPATIENT_S) as checker:
        with pytest.raises(InvalidRequestError, match="takes too long"):
            await check(checker, BOMBS[name])
        assert descendants(os.getpid()) == before


async def test_verdicts_are_forgotten_beyond_some_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.grammar_checker, "MAX_CACHED_BYTES", 20_000)
    async with checking(PATIENT_S) as checker:
        for number in range(40):
            grammar = Grammar(
                "spec.constraint.regex", "start: @answer", (("answer", regex_part("a" * 1000 + f"{number}")),)
            )
            await checker.check(grammar, MODEL)
            assert checker._cached_bytes <= 20_000
        assert 5 < len(checker._verdicts) < 20

"""The judge of the soak sees what must not happen, and its planted bugs fit the source."""

from __future__ import annotations

from typing import Any

import pytest
from soak import validator
from soak.history import Call, History, Outcome, Window
from soak.oracle import Answer, Question
from soak.planted_bugs import BUGS, ROOT

QUESTION = Question("hi", is_chat=False, num_tokens=3)
ANSWERS = {QUESTION: Answer((1, 2, 3), "abc")}
WINDOW = Window("kill engine", 0.0, 9.0, breaks_connections=False, is_on_the_way=False)
STORM = Window("storm", 0.0, 9.0, breaks_connections=True, is_on_the_way=True)


def call(**fields: Any) -> Call:
    """A call that was answered as it should be, but for these fields."""
    whole: dict[str, Any] = {
        "started_s": 1.0,
        "ended_s": 2.0,
        "outcome": Outcome.FINISHED,
        "is_accepted": True,
        "ends": ["stop"],
        "token_ids": [1, 2, 3],
        "text": "abc",
    }
    return Call("grpc stream", QUESTION, fields.pop("uses_proxy", False), **(whole | fields))


def judged(*calls: Call, windows: tuple[Window, ...] = ()) -> list[str]:
    return validator.violations(History(calls=list(calls), windows=list(windows)), ANSWERS)


LEFT = {"outcome": Outcome.LEFT, "ends": [], "token_ids": [1], "text": "a"}
FAILED = {"outcome": Outcome.FAILED, "ends": ["error"], "token_ids": [1], "text": "a", "error": "UNAVAILABLE"}
BROKEN = {"outcome": Outcome.BROKEN, "ends": [], "token_ids": [], "text": ""}


@pytest.mark.check("R22")
def test_what_is_as_promised_passes() -> None:
    assert judged(call(), call(**LEFT)) == []
    assert judged(call(**FAILED), windows=(WINDOW,)) == []
    assert judged(call(**BROKEN, uses_proxy=True), windows=(STORM,)) == []


@pytest.mark.check("R22")
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ended_s": 33.0}, "hung"),
        ({"outcome": Outcome.HUNG}, "hung"),
        ({"ends": []}, "ends []"),
        ({"ends": ["stop", "error"]}, "ends ['stop', 'error']"),
        ({"token_ids": [1, 2, 4]}, "tokens"),
        ({"text": "abd"}, "text"),
        ({"token_ids": [1, 2], "text": "ab"}, "2 of 3 tokens"),
        ({**LEFT, "token_ids": [2]}, "tokens"),
        ({**BROKEN, "error": "reset"}, "no end (reset)"),
        ({**FAILED, "error": "INTERNAL X"}, "INTERNAL X"),
        (FAILED, "only 0.00%"),
    ],
)
def test_what_must_not_happen_is_seen(fields: dict[str, Any], says: str) -> None:
    assert any(says in problem for problem in judged(call(**fields)))


@pytest.mark.check("R22")
def test_a_fault_excuses_only_what_it_does() -> None:
    assert judged(call(**BROKEN), windows=(WINDOW,)) != []
    assert judged(call(**BROKEN), windows=(STORM,)) != []
    assert judged(call(**BROKEN, uses_proxy=True, started_s=10.0, ended_s=11.0), windows=(STORM,)) != []


@pytest.mark.check("P05")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_planted_bug_fits_the_source(bug: Any) -> None:
    assert (ROOT / bug.file).read_text().count(bug.before) == 1
    assert bug.before != bug.after
    assert all((ROOT / test).exists() for test in bug.tests)


def test_there_are_ten() -> None:
    assert len(BUGS) == 10

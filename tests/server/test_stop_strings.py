"""Property R17: the output is the text up to the first stop string, however the text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.stop_strings import Released, StopStrings

pytestmark = pytest.mark.check("R17")

# Few letters, so that stop strings overlap with the text and with each other.
TEXTS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)


def first_stop(text: str, stops: list[str], after: int = 0) -> tuple[int, str] | None:
    """Where the first stop string begins: that with the first end past `after`, and the longest of those."""
    found = [
        (start + len(stop), start, stop)
        for stop in stops
        for start in range(len(text))
        if text.startswith(stop, start) and start + len(stop) > after
    ]
    if not found:
        return None
    _, start, stop = min(found)
    return start, stop


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


@given(TEXTS, STOPS, st.lists(st.integers(0, 30), max_size=10))
@example("aab", ["ab", "aab"], [1, 2])
@example("aaaab", ["aaab"], [])
def test_releases_the_text_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    matcher = StopStrings(stops)
    released = ""
    stop: str | None = None
    for piece in pieces_of(text, cuts):
        part = matcher.push(piece)
        released += part.text
        if part.stop is not None:
            stop = part.stop
            break
    else:
        released += matcher.flush()
    expected = first_stop(text, stops)
    assert (released, stop) == (text, None) if expected is None else (text[: expected[0]], expected[1])


@given(TEXTS, TEXTS, STOPS, st.lists(st.integers(0, 30), max_size=10))
@example("ba", "b", ["ab"], [])
@example("ab", "ab", ["ab", "b"], [])
def test_a_stop_that_is_complete_too_early_is_text(
    before: str, after: str, stops: list[str], cuts: list[int]
) -> None:
    matcher = StopStrings(stops)
    released = ""
    for piece in pieces_of(before, cuts):
        part = matcher.push(piece, may_stop=False)
        assert part.stop is None
        released += part.text
    part = matcher.push(after)
    released += part.text
    if part.stop is None:
        released += matcher.flush()
    text = before + after
    expected = first_stop(text, stops, len(before))
    assert (released, part.stop) == (text, None) if expected is None else (text[: expected[0]], expected[1])


@given(TEXTS, STOPS)
def test_holds_back_the_longest_possible_beginning_and_no_more(text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    released = ""
    for index, character in enumerate(text):
        part = matcher.push(character)
        if part.stop is not None:
            return
        released += part.text
        held = text[len(released) : index + 1]
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))}
        assert held in beginnings | {""}
        assert not any(text[start : index + 1] in beginnings - {""} for start in range(len(released)))


def test_without_stop_strings_all_text_is_released_at_once() -> None:
    assert StopStrings([]).push("any") == Released("any")


def test_takes_time_in_proportion_to_the_text() -> None:
    matcher = StopStrings(["a" * 256 + "b"] * 4)
    assert sum(len(matcher.push("a" * 1000).text) for _ in range(100)) == 100_000 - 256
    assert matcher.flush() == "a" * 256

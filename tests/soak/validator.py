"""Judges a history."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from soak.history import DEADLINE_S, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from soak.history import Call, History
    from soak.oracle import Answer, Question

LEAST_AVAILABILITY = 0.99
_FAULTS_OF_OURS = ("UNKNOWN", "INTERNAL", "500", "502")


def violations(history: History, answers: Mapping[Question, Answer]) -> list[str]:
    """Say what must never have happened, but did."""
    found = [problem for call in history.calls for problem in _problems(call, history, answers)]
    share, num_calls = availability(history)
    if num_calls and share < LEAST_AVAILABILITY:
        found.append(f"only {share:.2%} of {num_calls} accepted calls outside of faults were finished")
    return found


def availability(history: History) -> tuple[float, int]:
    """The share of accepted calls that were finished, of those that met no fault, and their number."""
    calm = [call for call in history.calls if not _windows(call, history) and _counts(call)]
    finished = sum(call.outcome is Outcome.FINISHED for call in calm)
    return finished / max(len(calm), 1), len(calm)


def outcomes(history: History) -> Counter[str]:
    """Calls by what became of them."""
    return Counter(call.outcome.value if call.outcome else "none" for call in history.calls)


def errors(history: History) -> dict[str, Counter[str]]:
    """Errors by what happened meanwhile."""
    found: dict[str, Counter[str]] = {}
    for call in history.calls:
        if call.error:
            where = ", ".join(sorted({*_windows(call, history)})) or "no fault"
            found.setdefault(where, Counter())[f"{call.kind}: {call.error}"] += 1
    return found


def _counts(call: Call) -> bool:
    return call.outcome not in (Outcome.LEFT, Outcome.REFUSED, Outcome.EXPIRED)


def _windows(call: Call, history: History) -> list[str]:
    return [window.name for window in history.windows if window.touches(call)]


def _problems(call: Call, history: History, answers: Mapping[Question, Answer]) -> Iterator[str]:
    where = f"{call.kind}, {call.question}, during {_windows(call, history) or 'no fault'}"
    longest_s = DEADLINE_S + history.patience_s
    if call.outcome is Outcome.HUNG or call.ended_s - call.started_s > longest_s:
        yield f"hung for {call.ended_s - call.started_s:.1f} s: {where}"
    if call.outcome is Outcome.BROKEN:
        allowed = any(window.breaks_connections and window.touches(call) for window in history.windows)
        if not allowed:
            yield f"no end ({call.error}): {where}"
    elif call.outcome is not Outcome.LEFT and len(call.ends) != 1:
        yield f"ends {call.ends}: {where}"
    if call.error.startswith(_FAULTS_OF_OURS):
        yield f"{call.error}: {where}"
    answer = answers[call.question]
    is_whole = call.outcome is Outcome.FINISHED
    if tuple(call.token_ids) != answer.token_ids[: len(call.token_ids)]:
        yield f"tokens {call.token_ids}, not {answer.token_ids}: {where}"
    if call.text != answer.text[: len(call.text)]:
        yield f"text {call.text!r}, not {answer.text!r}: {where}"
    if is_whole and (call.text != answer.text or len(call.token_ids) != len(answer.token_ids)):
        yield f"{len(call.token_ids)} of {len(answer.token_ids)} tokens: {where}"

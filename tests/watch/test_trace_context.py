"""W3C trace context: what is read, what is not, and what is passed on."""

from __future__ import annotations

import pytest

from watch.trace_context import TraceContext, trace_context_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_what_is_read_is_passed_on() -> None:
    pairs = (("traceparent", GOOD), ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"))
    context = trace_context_of(pairs)
    assert context is not None
    assert context.trace_name == TRACE
    assert context.pairs == pairs


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (GOOD, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 1),
        (f"01-{TRACE}-{SPAN}-01-more", 1),
    ],
)
def test_only_the_flag_that_is_known_counts(given: str, flags: int) -> None:
    assert trace_context_of([("traceparent", given)]) == TraceContext(int(TRACE, 16), int(SPAN, 16), flags)


@pytest.mark.parametrize(
    "given",
    [
        "",
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-more\r\nx: y",
        GOOD.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        "00-" + "4" * 100_000,
    ],
)
def test_what_is_wrong_is_as_if_it_were_not_there(given: str) -> None:
    assert trace_context_of([("traceparent", given), ("tracestate", "a=b")]) is None


@pytest.mark.parametrize("state", ["a" * 513, "a=b\r\nx: y", "a=\N{SNOWMAN}", ""])
def test_a_bad_state_is_dropped_alone(state: str) -> None:
    context = trace_context_of([("traceparent", GOOD), ("tracestate", state)])
    assert context is not None
    assert context.pairs == (("traceparent", GOOD),)


def test_nothing_is_nothing() -> None:
    assert trace_context_of(None) is None
    assert trace_context_of([("traceparent", GOOD.encode())]) is None

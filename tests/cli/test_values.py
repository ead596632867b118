"""Parsers of flag values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.values import integer, number, origin, target

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("4k", 4000), ("4K", 4096), ("25.6k", 25600), ("1.5K", 1536), ("2G", 2**31), ("1m", 10**6)],
)
def test_human_numbers(text: str, value: int) -> None:
    assert integer(0)(text) == value


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_are_exact(value: int) -> None:
    assert integer(0, 2**63 - 1)(str(value)) == value


@pytest.mark.parametrize("text", ["", "k", "1.0001k", "4kb", "1e3", "-1", "nan", "0x10", "11", "½"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="a whole number from 0 to 10"):
        integer(0, 10)(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.1", "nan", "inf", "", "a"])
def test_what_is_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="a number greater than 0 and at most 1"):
        number(0, 1, above=True)(text)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (
            target,
            ["127.0.0.1:1", "[::1]:50051", "unix:/a", "dns:///host:1"],
            ["", "host", "http://a:1", "a b:1"],
        ),
        (origin, ["*", "https://a.example", "http://a:3000"], ["a", "https://", "ftp://a", "https://a/b"]),
    ],
)
def test_addresses(parse: Callable[[str], str], good: list[str], bad: list[str]) -> None:
    assert [parse(text) for text in good] == good
    for text in bad:
        with pytest.raises(ValueError, match=r"HOST:PORT or unix:PATH|an origin such as"):
            parse(text)

"""Parsers of flag values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.values import file_or_template, integer, json_list, model_len, number, origin, target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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


@pytest.mark.parametrize(("text", "length"), [("auto", None), ("-1", None), ("4k", 4000), ("1", 1)])
def test_a_length_may_be_left_to_the_model(text: str, length: int | None) -> None:
    assert model_len(text) == length


@pytest.mark.parametrize("text", ["{{ x }}", "{% if x %}", "{#\n#}"])
def test_a_template_may_be_given_as_it_stands(text: str) -> None:
    assert file_or_template(text) == text


def test_what_looks_like_no_template_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ x }}")
    assert file_or_template(str(path)) == path
    with pytest.raises(ValueError, match="the path of a file"):
        file_or_template("{x}")


@pytest.mark.parametrize(
    ("items", "expected"),
    [(["a", "b"], ["a", "b"]), (['["a"', ' "b"]'], ["a", "b"]), (['["a,b"]'], ["a,b"]), (["[]"], [])],
)
def test_several_values_may_be_a_json_list(items: list[str], expected: list[str]) -> None:
    assert json_list(items) == expected


@pytest.mark.parametrize("items", [["[", "a"], ["[1]"], ['["a"]', '["b"]'], ["[a]"]])
def test_what_is_no_json_list(items: list[str]) -> None:
    with pytest.raises(ValueError, match="a JSON list of texts"):
        json_list(items)


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

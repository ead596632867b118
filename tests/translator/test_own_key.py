"""The key that the translator shows for itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from scarce_descriptors import no_descriptors

from gate.keys import KeyFileError, Secret
from translator.own_key import OwnKey

if TYPE_CHECKING:
    from pathlib import Path

HASHED = "ops:sha256=" + "0" * 64


@pytest.mark.parametrize(
    ("given", "lines", "shown"),
    [
        ((), None, None),
        (("ops:one", "two"), None, "one"),
        ((HASHED,), None, None),
        ((HASHED, "two"), None, "two"),
        ((), f"{HASHED}\nops:three\n", "three"),
        (("one",), "three\n", "one"),
    ],
)
def test_the_first_that_is_known_in_full(
    given: tuple[str, ...], lines: str | None, shown: str | None, tmp_path: Path
) -> None:
    file = None if lines is None else tmp_path / "keys"
    if file is not None and lines is not None:
        file.write_text(lines)
    assert OwnKey([Secret(text) for text in given], file).shown == shown


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    now_s = 0.0
    file = tmp_path / "keys"
    file.write_text("old\n")
    key = OwnKey(file=file, clock=lambda: now_s)
    for content, shown in (("new\n", "new"), ("two words\n", "new"), ("last\n", "last")):
        other = tmp_path / "other"
        other.write_text(content)
        os.replace(other, file)
        now_s += 2.0
        assert key.shown == shown


def test_a_file_that_cannot_be_read_for_a_moment_is_read_later(tmp_path: Path) -> None:
    now_s = 0.0
    file = tmp_path / "keys"
    file.write_text("old\n")
    key = OwnKey(file=file, clock=lambda: now_s)
    file.write_text("newer\n")
    now_s += 2.0
    with no_descriptors():
        assert key.shown == "old"
    now_s += 20.0
    assert key.shown == "newer"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        OwnKey(file=tmp_path / "none")

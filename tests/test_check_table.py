"""The checks that tests name are on the list."""

from __future__ import annotations

from pathlib import Path

from check_table import CHECKS, checked_in, modules_by_check, page


def test_tests_name_only_checks_that_exist() -> None:
    assert modules_by_check().keys() <= CHECKS.keys()


def test_checks_are_read_from_marks() -> None:
    source = (
        'pytestmark = pytest.mark.check("S01", "R05")\n@pytest.mark.check("P01")\ndef test(): check("S02")\n'
    )
    assert checked_in(source) == {"S01", "R05", "P01"}


def test_the_page_is_fresh() -> None:
    """`make docs` writes it."""
    assert (Path(__file__).parents[1] / "docs" / "checks.md").read_text() == page()

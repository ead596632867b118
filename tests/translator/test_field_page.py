"""The page of all fields is fresh, and says of each what the tables say."""

from __future__ import annotations

from pathlib import Path

from translator.field_page import ROUTES, page
from translator.fields import FIELDS, Endpoint

PAGE = Path(__file__).parents[2] / "docs" / "fields.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_field_of_every_route_is_on_the_page() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(list(field.endpoint)) for field in FIELDS)
    assert set(ROUTES) == set(Endpoint)
    assert all(line.count(" | ") == 3 for line in rows)

"""The Grafana dashboard is fresh, and asks for nothing that the server does not have."""

from __future__ import annotations

import re
from pathlib import Path

from exposition import Scrape
from fakes import FakeEngine, saying, serve
from prometheus_client import generate_latest

from engine.messages import StepWork
from server.dashboard import ROWS, dashboard, page

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "pagewire.json"
# Words of PromQL and of the dashboard that stand where a metric could.
NAME = re.compile(r"\b((?:vllm|pagewire):[a-z0-9_]+|process_[a-z_]+)")


def queries() -> list[str]:
    return [query for row in ROWS.values() for panel in row for query in panel.queries.values()]


def test_the_file_is_fresh() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "run `make docs`"


async def test_each_query_names_metrics_that_exist() -> None:
    engine = FakeEngine(saying(65))
    engine.last_step_age_s = 0.5
    engine.steps.add(StepWork(1, 0.1, 0.2, busy_s=0.25))  # of a GPU
    async with serve(engine) as server:
        registry = server.services.metrics.registry
        scrape = Scrape(generate_latest(registry).decode())
        known = scrape.names
        # Series with labels of requests come with the first of these; their names are there before.
        ends = {"counter": "_total", "histogram": "_bucket"}
        known |= {f"{family.name}{ends.get(family.type, '')}" for family in scrape.families}
    for query in queries():
        names = NAME.findall(query)
        assert names, query
        assert set(names) <= known, query
        assert query.count("(") == query.count(")"), query


def test_panels_neither_overlap_nor_share_a_number() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells

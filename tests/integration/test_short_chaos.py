"""The soak in short: mixed traffic by both doors through a storm on the way and the death of each process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from soak import chaos

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = ("storm on the way", "kill engine", "kill translator")
PATIENCE_S = 60.0
"""For a slow machine; `make soak` grants a second."""


@pytest.mark.check("R22")
@pytest.mark.timeout(900)
def test_a_storm_and_killed_processes_lose_nothing(tmp_path: Path) -> None:
    report = chaos.run(10.0, 0, tmp_path / "log", FAULTS, PATIENCE_S)
    assert report.violations == []
    assert f"{len(FAULTS)} faults; longest until all was well again:" in report.lines, report.lines

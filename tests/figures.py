"""What slow tests measure: percentiles, how well one can guess by a number, and the line that shows it."""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))]


def in_ms(seconds: Sequence[float]) -> dict[str, float]:
    """A number of times, in milliseconds."""
    figures = {f"p{round(100 * share)}": percentile(seconds, share) for share in (0.5, 0.99, 1.0)}
    return {"number": len(seconds)} | {name: round(1000 * value, 2) for name, value in figures.items()}


def auc(low: Sequence[float], high: Sequence[float]) -> float:
    """How often one of `low` is below one of `high`: 0.5 where a number says nothing of where it is from."""
    ordered = sorted(high)
    above = sum(2 * len(high) - bisect_left(ordered, one) - bisect_right(ordered, one) for one in low)
    return above / (2 * len(low) * len(high))


def show(check: str, **figures: Any) -> None:
    """Print what a check measured, for whoever runs pytest with -s. PAGEWIRE_CHECKS_OUT=FILE gets it, too."""
    line = json.dumps({"check": check, **figures}) + "\n"
    sys.stdout.write(line)
    if path := os.environ.get("PAGEWIRE_CHECKS_OUT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line)

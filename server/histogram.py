"""A histogram for what happens with every token or step: cheap to fill in, on one thread."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Sequence


class Histogram:
    """Counts values by bucket, without a lock. One thread fills it in, and any thread reads it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ends of the buckets, the last of which has none."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def samples(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets by their upper ends, each with all values up to there, and the sum of the values."""
        bounds = (*(str(float(bound)) for bound in self._bounds), "+Inf")
        return list(zip(bounds, accumulate(tuple(self._counts)), strict=True)), self._sum

    def family(
        self, name: str, what: str, labels: Sequence[str], values: Sequence[str]
    ) -> HistogramMetricFamily:
        """What Prometheus is told, under one set of labels."""
        buckets, total = self.samples()
        family = HistogramMetricFamily(name, what, labels=labels)
        family.add_metric(values, buckets, total)
        return family

"""Prometheus' text form, read and checked as `promtool check metrics` would check it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

# promtool objects to colons, which rules alone should write; vLLM's names have them, and ours follow.
PREFIXES = ("vllm:", "pagewire:")
_WORDS_OF_TYPES = {"gauge", "counter", "histogram", "summary"}
_SHORT_UNITS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "m", "h", "d"}
_OTHER_UNITS = {
    "milliseconds",
    "microseconds",
    "minutes",
    "hours",
    "days",
    "kilobytes",
    "megabytes",
    "percent",
}


class Scrape:
    """The samples of a process at one moment."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families
            for sample in family.samples
        }

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return {name for name, _ in self._samples}

    def value(self, name: str, **labels: str) -> float:
        """A sample's value; 0 where there is none."""
        return self._samples.get((name, tuple(sorted(labels.items()))), 0.0)

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of all samples of that name."""
        return [dict(labels) for other, labels in self._samples if other == name]


def problems(text: str) -> list[str]:
    """What promtool would object to, but for the colons of `PREFIXES`."""
    return [problem for family in Scrape(text).families for problem in _problems(family)] + _repeated(text)


def _problems(family: Metric) -> Iterator[str]:
    name = family.name.removeprefix(next(filter(family.name.startswith, PREFIXES), ""))
    words = set(name.split("_"))
    if not family.documentation:
        yield f"{family.name}: no help"
    if family.type == "unknown":
        yield f"{family.name}: no type"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield f"{family.name}: expected small letters, digits and underscores"
    if words & _WORDS_OF_TYPES:
        yield f"{family.name}: the name holds a type"
    if words & (_SHORT_UNITS | _OTHER_UNITS):
        yield f"{family.name}: the name holds a unit that is not a base unit"
    yield from _problems_of_samples(family)


def _problems_of_samples(family: Metric) -> Iterator[str]:
    for sample in family.samples:
        if family.type == "counter" and not sample.name.endswith("_total"):
            yield f"{sample.name}: a counter's name ends in _total"
        if family.type == "gauge" and sample.name.endswith(("_total", "_count", "_sum", "_bucket")):
            yield f"{sample.name}: a gauge's name does not end so"
        if "le" in sample.labels and not sample.name.endswith("_bucket"):
            yield f"{sample.name}: the label le is for buckets"


def _repeated(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    return [f"repeated: {line}" for line in set(lines) if lines.count(line) > 1]

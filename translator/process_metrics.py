"""The figures of several processes as one text: each sample says whose it is.

They are not added up: when a process ends, its counters begin again, and Prometheus can see that only in a
series of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LABEL = "process"


class _Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of one process."""

    name: str
    documentation: str
    kind: str
    samples: list[_Sample]


def families_of(registry: CollectorRegistry) -> list[Family]:
    """Return what this process has measured."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [_Sample(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def encode(families: list[Family]) -> bytes:
    """Return them as bytes for another process."""
    return msgspec.msgpack.encode(families)


def decode(data: bytes) -> list[Family]:
    """Return what `encode` was given."""
    return msgspec.msgpack.decode(data, type=list[Family])


def exposition(measured: Mapping[int, Iterable[Family]]) -> bytes:
    """Return the families of all processes, by their index, in Prometheus' text form."""
    return generate_latest(cast("CollectorRegistry", _Merged(measured)))


class _Merged:
    """As much of a registry as the text form needs."""

    def __init__(self, measured: Mapping[int, Iterable[Family]]) -> None:
        self._metrics: dict[str, Metric] = {}
        for index, families in sorted(measured.items()):
            for family in families:
                metric = self._metrics.setdefault(
                    family.name, Metric(family.name, family.documentation, family.kind)
                )
                for sample in family.samples:
                    metric.add_sample(sample.name, sample.labels | {LABEL: str(index)}, sample.value)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        return iter(self._metrics.values())

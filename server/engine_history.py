"""What engines have counted, one after another: counters go on where the last engine's ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from engine.messages import EngineStats

GAUGES = frozenset(
    ("num_running", "num_waiting", "num_free_blocks", "num_owned_blocks", "num_cached_blocks", "block_size")
)
COUNTERS = tuple(name for name in EngineStats.__struct_fields__ if name not in GAUGES)


@dataclass(frozen=True, slots=True)
class EngineHistory:
    """The engine of now, and those before it. A value, so that any thread may read it."""

    stats: EngineStats = field(default_factory=EngineStats)
    """Of the engine that runs."""
    past: EngineStats = field(default_factory=EngineStats)
    """Counters of those before it."""

    def with_stats(self, stats: EngineStats) -> EngineHistory:
        """The history once the engine has sent this."""
        return EngineHistory(stats, self.past)

    def ended(self) -> EngineHistory:
        """The history once the engine has gone: nothing runs, and what it counted is past."""
        return EngineHistory(past=self.totals)

    @property
    def totals(self) -> EngineStats:
        """Gauges of this moment, and counters of all engines together."""
        sums = {name: getattr(self.past, name) + getattr(self.stats, name) for name in COUNTERS}
        return msgspec.structs.replace(self.stats, **sums)

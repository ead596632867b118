"""The sequences that hold a row, and all that a row comes with: blocks of the cache and an adapter's slot.

A sequence that lost its blocks a few times becomes safe from that, and gets a row only where all safe
sequences together can grow to their full length; so a safe one, or the first in order, always gets on.

Where all rows are taken, a tenant that has none gets one of the tenant that has the most over its weight, and
at least two. The sequence that loses it goes on later, in most cases from the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.adapter_slots import AdapterSlots
from engine.block_pool import BlockPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.request import Request
    from engine.step import StepPlan

MAX_PREEMPTIONS = 8
"""Times that a sequence may lose its blocks."""
MAX_YIELDS = MAX_PREEMPTIONS // 2
"""Times after which it loses them for want of blocks alone, and not to another tenant."""


class RunningSet:
    """Owns rows, blocks and adapter slots."""

    def __init__(self, num_rows: int, num_blocks: int, block_size: int, max_loras: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.released_rows: list[int] = []
        """Since the last plan."""
        self._adapter_slots = AdapterSlots(max_loras)
        self._by_row: dict[int, Request] = {}  # in order of admission
        self._free_rows = list(range(num_rows - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._by_row)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._by_row.values())

    @property
    def has_free_row(self) -> bool:
        """Whether another sequence could begin."""
        return bool(self._free_rows)

    def computed_by(self, plan: StepPlan) -> list[Request]:
        """Return the sequence of each chunk."""
        by_row = self._by_row
        return [by_row[chunk.row] for chunk in plan.chunks]

    def can_ever_hold(self, request: Request) -> bool:
        """Whether a sequence would fit to its end if it were alone."""
        return self._num_blocks_at_end(request) <= self.pool.num_blocks

    def first_missing_key(self, request: Request) -> bytes | None:
        """Key of the first block that a sequence would find in the prefix cache if it were there."""
        return self.pool.first_missing(request.reusable_keys(self.pool.block_size))

    def num_missing_tokens(self, request: Request) -> int | None:
        """How many tokens a waiting sequence would have to compute if it got a row now; None if it cannot."""
        if not self._free_rows or self._adapter_slots.find(request.adapter) is None:
            return None
        hits = self._cached_prefix(request)
        if not self._fits(request, hits):
            return None
        return len(request.token_ids) - len(hits) * self.pool.block_size

    def seat(self, request: Request) -> bool:
        """Give a sequence a free row, its cached prefix, blocks and a slot, if there are enough of them."""
        hits, slot = self._cached_prefix(request), self._adapter_slots.find(request.adapter)
        if slot is None or not self._fits(request, hits):
            return False
        self._adapter_slots.hold(request.adapter, slot)
        request.adapter_slot = slot
        self.pool.share(hits)
        num_new_blocks = self.pool.num_blocks_for(len(request.token_ids)) - len(hits)
        request.block_ids = hits + self.pool.allocate(num_new_blocks)
        request.start(len(hits) * self.pool.block_size)
        request.row = self._free_rows.pop()
        self._by_row[request.row] = request
        request.account.num_running += 1
        return True

    def vacate(self, request: Request) -> None:
        """Take a sequence's row, and what came with it."""
        assert request.row is not None
        del self._by_row[request.row]
        self._free_rows.append(request.row)
        self.released_rows.append(request.row)
        request.row = None
        request.account.num_running -= 1
        self._adapter_slots.release(request.adapter_slot)
        self.pool.release(request.block_ids)
        request.block_ids = []
        request.num_planned_blocks = 0

    def grow(self, may_preempt: bool) -> list[Request] | None:
        """Give a block to each sequence whose next token has no place, the first in order first.

        Returns:
            The sequences that lost their rows for it; None where one would have to, and may not.
        """
        block_size = self.pool.block_size
        full = [
            request
            for request in self._by_row.values()
            if len(request.block_ids) * block_size < request.num_expected_tokens < request.max_num_tokens
        ]
        preempted = []
        for request in sorted(full, key=lambda request: request.rank):
            while request.row is not None and not self.pool.num_available:
                if not may_preempt:
                    return None
                preempted.append(self._preempt(self._last_unsafe()))
            if request.row is not None:
                request.block_ids += self.pool.allocate(1)
        return preempted

    def yield_row(self, request: Request | None, may_preempt: bool) -> list[Request] | None:
        """Make a row free for the one that is to be admitted next, where its tenant has none.

        Returns:
            The sequence that lost its row for it, if one did; None where one would have to, and may not.
        """
        if request is None or self._free_rows or request.account.num_running or request.is_held:
            return []
        if self._adapter_slots.find(request.adapter) is None:
            return []
        if not self._fits(request, self._cached_prefix(request)):
            return []
        victims = [
            each
            for each in self._by_row.values()
            if each.account.num_running > 1 and each.num_preemptions < MAX_YIELDS
        ]
        if not victims:
            return []
        if not may_preempt:
            return None
        return [
            self._preempt(max(victims, key=lambda each: (each.account.num_running / each.weight, each.rank)))
        ]

    def advance(self, request: Request, num_tokens: int) -> None:
        """Count computed tokens, and make the blocks that they filled findable."""
        block_size = self.pool.block_size
        first = request.num_computed_tokens // block_size
        request.num_computed_tokens += num_tokens
        last = request.num_computed_tokens // block_size
        if first == last or not request.uses_cache:
            return
        request.extend_block_keys(block_size, last)
        for index in range(first, last):
            self.pool.publish(request.block_ids[index], request.block_keys[index])

    def _last_unsafe(self) -> Request:
        unsafe = [r for r in self._by_row.values() if r.num_preemptions < MAX_PREEMPTIONS]
        assert unsafe, "safe sequences were admitted beyond the pool's size"
        return max(unsafe, key=lambda request: request.rank)

    def _preempt(self, victim: Request) -> Request:
        self.vacate(victim)
        victim.restart()
        return victim

    def _cached_prefix(self, request: Request) -> list[int]:
        return self.pool.match(request.reusable_keys(self.pool.block_size))

    def _fits(self, request: Request, hits: list[int]) -> bool:
        """Whether a waiting sequence's known tokens fit, and a block more for each running one."""
        if request.num_preemptions == MAX_PREEMPTIONS:
            safe = [r for r in self._by_row.values() if r.num_preemptions == MAX_PREEMPTIONS]
            if sum(map(self._num_blocks_at_end, (request, *safe))) > self.pool.num_blocks:
                return False
        num_new_blocks = self.pool.num_blocks_for(len(request.token_ids)) - len(hits)
        num_taken = num_new_blocks + self.pool.num_unowned(hits)
        return num_taken + len(self._by_row) <= self.pool.num_available

    def _num_blocks_at_end(self, request: Request) -> int:
        return self.pool.num_blocks_for(request.max_num_tokens - 1)

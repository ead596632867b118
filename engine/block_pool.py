"""Ownership of the KV cache's blocks, and which token prefix each full block holds.

A block is in exactly one state: *free* (holds nothing), *owned* (in at least one block table, as often
as its reference count says) or *cached* (in no table, but findable by its key until it is evicted, the
longest unused first). Two blocks may come to hold the same tokens; only the first is findable, so
that block tables never change under a running sequence.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEY_BYTES = 32


def root_key(salt: str) -> bytes:
    """The parent of a chain's first block: sequences of different salts share no key."""
    return hashlib.blake2b(salt.encode(), digest_size=KEY_BYTES, person=b"salt").digest()


def block_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The key of a full block, which stands for its tokens and all that came before them."""
    content = parent + array("I", token_ids).tobytes()
    return hashlib.blake2b(content, digest_size=KEY_BYTES, person=b"block").digest()


def extend_keys(
    keys: list[bytes], salt: str, token_ids: Sequence[int], block_size: int, num_blocks: int
) -> None:
    """Append to `keys` what it lacks of those of the first blocks. The tokens must fill them."""
    assert num_blocks * block_size <= len(token_ids), (num_blocks, len(token_ids))
    for start in range(len(keys) * block_size, num_blocks * block_size, block_size):
        parent = keys[-1] if keys else root_key(salt)
        keys.append(block_key(parent, token_ids[start : start + block_size]))


class BlockPool:
    """Grants blocks by number; the tensors lie elsewhere."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0, num_blocks
        assert block_size > 0, block_size
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the longest unused first
        self._keys: list[bytes | None] = [None] * num_blocks
        self._block_by_key: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that no sequence owns and that a prefix can still hit."""
        return len(self._cached)

    @property
    def num_owned(self) -> int:
        """Blocks in at least one block table."""
        return self.num_blocks - self.num_available

    @property
    def num_available(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free) + len(self._cached)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Length of the block table that holds `num_tokens`."""
        return -(-num_tokens // self.block_size)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """Return the findable blocks of the longest leading part of `keys`. Changes nothing."""
        block_ids = []
        for key in keys:
            block_id = self._block_by_key.get(key)
            if block_id is None:
                break
            block_ids.append(block_id)
        return block_ids

    def first_missing(self, keys: Iterable[bytes]) -> bytes | None:
        """Return the first of `keys` that is not findable."""
        return next((key for key in keys if key not in self._block_by_key), None)

    def num_unowned(self, block_ids: Iterable[int]) -> int:
        """How many of these are in no block table, so that sharing them makes fewer available."""
        return sum(not self._ref_counts[block_id] for block_id in block_ids)

    def share(self, block_ids: Iterable[int]) -> None:
        """Take one more reference to each of these findable blocks."""
        for block_id in block_ids:
            assert self._keys[block_id] is not None, block_id
            if self._ref_counts[block_id] == 0:
                del self._cached[block_id]
            self._ref_counts[block_id] += 1

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks for writing, evicting cached ones if need be. They must be available."""
        assert num_blocks <= self.num_available, (num_blocks, self.num_available)
        return [self._take_one() for _ in range(num_blocks)]

    def _take_one(self) -> int:
        if self._free:
            block_id = self._free.pop()
        else:
            block_id, _ = self._cached.popitem(last=False)
            self._unpublish(block_id)
        self._ref_counts[block_id] = 1
        return block_id

    def release(self, block_ids: Sequence[int]) -> None:
        """Give up one reference to each block of a table."""
        for block_id in reversed(block_ids):  # a prefix must outlive what builds on it
            assert self._ref_counts[block_id] > 0, block_id
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                if self._keys[block_id] is None:
                    self._free.append(block_id)
                else:
                    self._cached[block_id] = None

    def publish(self, block_id: int, key: bytes) -> None:
        """Make an owned, full and computed block findable, unless another one holds the same."""
        assert self._ref_counts[block_id] > 0, block_id
        assert self._keys[block_id] is None, block_id
        if key not in self._block_by_key:
            self._block_by_key[key] = block_id
            self._keys[block_id] = key

    def forget(self, block_ids: Iterable[int]) -> None:
        """Make owned blocks unfindable: what they hold cannot be trusted."""
        for block_id in block_ids:
            assert self._ref_counts[block_id] > 0, block_id
            if self._keys[block_id] is not None:
                self._unpublish(block_id)

    def forget_cached(self) -> None:
        """Turn every cached block into a free one."""
        for block_id in self._cached:
            self._unpublish(block_id)
        self._free.extend(self._cached)
        self._cached.clear()

    def _unpublish(self, block_id: int) -> None:
        key = self._keys[block_id]
        assert key is not None, block_id
        del self._block_by_key[key]
        self._keys[block_id] = None

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Assert that free, owned and cached blocks make up the pool. For tests; takes time.

        `block_tables` are those of all running sequences.
        """
        references = Counter(block_id for table in block_tables for block_id in table)
        free, cached, owned = set(self._free), set(self._cached), set(references)
        assert len(free) == len(self._free), "a block is free twice"
        assert all(self._ref_counts[b] == references[b] for b in range(self.num_blocks)), "reference counts"
        assert len(free) + len(cached) + len(owned) == self.num_blocks, "a block is lost or in two states"
        assert free | cached | owned == set(range(self.num_blocks)), "a block is lost or unknown"
        assert all(self._keys[b] is None for b in free), "a free block has a key"
        assert all(self._keys[b] is not None for b in cached), "a cached block has no key"
        findable = {key: block_id for block_id, key in enumerate(self._keys) if key is not None}
        assert findable == self._block_by_key, "keys and blocks disagree"

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.block_pool import BlockPool, block_key, extend_keys, root_key


def keys_of(token_ids: list[int], salt: str = "", block_size: int = 4) -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, salt, token_ids, block_size, len(token_ids) // block_size)
    return keys


def pool_with(keys: list[bytes], num_blocks: int = 4) -> tuple[BlockPool, list[int]]:
    """A pool in which a table of its own publishes each of the keys."""
    pool = BlockPool(num_blocks, 4)
    block_ids = pool.allocate(len(keys))
    for block_id, key in zip(block_ids, keys, strict=True):
        pool.publish(block_id, key)
    return pool, block_ids


def test_allocates_each_block_once() -> None:
    pool = BlockPool(5, 4)
    block_ids = pool.allocate(3) + pool.allocate(2)
    assert sorted(block_ids) == [0, 1, 2, 3, 4]
    assert pool.num_available == 0
    pool.check_integrity([block_ids])


def test_allocating_more_than_there_is_is_our_bug() -> None:
    pool = BlockPool(2, 4)
    with pytest.raises(AssertionError):
        pool.allocate(3)


def test_releasing_twice_is_our_bug() -> None:
    pool = BlockPool(2, 4)
    block_ids = pool.allocate(1)
    pool.release(block_ids)
    with pytest.raises(AssertionError):
        pool.release(block_ids)


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_counts_blocks_for_tokens(num_tokens: int, num_blocks: int) -> None:
    assert BlockPool(8, 4).num_blocks_for(num_tokens) == num_blocks


def test_released_keyed_blocks_stay_findable() -> None:
    keys = keys_of(list(range(12)))
    pool, block_ids = pool_with(keys)
    pool.release(block_ids)
    assert (pool.num_free, pool.num_cached, pool.num_owned) == (1, 3, 0)
    assert pool.match(keys) == block_ids
    pool.share(block_ids[:2])
    assert (pool.num_free, pool.num_cached, pool.num_owned) == (1, 1, 2)
    pool.check_integrity([block_ids[:2]])


def test_matches_a_leading_part_only() -> None:
    keys = keys_of(list(range(12)))
    pool, block_ids = pool_with(keys)
    assert pool.match([keys[0], b"other", keys[2]]) == block_ids[:1]
    assert pool.match([b"other", *keys]) == []
    assert pool.first_missing([*keys, b"other", b"another"]) == b"other"
    assert pool.first_missing(keys) is None


def test_shared_blocks_outlive_their_first_owner() -> None:
    keys = keys_of(list(range(8)))
    pool, block_ids = pool_with(keys)
    pool.share(block_ids)
    pool.release(block_ids)
    assert pool.num_owned == 2
    assert pool.num_unowned(block_ids) == 0
    pool.release(block_ids)
    assert pool.num_unowned(block_ids) == 2


def test_evicts_free_blocks_first_then_the_longest_unused() -> None:
    first, second = keys_of(list(range(4))), keys_of(list(range(4, 8)))
    pool, (first_id, second_id) = pool_with(first + second, num_blocks=3)
    pool.release([second_id])
    pool.release([first_id])
    assert pool.allocate(1) == [2]
    assert pool.match(first) == [first_id]
    assert pool.match(second) == [second_id]
    assert pool.allocate(1) == [second_id]
    assert pool.match(second) == []
    assert pool.match(first) == [first_id]


def test_evicts_the_end_of_a_prefix_before_its_beginning() -> None:
    keys = keys_of(list(range(16)))
    pool, block_ids = pool_with(keys)
    pool.release(block_ids)
    assert pool.allocate(2) == [block_ids[3], block_ids[2]]
    assert pool.match(keys) == block_ids[:2]


def test_a_second_block_of_the_same_tokens_is_not_findable() -> None:
    key = keys_of(list(range(4)))[0]
    pool, block_ids = pool_with([key])
    twin = pool.allocate(1)
    pool.publish(twin[0], key)
    assert pool.match([key]) == block_ids
    pool.release(twin)
    assert pool.num_free == 3
    pool.check_integrity([block_ids])


def test_forgotten_blocks_are_not_found_and_become_free() -> None:
    keys = keys_of(list(range(8)))
    pool, block_ids = pool_with(keys)
    pool.forget(block_ids)
    assert pool.match(keys) == []
    pool.release(block_ids)
    assert pool.num_free == 4


def test_forget_cached_leaves_owned_blocks_findable() -> None:
    keys = keys_of(list(range(12)))
    pool, block_ids = pool_with(keys)
    pool.release(block_ids[1:])
    pool.forget_cached()
    assert (pool.num_free, pool.num_cached, pool.num_owned) == (3, 0, 1)
    assert pool.match(keys) == block_ids[:1]
    pool.check_integrity([block_ids[:1]])


def test_check_integrity_finds_a_lost_block() -> None:
    pool = BlockPool(3, 4)
    block_ids = pool.allocate(2)
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check_integrity([block_ids[:1]])


def test_keys_depend_on_salt_parent_and_tokens() -> None:
    tokens = list(range(8))
    assert len({*keys_of(tokens), *keys_of(tokens, "a"), *keys_of(tokens, "b")}) == 6
    assert keys_of([1, 2, 3, 4, 9, 9, 9, 9])[1] != keys_of([5, 6, 7, 8, 9, 9, 9, 9])[1]
    assert root_key("x") != block_key(b"", [ord("x")])


@given(st.lists(st.integers(0, 300_000), max_size=40), st.integers(0, 40), st.sampled_from([1, 3, 4, 16]))
def test_keys_grow_with_the_tokens(token_ids: list[int], cut: int, block_size: int) -> None:
    keys: list[bytes] = []
    num_blocks = len(token_ids[:cut]) // block_size
    extend_keys(keys, "salt", token_ids[:cut], block_size, num_blocks)
    assert len(keys) == num_blocks
    extend_keys(keys, "salt", token_ids, block_size, len(token_ids) // block_size)
    assert keys == keys_of(token_ids, "salt", block_size)

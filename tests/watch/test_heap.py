"""What a process has loaded is no more work for the garbage collector."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from watch import heap

if TYPE_CHECKING:
    from collections.abc import Iterator


class Node:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    heap.unsettle()
    gc.set_threshold(*threshold)


def test_what_is_there_is_walked_no_more() -> None:
    kept = [Node() for _ in range(1000)]
    heap.settle()
    assert gc.get_freeze_count() > len(kept)
    assert gc.get_threshold()[0] == heap.YOUNG_OBJECTS
    assert not any(each is kept for each in gc.get_objects())


def test_what_comes_later_is_freed() -> None:
    heap.settle()
    for _ in range(1000):
        Node()
    assert gc.collect() >= 1000


def test_in_the_end_all_is_as_before() -> None:
    heap.settle()
    heap.unsettle()
    assert gc.get_freeze_count() == 0

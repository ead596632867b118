"""What a process has loaded is no more work for the garbage collector."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
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


NUM_ARENAS = """
import ctypes, threading
from watch import heap

{first}
go = threading.Barrier(9)
allocate = lambda: (ctypes.CDLL(None).malloc(100), go.wait())
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
go.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_an_arena() -> None:
    def num_arenas(first: str) -> int:
        command = [sys.executable, "-c", NUM_ARENAS.format(first=first)]
        described = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return described.count("<heap nr=")

    assert num_arenas("") > 1
    assert num_arenas("heap.share_arena()") == 1


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

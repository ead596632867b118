"""Gives memory that is free again back to the machine.

glibc keeps what lies between things that live on. After a flood of calls with large headers, of which
nothing is left, that is hundreds of megabytes.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 10.0


async def return_memory(every_s: float = EVERY_S) -> None:
    """Do so again and again, where the C library can."""
    trim = find_trim()
    while trim is not None:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim, 0)


def find_trim() -> Callable[[int], Any] | None:
    """glibc's malloc_trim; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

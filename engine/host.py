"""What the machine gives to this process: cores and memory."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPUS = Path("/sys/devices/system/cpu")


def num_physical_cores() -> int:
    """Return how many cores this process may use, counting hyperthreads of one core once."""
    usable = usable_cpus()
    cores = {_siblings(cpu) for cpu in usable}
    return max(1, min(len(cores), _cgroup_cpus() or len(cores)))


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon while they wait. Call it before torch is imported.

    Threads that spin long at barriers take the cores that the server and others need, and then wait for each
    other. The limit is some tens of microseconds, a step's usual gap.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def usable_cpus() -> list[int]:
    """Return the numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory_bytes() -> int:
    """Return the memory that this process may use, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(CGROUP / "memory.max")
    return min(physical, int(limit)) if limit.isdigit() else physical


def _siblings(cpu: int) -> str:
    """Return a name of the core that a processor belongs to."""
    return _read(CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _cgroup_cpus() -> int | None:
    """Return the whole processors that a container's quota amounts to; None where there is none."""
    match _read(CGROUP / "cpu.max").split():
        case [quota, period] if quota.isdigit() and period.isdigit():
            return max(1, int(quota) // int(period))
    return None


def _read(path: Path) -> str:
    """Return a small file's text; empty where the system does not have it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""

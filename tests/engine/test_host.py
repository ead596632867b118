from __future__ import annotations

from typing import TYPE_CHECKING

from engine import host

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_hyperthreads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "CPUS", tmp_path)
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(host, "usable_cpus", lambda: [0, 1, 2, 5])
    for cpu, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (5, "1,5")):
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n", encoding="ascii")
    assert host.num_physical_cores() == 3


def test_a_container_bounds_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "CPUS", tmp_path)
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(host, "usable_cpus", lambda: list(range(8)))
    physical = host.memory_bytes()
    for name, text in (("cpu.max", "max 100000"), ("memory.max", "max")):
        (tmp_path / name).write_text(text, encoding="ascii")
    assert (host.num_physical_cores(), host.memory_bytes()) == (8, physical)
    for name, text in (("cpu.max", "250000 100000"), ("memory.max", "1048576")):
        (tmp_path / name).write_text(text, encoding="ascii")
    assert (host.num_physical_cores(), host.memory_bytes()) == (2, 1048576)

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, int]]:
    """What the compiler made of each kernel for an H100; see `kernel_compiler.Report`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(ROOT / "tests" / "kernel_compiler.py")]
    text = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    compiled: dict[str, dict[str, int]] = json.loads(text)
    return compiled


def test_no_kernel_spills_registers(reports: dict[str, dict[str, int]]) -> None:
    assert {name: report["stack_bytes"] for name, report in reports.items() if report["stack_bytes"]} == {}


def test_attention_uses_the_tensor_cores(reports: dict[str, dict[str, int]]) -> None:
    """Prefill needs the warp-group instructions for full speed; a decode's 16 rows are too few for them."""
    for name, report in reports.items():
        if name.startswith("prefill"):
            assert report["num_wgmma"] > 0, name
            assert report["num_mma"] == 0, name
        if name.startswith("decode"):
            assert report["num_mma"] > 0, name


def test_attention_copies_keys_and_values_16_bytes_at_a_time(reports: dict[str, dict[str, int]]) -> None:
    attention = {name: report for name, report in reports.items() if name.startswith(("prefill", "decode"))}
    assert len(attention) == 16
    for name, report in attention.items():
        assert report["num_wide_copies"] >= 16, name


def test_low_rank_changes_use_the_tensor_cores(reports: dict[str, dict[str, int]]) -> None:
    changes = {name: report for name, report in reports.items() if name.startswith("lora")}
    assert len(changes) == 6
    for name, report in changes.items():
        assert report["num_mma"] > 0, name


def test_few_rows_use_the_tensor_cores_and_wide_copies(reports: dict[str, dict[str, int]]) -> None:
    products = {name: report for name, report in reports.items() if name.startswith("skinny_linear")}
    assert products
    for name, report in products.items():
        assert report["num_wgmma"] + report["num_mma"] > 0, name
        assert report["num_wide_copies"] >= 8, name

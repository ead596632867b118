"""docs/operations.md knows every alarm, and every port."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from cli import serve, translate
from cli.descriptors import MAX_DESCRIPTORS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_alarm_has_a_line_that_says_what_to_do() -> None:
    rules = msgspec.yaml.decode((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_bytes())
    alarms = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(Pagewire\w+)` \|", PAGE, re.MULTILINE) == alarms


def test_the_ports_are_the_defaults() -> None:
    ports = [int(port) for port in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    defaults = [
        int(flag.default or "")
        for flag in (translate.PORT, *(each for each in serve.SERVING.flags if each.name.endswith("port")))
    ]
    assert ports == defaults


def test_the_unit_allows_as_many_descriptors_as_the_commands_want() -> None:
    assert re.findall(r"^LimitNOFILE=(\d+)$", PAGE, re.MULTILINE) == [str(MAX_DESCRIPTORS)]
    assert f"{MAX_DESCRIPTORS:,}" in PAGE

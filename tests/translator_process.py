"""A translator in a process of its own."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import logging, sys
from translator.process import run
from translator.config import TranslatorConfig
logging.basicConfig(level=logging.INFO, format="%(message)s")
sys.exit(run(TranslatorConfig(port=int(sys.argv[1]), grpc_target=sys.argv[2])))
"""


@contextmanager
def translator(port: int = 0, target: str = "127.0.0.1:9") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), target], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"listening on (http://\S+:\d+)", line)
        if found:
            return found[1]
    raise AssertionError("the translator said nothing")


def resident_bytes(process: subprocess.Popen[str]) -> int:
    """What the process holds in memory. Linux tells it."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()

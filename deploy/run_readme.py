"""Runs a page's code as it stands, in its order: `python deploy/run_readme.py README.md NAME=PYTHON ...`.

The words after a fence say what a block is:

    ```sh server       started in the background; the blocks that follow wait until it says "Ready in"
    ```sh run          run by bash; must end with 0
    ```python NAME     run by the interpreter that the command line gives for NAME

Other blocks are for reading. A block that asks for the capital of France must print Paris.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

READY = "Ready in "
READY_TIMEOUT_S = 600.0
BLOCK_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


class Block(NamedTuple):
    """One piece of code, and the words after its fence."""

    language: str
    tag: str
    code: str


def find_blocks(text: str) -> list[Block]:
    """Return the blocks that are tagged, in order."""
    fence = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Block(*match) for match in fence.findall(text)]


class Server:
    """The background block: started, waited for, and stopped with all its children."""

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"exec {code}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            sys.stdout.write(line)
            if line.startswith(READY):
                self._ready.set()
        self._ready.set()

    def wait_until_ready(self) -> None:
        """Wait for the line that says so."""
        if not self._ready.wait(READY_TIMEOUT_S) or self._process.poll() is not None:
            raise SystemExit("the server did not get ready")

    def stop(self) -> None:
        """Let it drain."""
        self._process.terminate()
        code = self._process.wait(STOP_TIMEOUT_S)
        # make waits for what it started, and then ends by the signal itself.
        if code not in (0, -signal.SIGTERM):
            raise SystemExit(f"the server ended with exit code {code}")


def run_block(block: Block, interpreters: Mapping[str, str]) -> None:
    """Run one block and check what it prints."""
    if block.language == "python":
        command = [interpreters[block.tag], "-c", block.code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.code]
    sys.stdout.write(f"--- {block.language} {block.tag}\n{block.code}--- prints\n")
    sys.stdout.flush()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=BLOCK_TIMEOUT_S, check=False)
    sys.stdout.write(done.stdout + "\n")
    if done.returncode != 0:
        raise SystemExit(f"the block ended with exit code {done.returncode}")
    if "capital of France" in block.code and "Paris" not in done.stdout:
        raise SystemExit("the answer does not have Paris in it")


def main() -> None:
    """Run all blocks of a file."""
    path, *pairs = sys.argv[1:]
    interpreters = dict(pair.split("=", 1) for pair in pairs)
    blocks = find_blocks(Path(path).read_text(encoding="utf-8"))
    servers: list[Server] = []
    try:
        for block in blocks:
            if block.tag == "server":
                servers.append(Server(block.code))
                servers[-1].wait_until_ready()
            else:
                run_block(block, interpreters)
    finally:
        for server in servers:
            server.stop()
    sys.stdout.write(f"{len(blocks)} blocks of {path} run as they stand\n")


if __name__ == "__main__":
    main()

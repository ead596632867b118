"""Runs the programs of tests/ecosystem, one after the other, against a server with the default model.

`clients_check.py VENV OLD_VENV`: the first has the packages of tests/ecosystem/requirements.txt and a `node`,
the second has openai 0.28. Prints a line for each client.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from processes import pagewire_up

PROGRAMS = Path(__file__).parent / "ecosystem"
PROGRAM_TIMEOUT_S = 240.0


class Client(NamedTuple):
    """A client, what runs its program, and the program."""

    name: str
    interpreter: Path
    program: str


def clients(venv: Path, old_venv: Path) -> list[Client]:
    """List all clients that are checked."""
    python, old_python, node = venv / "bin/python", old_venv / "bin/python", venv / "bin/node"
    return [
        Client("openai for Python", python, "openai_python.py"),
        Client("openai 0.28", old_python, "openai_old.py"),
        Client("anthropic", python, "anthropic_python.py"),
        Client("pydantic-ai", python, "pydantic_ai_agents.py"),
        Client("langchain-openai", python, "langchain_models.py"),
        Client("openai for Node.js", node, "openai_node.mjs"),
        Client("Vercel AI SDK", node, "ai_sdk.mjs"),
    ]


def check(client: Client, base_url: str) -> bool:
    """Run one program; what it complained of is shown only if it failed."""
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [client.interpreter, PROGRAMS / client.program, base_url],
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        sys.stdout.write(f"FAILED {client.name}: not done after {PROGRAM_TIMEOUT_S:.0f} s\n")
        return False
    verdict = "ok" if done.returncode == 0 else "FAILED"
    steps = ", ".join(done.stdout.split())
    sys.stdout.write(f"{verdict} {client.name}, {time.monotonic() - begun:.1f} s: {steps}\n")
    if done.returncode != 0:
        sys.stdout.write(done.stderr)
    sys.stdout.flush()
    return done.returncode == 0


def main(venv: str, old_venv: str) -> int:
    """Return 0 if all clients got what they expect."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pagewire_up(Path(folder) / "log", "--max-model-len=2048") as house,
    ):
        house.wait_until_ready()
        verdicts = [check(client, house.base_url) for client in clients(Path(venv), Path(old_venv))]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""`python -m soak`: breaks a real service for some minutes, then searches for long.

The parts are chaos (faults of all kinds under traffic), bugs (ten planted ones must be found), fuzz (the
readers of model output) and slow (tests that search or count for long). The exit code is 0 where each passed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from soak import chaos, planted_bugs

PARTS = ("chaos", "bugs", "fuzz", "slow")
ROOT = Path(__file__).parents[2]
MOST_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of chaos, and a tenth of them of fuzz")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of chaos")
    parser.add_argument("--log", type=Path, default=Path("soak.log"), help="what the processes say")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--fuzz-python", type=Path, help="has atheris; without it there is no fuzz")
    arguments = parser.parse_args()
    verdicts = {}
    for part in arguments.parts:
        start_s = time.monotonic()
        say(f"== {part}")
        verdicts[part] = run(part, arguments)
        say(f"== {part}: {verdicts[part]}, {time.monotonic() - start_s:.0f} s")
    say(", ".join(f"{part} {verdict}" for part, verdict in verdicts.items()))
    return 1 if "FAILED" in verdicts.values() else 0


def run(part: str, arguments: argparse.Namespace) -> str:
    """Run a part and say how it went."""
    match part:
        case "chaos":
            passed = run_chaos(arguments)
        case "bugs":
            passed = planted_bugs.main() == 0
        case "fuzz":
            if arguments.fuzz_python is None or not arguments.fuzz_python.exists():
                return "SKIPPED: there is no atheris for this Python"
            seconds = str(round(arguments.minutes * 6))
            passed = succeeds(arguments.fuzz_python, "-m", "soak.fuzz_readers", seconds)
        case _:
            passed = succeeds(Path(sys.executable), "-m", "pytest", "-m", "slow")
    return "passed" if passed else "FAILED"


def run_chaos(arguments: argparse.Namespace) -> bool:
    """Print the report."""
    say(f"{arguments.minutes:g} minutes, seed {arguments.seed}")
    report = chaos.run(arguments.minutes, arguments.seed, arguments.log)
    for line in report.lines:
        say(line)
    for violation in report.violations[:MOST_SHOWN]:
        say(f"VIOLATION: {violation}")
    say(f"{len(report.violations)} violations")
    return not report.violations


def succeeds(python: Path, *words: str) -> bool:
    """Run a program of ours."""
    return subprocess.run([python, *words], cwd=ROOT, env=os.environ, check=False).returncode == 0


def say(line: str) -> None:
    """Write a line of the report at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

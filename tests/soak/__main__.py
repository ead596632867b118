"""`python -m soak`: breaks a real service for some minutes, and says whether it kept its promises."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from soak import chaos

MOST_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--log", type=Path, default=Path("soak.log"), help="of the processes")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    say(f"chaos for {arguments.minutes:g} minutes, seed {arguments.seed}")
    report = chaos.run(arguments.minutes, arguments.seed, arguments.log)
    for line in report.lines:
        say(line)
    for violation in report.violations[:MOST_SHOWN]:
        say(f"VIOLATION: {violation}")
    say(f"{len(report.violations)} violations")
    return 1 if report.violations else 0


def say(line: str) -> None:
    """Write a line of the report at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

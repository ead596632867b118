"""Runs schemathesis against a translator with a scripted model server: `openapi_check.py SCHEMATHESIS`.

Positive and negative data for every operation. What valid data may ask for that a model server would refuse
is no failure: JSON Schema cannot say which fields exclude each other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from scripted_backend import serving

_OPTIONS = (
    "--phases=examples,coverage,fuzzing",
    "--suppress-health-check=all",
    "--exclude-checks=positive_data_acceptance",
    "--max-examples=20",
    "--seed=1",
    "--continue-on-failure",
    "--no-shrink",
)


def main(schemathesis: str) -> int:
    """Return schemathesis's exit code."""
    with serving() as house, tempfile.TemporaryDirectory() as folder:
        command = [schemathesis, "run", f"{house.url}/openapi.json", *_OPTIONS]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Ten bugs, each planted into a copy of the source: the tests beside it must turn red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "node_modules", "__pycache__", "*.egg-info")
TIMEOUT_S = 900
PASSED, FAILED = 0, 1
"""Exit codes of pytest; others say that it could not run."""


@dataclass(frozen=True)
class Bug:
    """A small change of a file, and the tests that must notice."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


BUGS = (
    Bug(
        "scheduler: accepts what never fits",
        "engine/running_set.py",
        "return self._num_blocks_at_end(request) <= self.pool.num_blocks",
        "return self._num_blocks_at_end(request) <= 2 * self.pool.num_blocks",
        ("tests/engine/test_scheduler.py", "tests/engine/test_scheduler_traces.py"),
    ),
    Bug(
        "block pool: loses a block that nobody uses any more",
        "engine/block_pool.py",
        "self._free.append(block_id)\n                else:",
        "pass\n                else:",
        ("tests/engine/test_block_pool.py", "tests/engine/test_scheduler_abort.py"),
    ),
    Bug(
        "salt: forgets the tenant",
        "server/tenants.py",
        'return f"{tenant}/{salt}" if tenant else salt',
        "return salt",
        ("tests/server/test_gate.py", "tests/server/test_cache_isolation.py"),
    ),
    Bug(
        "detokeniser: decodes each token by itself",
        "server/detokenizer.py",
        "text = self._decoder.decode(data)",
        'text = data.decode("utf-8", "replace")',
        ("tests/server/test_detokenizer.py",),
    ),
    Bug(
        "stop strings: let their beginning out",
        "server/stop_strings.py",
        "certain = len(seen) - max(self._matched)",
        "certain = len(seen)",
        ("tests/server/test_stop_strings.py",),
    ),
    Bug(
        "server-sent events: end without a mark",
        "translator/sse.py",
        r'done=b"data: [DONE]\n\n"',
        'done=b""',
        ("tests/translator/test_golden_transcripts.py",),
    ),
    Bug(
        "admission: takes in any number",
        "server/admission.py",
        "if room.is_full:",
        "if False:",
        ("tests/server/test_service.py", "tests/server/test_overload.py"),
    ),
    Bug(
        "abort: keeps the sequence",
        "engine/scheduler.py",
        "num_aborted += 1\n        self._end(request)\n",
        "num_aborted += 1\n",
        ("tests/engine/test_scheduler_abort.py",),
    ),
    Bug(
        "keys: any key opens",
        "gate/key_ring.py",
        "if hmac.compare_digest(key.digest, digest):",
        "if key.digest is not digest:",
        ("tests/gate/test_keys.py", "tests/server/test_gate.py"),
    ),
    Bug(
        "NaN: is a token",
        "engine/scheduler.py",
        "if sampled.token_id < 0:",
        "if sampled.token_id < -1:",
        ("tests/engine/test_scheduler.py", "tests/engine/test_scheduler_properties.py"),
    ),
)


def main() -> int:
    """Print a line for each bug; 0 where all are found, and nothing is where none is planted."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        all_tests = sorted({test for bug in BUGS for test in bug.tests})
        if run_tests(tree, all_tests) != PASSED:
            sys.stdout.write("the tests fail without any bug\n")
            return 1
        found = [is_found(tree, bug) for bug in BUGS]
    sys.stdout.write(f"{sum(found)} of {len(BUGS)} planted bugs are found\n")
    return 0 if all(found) else 1


def is_found(tree: Path, bug: Bug) -> bool:
    """Whether the tests turn red. The copy is as before afterwards."""
    path = tree / bug.file
    source = path.read_text()
    assert source.count(bug.before) == 1, f"{bug.file} does not hold {bug.before!r} once"
    path.write_text(source.replace(bug.before, bug.after))
    try:
        code = run_tests(tree, bug.tests)
    finally:
        path.write_text(source)
    sys.stdout.write(f"{'found' if code == FAILED else f'NOT FOUND ({code})'}: {bug.name}\n")
    sys.stdout.flush()
    return code == FAILED


def run_tests(tree: Path, tests: list[str] | tuple[str, ...]) -> int:
    """Run these tests on the copy, until one fails, and return pytest's exit code."""
    paths = os.pathsep.join(map(str, (tree, tree / "clients/python/src", tree / "tests")))
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

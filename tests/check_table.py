"""What Pagewire promises to withstand: the checks by number, and where in the suite each stands.

A test, class or module names the checks that it proves with `@pytest.mark.check("S11")` or `pytestmark`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

CHECKS = {
    "S01": "No HTTP route answers without a key, but those on the list of open ones",
    "S02": "No gRPC method answers without a key, but health; a new one is closed until it is opened",
    "S03": "No spelling of a path or host walks around the keys",
    "S04": "Keys are compared as hashes in constant time, and changed without a restart",
    "S05": "What operators may do is not on the public port, nor for a tenant's key",
    "S06": "The code unpickles, evaluates and executes nothing",
    "S07": "Only the declared ports are open, on loopback, and a taken port is an error",
    "S08": "TLS and mutual TLS refuse who does not belong; certificates are swapped live",
    "S09": "Chat templates run in a sandbox with a time limit",
    "S10": "Hostile schemas are refused in time and hurt nobody else",
    "S11": "Every number has bounds, with one verdict on both doors",
    "S12": "Everything that can be large has a cap",
    "S13": "No text makes the service connect anywhere",
    "S14": "Tenants share no cached prefix",
    "S15": "Malformed bodies are refused as the caller's mistake",
    "S16": "Malformed HTTP/1 is refused, and its connection closed",
    "S17": "Slow senders are cut, and nobody waits for them",
    "S18": "Floods of HTTP/2 frames hurt nobody else",
    "S19": "Broken HTTP/2 ends its own connection alone",
    "S20": "Random protobuf is refused as the caller's mistake",
    "S21": "What the service relies on in its libraries is verified at the start",
    "S22": "Loading a model connects nowhere and executes nothing; broken files are refused",
    "S23": "Errors give away nothing of the inside, and log lines cannot be forged",
    "S24": "Prompts, outputs and keys are in no log, metric or trace",
    "S25": "Readers of tool calls and reasoning take any text, in linear time",
    "P01": "Blocks are never lost, shared wrongly or given twice, whatever arrives",
    "P02": "Everything that was accepted ends",
    "P03": "A request may be aborted at any step",
    "P04": "Traces of many requests give each the tokens that it gets alone",
    "P05": "Planted bugs turn the suite red",
    "R01": "A killed engine fails its streams at once and is started again",
    "R02": "A stuck engine is noticed, though its process lives",
    "R03": "Health answers at once under overload",
    "R04": "A killed translator leaves nothing running behind",
    "R05": "Every stream has exactly one end, and is the unary answer",
    "R06": "Aborts leave nothing behind",
    "R07": "A caller of a unary answer who leaves frees it",
    "R08": "Too much load is refused early, and what was accepted is done",
    "R09": "Readers who do not read cost little and are cut",
    "R10": "Silent calls live; frozen peers are found",
    "R11": "A fault anywhere in a handler gives the client a status",
    "R12": "A drain loses nothing",
    "R13": "All pairs of fields give one answer on both doors",
    "R14": "NaN fails its own request alone",
    "R15": "Log probabilities are always valid JSON",
    "R16": "Streamed text is never broken inside a character",
    "R17": "Stop strings never leak, wherever chunks end",
    "R18": "No tenant and no request starves another",
    "R19": "An engine that cannot start is given up, loudly",
    "R20": "Nothing grows over thousands of requests",
    "R21": "Deadlines hold, also in the queue",
    "R22": "Faults of all kinds at once lose nothing",
    "R23": "Wrong clocks, full disks and few file descriptors are survived",
    "G01": "On a GPU: a seed gives its tokens in any batch",
    "G02": "On a GPU: the worst first batch fits into memory",
    "G03": "On a GPU: tenants stay apart when the pool is full",
    "G04": "On a GPU: a long prompt does not stop the decodes",
    "G05": "On a GPU: kills, aborts and drains give the memory back",
    "G06": "On a GPU: a device error ends in typed errors and a restart",
}


def checked_in(source: str) -> set[str]:
    """The checks that a test module's text names."""
    return {
        argument.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "check"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def modules_by_check() -> dict[str, list[str]]:
    """For each check that a module of tests names, those modules, as paths from the root of the project."""
    root = Path(__file__).parent
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("test_*.py")):
        for check in checked_in(path.read_text()):
            found.setdefault(check, []).append(str(path.relative_to(root.parent)))
    return found


def page() -> str:
    """docs/checks.md."""
    found = modules_by_check()
    lines = [
        "# What is checked",
        "",
        "Each line is a promise, and the modules of tests that would turn red if it were broken.",
        "`make test` runs them, `make soak` the long ones, `make test-gpu` those of a GPU.",
        "Written by `make docs`.",
        "",
        "| | promise | tests |",
        "|---|---|---|",
    ]
    for check, promise in CHECKS.items():
        modules = ", ".join(f"`{module}`" for module in found.get(check, [])) or "none"
        lines.append(f"| {check} | {promise} | {modules} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

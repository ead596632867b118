"""The command as a process: what it imports, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

HEAVY = ("torch", "grpc", "transformers", "numpy", "starlette", "uvicorn", "tokenizers")


PROGRAM = """
import sys
from cli.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("modules:", *sys.modules)
"""


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def modules_after(words: list[str]) -> set[str]:
    return set(run("-c", PROGRAM, *words).rpartition("modules:")[2].split())


WORDS = [["--help"], ["serve", "--help"], ["up", "--grpc-port", "0"], ["serve", "--port", "x"]]


@pytest.mark.parametrize("words", WORDS)
def test_help_and_errors_import_nothing_heavy(words: list[str]) -> None:
    assert not modules_after(words) & set(HEAVY)


def test_health_and_chat_need_the_client_alone() -> None:
    modules = modules_after(["health", "--target", "127.0.0.1:1"])
    assert "grpc" in modules
    assert not modules & (set(HEAVY) - {"grpc"})


def test_the_translator_never_imports_torch() -> None:
    modules = set(run("-c", "import sys, translator.app\nprint(*sys.modules)").split())
    assert not modules & {"torch", "transformers", "tokenizers", "numpy", "server", "engine"}


def test_version() -> None:
    assert run("-m", "cli", "--version") == "pagewire 0.1.0\n"


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    """It waits for an answer that does not come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        target = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = [sys.executable, "-m", "cli", "health", "--target", target]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")

"""Server and translator as two processes over the engine of `engine_program.py`, to be killed and started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
from processes import House, command_line, descendants, free_ports, is_alive, wait_until
from tiny_tokenizer import byte_level, write_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagewire.v1 import admin_pb2

ROOT = Path(__file__).parents[1]
PYTHONPATH = os.pathsep.join(map(str, (ROOT, ROOT / "clients/python/src", ROOT / "tests")))
NUM_SEQS = 64
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
START_TIMEOUT_S = 100.0


class FakeHouse:
    """Both processes keep their ports when they are started again."""

    def __init__(self, folder: Path, translator_flags: Sequence[str] = (), **settings: Any) -> None:
        """`settings` are those of `server_program.py`."""
        self._translator_flags = translator_flags
        self.model = write_folder(
            folder / "tiny-model", byte_level(), config={}, tokenizer_config={"chat_template": TEMPLATE}
        )
        self.port, self.admin_port, self.http_port = free_ports(3)
        self.base_url = f"http://127.0.0.1:{self.http_port}"
        self.target = f"127.0.0.1:{self.port}"
        self.admin_target = f"127.0.0.1:{self.admin_port}"
        self.log = folder / "log"
        self._settings = {
            "model": str(self.model),
            "port": self.port,
            "admin_port": self.admin_port,
            "enable_metrics": False,
            "engine": {"max_num_seqs": NUM_SEQS},
            # Tests kill the engine more often than a healthy server would bear.
            "restarts": {"first_delay_s": 0.05, "longest_delay_s": 0.05, "max_failures": 1000},
            **settings,
        }
        self._stderr = self.log.open("ab")
        self.server: subprocess.Popen[bytes]
        self.translator: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.server = self.start_server()
        self.translator = self.start_translator()
        self.wait_until_ready()
        self.wait_until_live()
        return self

    def __exit__(self, *_: object) -> None:
        self._stderr.close()
        for process in (self.translator, self.server):
            below = descendants(process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            wait_until(lambda below=below: not any(map(is_alive, below)), "all processes have ended")  # type: ignore[misc]

    def start_server(self, stderr: Any = None, **settings: Any) -> subprocess.Popen[bytes]:
        words = [str(ROOT / "tests" / "server_program.py"), json.dumps(self._settings | settings)]
        self.server = self._start(words, stderr)
        return self.server

    def start_translator(self, target: str = "", stderr: Any = None) -> subprocess.Popen[bytes]:
        words = [
            *("-m", "cli", "translate", f"--grpc-target={target or self.target}"),
            f"--port={self.http_port}",
            *self._translator_flags,
        ]
        self.translator = self._start(words, stderr)
        return self.translator

    def _start(self, words: list[str], stderr: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        return subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.DEVNULL,
            stderr=self._stderr if stderr is None else stderr,
            env=environment,
            cwd=ROOT,
        )

    def stats(self) -> admin_pb2.GetStatsResponse:
        return self._house.stats()

    def wait_until_ready(self) -> None:
        """Until the server serves."""
        self._house.wait_until_ready()

    def wait_until_live(self) -> None:
        """Until the translator answers."""

        def live() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.base_url}/health/live", timeout=30).status_code == 200
            return False

        wait_until(live, "the translator answers", START_TIMEOUT_S)

    def wait_until_served(self) -> None:
        """Until the translator finds the server ready."""

        def served() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.base_url}/health/ready", timeout=30).status_code == 200
            return False

        wait_until(served, "a request can be served by HTTP", START_TIMEOUT_S)

    def wait_until_idle(self) -> None:
        self._house.wait_until_idle()

    def wait_until_running(self, num_running: int) -> None:
        wait_until(lambda: self.stats().engine.num_running == num_running, "sequences run", START_TIMEOUT_S)

    def engine_pid(self) -> int:
        (pid,) = [
            pid
            for pid in descendants(self.server.pid)
            if any(word.endswith("engine_program.py") for word in command_line(pid))
        ]
        return pid

    @property
    def _house(self) -> House:
        # The log is kept open for writing, so that its reader needs no process of text.
        process: Any = self.server
        return House(process, self.log, self.target, self.admin_target, self.base_url)

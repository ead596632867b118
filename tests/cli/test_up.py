"""`pagewire up` as a process."""

from __future__ import annotations

import subprocess
import sys

from processes import free_ports


def test_the_log_names_the_server_that_it_starts() -> None:
    grpc_port, http_port = free_ports(2)
    ports = [f"--grpc-port={grpc_port}", f"--port={http_port}", "--admin-port=0", "--metrics-port=0"]
    command = [sys.executable, "-m", "cli", "up", "/no/model", *ports]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"http://127.0.0.1:{http_port}, model server at 127.0.0.1:{grpc_port};" in done.stderr

"""Real proxies that run the recipes of deploy/proxies, on free ports of this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from processes import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from processes import House

RECIPES = Path(__file__).parent.parent / "deploy" / "proxies"
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs, and its two doors."""

    name: str
    base_url: str
    grpc_target: str
    log: Path
    """Its access log, and what else it prints."""


@dataclass(frozen=True)
class Recipe:
    """A file of deploy/proxies, and how it is started."""

    name: str
    file: str
    command: tuple[str, ...]
    """FILE and FOLDER stand for the file and for a folder of the proxy's own."""
    addresses: Mapping[str, str]
    """How the file writes each of its four addresses."""

    @property
    def is_there(self) -> bool:
        """Whether this machine has the program."""
        return which(self.command[0]) is not None


_PLAIN = {name: f"127.0.0.1:{port}" for name, port in
          (("http", 8000), ("grpc", 50051), ("http door", 8080), ("grpc door", 50060))}  # fmt: skip
_ENVOY = {name: address.replace(":", ", port_value: ") for name, address in _PLAIN.items()}


def recipes(envoy: str) -> list[Recipe]:
    """List all recipes; `envoy` is the path of that program."""
    nginx = ("nginx", "-e", "stderr", "-g", "daemon off; pid FOLDER/pid;", "-c", "FILE")
    return [
        Recipe("nginx", "nginx.conf", nginx, _PLAIN),
        Recipe("HAProxy", "haproxy.cfg", ("haproxy", "-f", "FILE"), _PLAIN),
        Recipe(
            "Envoy",
            "envoy.yaml",
            (envoy, "-c", "FILE", "--log-level", "warning", "--use-dynamic-base-id", "--concurrency", "1"),
            _ENVOY,
        ),
    ]


@contextlib.contextmanager
def running(recipe: Recipe, house: House, folder: Path) -> Iterator[Proxy]:
    """Run a recipe, with its addresses replaced, in front of a house."""
    http_port, grpc_port = free_ports(2)
    replaced = {
        "http": house.base_url.removeprefix("http://"),
        "grpc": house.grpc_target,
        "http door": f"127.0.0.1:{http_port}",
        "grpc door": f"127.0.0.1:{grpc_port}",
    }
    text = (RECIPES / recipe.file).read_text(encoding="utf-8")
    for name, address in replaced.items():
        written = recipe.addresses[name]
        assert written in text, f"{recipe.file} does not name {written}"
        text = text.replace(
            written, address if recipe.addresses is _PLAIN else address.replace(":", ", port_value: ")
        )
    folder.mkdir()
    file = folder / recipe.file
    file.write_text(text, encoding="utf-8")
    words = [word.replace("FILE", str(file)).replace("FOLDER", str(folder)) for word in recipe.command]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    try:
        for port in (http_port, grpc_port):
            wait_until(partial(_listens, port, process, log), f"{recipe.name} listens")
        yield Proxy(recipe.name, f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", log)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

"""What do the doors cost per token? JSON lines, one a load.

    python -m benchmarks.front_speed MODEL [--loads 32x25 256x80] [--door http] [--seconds 8]
        [--api-server-count 1] [--grpc-front-count 1] [--commit HASH]

MODEL is a folder or a GGUF file with a tokenizer of at least 48,000 tokens; its weights are not read. Server
and translator are the real ones, the engine gives each of 256 streams a token 80 times a second, and computes
nothing. `*_us` is the time on a CPU per token that the engine gave, of all threads of the process; `*_cores`
is that per second, for `fronts_cores` and `translator_cores` of the busiest one. `tokens_per_chunk` says how
many tokens came together: a process that is behind makes larger chunks. `gap_p99_ms` is between the chunks of
a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from benchmarks.front_engine import FIRST_ID, LAST_ID, STEPS_S
from engine.config import EngineConfig
from pagewire import AsyncClient, Client, PagewireError
from pagewire.v1 import admin_pb2, admin_pb2_grpc
from server import app
from server.config import ServerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "front"
START_TIMEOUT_S = 60.0
SETTLE_S = 2.0
NUM_PROMPT_TOKENS = 64
TICKS_S = os.sysconf("SC_CLK_TCK")
ENGINE_COMMAND = (sys.executable, "-P", "-m", "benchmarks.front_engine")


@dataclass(frozen=True)
class Load:
    """Streams that get a token each, so many times a second."""

    num_streams: int
    steps_s: float

    @classmethod
    def parse(cls, text: str) -> Load:
        """Read 256x80."""
        num_streams, _, steps_s = text.partition("x")
        return cls(int(num_streams), float(steps_s))


@dataclass
class Reader:
    """Counts the chunks of all streams, and notes the gaps between those of one."""

    num_chunks: int = 0
    gaps_s: list[float] = field(default_factory=list)

    def open(self) -> Callable[[int], None]:
        """Return what is to be called when a stream has got chunks."""
        last_s = time.perf_counter()

        def note(num_chunks: int) -> None:
            nonlocal last_s
            now_s = time.perf_counter()
            self.num_chunks += num_chunks
            self.gaps_s.append(now_s - last_s)
            last_s = now_s

        return note


@dataclass(frozen=True)
class House:
    """Server and translator, and where they listen."""

    server: subprocess.Popen[bytes]
    translator: subprocess.Popen[bytes]
    target: str
    admin_target: str
    http_port: int

    def num_tokens(self) -> int:
        """Ask how many tokens the engine has given."""
        with grpc.insecure_channel(self.admin_target) as channel:
            stats = admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=30)
            return int(stats.engine.num_generated_tokens)

    def cpu_s(self) -> tuple[float, list[float], list[float]]:
        """Time on a CPU: the server's, that of each of its fronts, and of each process of the translator."""
        fronts = [pid for pid in children(self.server.pid) if "server.front" in command_line(pid)]
        translators = [self.translator.pid, *children(self.translator.pid)]
        return cpu_s(self.server.pid), list(map(cpu_s, fronts)), list(map(cpu_s, translators))


def serve(settings: str) -> None:
    """Run the server, in a process of its own."""
    config = ServerConfig(**json.loads(settings), engine=EngineConfig(model_path=""))
    sys.exit(app.run(config, ENGINE_COMMAND))


def cpu_s(pid: int) -> float:
    """Return the seconds that all threads of a process were on a CPU."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_S


def children(pid: int) -> list[int]:
    """Return the processes that this one has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> list[str]:
    """Return the words that a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def is_ready(client: Client) -> bool:
    """Ask whether the server serves."""
    with contextlib.suppress(PagewireError):
        return client.is_ready()
    return False


@contextlib.contextmanager
def house(model: str, load: Load, num_translators: int, num_fronts: int, log: Path) -> Iterator[House]:
    """Run both for one load."""
    port, admin_port, http_port = free_ports(3)
    settings = {
        "model": model,
        "served_model_names": [MODEL],
        "port": port,
        "admin_port": admin_port,
        "grpc_front_count": num_fronts,
        "enable_metrics": False,
        "drain_timeout_s": 0,
    }
    environ = {**os.environ, STEPS_S: str(load.steps_s)}
    words = ["translate", f"--grpc-target=127.0.0.1:{port}", f"--port={http_port}", "--drain-timeout=0"]
    if num_translators > 1:
        words.append(f"--api-server-count={num_translators}")
    program = "from benchmarks.front_speed import serve; import sys; serve(sys.argv[1])"
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(settings)], stderr=stderr, env=environ
        )
        translator = subprocess.Popen([sys.executable, "-m", "cli", *words], stderr=stderr)
    try:
        with Client(f"127.0.0.1:{port}", timeout=5) as client:
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while not is_ready(client):
                assert time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.2)
        yield House(server, translator, f"127.0.0.1:{port}", f"127.0.0.1:{admin_port}", http_port)
    finally:
        for process in (translator, server):
            process.send_signal(signal.SIGTERM)
            process.wait()


class HttpStream(asyncio.Protocol):
    """Asks for a stream, and counts its chunks in the bytes that come."""

    def __init__(self, token_ids: list[int], max_tokens: int, note: Callable[[int], None]) -> None:
        asked = {"model": MODEL, "prompt": token_ids, "max_tokens": max_tokens, "stream": True}
        self._body = json.dumps(asked | {"ignore_eos": True}).encode()
        self._note = note

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        transport.write(head + b"content-length: %d\r\n\r\n" % len(self._body) + self._body)

    def data_received(self, data: bytes) -> None:
        """Count."""
        if num_chunks := data.count(b"data: {"):
            self._note(num_chunks)


async def open_http(house: House, prompts: list[list[int]], max_tokens: int, reader: Reader) -> None:
    """Read one stream for each prompt by HTTP, until cancelled."""
    loop = asyncio.get_running_loop()
    for token_ids in prompts:
        note = reader.open()
        await loop.create_connection(
            lambda token_ids=token_ids, note=note: HttpStream(token_ids, max_tokens, note),  # type: ignore[misc]
            "127.0.0.1",
            house.http_port,
        )
    await asyncio.Event().wait()


async def open_grpc(house: House, prompts: list[list[int]], max_tokens: int, reader: Reader) -> None:
    """Read one stream for each prompt by gRPC, until cancelled."""
    async with AsyncClient(house.target, timeout=600) as client, asyncio.TaskGroup() as tasks:
        for token_ids in prompts:
            tasks.create_task(_read(client, token_ids, max_tokens, reader.open()))


async def _read(
    client: AsyncClient, token_ids: list[int], max_tokens: int, note: Callable[[int], None]
) -> None:
    async with client.stream(token_ids, max_tokens=max_tokens, ignore_eos=True) as stream:
        async for event in stream:
            if event.HasField("delta"):
                note(1)


async def measure(house: House, load: Load, door: str, seconds: float) -> dict[str, float]:
    """Open the streams, wait until all run evenly, and measure for so many seconds."""
    numbers, reader = random.Random(0), Reader()
    prompts = [
        [numbers.randrange(FIRST_ID, LAST_ID) for _ in range(NUM_PROMPT_TOKENS)]
        for _ in range(load.num_streams)
    ]
    opened = {"http": open_http, "grpc": open_grpc}[door](house, prompts, 500_000, reader)
    task = asyncio.create_task(opened)
    await asyncio.sleep(SETTLE_S + load.num_streams / 100)
    tokens, chunks, began_s = await asyncio.to_thread(house.num_tokens), reader.num_chunks, time.monotonic()
    reader.gaps_s.clear()
    server_s, fronts_s, translators_s = house.cpu_s()
    await asyncio.sleep(seconds)
    tokens, chunks = await asyncio.to_thread(house.num_tokens) - tokens, reader.num_chunks - chunks
    passed_s, after = time.monotonic() - began_s, house.cpu_s()
    assert not task.done(), task
    task.cancel()
    await asyncio.wait({task})
    server_s = after[0] - server_s
    fronts_s = [later - earlier for earlier, later in zip(fronts_s, after[1], strict=True)]
    translators_s = [later - earlier for earlier, later in zip(translators_s, after[2], strict=True)]
    return {
        "tok_s": round(tokens / passed_s, 1),
        "tokens_per_chunk": round(tokens / max(1, chunks), 2),
        "gap_p99_ms": round(1e3 * statistics.quantiles(reader.gaps_s, n=100)[-1], 1),
        "server_us": round(1e6 * server_s / tokens, 1),
        "fronts_us": round(1e6 * sum(fronts_s) / tokens, 1),
        "translator_us": round(1e6 * sum(translators_s) / tokens, 1),
        "server_cores": round(server_s / passed_s, 3),
        "fronts_cores": round(max(fronts_s, default=0.0) / passed_s, 3),
        "translator_cores": round(max(translators_s) / passed_s, 3),
    }


def main() -> None:
    """Measure each load, with processes of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--loads", type=Load.parse, nargs="+", default=[Load(32, 25), Load(256, 80)])
    parser.add_argument("--door", choices=("http", "grpc"), default="http")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--api-server-count", type=int, default=1)
    parser.add_argument("--grpc-front-count", type=int, default=1)
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    with asyncio.Runner() as runner:
        _measure_all(arguments, runner)


def _measure_all(arguments: argparse.Namespace, runner: asyncio.Runner) -> None:
    for load in arguments.loads:
        with (
            tempfile.TemporaryDirectory() as folder,
            house(
                arguments.model,
                load,
                arguments.api_server_count,
                arguments.grpc_front_count,
                Path(folder, "log"),
            ) as running,
        ):
            figures = runner.run(measure(running, load, arguments.door, arguments.seconds))
        facts = {
            "door": arguments.door,
            "num_streams": load.num_streams,
            "steps_s": load.steps_s,
            "num_translators": arguments.api_server_count,
            "num_fronts": arguments.grpc_front_count,
        }
        origin = {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "grpcio": grpc.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
            "commit": arguments.commit,
        }
        print(json.dumps(facts | figures | origin), flush=True)


if __name__ == "__main__":
    main()

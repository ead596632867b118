"""How fast is the CPU path, seen through the HTTP server, against transformers in the same run?

    python benchmarks/cpu_serving.py --model PATH --dtype bfloat16 [--url http://127.0.0.1:8000] [--rounds 3]

Workloads: `single`, the decode of one stream; `prefill`, a prompt of 1,024 tokens and one token of
output; `sixteen`, sixteen streams at once of 128 tokens in and 128 out. Prompts are random token ids
from a fixed seed, decoding is greedy and ignores the end of sequence, so that everyone computes the same.

Rounds alternate between the server and its peers, so that a noisy machine disturbs all of them; each
figure is the best of its rounds, and the spread is in the output. Peers are transformers in the same
dtype and in float32: the same weights, static batches, the same number of threads.

Without --url the script starts `pagewire up` on free ports, and stops it. One JSON line a workload and
engine goes to standard output and to --output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from engine.gguf import GGUFFile
from engine.model_config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_TIMEOUT_S = 180.0
STREAM_TIMEOUT_S = 600.0
FIRST_ID, LAST_ID = 300, 48_000
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Workload:
    """Streams of equal length that start together."""

    name: str
    num_streams: int
    num_prompt_tokens: int
    num_output_tokens: int

    def prompts(self, seed: str) -> list[list[int]]:
        """Return random prompts. Another seed shares no prefix with them."""
        numbers = random.Random(f"{self.name}-{seed}")
        return [
            [numbers.randrange(FIRST_ID, LAST_ID) for _ in range(self.num_prompt_tokens)]
            for _ in range(self.num_streams)
        ]

    def speed(self, times: Times) -> float:
        """Return tokens a second: of the prompt where one token comes out, of a lone stream's decode, or
        of the output of all streams over the whole time."""
        if self.num_output_tokens == 1:
            return self.num_streams * self.num_prompt_tokens / times.end
        if self.num_streams == 1:
            return (self.num_output_tokens - 1) / (times.end - times.first)
        return self.num_streams * self.num_output_tokens / times.end


WORKLOADS = (
    Workload("single", 1, 32, 128),
    Workload("prefill", 1, 1024, 1),
    Workload("sixteen", 16, 128, 128),
)


@dataclass(frozen=True)
class Times:
    """Seconds from the start to the first token of any stream, and to the last of all."""

    first: float
    end: float


class Engine(Protocol):
    """Something that runs workloads."""

    name: str

    def run(self, workload: Workload, prompts: list[list[int]]) -> Times:
        """Generate, and return the times."""


class Server:
    """An OpenAI-compatible server, asked for streams."""

    name = "pagewire"

    def __init__(self, url: str) -> None:
        self._host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        self._port = int(port or 80)
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as response:
            self._model = json.load(response)["data"][0]["id"]

    def run(self, workload: Workload, prompts: list[list[int]]) -> Times:
        """Stream all prompts at once."""
        return asyncio.run(asyncio.wait_for(self._stream_all(workload, prompts), STREAM_TIMEOUT_S))

    async def _stream_all(self, workload: Workload, prompts: list[list[int]]) -> Times:
        start = time.perf_counter()
        spans = await asyncio.gather(
            *(self._stream(prompt, workload.num_output_tokens) for prompt in prompts)
        )
        return Times(min(first for first, _ in spans) - start, max(end for _, end in spans) - start)

    async def _stream(self, prompt: list[int], num_output_tokens: int) -> tuple[float, float]:
        """Return when the first token and the end arrived."""
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": num_output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        first = end = 0.0
        usage: dict[str, Any] = {}
        async for event in _post(self._host, self._port, "/v1/completions", body):
            end = time.perf_counter()
            first = first or end
            usage = event.get("usage") or usage
        assert usage.get("completion_tokens") == num_output_tokens, usage
        return first, end


async def _post(host: str, port: int, path: str, body: dict[str, Any]) -> Any:
    """Yield the server-sent events of a response. A bare socket, as both cores belong to the server."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        payload = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await reader.read()).decode()}")
        async for line in reader:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                return
        raise RuntimeError("the stream ended without [DONE]")
    finally:
        writer.close()


class Transformers:
    """transformers, generating a static batch."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.name = f"transformers-{dtype}"
        model: Any = _llama_from_gguf(path) if path.is_file() else AutoModelForCausalLM.from_pretrained(path)
        self._model = model.to(getattr(torch, dtype)).eval()
        self._model.generation_config.eos_token_id = None

    def run(self, workload: Workload, prompts: list[list[int]]) -> Times:
        """Generate all prompts as one batch."""
        first: list[float] = []
        start = time.perf_counter()
        self._model.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), workload.num_prompt_tokens, dtype=torch.int64),
            max_new_tokens=workload.num_output_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=[_Clock(first)],
        )
        return Times(first[0] - start, time.perf_counter() - start)


def _llama_from_gguf(path: Path) -> Any:
    """Build the model by hand: transformers' own reader of GGUF files needs another library."""
    config = ModelConfig.load(path)
    make_config: Any = LlamaConfig
    theirs = make_config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.max_position,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        tie_word_embeddings=config.tie_word_embeddings,
    )
    model: Any = LlamaForCausalLM(theirs)
    weights = dict(GGUFFile.open(path).weights())
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


class _Clock:
    """A stopping criterion that never stops, and notes when each token was there."""

    def __init__(self, times: list[float]) -> None:
        self._times = times

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        self._times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@contextlib.contextmanager
def started_server(model: Path, dtype: str, num_threads: int) -> Iterator[str]:
    """Run `pagewire up` and yield its URL once it is ready."""
    ports = [_free_port() for _ in range(3)]
    command = [sys.executable, "-m", "cli", "up", str(model), "--dtype", dtype]
    command += ["--num-threads", str(num_threads), "--log-level", "warning"]
    command += ["--port", str(ports[0]), "--grpc-port", str(ports[1]), "--admin-port", str(ports[2])]
    command += ["--no-enable-metrics"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not become ready (exit code {process.poll()})")
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure(engines: list[Engine], workloads: list[Workload], num_rounds: int) -> list[dict[str, Any]]:
    """Return one line for each workload and engine, with ratios of the first engine to each other."""
    lines = []
    for workload in workloads:
        speeds: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for number in range(num_rounds):
            for engine in engines:
                times = engine.run(workload, workload.prompts(f"{number}"))
                speeds[engine.name].append(workload.speed(times))
                print(workload.name, engine.name, f"{speeds[engine.name][-1]:.1f} tok/s", file=sys.stderr)
        best = max(speeds[engines[0].name])
        lines += [
            {
                "workload": workload.name,
                "engine": name,
                "tok_s": round(max(values), 1),
                "tok_s_all": [round(value, 1) for value in values],
                "ratio": round(best / max(values), 2),
            }
            for name, values in speeds.items()
        ]
    return lines


def environment(num_threads: int) -> dict[str, Any]:
    """Describe the machine and the software."""
    names = ["torch", "transformers"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "num_cpus": os.cpu_count(),
        "num_threads": num_threads,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        "commit": commit,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare the CPU path with transformers.")
    parser.add_argument("--model", type=Path, required=True, help="a folder or a .gguf file")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--url", help="a running server with that model; default: start one")
    parser.add_argument("--workloads", nargs="+", default=[workload.name for workload in WORKLOADS])
    parser.add_argument("--peers", nargs="*", default=None, help="dtypes of transformers; default: both")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the engine and of each peer")
    parser.add_argument("--output", type=Path, help="a file of JSON lines; default: one in results/")
    return parser.parse_args()


def main() -> None:
    """Measure, print and keep the results."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    workloads = [workload for workload in WORKLOADS if workload.name in arguments.workloads]
    context = {"model": arguments.model.name, "dtype": arguments.dtype, **environment(arguments.threads)}
    peers = arguments.peers if arguments.peers is not None else sorted({arguments.dtype, "float32"})
    start = (
        contextlib.nullcontext(arguments.url)
        if arguments.url
        else started_server(arguments.model, arguments.dtype, arguments.threads)
    )
    with start as url:
        engines: list[Engine] = [Server(url), *(Transformers(arguments.model, dtype) for dtype in peers)]
        gc.collect()
        for engine in engines:
            engine.run(Workload("warm-up", 1, 16, 4), Workload("warm-up", 1, 16, 4).prompts("0"))
        lines = [line | context for line in measure(engines, workloads, arguments.rounds)]
    output = arguments.output or RESULTS / f"cpu_serving-{context['date']}.jsonl"
    with output.open("a", encoding="utf-8") as file:
        for line in lines:
            print(json.dumps(line))
            print(json.dumps(line), file=file)


if __name__ == "__main__":
    main()

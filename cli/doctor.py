"""`pagewire doctor`: what this machine can do, and with a model, what the engine makes of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from cli import serve
from cli.flags import Flag, Group, read_groups
from cli.model_flags import ENGINE, MODEL
from cli.values import integer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from cli.machine import Machine
    from engine.model_runner import ModelRunner

PACKAGES = (
    "pagewire",
    "pagewire-client",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "grpcio",
    "protobuf",
)
NUM_DECODE_STEPS = 32
NUM_WARM_UP_STEPS = 4
NUM_PROMPT_TOKENS = 1024
NVIDIA_SMI_TIMEOUT_S = 20.0

GROUPS = (
    Group(
        "doctor",
        (
            Flag(
                name="num-sequences",
                field="num_sequences",
                help="With --model: sequences that decode at once.",
                parse=integer(1),
                metavar="N",
                default="1",
            ),
        ),
    ),
    MODEL,
    ENGINE,
)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what was found, and return the exit code: 1 where the model cannot be loaded.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    for title, finding in system_findings():
        _say(title, finding)
    from engine.host import limit_spinning

    limit_spinning()
    import torch

    from cli.machine import measure

    wanted = values.get("engine.device", "auto")
    device = "cuda" if torch.cuda.is_available() and wanted != "cpu" else "cpu"
    machine = measure(device)
    for title, finding in machine_findings(machine):
        _say(title, finding)
    if "model" not in values:
        print("give --model to see what the engine makes of this")
        return 0
    return _try_engine(values, machine)


def _say(title: str, finding: str) -> None:
    print(f"{title:<22}{finding}", flush=True)


def system_findings() -> Iterator[tuple[str, str]]:
    """Yield what is installed: titles and findings."""
    yield "system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield "cores", str(os.cpu_count())
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"
    compiler = shutil.which("cc")
    yield "C compiler", compiler or "none: CPU steps of few tokens are slower without one"
    if shutil.which("nvidia-smi"):
        for line in _nvidia_smi():
            yield "GPU", line


def _nvidia_smi() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, check=False, timeout=NVIDIA_SMI_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ["nvidia-smi does not answer"]
    return (answer.stdout or answer.stderr).strip().splitlines()


def machine_findings(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield the measured speeds."""
    kind = "copy" if machine.device == "cuda" else "read"
    yield "device", machine.name
    yield f"{kind} bandwidth", f"{machine.bandwidth / 1e9:,.1f} GB/s"
    yield "matrix products", f"{machine.matmul_rate / 1e12:,.2f} TFLOP/s in {machine.matmul_dtype}"


def _try_engine(values: Mapping[str, Any], machine: Machine) -> int:
    from engine.errors import ModelLoadError
    from engine.model_runner import ModelRunner
    from server.loading import engine_config
    from server.model_store import ModelStoreError, resolve_model
    from server.progress import Progress

    own = {field: value for field, value in values.items() if field != "num_sequences"}
    config = serve.to_config(own)
    progress = Progress()
    try:
        path = resolve_model(config, progress)
        runner = ModelRunner.load(engine_config(config, path), progress)
    except (ModelLoadError, ModelStoreError) as error:
        _say("model", f"cannot be loaded: {error}")
        return 1
    finally:
        progress.close()
    info = runner.info
    _say("model", f"{info.architecture} in {info.dtype}, ready in {info.load_seconds:.1f} s")
    _say("KV cache", f"{info.num_blocks * info.block_size:,} tokens, {info.kv_bytes_per_token:,} bytes each")
    for title, finding in engine_findings(runner, machine, int(values.get("num_sequences", 1))):
        _say(title, finding)
    return 0


def engine_findings(runner: ModelRunner, machine: Machine, num_sequences: int) -> Iterator[tuple[str, str]]:
    """Yield the engine's times, each beside its floor."""
    from cli.engine_timing import make_scheduler, time_engine

    info = runner.info
    prompt_len = max(1, min(NUM_PROMPT_TOKENS, info.max_model_len - NUM_DECODE_STEPS - 2))
    scheduler = make_scheduler(runner)
    time_engine(runner, scheduler, num_sequences, prompt_len, NUM_WARM_UP_STEPS)
    prefill_s, decode_s = time_engine(runner, scheduler, num_sequences, prompt_len, NUM_DECODE_STEPS)
    operations = 2.0 * info.num_step_weights
    for title, seconds, floor_s in (
        (
            f"prefill of {num_sequences} x {prompt_len}",
            prefill_s,
            machine.step_floor_s(info.step_weight_bytes, operations * num_sequences * prompt_len),
        ),
        (
            f"decode of {num_sequences}",
            decode_s,
            machine.step_floor_s(
                info.step_weight_bytes + num_sequences * prompt_len * info.kv_bytes_per_token,
                operations * num_sequences,
            ),
        ),
    ):
        yield title, f"{1e3 * seconds:,.3f} ms, floor {1e3 * floor_s:,.3f} ms: {floor_s / seconds:.0%} of it"

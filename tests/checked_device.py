"""The device that the checks of `on_gpu` run on, and how large they are there.

With PAGEWIRE_CHECKS_DEVICE=cpu they run on the CPU with a small model: that shows that the checks work, and
nothing about a GPU. With PAGEWIRE_CHECKS_OUT=FILE each check appends a line of JSON with its figures.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import show
from processes import command_line, descendants

ON_CPU = os.environ.get("PAGEWIRE_CHECKS_DEVICE") == "cpu"
MEBIBYTE = 1 << 20

on_gpu = (
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not ON_CPU and not torch.cuda.is_available(), reason="no CUDA device"),
)
"""The marks of a module of these checks."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the model and of what is asked, in tokens, sequences and blocks."""

    model: dict[str, Any] = field(default_factory=dict)
    """What differs from the published config."""
    flags: tuple[str, ...] = ()
    """Of every server."""
    vocab_size: int
    context_len: int
    max_num_seqs: int
    """Of a server without more flags."""
    prompt_lens: tuple[int, ...]
    """Of the questions."""
    num_tokens: int
    """Of their answers."""
    num_tenants: int
    num_parroted_tokens: int
    """Of the answers that repeat their prompts."""
    long_prompt_len: int
    num_streams: int
    """Open at once while something befalls the server."""
    num_aborts: int
    tight: tuple[str, ...]
    """Flags of a server with a small pool, which computes prompts in small chunks."""
    tight_len: int
    """Context length of that server."""
    precise: tuple[str, ...]
    """Flags of a server in float32 whose pool has room for its rows, until they grow. A step has room for the
    longest question, not for all."""
    precise_num_seqs: int
    """Of that server."""
    patient: tuple[tuple[str, ...], ...]
    """Flags of servers that give prompts little of a step."""


_GPU = Sizes(
    # Longer than published, for a prompt of 64 k tokens.
    model={"max_position_embeddings": 66_560},
    vocab_size=151_936,
    context_len=66_560,
    max_num_seqs=256,
    prompt_lens=(1, 17, 63, 64, 65, 200, 511, 900),
    num_tokens=64,
    num_tenants=64,
    num_parroted_tokens=192,
    long_prompt_len=65_536,
    num_streams=32,
    num_aborts=300,
    tight=("--num-gpu-blocks-override=96", "--max-model-len=2048", "--max-num-batched-tokens=256"),
    tight_len=2048,
    precise=(
        "--dtype=float32",
        "--max-num-seqs=64",
        "--num-gpu-blocks-override=128",
        "--max-model-len=2048",
        "--max-num-batched-tokens=1024",
    ),
    precise_num_seqs=64,
    patient=(("--long-prefill-token-threshold=64",), ("--long-prefill-token-threshold=128",)),
)
_CPU = Sizes(
    model={
        "vocab_size": 2048,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
    },
    flags=("--device=cpu", "--max-num-seqs=16", "--block-size=16"),
    vocab_size=2048,
    context_len=2048,
    max_num_seqs=16,
    prompt_lens=(1, 15, 16, 17, 60),
    num_tokens=24,
    num_tenants=12,
    num_parroted_tokens=48,
    long_prompt_len=1800,
    num_streams=8,
    num_aborts=40,
    tight=("--num-gpu-blocks-override=24", "--max-model-len=192", "--max-num-batched-tokens=32"),
    tight_len=192,
    precise=(
        "--dtype=float32",
        "--num-gpu-blocks-override=40",
        "--max-model-len=192",
        "--max-num-batched-tokens=64",
    ),
    precise_num_seqs=16,
    patient=(("--long-prefill-token-threshold=32",), ("--max-num-batched-tokens=64",)),
)
SIZES = _CPU if ON_CPU else _GPU


def device_memory_bytes() -> tuple[int, int]:
    """What is in use on the device, and what there is; on the CPU what engines below this process hold."""
    if not ON_CPU:
        free, total = torch.cuda.mem_get_info()
        return total - free, total
    num_pages = 0
    for pid in filter(is_engine, descendants(os.getpid())):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            num_pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return num_pages * page_bytes, os.sysconf("SC_PHYS_PAGES") * page_bytes


def is_engine(pid: int) -> bool:
    """Whether a process is an engine, by the command that a server starts it with."""
    return any(word.startswith("--channel-fd=") for word in command_line(pid))


def record(check: str, **figures: Any) -> None:
    """Show a check's figures, and where they were measured."""
    device = "CPU" if ON_CPU else torch.cuda.get_device_name()
    show(check, device=device, torch=torch.__version__, triton=_triton_version(), **figures)


def _triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None

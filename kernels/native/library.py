"""Compiles few_rows.c for this processor and keeps the library in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("few_rows.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")

logger = logging.getLogger(__name__)


@cache
def load_library() -> ctypes.CDLL | None:
    """Return the library; None, with a warning, where this machine cannot compile it."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        logger.warning("there is no C compiler (cc, gcc or CC), so small batches run slower on this CPU")
        return None
    path = _cache_folder() / f"few_rows-{_fingerprint(compiler)}.so"
    if not path.exists():
        try:
            _compile(compiler, path)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            logger.warning("%s failed, so small batches run slower on this CPU: %s", compiler, reason)
            return None
    return ctypes.CDLL(str(path))


def _cache_folder() -> Path:
    configured = os.environ.get("PAGEWIRE_CACHE")
    if configured:
        return Path(configured) / "native"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pagewire" / "native"


def _fingerprint(compiler: str) -> str:
    """Of everything that the machine code depends on."""
    processor = (platform.machine(), sorted(torch.cpu.get_capabilities().items()))
    content = SOURCE.read_bytes() + repr((compiler, FLAGS, processor)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    """Raises OSError or CalledProcessError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        command = [compiler, *FLAGS, "-o", str(fresh), str(SOURCE), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        fresh.replace(path)

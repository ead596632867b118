"""Models from somebody who means harm: nothing of theirs runs, and every file is loaded or refused."""

from __future__ import annotations

import json
import pickle
import socket
from random import Random
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from broken_files import broken_bytes, broken_json, broken_safetensors
from gguf_files import write_gguf
from tiny_model import make_tiny_model

from engine.config import EngineConfig
from engine.errors import ModelLoadError
from engine.model_loading import load_config, load_model
from engine.precision import Precision
from server.tokenizer import Tokenizer
from server.tokenizer_source import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.check("S22"),
    # Weights may be anything that four bytes can be.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),
]

FLOAT32 = Precision(*[torch.float32] * 4)
SOME, ALL = 150, 2_000
MAX_GGUF_HEADER = 2_500


def load(path: Path) -> None:
    """All that the engine does before it computes."""
    config = load_config(path, "auto")
    engine_config = EngineConfig(model_path=str(path), device="cpu")
    load_model(config, engine_config, path, 64, FLOAT32, torch.device("cpu"), lambda *_: None)


def load_or_refuse(path: Path) -> bool:
    """Whether it was refused; any other error is a bug of ours."""
    try:
        load(path)
    except ModelLoadError:
        return True
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gguf_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(folder, path, "smollm2", gguf.GGMLQuantizationType.Q8_0)
    return path


def try_all(path: Path, load_from: Path, breaks: Callable[[bytes, Random], bytes], count: int) -> None:
    """Load after each of so many ways to break a file, then put the good one back."""
    good, random = path.read_bytes(), Random(0)
    load(load_from)
    try:
        refused = 0
        for _ in range(count):
            path.write_bytes(breaks(good, random))
            refused += load_or_refuse(load_from)
    finally:
        path.write_bytes(good)
    assert refused > count / 4


def _broken_config(data: bytes, random: Random) -> bytes:
    return broken_json(data.decode(), random).encode()


def _broken_gguf(data: bytes, random: Random) -> bytes:
    return broken_bytes(data, random, MAX_GGUF_HEADER)


@pytest.mark.parametrize(
    "count", [SOME, pytest.param(ALL, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
class TestBrokenFiles:
    def test_safetensors(self, folder: Path, count: int) -> None:
        try_all(folder / "model.safetensors", folder, broken_safetensors, count)

    def test_config(self, folder: Path, count: int) -> None:
        try_all(folder / "config.json", folder, _broken_config, count)

    def test_gguf(self, gguf_file: Path, count: int) -> None:
        try_all(gguf_file, gguf_file, _broken_gguf, count)


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return self._trace.touch, ()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What the code of the models here would make, if it ran."""
    return tmp_path / "trace"


def set_fields(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def add_code(folder: Path, trace: Path) -> None:
    code = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n"
    for name in ("configuration_mine.py", "modeling_mine.py", "tokenization_mine.py"):
        (folder / name).write_text(code)


AUTO_MAP = {
    "AutoConfig": "configuration_mine.MyConfig",
    "AutoModelForCausalLM": "modeling_mine.MyModel",
    "AutoTokenizer": ["tokenization_mine.MyTokenizer", None],
}


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "mine", "architectures": ["MyModel"], "auto_map": AUTO_MAP},
        {"architectures": ["MyModel"], "auto_map": AUTO_MAP},
        {"architectures": ["GemmaForCausalLM"], "auto_map": AUTO_MAP},
    ],
)
def test_code_that_comes_with_a_model_does_not_run(model: Path, trace: Path, fields: dict[str, Any]) -> None:
    add_code(model, trace)
    set_fields(model / "config.json", **fields)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        load(model)
    assert not trace.exists()


def test_code_beside_a_model_that_needs_none_does_not_run(model: Path, trace: Path) -> None:
    add_code(model, trace)
    set_fields(model / "config.json", auto_map=AUTO_MAP, trust_remote_code=True)
    load(model)
    assert not trace.exists()


@pytest.mark.parametrize(
    "field", ["_attn_implementation_internal", "_attn_implementation", "attn_implementation"]
)
def test_a_config_that_names_code_of_a_hub_fetches_none(
    model: Path, trace: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers before 5.3 ran it (CVE-2026-4372)."""

    def connect(*_: object) -> None:
        trace.touch()
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    set_fields(model / "config.json", **{field: "owner/kernel"}, hidden_act="gelu")
    load_or_refuse(model)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.safetensors", "model.pt"])
def test_nothing_is_unpickled(model: Path, trace: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(trace)))
    for impl in ("LlamaForCausalLM", "GemmaForCausalLM"):
        set_fields(model / "config.json", architectures=[impl])
        with pytest.raises(ModelLoadError):
            load(model)
    assert not trace.exists()


def test_a_tokenizer_that_needs_code_is_refused(model: Path, trace: Path) -> None:
    add_code(model, trace)
    (model / "tokenizer.json").unlink()
    (model / "vocab.json").write_text("{}")
    set_fields(model / "tokenizer_config.json", tokenizer_class="MyTokenizer", auto_map=AUTO_MAP)
    with pytest.raises(TokenizerError):
        Tokenizer.load(model)
    assert not trace.exists()


def test_the_trap_would_have_snapped(trace: Path) -> None:
    pickle.loads(pickle.dumps(Trap(trace)))
    assert trace.exists()

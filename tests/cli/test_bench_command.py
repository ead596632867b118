"""`pagewire bench` and `pagewire doctor` as they are typed."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import grpc
import pytest
from certificates import authority
from fakes import FakeEngine, serve
from scripted_backend import delta, fails, finished, plays, reason, serving, started
from scripted_server import ScriptedServer
from tls_translator import translating

from cli import doctor
from cli.__main__ import main
from cli.doors import DoorError, open_door
from cli.workload import PlannedRequest
from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire.channel import tls_credentials
from server.tls import server_credentials
from translator.tls import HttpTls

if TYPE_CHECKING:
    from pathlib import Path

    from cli.doors import Timing

REQUEST = PlannedRequest([5, 6, 7], output_len=2)


def ask(target: str, model: str = "") -> Timing:
    async def run() -> Timing:
        async with open_door(target, model) as door:
            return await door.generate(REQUEST, 0.0)

    return asyncio.run(run())


def test_the_http_door() -> None:
    with serving() as house:
        house.servicer.script = plays(started(), delta("a"), delta("b"), finished())
        timing = ask(house.url)
    assert timing.num_prompt_tokens == 3
    assert timing.num_output_tokens == 2
    assert len(timing.gaps_s) >= 1
    assert 0 < timing.first_token_s <= timing.total_s


def test_the_http_door_says_what_was_refused() -> None:
    with serving() as house:
        house.servicer.script = fails(grpc.StatusCode.NOT_FOUND, "no such model", reason("MODEL_NOT_FOUND"))
        with pytest.raises(DoorError, match=r"status 404: .*no such model"):
            ask(house.url, "nope")


def test_serve_prints_a_table_and_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    server = ScriptedServer()
    lines = tmp_path / "lines.jsonl"
    words = [
        "--target",
        server.target,
        "--num-requests",
        "3",
        "--concurrency",
        "1",
        "--input-len",
        "4",
        "--vocab-size",
        "300",
    ]
    try:
        assert main(["bench", "serve", *words, "--output-json", str(lines)], {}) == 0
    finally:
        server.stop()
    assert "time to first token, ms" in capsys.readouterr().out
    (line,) = map(json.loads, lines.read_text().splitlines())
    assert line["requests"] == 3
    assert line["wall_s"] > 0


async def test_both_doors_with_tls_and_a_key(tmp_path: Path) -> None:
    ours, keys = authority(tmp_path), (parse_key("right"),)
    files = ours.issue("server", authorities=ours.roots)
    shown = ours.issue("client", "client")
    trusted = {"grpc_ca_certs": ours.roots}
    tls = trusted | {"grpc_client_certfile": shown.chain, "grpc_client_keyfile": shown.key}
    async with serve(
        FakeEngine(), keys=KeyRing(keys), credentials=lambda: server_credentials(files)
    ) as server:
        async with open_door(server.target, "", "right", tls) as door:
            assert (await door.generate(REQUEST, 0.0)).num_output_tokens == 2
        async with translating(
            HttpTls(files), server.target, tls_credentials(ours.roots, shown.chain, shown.key)
        ) as port:
            url = f"https://127.0.0.1:{port}"
            async with open_door(url, "fake-model", "right", tls) as door:
                assert (await door.generate(REQUEST, 0.0)).num_output_tokens == 2
            async with open_door(url, "fake-model", "right", trusted) as door:
                with pytest.raises((OSError, DoorError)):
                    await door.generate(REQUEST, 0.0)


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--target", "http://127.0.0.1:9", "--num-requests", "1"], {}) == 1
    assert capsys.readouterr().err.startswith("pagewire bench: ")


def test_doctor_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu"], {}) == 0
    printed = capsys.readouterr().out
    assert "GB/s" in printed
    assert "TFLOP/s in float32" in printed
    assert "--model" in printed


@pytest.mark.parametrize(
    ("program", "timeout_s", "finding"),
    [
        ("#!/bin/sh\necho 'Some GPU, 1.2, 80 MiB'\n", 60.0, "Some GPU, 1.2, 80 MiB"),
        ("#!/bin/sh\nexec sleep 60\n", 0.5, "nvidia-smi does not answer"),
        ("#!/no/shell\n", 60.0, "nvidia-smi does not answer"),
    ],
    ids=["answers", "hangs", "cannot start"],
)
def test_doctor_asks_for_gpus_and_goes_on_without_an_answer(
    program: str, timeout_s: float, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "nvidia-smi"
    file.write_text(program)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "NVIDIA_SMI_TIMEOUT_S", timeout_s)
    assert list(doctor.system_findings())[-1] == ("GPU", finding)


def test_doctor_with_a_model(capsys: pytest.CaptureFixture[str], smollm2_path: Path) -> None:
    words = [
        str(smollm2_path),
        "--device",
        "cpu",
        "--max-model-len",
        "128",
        "--num-gpu-blocks-override",
        "16",
    ]
    assert main(["doctor", *words], {}) == 0
    printed = capsys.readouterr().out
    assert "LlamaForCausalLM" in printed
    assert "decode of 1" in printed
    assert "floor" in printed

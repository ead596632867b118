"""`pagewire chat` and `pagewire health` against a scripted server."""

from __future__ import annotations

import io
import re

import pytest
from scripted_server import INVALID, ScriptedServer, delta, finished

from cli.__main__ import main


def test_one_message(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chat", "hi", "--grpc-target", server.target, "--system", "Be brief.", "--max-tokens", "5"]
    assert main(words, {"PAGEWIRE_TEMPERATURE": "0.5"}) == 0
    captured = capsys.readouterr()
    assert captured.out == "Paris\n"
    assert captured.err == ""
    spec = server.script.spec
    assert [(message.role, message.text) for message in spec.chat.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
    ]
    assert spec.stopping.max_tokens == 5
    assert spec.sampling.temperature == 0.5


def test_stats(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "hi", "--stats"], {"PAGEWIRE_GRPC_TARGET": server.target}) == 0
    error = capsys.readouterr().err
    assert error.startswith("time to first token ")
    assert "2 tokens" in error
    assert error.endswith("tokens/s\n")


def test_stats_of_answers_that_have_no_pace(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["chat", "hi", "--stats", "--grpc-target", server.target]
    server.script.answer = lambda: [delta("A"), finished(1)]
    assert main(words, {}) == 0
    server.script.answer = lambda: [delta("", reasoning_text="Hm"), finished(1)]
    assert main(words, {}) == 0
    server.script.answer = lambda: [finished(1)]
    assert main(words, {}) == 0
    captured = capsys.readouterr()
    assert captured.out == "A\n"
    first, second, third = captured.err.splitlines()
    assert re.fullmatch(r"time to first token [\d.]+ s, 1 token", first)
    assert re.fullmatch(r"time to first token [\d.]+ s, 1 token", second)
    assert third == "1 token"


def test_a_conversation_remembers_what_was_said(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\nand then?\n"))
    assert main(["chat"], {"PAGEWIRE_GRPC_TARGET": server.target}) == 0
    assert capsys.readouterr().out == "Paris\nParis\n"
    assert [(message.role, message.text) for message in server.script.spec.chat.messages] == [
        ("user", "hi"),
        ("assistant", "Paris"),
        ("user", "and then?"),
    ]


def test_an_error_is_one_line(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.script.fail = INVALID
    assert main(["chat", "hi"], {"PAGEWIRE_GRPC_TARGET": server.target}) == 1
    assert capsys.readouterr().err == "pagewire chat: the request is not valid\n"


def test_health(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.set_ready(True)
    assert main(["health", "--target", server.target], {}) == 0
    server.set_ready(False)
    assert main(["health"], {"PAGEWIRE_TARGET": server.target}) == 1
    assert capsys.readouterr().err == f"{server.target} is ready\n{server.target} is not ready\n"


def test_health_of_the_process(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.set_ready(False)
    assert main(["health", "--target", server.target, "--live"], {}) == 0
    server.set_live(False)
    assert main(["health", "--target", server.target], {"PAGEWIRE_LIVE": "yes"}) == 1
    assert capsys.readouterr().err == f"{server.target} is live\n{server.target} is not live\n"


def test_health_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--target", "127.0.0.1:1"], {}) == 1
    assert main(["health", "--target", "http://127.0.0.1:1"], {}) == 1
    assert "UnavailableError" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["health"], ["bench", "serve"]])
@pytest.mark.parametrize("target", ["http://[::1", "http://", "https://a:99999", "http://a:b", "a"])
def test_a_target_that_is_none_is_refused(
    command: list[str], target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--target", target], {}) == 2
    expected = f'--target: expected HOST:PORT or unix:PATH, or http://HOST:PORT, got "{target}"'
    assert capsys.readouterr().err == f"pagewire {command[0]}: {expected}\n"

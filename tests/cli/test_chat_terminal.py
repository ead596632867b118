"""`pagewire chat` at a terminal."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest
from scripted_server import OVERLOADED, ScriptedServer, delta, finished
from terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_server import Event

HELD_S = 0.25


def chat(server: ScriptedServer, *words: str) -> Terminal:
    return Terminal(["chat", "--grpc-target", server.target, *words])


def prompts(server: ScriptedServer) -> list[str]:
    return [message.text for message in server.script.spec.chat.messages]


def test_an_error_ends_the_answer_and_not_the_conversation(server: ScriptedServer) -> None:
    with chat(server) as terminal:
        terminal.read_until("> ")
        server.script.fail, server.script.fail_after_start = OVERLOADED, True
        terminal.type("first\n")
        assert "Pa\r\npagewire chat: the queue is full\r\n" in terminal.read_until("> ")
        server.script.fail = None
        terminal.type("second\n")
        assert "Paris\r\n" in terminal.read_until("> ")
        assert prompts(server) == ["second"]
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_ctrl_c_stops_an_answer_and_at_the_prompt_the_conversation(server: ScriptedServer) -> None:
    with chat(server) as terminal:
        terminal.read_until("> ")
        server.script.hold = True
        terminal.type("first\n")
        terminal.read_until("Pa")
        terminal.interrupt()
        terminal.read_until("> ")
        assert server.script.cancelled.wait(60)
        server.script.hold = False
        terminal.type("second\n")
        assert "Paris\r\n" in terminal.read_until("> ")
        assert prompts(server) == ["second"]
        terminal.interrupt()
        assert terminal.wait() == 130


def test_a_line_can_be_edited(server: ScriptedServer) -> None:
    pytest.importorskip("readline")
    with chat(server) as terminal:
        terminal.read_until("> ")
        terminal.type("ac\x1b[Db\n")
        terminal.read_until("Paris")
        assert prompts(server) == ["abc"]


def test_reasoning_is_dim_and_the_clock_starts_with_it(server: ScriptedServer) -> None:
    seen = threading.Event()

    def answer() -> Iterator[Event]:
        yield delta("", reasoning_text="Hm")
        assert seen.wait(60)
        yield delta("Paris")
        yield finished()

    server.script.answer = answer
    with chat(server, "hi", "--stats") as terminal:
        terminal.read_until("\x1b[2mHm\x1b[0m")
        threading.Event().wait(HELD_S)
        seen.set()
        assert terminal.read_until("Paris\r\n") == "\r\nParis\r\n"
        figures = terminal.read_until("tokens/s")
        assert terminal.wait() == 0
    found = re.search(r"2 tokens, ([\d.]+) tokens/s", figures)
    assert found is not None
    assert float(found[1]) <= 1 / HELD_S

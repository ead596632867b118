"""Who leaves before a whole answer frees it; who leaves within the request never begins it."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from fake_doors import FakeDoors, fake_doors
from fakes import FakeEngine
from processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.check("R07"), pytest.mark.check("R06")]

SAID = [{"role": "user", "content": "hi"}]
ASKED: dict[str, tuple[str, dict[str, Any], int]] = {
    "chat": ("/v1/chat/completions", {"messages": SAID}, 1),
    "three choices": ("/v1/chat/completions", {"messages": SAID, "n": 3}, 3),
    "completion": ("/v1/completions", {"prompt": "hello"}, 1),
    "two prompts": ("/v1/completions", {"prompt": ["hello", "there"], "n": 2}, 4),
    "response": ("/v1/responses", {"input": "hello"}, 1),
    "message": ("/v1/messages", {"messages": SAID, "max_tokens": 50}, 1),
    "embedding": ("/v1/embeddings", {"input": ["hello", "there"]}, 2),
}
"""Route, body and number of sequences in the engine."""


@pytest.fixture(scope="module")
def doors() -> Iterator[FakeDoors]:
    with fake_doors(lambda: FakeEngine(manual=True)) as doors:
        yield doors


def request_bytes(route: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def leave(connection: socket.socket, resets: bool) -> None:
    if resets:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def wait_until_free(doors: FakeDoors) -> None:
    """Wait until neither engine nor server nor translator holds anything."""

    def is_free() -> bool:
        admission = doors.server.services.admission
        return not (doors.engine.live or admission.num_live or doors.backend.num_running)

    wait_until(is_free, "all is free")


async def run(engine: FakeEngine, num_sequences: int, num_steps: int) -> None:
    """Wait for all sequences of a request, and generate some of their tokens."""
    async with asyncio.timeout(60):
        await engine.until(num_sequences)
    for _ in range(num_steps):
        engine.step()


@pytest.mark.parametrize("resets", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("name", ASKED)
def test_leaving_frees_everything(doors: FakeDoors, name: str, resets: bool) -> None:
    route, body, num_sequences = ASKED[name]
    for num_steps in range(1 if name == "embedding" else 5):
        num_aborted = len(doors.engine.aborted)
        connection = socket.create_connection(("127.0.0.1", doors.port), timeout=60)
        connection.sendall(request_bytes(route, body))
        doors.portal.call(run, doors.engine, num_sequences, num_steps)
        leave(connection, resets)
        wait_until_free(doors)
        assert len(doors.engine.aborted) == num_aborted + num_sequences


@pytest.mark.parametrize("name", ASKED)
def test_leaving_within_the_request_begins_nothing(doors: FakeDoors, name: str) -> None:
    route, body, _ = ASKED[name]
    request = request_bytes(route, body)
    num_begun = len(doors.engine.requests)
    rng = random.Random(name)
    for resets in [False, True] * 4:
        connection = socket.create_connection(("127.0.0.1", doors.port), timeout=60)
        connection.sendall(request[: rng.randrange(len(request))])
        leave(connection, resets)
    wait_until_free(doors)
    assert len(doors.engine.requests) == num_begun


def test_the_ids_of_those_who_left_may_be_used_again(doors: FakeDoors) -> None:
    route, body, num_sequences = ASKED["chat"]
    request = request_bytes(route, body | {"request_id": "again"})
    for _ in range(5):
        connection = socket.create_connection(("127.0.0.1", doors.port), timeout=60)
        connection.sendall(request)
        doors.portal.call(run, doors.engine, num_sequences, 1)
        leave(connection, resets=True)
        wait_until_free(doors)

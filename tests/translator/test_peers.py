"""Processes of one translator that ask one another, where some are not there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from translator import peers as peers_module
from translator.config import TranslatorConfig, Worker
from translator.errors import ApiError
from translator.peers import Peers, PeerServer
from translator.response_shelf import TURNS, ResponseShelf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from translator.response_object import Body

ELSEWHERE = f"resp_{30 * 'a'}01"
"""The id of a response that process 1 made."""


async def no_app(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("nothing is relayed")


async def echo(question: bytes) -> bytes:
    return question


@asynccontextmanager
async def first_of_two(folder: Path) -> AsyncIterator[Peers]:
    peers = Peers(Worker(0, 2, str(folder)))
    try:
        yield peers
    finally:
        await peers.close()


async def test_a_peer_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    async with first_of_two(tmp_path) as peers:
        asked = asyncio.create_task(peers.ask(1, "echo", "hi"))
        await asyncio.sleep(0.3)  # in which it has failed to connect
        server = PeerServer(Worker(1, 2, str(tmp_path)), no_app, {"echo": echo})
        await server.start()
        assert msgspec.msgpack.decode(await asked) == "hi"
        assert await peers.ask_all("echo", 7) == {1: msgspec.msgpack.encode(7)}
        await server.stop()


async def test_a_silent_peer_is_not_waited_for_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with first_of_two(tmp_path) as peers:
        monkeypatch.setattr(peers_module, "TIMEOUT_S", 0.2)
        assert await peers.ask_all("echo", 7) == {1: None}
        monkeypatch.setattr(peers_module, "TIMEOUT_S", 3600)
        assert await peers.ask_all("echo", 7) == {1: None}
        monkeypatch.setattr(peers_module, "SILENT_TIMEOUT_S", 30)
        server = PeerServer(Worker(1, 2, str(tmp_path)), no_app, {"echo": echo})
        await server.start()
        assert await peers.ask_all("echo", 7) == {1: msgspec.msgpack.encode(7)}
        monkeypatch.setattr(peers_module, "SILENT_TIMEOUT_S", 0)
        assert await peers.ask_all("echo", 7) == {1: msgspec.msgpack.encode(7)}
        await server.stop()


async def test_what_an_absent_peer_may_hold_is_unavailable_rather_than_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "TIMEOUT_S", 0.2)
    async with first_of_two(tmp_path) as peers:
        assert await peers.ask_all("echo", None) == {1: None}
        shelf = ResponseShelf(TranslatorConfig(), peers)
        for response_id, item_ids in ((ELSEWHERE, ()), (None, ("msg_unknown",))):
            with pytest.raises(ApiError) as raised:
                await shelf.earlier("somebody", response_id, item_ids)
            assert raised.value.status == 503


async def test_earlier_turns_elsewhere_are_measured_as_they_are_here(tmp_path: Path) -> None:
    config = TranslatorConfig(max_body_bytes=10_000)
    elsewhere = ResponseShelf(config)
    ids = [f"resp_{number:030x}01" for number in range(50)]
    for response_id, previous_id in zip(ids, [None, *ids], strict=False):
        body: Body = {"id": response_id, "output": [], "previous_response_id": previous_id}
        elsewhere.store.put("somebody", body, [])
    server = PeerServer(Worker(1, 2, str(tmp_path)), no_app, {TURNS: elsewhere.tell_turns})
    await server.start()
    async with first_of_two(tmp_path) as peers:
        known = await ResponseShelf(config, peers).earlier("somebody", ids[-1])
        assert set(known.fetched) == set(ids)
    await server.stop()

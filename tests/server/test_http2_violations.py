"""Broken HTTP/2 at a real server process: it ends its own connection or call, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from http2_peer import HEALTH_CHECK, Peer, verdict_of
from http2_violations import CALLS, CONNECTION, IGNORED, ODD_CALLS, OPENINGS
from server_house import ServerHouse, server_house

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("S19")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHouse]:
    with server_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture(scope="module")
def neighbour(house: ServerHouse) -> Iterator[Any]:
    """A method that is called over one connection all the while."""
    with grpc.insecure_channel(house.target) as channel:
        yield channel.unary_unary(HEALTH_CHECK)


@pytest.fixture(autouse=True)
def _neighbour_is_well(house: ServerHouse, neighbour: Any) -> Iterator[None]:
    yield
    assert neighbour(b"", timeout=60)
    assert house.process.poll() is None, house.log.read_text()


@pytest.mark.parametrize("name", OPENINGS)
def test_a_wrong_greeting_ends_the_connection(house: ServerHouse, name: str) -> None:
    with Peer(house.port, greets=False) as peer:
        peer.send_bytes(OPENINGS[name])
        assert verdict_of(peer) == "ended"


@pytest.mark.parametrize("name", CONNECTION)
def test_a_broken_frame_ends_its_connection_or_call(house: ServerHouse, name: str) -> None:
    with Peer(house.port) as peer:
        peer.send_bytes(CONNECTION[name])
        assert verdict_of(peer) in ("ended", "refused")


@pytest.mark.parametrize("name", CALLS)
def test_a_broken_call_is_not_served(house: ServerHouse, name: str) -> None:
    with Peer(house.port) as peer:
        peer.send_bytes(CALLS[name])
        assert verdict_of(peer) != "served"


@pytest.mark.parametrize("name", IGNORED)
def test_what_grpc_ignores_has_no_effect(house: ServerHouse, name: str) -> None:
    with Peer(house.port) as peer:
        peer.send_bytes(IGNORED[name])
        assert verdict_of(peer) != "served"


@pytest.mark.parametrize("name", ODD_CALLS)
def test_an_odd_call_hurts_nobody_else(house: ServerHouse, name: str) -> None:
    with Peer(house.port) as peer:
        peer.send_bytes(ODD_CALLS[name])
        assert verdict_of(peer) in ("ended", "ignored", "refused", "served")


def test_a_whole_call_is_served(house: ServerHouse) -> None:
    """So that a verdict means something."""
    with Peer(house.port) as peer:
        peer.send_bytes(ODD_CALLS["data after the end"])
        assert verdict_of(peer) == "served"

"""Floods of HTTP/2 frames at a real server process, with a well-behaved client beside them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from figures import show
from http2_attacks import ATTACKS, RAPID_RESET
from http2_peer import HEALTH_CHECK, Peer
from processes import wait_until
from server_house import ServerHouse, server_house

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("S18")

MAX_GROWTH_BYTES = 16 << 20
NUM_PIECES = 3_000
ALL_PIECES = 20_000
LONGEST_CALL_S = 0.25
"""On a machine that does nothing else."""
UNFOLDING = "headers that unfold"
"""Eighty million fields, all of which gRPC reads before it refuses their calls: three seconds of a CPU."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHouse]:
    with server_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture(scope="module")
def usual_bytes(house: ServerHouse) -> int:
    """The server's memory once it has seen floods: what threads and tables keep is there from now on."""
    at_first = house.resident_bytes()
    for attack in (RAPID_RESET, ATTACKS[UNFOLDING]):
        attack(house.port, NUM_PIECES)
    wait_until(lambda: house.resident_bytes() < 2 * at_first, "what floods took is back", timeout_s=100)
    return house.resident_bytes()


class GoodClient:
    """Asks for health over one connection, again and again, in a thread of its own."""

    def __init__(self, target: str) -> None:
        self.errors: list[grpc.RpcError] = []
        self.num_calls = 0
        self.longest_s = 0.0
        self._target = target
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            check: Any = channel.unary_unary(HEALTH_CHECK)
            while not self._stop.is_set():
                began_s = time.monotonic()
                try:
                    check(b"", timeout=100)
                except grpc.RpcError as error:
                    self.errors.append(error)
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
                self.num_calls += 1
                self._first.set()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """It has made a call before, and makes another one after."""
        self._thread.start()
        self._first.wait()
        try:
            yield
            self._first.clear()
            self._first.wait()
        finally:
            self._stop.set()
            self._thread.join()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_flood_hurts_nobody_else(house: ServerHouse, usual_bytes: int, name: str) -> None:
    flood(house, usual_bytes, name, NUM_PIECES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_a_great_flood_hurts_nobody_else(house: ServerHouse, usual_bytes: int, name: str) -> None:
    longest_s = flood(house, usual_bytes, name, ALL_PIECES)
    show("S18", flood=name, longest_ms=round(1000 * longest_s))
    assert longest_s < LONGEST_CALL_S or name == UNFOLDING


def flood(house: ServerHouse, usual_bytes: int, name: str, num_pieces: int) -> float:
    """Return how long the longest call of the client beside it took, in seconds."""
    client = GoodClient(house.target)
    with client.working():
        ATTACKS[name](house.port, num_pieces)
    assert not client.errors
    assert client.num_calls > 1
    wait_until(
        lambda: house.resident_bytes() - usual_bytes < MAX_GROWTH_BYTES, "the memory is back", timeout_s=100
    )
    assert house.process.poll() is None, house.log.read_text()
    return client.longest_s


def test_many_connections_that_say_nothing_hurt_nobody(house: ServerHouse) -> None:
    client = GoodClient(house.target)
    with contextlib.ExitStack() as stack, client.working():
        for index in range(200):
            stack.enter_context(Peer(house.port, greets=index % 2 == 0))
    assert not client.errors

"""The translator, the connection behind it, or the server behind that goes, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from fake_house import FakeHouse
from figures import show
from open_calls import BODIES, End, http_stream, http_unary
from processes import is_alive, wait_until
from resetting_proxy import ResettingProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NUM_CALLS = 16
NUM_RESETS = 5
TIMEOUT_S = 100.0


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    with FakeHouse(tmp_path_factory.mktemp("house"), ["--drain-timeout=0.2"]) as house:
        yield house


@contextlib.asynccontextmanager
async def open_calls(house: FakeHouse) -> AsyncIterator[list[asyncio.Task[End]]]:
    """Calls by HTTP, half of them unary, of which each has a running sequence."""
    async with httpx.AsyncClient(base_url=house.base_url, timeout=TIMEOUT_S) as client:
        calls = [
            asyncio.create_task(call(client, path))
            for call in (http_stream, http_unary)
            for path in list(BODIES) * (NUM_CALLS // 2 // len(BODIES))
        ]
        await asyncio.to_thread(house.wait_until_running, NUM_CALLS)
        yield calls


async def outcomes(calls: list[asyncio.Task[End]]) -> list[End | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


def check_all_freed(house: FakeHouse) -> None:
    """No sequence runs, and no block is lost."""
    house.wait_until_idle()
    engine = house.stats().engine
    assert engine.num_free_blocks + engine.num_cached_blocks == 4096 * 8


async def check_serves(house: FakeHouse) -> None:
    house.wait_until_live()
    house.wait_until_served()
    async with httpx.AsyncClient(base_url=house.base_url, timeout=TIMEOUT_S) as client:
        assert (await http_stream(client, "/v1/completions", 5)).has_good_end
        assert (await http_unary(client, "/v1/completions", 5)).has_good_end


async def kill_translator(house: FakeHouse) -> tuple[float, float]:
    """Return how long it took until all was freed, and until a new one served, in seconds."""
    async with open_calls(house) as calls:
        killed_s = time.monotonic()
        house.translator.kill()
        house.translator.wait()
        for outcome in await outcomes(calls):
            cut = isinstance(outcome, httpx.TransportError) or (
                isinstance(outcome, End) and outcome.error == "cut" and not outcome.has_good_end
            )
            assert cut, outcome
    await asyncio.to_thread(check_all_freed, house)
    freed_s = time.monotonic()
    house.start_translator()
    await check_serves(house)
    return freed_s - killed_s, time.monotonic() - freed_s


@pytest.mark.check("R04")
async def test_a_killed_translator_leaves_nothing_running(fake_house: FakeHouse) -> None:
    await kill_translator(fake_house)


@pytest.mark.slow
@pytest.mark.check("R04")
@pytest.mark.timeout(600)
async def test_a_killed_translator_twenty_times(fake_house: FakeHouse) -> None:
    times = [await kill_translator(fake_house) for _ in range(20)]
    freed_s, served_s = map(max, zip(*times, strict=True))
    show("R04", freed_s=round(freed_s, 3), served_s=round(served_s, 3))
    assert freed_s < 1
    assert served_s < 3


@pytest.mark.check("R04", "R12")
async def test_a_translator_that_is_told_to_end_ends_its_calls_with_an_error(fake_house: FakeHouse) -> None:
    """They do not end in time, so its clients hear that they are lost."""
    async with open_calls(fake_house) as calls:
        fake_house.translator.send_signal(signal.SIGTERM)
        for outcome in await outcomes(calls):
            assert isinstance(outcome, End), outcome
            assert outcome.error in ("shutting_down", "overloaded_error", "server_error"), outcome
            assert not outcome.has_good_end
    assert await asyncio.to_thread(fake_house.translator.wait, TIMEOUT_S) == 0
    await asyncio.to_thread(check_all_freed, fake_house)
    fake_house.start_translator()
    await check_serves(fake_house)


@pytest.mark.check("R04", "R06")
async def test_a_reset_connection_to_the_server_fails_its_calls_and_is_replaced(
    fake_house: FakeHouse,
) -> None:
    fake_house.translator.kill()
    fake_house.translator.wait()
    async with ResettingProxy(fake_house.port) as proxy:
        fake_house.start_translator(target=proxy.target)
        await asyncio.to_thread(fake_house.wait_until_served)
        for _ in range(NUM_RESETS):
            async with open_calls(fake_house) as calls:
                proxy.reset()
                for outcome in await outcomes(calls):
                    assert isinstance(outcome, End), outcome
                    assert outcome.error in ("unavailable", "overloaded_error", "server_error"), outcome
                    assert not outcome.has_good_end
            await asyncio.to_thread(check_all_freed, fake_house)
            await asyncio.to_thread(fake_house.wait_until_served)
        fake_house.translator.kill()
        fake_house.translator.wait()
    fake_house.start_translator()
    await check_serves(fake_house)


@pytest.mark.check("R01", "R04")
async def test_a_killed_server_is_found_again_by_the_translator(fake_house: FakeHouse) -> None:
    """Its engine ends with it, and its successor is served without a new translator."""
    engine_pid = fake_house.engine_pid()
    async with open_calls(fake_house) as calls:
        fake_house.server.kill()
        fake_house.server.wait()
        for outcome in await outcomes(calls):
            assert isinstance(outcome, End), outcome
            assert outcome.error in ("unavailable", "overloaded_error", "server_error"), outcome
            assert not outcome.has_good_end
    async with httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S) as client:
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
        assert (await client.get("/health/live")).status_code == 200
        assert (await http_unary(client, "/v1/completions", 5)).status == "503"
    await asyncio.to_thread(wait_until, lambda: not is_alive(engine_pid), "the engine has ended")
    fake_house.start_server()
    await asyncio.to_thread(fake_house.wait_until_ready)
    await check_serves(fake_house)

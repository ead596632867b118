"""A translator of three processes on one port: whichever one is asked, the answer is the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from exposition import Scrape, problems
from fake_house import START_TIMEOUT_S, FakeHouse
from open_calls import http_stream
from processes import descendants, is_alive, pagewire_up, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUM_PROCESSES = 3
TIMEOUT_S = 100.0
MAX_CLIENTS = 100
RESPONSES = "/v1/responses"
KEY, NEW_KEY = "k" * 20, "n" * 20

Clients = dict[int, httpx.Client]


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    flags = ["-asc", str(NUM_PROCESSES), f"--drain-timeout={TIMEOUT_S}", "--log-format=json"]
    with FakeHouse(tmp_path_factory.mktemp("house"), flags) as house:
        wait_until(lambda: processes_of(house) == set(range(NUM_PROCESSES)), "all answer", START_TIMEOUT_S)
        yield house


@pytest.fixture
def clients(fake_house: FakeHouse) -> Iterator[Clients]:
    """A client for each process. They stay connected, so that is the one that answers them."""
    fake_house.wait_until_served()
    with contextlib.ExitStack() as stack:
        yield connect_to_all(stack, fake_house)


def connect_to_all(stack: contextlib.ExitStack, house: FakeHouse, **headers: str) -> Clients:
    found: Clients = {}
    limits = httpx.Limits(max_connections=1)
    for _ in range(MAX_CLIENTS):
        client = stack.enter_context(
            httpx.Client(base_url=house.base_url, timeout=TIMEOUT_S, limits=limits, headers=headers)
        )
        found.setdefault(process_of(respond(client)), client)
        if len(found) == NUM_PROCESSES:
            return found
    raise AssertionError(f"of {MAX_CLIENTS} connections, none went to some process: {sorted(found)}")


def respond(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post(RESPONSES, json={"input": "hi", "max_output_tokens": 3} | fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def process_of(response: dict[str, Any]) -> int:
    """The process that made a response, which its id tells."""
    return int(response["id"][-2:], 16)


def scrape(house: FakeHouse) -> Scrape:
    text = httpx.get(f"{house.base_url}/metrics", timeout=TIMEOUT_S).text
    assert problems(text) == []
    return Scrape(text)


def processes_of(house: FakeHouse) -> set[int]:
    with contextlib.suppress(httpx.TransportError):
        return {int(labels["process"]) for labels in scrape(house).labels("process_resident_memory_bytes")}
    return set()


def items_of(client: httpx.Client, response_id: str) -> list[str]:
    answer = client.get(f"{RESPONSES}/{response_id}/input_items", params={"order": "asc", "limit": 100})
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


def test_a_conversation_goes_on_in_any_process(clients: Clients) -> None:
    turns = [respond(clients[0])]
    for index in (1, 2, 0, 0, 2):
        turns.append(respond(clients[index], previous_response_id=turns[-1]["id"]))
        assert process_of(turns[-1]) == index
    last = turns[-1]["id"]
    told = [items_of(client, last) for client in clients.values()]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 2 * len(turns) - 1
    counts = {
        client.post(f"{RESPONSES}/input_tokens", json={"input": "hi", "previous_response_id": last}).text
        for client in clients.values()
    }
    assert len(counts) == 1


def test_a_response_is_found_and_deleted_in_any_process(clients: Clients) -> None:
    made = respond(clients[0])
    assert [client.get(f"{RESPONSES}/{made['id']}").json() for client in clients.values()] == [made] * 3
    refused = clients[1].post(f"{RESPONSES}/{made['id']}/cancel")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_id")
    assert clients[2].delete(f"{RESPONSES}/{made['id']}").json()["deleted"] is True
    for client in clients.values():
        missing = client.get(f"{RESPONSES}/{made['id']}")
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "response_id")
        going_on = client.post(RESPONSES, json={"input": "hi", "previous_response_id": made["id"]})
        assert going_on.json()["error"]["code"] == "previous_response_not_found"


def test_stored_items_are_found_by_any_process(clients: Clients) -> None:
    ids = [respond(client)["output"][0]["id"] for client in clients.values()]
    asked = [
        *({"type": "item_reference", "id": item_id} for item_id in ids),
        {"role": "user", "content": "?"},
    ]
    for client in clients.values():
        assert len(items_of(client, respond(client, input=asked)["id"])) == len(asked)
    unknown = clients[0].post(RESPONSES, json={"input": [{"type": "item_reference", "id": "msg_none"}]})
    assert unknown.status_code == 404


def test_what_runs_in_the_background_is_watched_and_cancelled_from_any_process(clients: Clients) -> None:
    body = respond(clients[0], background=True, max_output_tokens=4000, ignore_eos=True)
    url = f"{RESPONSES}/{body['id']}"
    assert clients[1].get(url).json()["status"] == "in_progress"
    with clients[2].stream("GET", url, params={"stream": "true"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        assert next(events)["type"] == "response.created"
        cancelled = clients[1].post(f"{url}/cancel").json()
        *_, last = events
    assert cancelled["status"] == "cancelled"
    assert (last["type"], last["code"]) == ("error", "cancelled")
    assert clients[2].get(url).json() == cancelled


def test_metrics_tell_of_all_processes(fake_house: FakeHouse, clients: Clients) -> None:
    for client in clients.values():
        figures = Scrape(client.get("/metrics").text)
        for index in clients:
            assert figures.value("process_resident_memory_bytes", process=str(index)) > 0
            tokens = figures.value(
                "vllm:generation_tokens_total", model_name="tiny-model", process=str(index)
            )
            assert tokens >= 3


async def test_load_counts_the_streams_of_all_processes(fake_house: FakeHouse, clients: Clients) -> None:
    async with httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S) as client:
        streams = [asyncio.create_task(http_stream(client, "/v1/completions")) for _ in range(9)]
        await asyncio.to_thread(fake_house.wait_until_running, 9)
        for each in clients.values():
            assert (await asyncio.to_thread(each.get, "/load")).json() == {"server_load": 9}
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    await asyncio.to_thread(fake_house.wait_until_idle)


@pytest.mark.check("R04")
async def test_a_killed_process_is_started_again_and_disturbs_no_other(
    fake_house: FakeHouse, clients: Clients
) -> None:
    """Scenario: one of three dies while all have streams. Result: those of the others end well, every new
    connection is answered meanwhile, and a new process takes its place."""
    pids = children_of(fake_house)
    num_started = log_of(fake_house).count("starting it again")
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for _ in range(12):
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S)
            )
            calls.append(asyncio.create_task(http_stream(client, "/v1/completions", 100)))
        await asyncio.to_thread(fake_house.wait_until_running, 12)
        os.kill(pids[0], signal.SIGKILL)
        for _ in range(20):
            live = await asyncio.to_thread(httpx.get, f"{fake_house.base_url}/health/live", timeout=TIMEOUT_S)
            assert live.status_code == 200
        ends = await asyncio.gather(*calls, return_exceptions=True)
    lost = [end for end in ends if isinstance(end, httpx.TransportError) or not end.has_good_end]  # type: ignore[union-attr]
    assert len(lost) < len(ends), ends
    assert log_of(fake_house).count("starting it again") == num_started + 1

    def is_back() -> bool:
        return processes_of(fake_house) == set(range(NUM_PROCESSES)) and pids[0] not in children_of(
            fake_house
        )

    await asyncio.to_thread(wait_until, is_back, "another process has its place", START_TIMEOUT_S)
    await asyncio.to_thread(fake_house.wait_until_idle)


def test_keys_are_read_again_by_every_process(fake_house: FakeHouse, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    fake_house.translator.send_signal(signal.SIGTERM)
    assert fake_house.translator.wait(TIMEOUT_S) == 0
    fake_house._translator_flags = [*fake_house._translator_flags, f"--api-key-file={file}", "--open-metrics"]
    fake_house.start_translator()
    fake_house.wait_until_live()
    wait_until(lambda: processes_of(fake_house) == set(range(NUM_PROCESSES)), "all answer", START_TIMEOUT_S)
    with contextlib.ExitStack() as stack:
        for client in connect_to_all(stack, fake_house, authorization=f"Bearer {KEY}").values():
            file.write_text(f"{NEW_KEY}\n")
            new = {"authorization": f"Bearer {NEW_KEY}"}

            def takes_new(client: httpx.Client = client, headers: dict[str, str] = new) -> bool:
                return client.get("/v1/models", headers=headers).status_code == 200

            wait_until(takes_new, "the new key is taken", TIMEOUT_S)
            assert client.get("/v1/models").status_code == 401


@pytest.mark.check("R12")
async def test_a_signal_drains_all_and_a_second_one_ends_all(fake_house: FakeHouse) -> None:
    """Streams of every process end well after the first signal; then one that would go on is cut."""
    headers = {"authorization": f"Bearer {NEW_KEY}"}
    async with httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S, headers=headers) as client:
        calls = [asyncio.create_task(http_stream(client, "/v1/completions", 50)) for _ in range(12)]
        endless = asyncio.create_task(http_stream(client, "/v1/completions"))
        await asyncio.to_thread(fake_house.wait_until_running, 13)
        pids = children_of(fake_house)
        fake_house.translator.send_signal(signal.SIGTERM)
        assert all(end.has_good_end for end in await asyncio.gather(*calls))
        assert fake_house.translator.poll() is None
        fake_house.translator.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(fake_house.translator.wait, TIMEOUT_S) == 0
        (end,) = await asyncio.gather(endless, return_exceptions=True)
        assert isinstance(end, httpx.TransportError) or not end.has_good_end  # type: ignore[union-attr]
    assert not any(map(is_alive, pids))
    lines = [json.loads(line) for line in log_of(fake_house).splitlines() if '"logger": "translator' in line]
    assert {line.get("process") for line in lines} == set(range(NUM_PROCESSES))


def children_of(house: FakeHouse) -> list[int]:
    return descendants(house.translator.pid)


def log_of(house: FakeHouse) -> str:
    return house.log.read_text()


def test_up_runs_several_beside_one_server(tmp_path: Path) -> None:
    with pagewire_up(tmp_path / "log", "-asc", "2") as house:
        house.wait_until_ready()

        def answered() -> set[str]:
            with contextlib.suppress(httpx.TransportError):
                figures = Scrape(httpx.get(f"{house.base_url}/metrics", timeout=TIMEOUT_S).text)
                return {labels["process"] for labels in figures.labels("process_resident_memory_bytes")}
            return set()

        wait_until(lambda: answered() == {"0", "1"}, "both answer", START_TIMEOUT_S)
        assert house.process.stdout is not None
        assert house.process.stdout.readline().startswith("Ready in ")
        answer = httpx.post(
            f"{house.base_url}/v1/completions",
            json={"model": "smollm2-135m-instruct", "prompt": "hi", "max_tokens": 2},
            timeout=TIMEOUT_S,
        )
        assert answer.status_code == 200, answer.text
    assert (tmp_path / "log").read_text().count("; processes: 2") == 1

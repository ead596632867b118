"""Responses that run in the background: watched, left, cancelled, deleted, and streamed again."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from scripted_backend import BYE, delta, fails, finished, reason, refuses, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx
    import pytest
    from scripted_backend import House

PATH = "/v1/responses"


class Gate:
    """A script that says "Hel", waits until it is let go, and says "lo"."""

    def __init__(self, house: House, *, admits: bool = True) -> None:
        self._house = house
        self._admits = admits
        self._opened = asyncio.Event()
        house.servicer.script = self._play

    def open(self) -> None:
        async def do() -> None:
            self._opened.set()

        self._house.call(do())

    async def _play(self, spec: Any, context: Any) -> AsyncIterator[Any]:
        if not self._admits:
            await self._opened.wait()
        yield started()
        yield delta("Hel")
        await self._opened.wait()
        yield delta("lo")
        yield finished()


def begin(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post(PATH, json={"input": "hi", "background": True} | fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def get(http: httpx.Client, response_id: str, **params: Any) -> httpx.Response:
    return http.get(f"{PATH}/{response_id}", params=params)


@contextmanager
def watching(http: httpx.Client, response_id: str, **params: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a response, as they come."""
    url = f"{PATH}/{response_id}"
    with http.stream("GET", url, params={"stream": "true"} | params) as response:
        assert response.status_code == 200
        yield (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))


def until_done(http: httpx.Client, response_id: str) -> dict[str, Any]:
    with watching(http, response_id) as events:
        *_, last = events
    assert get(http, response_id).json() == last["response"]
    response: dict[str, Any] = last["response"]
    return response


def test_it_runs_without_its_client(http: httpx.Client, house: House) -> None:
    gate = Gate(house)
    body = begin(http)
    assert (body["status"], body["background"]) == ("in_progress", True)
    assert get(http, body["id"]).json()["status"] == "in_progress"
    gate.open()
    done = until_done(http, body["id"])
    assert (done["status"], done["id"]) == ("completed", body["id"])
    assert done["output"][0]["content"][0]["text"] == "Hello"
    listed = http.get(f"{PATH}/{body['id']}/input_items").json()["data"]
    assert [item["content"][0]["text"] for item in listed] == ["hi"]


def test_it_may_wait_for_its_turn(http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("translator.responses.ADMISSION_WAIT_S", 0.0)
    gate = Gate(house, admits=False)
    body = begin(http)
    assert body["status"] == "queued"
    gate.open()
    with watching(http, body["id"]) as events:
        kinds = [event["type"] for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"


def test_a_stream_goes_on_where_it_was_left(http: httpx.Client, house: House) -> None:
    gate = Gate(house)
    first: list[dict[str, Any]] = []
    with http.stream("POST", PATH, json={"input": "hi", "background": True, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                first.append(json.loads(line[6:]))
                if first[-1]["type"] == "response.output_text.delta":
                    break
    assert first[0]["response"]["status"] == "queued"
    response_id, num_read = first[0]["response"]["id"], len(first)
    with watching(http, response_id, starting_after=num_read - 1) as events:
        gate.open()
        rest = list(events)
    numbers = [event["sequence_number"] for event in first + rest]
    assert numbers == list(range(len(numbers)))
    assert rest[0]["delta"] == "lo"
    assert rest[-1]["type"] == "response.completed"
    # Once more, from the store.
    with watching(http, response_id, starting_after=num_read - 1) as events:
        assert list(events) == rest


def test_leaving_a_stream_does_not_end_it(http: httpx.Client, house: House) -> None:
    gate = Gate(house)
    body = begin(http)
    with watching(http, body["id"]) as events:
        next(events)
    gate.open()
    assert until_done(http, body["id"])["status"] == "completed"


def test_cancel(http: httpx.Client, house: House) -> None:
    Gate(house)
    body = begin(http)
    with watching(http, body["id"]) as events:
        while next(events)["type"] != "response.output_text.delta":
            pass
        cancelled = http.post(f"{PATH}/{body['id']}/cancel").json()
        assert [event["type"] for event in events][-1] == "error"
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"][0]["content"][0]["text"] == "Hel"
    assert cancelled["output"][0]["status"] == "incomplete"
    assert house.servicer.left.acquire(timeout=BYE)
    assert http.post(f"{PATH}/{body['id']}/cancel").json() == cancelled
    assert get(http, body["id"]).json() == cancelled


def test_cancel_before_its_turn(http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("translator.responses.ADMISSION_WAIT_S", 0.0)
    Gate(house, admits=False)
    body = begin(http)
    assert http.post(f"{PATH}/{body['id']}/cancel").json()["status"] == "cancelled"


def test_delete_ends_it(http: httpx.Client, house: House) -> None:
    Gate(house)
    body = begin(http)
    assert http.delete(f"{PATH}/{body['id']}").json()["deleted"]
    assert house.servicer.left.acquire(timeout=BYE)
    assert get(http, body["id"]).status_code == 404


def test_a_refusal_is_a_status(http: httpx.Client, house: House) -> None:
    violation = refuses(("spec.sampling.top_p", "9 is out of range"))
    house.servicer.script = fails(
        grpc.StatusCode.INVALID_ARGUMENT, "text", reason("INVALID_REQUEST"), violation
    )
    response = http.post(PATH, json={"input": "hi", "background": True, "top_p": 9})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "top_p"


def test_a_failure_is_kept(http: httpx.Client, house: House) -> None:
    ready = threading.Event()

    async def script(spec: Any, context: Any) -> AsyncIterator[Any]:
        yield started()
        await asyncio.to_thread(ready.wait, BYE)
        async for event in fails(grpc.StatusCode.UNAVAILABLE, "lost", reason("REQUEST_LOST"))(spec, context):
            yield event

    house.servicer.script = script
    body = begin(http)
    ready.set()
    failed = until_done(http, body["id"])
    assert (failed["status"], failed["error"]["message"]) == ("failed", "lost")


def test_only_background_streams_are_played_again(http: httpx.Client) -> None:
    body = begin(http, background=False)
    assert get(http, body["id"], stream="true").status_code == 400
    assert get(http, body["id"], starting_after="0").status_code == 400
    assert get(http, body["id"], stream="maybe").status_code == 400
    assert get(http, body["id"], stream="true", starting_after="-1").status_code == 400

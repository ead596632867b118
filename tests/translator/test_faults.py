"""A fault of ours in any handler, at any depth, is a 500 that names the request and shows nothing else."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import pytest
from scripted_backend import BYE, serving
from starlette.routing import Route
from stream_law import told

from translator import app
from translator.backend import Backend
from translator.chat import ChatChunks
from translator.completions import CompletionChunks
from translator.message_events import MessageEvents
from translator.metrics import GenerationMeter
from translator.response_events import ResponseWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_backend import House

pytestmark = [pytest.mark.check("S23"), pytest.mark.check("R05")]

SECRET = "secret of /etc/passwd at 0x7f00dead"
SAID = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": SAID, "max_tokens": 5},
}


def boom(*_: object, **__: object) -> NoReturn:
    raise RuntimeError(SECRET)


async def boom_later(*_: object, **__: object) -> NoReturn:
    raise RuntimeError(SECRET)


@pytest.fixture(scope="module")
def faulty() -> Iterator[httpx.Client]:
    """A client of a translator all of whose handlers are at fault."""
    routes = tuple(Route(route.path, boom_later, methods=list(route.methods or ())) for route in app.ROUTES)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "ROUTES", routes)
            house = stack.enter_context(serving())
        yield stack.enter_context(httpx.Client(base_url=house.url, timeout=BYE))


def check_fault(response: httpx.Response) -> None:
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "mine-7"
    assert response.headers["x-should-retry"] == "false"
    said = response.text + repr(response.headers)
    assert "mine-7" in response.text
    assert not re.search("secret|passwd|0x7f|RuntimeError|Traceback|[.]py", said)


@pytest.mark.parametrize("route", app.ROUTES, ids=lambda route: f"{min(route.methods)} {route.path}")
def test_a_fault_in_a_handler_is_a_500(faulty: httpx.Client, route: Route) -> None:
    path = route.path.replace("{response_id}", "a").replace("{model:path}", "a")
    for method in (route.methods or set()) - {"HEAD"}:
        response = faulty.request(method, path, headers={"x-request-id": "mine-7"})
        check_fault(response)
        assert response.json()["error"]["message"].startswith("The server had an error")


@pytest.mark.parametrize("route", BODIES)
def test_a_fault_below_a_handler_is_a_500(
    http: httpx.Client, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "generate", boom)
    for stream in (False, True):  # on one connection, which is kept
        body = BODIES[route] | {"stream": stream}
        check_fault(http.post(route, json=body, headers={"x-request-id": "mine-7"}))


@pytest.mark.parametrize(
    ("route", "renderer", "method"),
    [
        ("/v1/chat/completions", ChatChunks, "delta"),
        ("/v1/chat/completions", ChatChunks, "end"),
        ("/v1/completions", CompletionChunks, "delta"),
        ("/v1/messages", MessageEvents, "delta"),
        ("/v1/messages", MessageEvents, "end"),
        ("/v1/responses", ResponseWriter, "add"),
    ],
)
def test_a_fault_within_a_stream_is_its_last_event(
    http: httpx.Client, route: str, renderer: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, method, boom)
    body = BODIES[route] | {"stream": True}
    response = http.post(route, json=body, headers={"x-request-id": "mine-7"})
    assert response.status_code == 200
    assert told(route, body, response.text).error is not None
    assert response.headers["x-request-id"] == "mine-7"
    assert not re.search("secret|passwd|0x7f|RuntimeError|Traceback|[.]py", response.text)


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
def test_a_fault_in_a_generation_ends_all_of_its_request(
    prompt: str | list[str], http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerationMeter, "add", boom)
    for stream in (False, True):
        body = {"prompt": prompt, "stream": stream}
        response = http.post("/v1/completions", json=body, headers={"x-request-id": "mine-7"})
        if stream:
            assert told("/v1/completions", body, response.text).error is not None
        else:
            check_fault(response)
        for _ in prompt:
            assert house.servicer.left.acquire(timeout=BYE)

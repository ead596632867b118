"""Hundreds of errors, and none that shows our inside: no path, address, class, traceback, key or prompt."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from fake_doors import FakeDoors, fake_doors
from processes import wait_until

from gate.keys import parse_key
from translator.app import ROUTES
from translator.chat_request import ChatRequest
from translator.completion_request import CompletionRequest
from translator.embeddings import EmbeddingRequest
from translator.message_request import MessageRequest
from translator.response_request import ResponseRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("S23")

PROMPT, KEY = "canary-prompt-7d1e", "canary-key-93ab"
SAID = [{"role": "user", "content": PROMPT}]
ROUTES_OF_BODIES: dict[str, tuple[dict[str, Any], type[msgspec.Struct]]] = {
    "/v1/chat/completions": ({"messages": SAID}, ChatRequest),
    "/v1/completions": ({"prompt": PROMPT}, CompletionRequest),
    "/v1/responses": ({"input": PROMPT}, ResponseRequest),
    "/v1/messages": ({"messages": SAID, "max_tokens": 5}, MessageRequest),
    "/v1/embeddings": ({"input": PROMPT}, EmbeddingRequest),
}
WRONG: tuple[Any, ...] = (-7, 1e300, "\0\n\x1b[31m", {"x": 1}, [-1])
BROKEN = (b"", b"{", b"x", b"\xff", b"[" * 500, b"[1]", b"9" * 5000, b'{"a":NaN}', b'{"a":1,"a":2}')
IDS = (
    b"a%0d%0ab",
    b"a b",
    b"a;b",
    b"\xc3\xa9",
    b"a" * 300,
    b"'; --",
    b"a\tb",
    b"${jndi}",
    b"<b>",
    b"%1b[31m",
)
INSIDE = re.compile(
    r"/(?:home|root|tmp|usr|work|opt|var|etc|proc|lib)\b"  # paths
    r"|\.py\b|site-packages|Traceback|File \""
    r"|0x[0-9a-fA-F]{6,}|<class|\bobject at\b"  # addresses and objects
    r"|\b[A-Z]\w+(?:Error|Exception)\b"  # classes
    r"|127\.0\.0\.1|localhost|\bgrpc\b|msgspec|starlette|uvicorn|h11"
)


@pytest.fixture(scope="module")
def doors() -> Iterator[FakeDoors]:
    with fake_doors(api_keys=(parse_key(KEY),)) as doors:
        yield doors


@pytest.fixture
def http(doors: FakeDoors) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=doors.url, timeout=100, headers=headers) as client:
        yield client


def check(response: httpx.Response) -> str:
    """Check one error, and return its message."""
    said = response.text + repr(response.headers)
    assert not INSIDE.search(said), said
    assert KEY not in said
    assert PROMPT not in said
    error = json.loads(response.text)["error"]
    assert response.headers["x-request-id"]
    return str(error["message"])


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    for route, (body, struct) in ROUTES_OF_BODIES.items():
        for field in msgspec.structs.fields(struct):
            if field.name in ("stream", "background"):
                continue
            for value in WRONG:
                yield route, body | {field.encode_name: value}


def test_errors_of_requests_show_nothing(http: httpx.Client) -> None:
    messages = set()
    for route, body in bodies():
        response = http.post(route, json=body)
        assert response.status_code < 500, (route, body, response.text)
        if response.status_code >= 400:
            messages.add(check(response))
    assert len(messages) > 400


def test_errors_of_bodies_show_nothing(http: httpx.Client) -> None:
    good = json.dumps(ROUTES_OF_BODIES["/v1/chat/completions"][0]).encode()
    for content in (*BROKEN, good[:-1], good + b"x"):
        for kind in ("application/json", "text/plain"):
            response = http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
            assert response.status_code == 400
            check(response)


def test_errors_of_paths_and_keys_show_nothing(http: httpx.Client, doors: FakeDoors) -> None:
    wrong = {"authorization": f"Bearer {KEY}x"}
    with httpx.Client(base_url=doors.url, timeout=100, headers=wrong) as stranger:
        for route in ROUTES:
            path = route.path.replace("{response_id}", "resp_a").replace("{model:path}", "a")
            for method in ("GET", "POST", "DELETE", "FROB"):
                for client in (http, stranger):
                    response = client.request(method, path, content=PROMPT)
                    assert response.status_code != 500
                    if response.status_code >= 400:
                        check(response)
    for path in ("/v1/models/../../etc/passwd", "/%0d%0a%1b[31m", "/v1/responses/%00", "/v1/x?" + KEY):
        assert http.get(path).status_code in (400, 404)


def test_ids_of_callers_make_one_log_line_each(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def lines() -> list[str]:
        return [one.getMessage() for one in list(caplog.records) if one.name == "translator.requests"]

    for unusable in IDS:
        response = http.post("/v1/models/%0d%0a%1b[31mforged", headers={b"x-request-id": unusable})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    wait_until(lambda: len(lines()) >= len(IDS), "the requests are logged")
    assert len(lines()) == len(IDS)
    assert all(line.isprintable() for line in lines())
    for given in ("a\r\nb", "a\x1b[31m", "a\0", "\u2028"):
        response = http.post("/v1/chat/completions", json={"messages": SAID, "request_id": given})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "request_id"

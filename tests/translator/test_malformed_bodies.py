"""Broken requests get a 4xx with OpenAI's error object, and never reach the gRPC server."""

from __future__ import annotations

import gzip
import json
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from translator import schema
from translator.json_body import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from scripted_backend import House

pytestmark = pytest.mark.check("S15")

CHAT = {
    "model": "m",
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ],
    "temperature": 0.5,
    "max_tokens": 5,
    "stop": ["a"],
    "logit_bias": {"1": 2},
    "stream": True,
    "stream_options": {"include_usage": True},
}
COMPLETION = {"prompt": ["a", "b"], "max_tokens": 5, "logprobs": 1, "echo": True, "seed": 3}
MESSAGE = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "system": "s", "top_k": 3}
RESPONSE = {"input": [{"role": "user", "content": "hi"}], "max_output_tokens": 5, "metadata": {"a": "b"}}
EMBEDDING = {"input": ["a", "b"], "dimensions": 2, "encoding_format": "float"}
# A good body of each route, and its field that is needed.
SEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": (CHAT, "messages"),
    "/v1/completions": (COMPLETION, "prompt"),
    "/v1/responses": (RESPONSE, "input"),
    "/v1/responses/input_tokens": (RESPONSE, "input"),
    "/v1/messages": (MESSAGE, "messages"),
    "/v1/messages/count_tokens": (MESSAGE, "messages"),
    "/v1/embeddings": (EMBEDDING, "input"),
    "/tokenize": ({"prompt": "a", "add_special_tokens": False}, "prompt"),
    "/detokenize": ({"tokens": [1, 2]}, "tokens"),
}
# Values of which none is right for any of the seeds' fields.
WRONG = (b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b'{"a":1,"a":2}', b"[" * 300 + b"]" * 300)

# Values of other kinds than any route's needed field.
OF_WRONG_KIND: tuple[Any, ...] = ({}, {"x": 1}, 5, 0.5, True, None, [None], [{}], [[None]], [0.5], [True])


def broken_bodies(seed: dict[str, Any], needed: str) -> Iterator[bytes]:
    """Mutations of a good body, each of which is broken for certain."""
    good = json.dumps(seed).encode()
    rng = random.Random(7)
    for _ in range(80):  # cut off
        yield good[: rng.randrange(len(good) - 1)]
    for _ in range(40):  # followed by something
        yield good + bytes([rng.choice(b"{}[]x,:1")])
    for _ in range(80):  # a bare byte that is neither UTF-8 nor allowed in JSON
        at = rng.randrange(len(good))
        yield good[:at] + bytes([rng.choice([0xFF, 0xC0, 0x01])]) + good[at:]
    for name in seed:  # a value of a wrong kind
        for wrong in WRONG:
            broken = json.dumps(seed | {name: "@"}).encode()
            yield broken.replace(b'"@"', wrong)
    for value in OF_WRONG_KIND:
        yield json.dumps(seed | {needed: value}).encode()
    for wrong in WRONG:  # even in a field that nobody knows
        yield good[:-1] + b',"unknown":' + wrong + b"}"
    yield from (good.decode().encode(encoding) for encoding in ("utf-16", "utf-32", "utf-8-sig"))
    yield from (b"", b"null", b"5", b'"x"', b"[]", b"[" + good + b"]", gzip.compress(good))


def check_refused(response: httpx.Response, body: bytes) -> None:
    assert 400 <= response.status_code < 500, (response.status_code, body[:200])
    answer = response.json()
    error = answer["error"]
    if response.url.path.startswith("/v1/messages"):
        assert answer.keys() == {"type", "error", "request_id"}
        assert error.keys() == {"type", "message"}
    else:
        assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", SEEDS)
def test_mutated_bodies_are_refused(path: str, http: httpx.Client, house: House) -> None:
    seed, needed = SEEDS[path]
    for body in broken_bodies(seed, needed):
        check_refused(http.post(path, content=body, headers={"content-type": "application/json"}), body)
    assert house.servicer.specs == []
    assert house.servicer.embed_requests == []
    assert house.servicer.tokenize_requests == []
    assert http.post(path, json=seed).status_code == 200


def test_there_are_two_thousand_of_them() -> None:
    assert sum(len(list(broken_bodies(*seed))) for seed in SEEDS.values()) > 2000


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_only_plain_json_is_read(headers: dict[str, str], http: httpx.Client, house: House) -> None:
    body = json.dumps(CHAT).encode()
    check_refused(http.post("/v1/chat/completions", content=body, headers=headers), body)
    assert house.servicer.specs == []


def test_json_may_name_its_charset(http: httpx.Client) -> None:
    response = http.post(
        "/v1/chat/completions",
        content=json.dumps(CHAT),
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    assert response.status_code == 200


@pytest.mark.check("S12")
def test_bodies_over_the_cap_are_refused(http: httpx.Client, house: House) -> None:
    json_type = {"content-type": "application/json"}
    huge = b" " * (4 * 1024 * 1024 + 1)
    response = http.post("/v1/completions", content=huge, headers=json_type)
    assert response.status_code == 413
    check_refused(response, huge)
    parts = (b" " * 65_536 for _ in range(65))
    response = http.post("/v1/completions", content=parts, headers=json_type)
    assert response.status_code == 413
    check_refused(response, b"chunked")
    good = json.dumps(COMPLETION).encode()
    padded = good + b" " * (len(huge) - 1 - len(good))
    assert http.post("/v1/completions", content=padded, headers=json_type).status_code == 200
    assert len(house.servicer.specs) == 2


@pytest.mark.parametrize("path", SEEDS)
def test_large_bodies_are_parsed_beside_the_loop(
    path: str, http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsing_threads: list[int] = []

    def noting_its_thread(body: bytes) -> Any:
        parsing_threads.append(threading.get_ident())
        return parse_json(body)

    async def of_the_loop() -> int:
        return threading.get_ident()

    monkeypatch.setattr(schema, "parse_json", noting_its_thread)
    padded = json.dumps(SEEDS[path][0]).encode() + b" " * 100_000
    response = http.post(path, content=padded, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert parsing_threads
    assert house.call(of_the_loop()) not in parsing_threads

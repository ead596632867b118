"""Broken requests get a 4xx with OpenAI's error object, and never reach the gRPC server."""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from scripted_backend import House

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
SEEDS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}
# Values of which none is right for any of the seeds' fields.
WRONG = (b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b'{"a":1,"a":2}', b"[" * 300 + b"]" * 300)


def broken_bodies(seed: dict[str, Any]) -> Iterator[bytes]:
    """Mutations of a good body, each of which is broken for certain."""
    good = json.dumps(seed).encode()
    rng = random.Random(7)
    for _ in range(40):  # cut off
        yield good[: rng.randrange(len(good) - 1)]
    for _ in range(20):  # followed by something
        yield good + bytes([rng.choice(b"{}[]x,:1")])
    for _ in range(20):  # a bare byte that is neither UTF-8 nor allowed in JSON
        at = rng.randrange(len(good))
        yield good[:at] + bytes([rng.choice([0xFF, 0xC0, 0x01])]) + good[at:]
    for name in seed:  # a value of a wrong kind
        for wrong in WRONG:
            broken = json.dumps(seed | {name: "@"}).encode()
            yield broken.replace(b'"@"', wrong)
        yield json.dumps(seed | {name: {"x": object.__name__}, "messages": {}, "prompt": {}}).encode()
    for wrong in WRONG:  # even in a field that nobody knows
        yield good[:-1] + b',"unknown":' + wrong + b"}"
    yield from (good.decode().encode(encoding) for encoding in ("utf-16", "utf-32", "utf-8-sig"))
    yield from (b"", b"null", b"5", b'"x"', b"[]", b"[" + good + b"]", gzip.compress(good))


def check_refused(response: httpx.Response, body: bytes) -> None:
    assert 400 <= response.status_code < 500, (response.status_code, body[:200])
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", SEEDS)
def test_mutated_bodies_are_refused(path: str, http: httpx.Client, house: House) -> None:
    bodies = list(broken_bodies(SEEDS[path]))
    assert len(bodies) > 130
    for body in bodies:
        check_refused(http.post(path, content=body, headers={"content-type": "application/json"}), body)
    assert house.servicer.specs == []
    assert http.post(path, json=SEEDS[path]).status_code == 200


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

"""HTTP/1 that is malformed, ambiguous or too large is refused, and its connection closed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from raw_http import JSON_POST, PROMPT, connect, exchange, read_all
from translator_process import resident_bytes, translator, url_of

from translator import http1
from translator.middleware import MAX_HEADER_BYTES, MAX_HEADERS

if TYPE_CHECKING:
    from scripted_backend import House

pytestmark = pytest.mark.check("S16")

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n"
CHUNKED = JSON_POST + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(PROMPT)

REFUSED: dict[str, tuple[bytes, int]] = {
    "not http": (b"\x16\x03\x01 not http\r\n\r\n", 400),
    "http/0.9": (b"GET /health\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: b\r\n\r\n", 400),
    "space before the colon": (b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "nul in a header": (GET + b"X: a\0b\r\n\r\n", 400),
    "cr in a header": (GET + b"X: a\rb\r\n\r\n", 400),
    "no ascii in the target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in the target": (b"GET /health /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "length of letters": (JSON_POST + b"Content-Length: x\r\n\r\n", 400),
    "length below zero": (JSON_POST + b"Content-Length: -1\r\n\r\n" + PROMPT, 400),
    "length with a sign": (JSON_POST + b"Content-Length: +14\r\n\r\n" + PROMPT, 400),
    "length of 5000 digits": (JSON_POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "two lengths": (JSON_POST + LENGTH + b"Content-Length: 15\r\n\r\n" + PROMPT, 400),
    "length and chunks": (JSON_POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET, 400),
    "chunks in http/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", 400),
    "chunked twice": (JSON_POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400),
    "another encoding": (JSON_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "unknown encoding": (JSON_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunk without its end": (CHUNKED + b"e\r\n" + PROMPT + b"XX0\r\n\r\n", 400),
    "chunk below zero": (CHUNKED + b"-1\r\n" + PROMPT, 400),
    "chunk with a prefix": (CHUNKED + b"0xe\r\n" + PROMPT, 400),
    "chunk of letters": (CHUNKED + b"zz\r\n", 400),
    "chunk of 21 digits": (CHUNKED + b"f" * 21 + b"\r\n", 400),
    "chunk with endless extension": (CHUNKED + b"e;" + b"a" * 100_000, 431),
    "chunks of one byte": (CHUNKED + b"1\r\n \r\n" * 500_000, 413),
    "target of 500 KB": (b"GET /" + b"a" * 500_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    "header of 70 KB": (GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "headers without end": (GET + b"X: a\r\n" * 100_000, 431),
    "too many headers": (GET + b"X: a\r\n" * MAX_HEADERS + b"\r\n", 431),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_the_connection_closed(name: str, house: House) -> None:
    request, status = REFUSED[name]
    answer = exchange(house.port, request)
    assert answer.status == status
    assert answer.everything.count(b"HTTP/1.1 ") == 1  # what follows is not taken for a request
    error = json.loads(answer.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert house.servicer.specs == []


@pytest.mark.check("S12")
def test_as_many_headers_and_bytes_as_allowed_are_read(house: House) -> None:
    close = b"Connection: close\r\n"
    many = GET + close + b"X: a\r\n" * (MAX_HEADERS - 2) + b"\r\n"
    assert exchange(house.port, many).status == 200
    head = GET + close + b"X: "
    assert exchange(house.port, head + b"a" * (MAX_HEADER_BYTES - len(head) - 4) + b"\r\n\r\n").status == 200


@pytest.mark.check("S12")
def test_as_many_chunks_as_allowed_are_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "MAX_CHUNKS", 100)
    close = CHUNKED.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"
    chunks = b"1\r\n \r\n" * 99 + b"e\r\n" + PROMPT + b"\r\n0\r\n\r\n"
    assert exchange(house.port, close + chunks).status == 200
    assert exchange(house.port, close + b"1\r\n \r\n" + chunks).status == 413
    assert len(house.servicer.specs) == 1


def test_another_origin_in_the_target_is_no_way_to_a_route(house: House) -> None:
    for target in (b"http://evil/health", b"http://a/v1/models", b"//health", b"*", b"evil:443"):
        answer = exchange(house.port, b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)
        assert answer.status == 404
        assert json.loads(answer.body)["error"]["code"] == "unknown_url"


def test_a_long_path_of_a_callers_own_is_not_sent_back(house: House) -> None:
    target = b"/" + b"a" * 60_000
    for method in (b"GET", b"POST"):
        answer = exchange(
            house.port, method + b" %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target
        )
        assert answer.status == 404
        assert len(answer.body) < 500


def test_a_host_is_not_taken_for_a_part_of_the_path(house: House) -> None:
    request = b"GET /nowhere HTTP/1.1\r\nHost: a/v1/messages?\r\nConnection: close\r\n\r\n"
    answer = exchange(house.port, request)
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["message"] == "Unknown request URL: GET /nowhere."


def test_a_thousand_requests_in_a_row_are_answered_in_order(house: House) -> None:
    one = b"HEAD /health/live HTTP/1.1\r\nHost: a\r\nX-Request-Id: r%d\r\n"
    requests = [one % index + b"\r\n" for index in range(999)]
    requests.append(one % 999 + b"Connection: close\r\n\r\n")
    with connect(house.port) as connection:
        connection.sendall(b"".join(requests))
        answer = read_all(connection)
    ids = [line.split(b"r")[-1] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert ids == [b"%d" % index for index in range(1000)]
    assert answer.count(b"HTTP/1.1 200 ") == 1000


@pytest.mark.check("S12")
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what a process holds in memory")
def test_memory_stays_flat() -> None:
    """Neither what is refused nor the largest body that is read is kept."""
    largest = b'{"prompt":"' + b"a" * (4 * 1024 * 1024 - 13) + b'"}'
    battery = [request for request, _ in REFUSED.values()]
    battery.append(JSON_POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(largest) + largest)
    with translator() as process:
        port = int(url_of(process).rpartition(":")[2])
        held = []
        for _ in range(2):
            statuses = [exchange(port, request).status for request in battery]
            assert statuses == [*(status for _, status in REFUSED.values()), 503]
            held.append(resident_bytes(process))
    assert held[-1] - held[0] < 32 << 20

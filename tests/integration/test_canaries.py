"""What callers and the model say, and the keys, are in no log line and no metric."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from fake_doors import FakeDoors, fake_doors
from fakes import INFO, FakeEngine
from prometheus_client import generate_latest

import pagewire
from gate.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.messages import EngineRequest
    from pagewire.options import Options

pytestmark = pytest.mark.check("S24")

ROOMY = msgspec.structs.replace(INFO, max_model_len=4096)
NUM_REQUESTS = 200
MANY_REQUESTS = 5_000
KEY = "sesame-4711-canary"
PROMPT, OUTPUT, TOOL, MISTAKE = "prompt-canary", "output-canary", "tool-canary", "mistake-canary"
CANARIES = (KEY, PROMPT, OUTPUT, TOOL, MISTAKE)
CALL = f'<tool_call>{{"name": "f", "arguments": {{"a": "{TOOL}"}}}}</tool_call>'
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": TOOL, "parameters": {"type": "object"}}}
]


def answer(request: EngineRequest) -> Sequence[int]:
    """A tool call and a text, then the end."""
    return [*f"{CALL} {OUTPUT}".encode(), *request.sampling.eos_token_ids[:1]]


class Lines(logging.Handler):
    """Keeps all that is logged, with its fields and tracebacks, as operators would see it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self.texts.append(f"{record.getMessage()} {record.__dict__.get('fields')} {trace}")


@pytest.fixture
def lines() -> Iterator[Lines]:
    """At the default level."""
    lines, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines
    root.setLevel(before)
    root.removeHandler(lines)


class Teller:
    """Says canaries at both doors, in every place where a caller may say something."""

    def __init__(self, doors: FakeDoors, client: pagewire.Client, http: httpx.Client) -> None:
        self._doors = doors
        self._client = client
        self._http = http
        self.outputs: list[str] = []
        self.ways: list[Callable[[], None]] = [
            self._text,
            self._chat_with_tools,
            self._wrong_value,
            self._wrong_key,
            self._http_text,
            self._http_chat,
            self._http_wrong,
            self._http_broken,
            self._http_wrong_key,
            self._http_response,
        ]

    def _text(self) -> None:
        self.outputs.append(self._client.generate(PROMPT, cache_salt=PROMPT, max_tokens=200).choices[0].text)

    def _chat_with_tools(self) -> None:
        messages = [{"role": "user", "content": PROMPT}]
        stream = self._client.stream(messages=messages, tools=TOOLS, max_tokens=200)
        self.outputs.append("".join(str(event) for event in stream))

    def _wrong_value(self) -> None:
        wrong: list[Options] = [
            {"regex": f"({MISTAKE}"},
            {"model": MISTAKE},
            {"json_schema": {"type": MISTAKE}},
        ]
        for options in wrong:
            with pytest.raises(pagewire.PagewireError):
                self._client.generate(PROMPT, **options)

    def _wrong_key(self) -> None:
        with (
            pagewire.Client(self._doors.grpc_target, api_key=MISTAKE) as stranger,
            pytest.raises(pagewire.AccessDeniedError),
        ):
            stranger.generate(PROMPT)

    def _http_text(self) -> None:
        self._post("/v1/completions", {"prompt": PROMPT, "user": PROMPT, "max_tokens": 200})

    def _http_chat(self) -> None:
        history = [
            {"role": "user", "content": PROMPT},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "f", "arguments": json.dumps({"a": TOOL})},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": TOOL},
        ]
        self._post(
            "/v1/chat/completions", {"messages": history, "tools": TOOLS, "stream": True, "max_tokens": 200}
        )

    def _http_response(self) -> None:
        self._post("/v1/responses", {"input": PROMPT, "instructions": PROMPT, "max_output_tokens": 200})

    def _http_wrong(self) -> None:
        for wrong in (
            {"temperature": MISTAKE},
            {MISTAKE: 1},
            {"messages": [{"role": MISTAKE, "content": PROMPT}]},
            {"model": MISTAKE},
            {"tools": [{"type": "function", "function": {"name": f"{TOOL} {TOOL}"}}]},
        ):
            body = {"model": "fake-model", "messages": [{"role": "user", "content": PROMPT}], **wrong}
            self._http.post("/v1/chat/completions", json=body)

    def _http_broken(self) -> None:
        headers = {"content-type": "application/json", "x-request-id": f"no id: {MISTAKE}"}
        broken = f'{{"{MISTAKE}": "{MISTAKE}'
        self._http.post("/v1/chat/completions", content=broken, headers=headers)
        self._http.post("/v1/chat/completions", content=b"\xff" + MISTAKE.encode())

    def _http_wrong_key(self) -> None:
        for headers in (
            {"authorization": f"Bearer {MISTAKE}"},
            {"x-api-key": MISTAKE},
            {"authorization": MISTAKE},
        ):
            assert (
                httpx.post(f"{self._doors.url}/v1/completions", headers=headers, json={}).status_code == 401
            )

    def _post(self, path: str, body: dict[str, Any]) -> None:
        response = self._http.post(path, json={"model": "fake-model", **body})
        assert response.status_code == 200, response.text
        self.outputs.append(response.text)


def tell(num_requests: int, lines: Lines) -> None:
    """Say canaries so many times, and find them in the answers alone."""
    key = parse_key(f"acme:{KEY}")
    with (
        fake_doors(lambda: FakeEngine(answer, info=ROOMY), api_keys=(key,)) as doors,
        pagewire.Client(doors.grpc_target, api_key=KEY) as client,
        httpx.Client(base_url=doors.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http,
    ):
        teller = Teller(doors, client, http)
        for number in range(num_requests):
            teller.ways[number % len(teller.ways)]()
        metrics = generate_latest(doors.server.services.metrics.registry).decode()
        metrics += http.get("/metrics").text
    answers = "".join(teller.outputs)
    assert OUTPUT in answers
    assert TOOL in answers
    assert len(lines.texts) > num_requests / 2
    for canary in CANARIES:
        assert [text for text in lines.texts if canary in text] == []
        assert canary not in metrics


def test_nothing_that_is_said_is_logged_or_counted(lines: Lines) -> None:
    tell(NUM_REQUESTS, lines)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_of_5000_requests_is_logged_or_counted(lines: Lines) -> None:
    tell(MANY_REQUESTS, lines)

"""The routes that tools probe beside generation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_backend import MODEL, delta, fails, finished, plays, reason, started

from pagewire.v1 import chat_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

    from pagewire.v1 import inference_pb2

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"messages": MESSAGES}


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_a_text_becomes_tokens(path: str, http: httpx.Client, house: House) -> None:
    response = http.post(path, json={"model": MODEL, "prompt": "abc"})
    assert response.json() == {"count": 3, "max_model_len": 64, "tokens": [97, 98, 99], "token_strs": None}
    asked = {"prompt": "a", "add_special_tokens": False, "return_token_strs": True}
    assert http.post(path, json=asked).json()["token_strs"] == ["<97>"]
    first, second = house.servicer.tokenize_requests
    assert (first.model, first.HasField("add_special_tokens")) == (MODEL, False)
    assert (second.HasField("add_special_tokens"), second.add_special_tokens) == (True, False)


def test_a_conversation_becomes_tokens(http: httpx.Client, house: House) -> None:
    body = {"messages": MESSAGES, "add_generation_prompt": False, "add_special_tokens": True}
    assert http.post("/tokenize", json=body).json()["count"] == 1
    (asked,) = house.servicer.tokenize_requests
    expected = chat_pb2.Chat(add_generation_prompt=False)
    expected.messages.add(role="user", text="hi")
    assert asked.chat == expected
    assert asked.add_special_tokens


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"content": "a"}]}, "messages[0].role"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [9_999_999]}, "tokens[0]"),
    ],
)
def test_bad_requests_name_the_field(path: str, body: dict[str, Any], param: str, http: httpx.Client) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_tokens_become_text(http: httpx.Client) -> None:
    for path in ("/detokenize", "/v1/detokenize"):
        assert http.post(path, json={"tokens": [97, 98]}).json() == {"prompt": "ab"}
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_tokenizer_info(http: httpx.Client) -> None:
    assert http.get("/tokenizer_info").json() == {"eos_token": "<end>"}


def test_probes(http: httpx.Client, house: House) -> None:
    for path in ("/ping", "/v1/health"):
        assert http.get(path).status_code == 200
    assert http.post("/ping").status_code == 200
    house.set_serving(False)
    assert http.post("/ping").status_code == 503
    house.set_serving(True)


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ping",
        "/version",
        "/load",
        "/metrics",
        "/v1/models",
        f"/v1/models/{MODEL}",
        "/tokenizer_info",
    ],
)
def test_head_is_get_without_a_body(path: str, http: httpx.Client) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


def test_load_counts_open_generations(http: httpx.Client, house: House) -> None:
    go_on = asyncio.Event()

    async def waits(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started()
        await go_on.wait()
        yield finished()

    house.servicer.script = waits
    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.status_code == 200
        assert http.get("/load").json() == {"server_load": 1}
        house.call(_set(go_on))
        response.read()


async def _set(event: asyncio.Event) -> None:
    event.set()


class Scrape:
    """The samples of /metrics at one moment."""

    def __init__(self, http: httpx.Client) -> None:
        text = http.get("/metrics").text
        self._samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_a_generation_is_measured(http: httpx.Client, house: House) -> None:
    def figures() -> dict[str, float]:
        scrape = Scrape(http)
        names = {
            "requests": ("http_requests_total", route | {"status": "2xx"}),
            "timed": ("http_request_duration_seconds_count", route),
            "prompt": ("vllm:prompt_tokens_total", model),
            "cached": ("vllm:prompt_tokens_cached_total", model),
            "generated": ("vllm:generation_tokens_total", model),
            "first": ("vllm:time_to_first_token_seconds_count", model),
            "whole": ("vllm:e2e_request_latency_seconds_count", model),
            "stopped": ("vllm:request_success_total", model | {"finished_reason": "stop"}),
        }
        return {key: scrape.value(name, **labels) for key, (name, labels) in names.items()}

    route = {"handler": "/v1/chat/completions", "method": "POST"}
    model = {"model_name": MODEL}
    before = figures()
    house.servicer.script = plays(started(), delta("a"), delta("b"), delta("c"), finished())
    for stream in (False, True):
        assert http.post("/v1/chat/completions", json=CHAT | {"stream": stream}).status_code == 200
    after = figures()
    while after["requests"] < before["requests"] + 2:  # a request is counted once its answer has been sent
        after = figures()
    assert {key: after[key] - before[key] for key in after} == {
        "requests": 2,
        "timed": 2,
        "prompt": 14,
        "cached": 4,
        "generated": 6,
        "first": 2,
        "whole": 2,
        "stopped": 2,
    }


def test_failures_are_measured(http: httpx.Client, house: House) -> None:
    def failures(status: str) -> float:
        return Scrape(http).value("pagewire:request_failures_total", status=status)

    before = failures("503")
    for after in ((), (started(),)):
        house.servicer.script = fails(grpc.StatusCode.UNAVAILABLE, "lost", reason("LOST"), after=after)
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 503
    assert failures("503") == before + 2


def test_made_up_paths_and_methods_are_no_labels(http: httpx.Client) -> None:
    http.get("/made/up")
    http.request("MADEUP", "/version")
    text = http.get("/metrics").text
    assert "made" not in text.lower()
    assert 'handler="unknown"' in text


def test_names_keep_their_colons_whatever_form_is_preferred(http: httpx.Client, house: House) -> None:
    house.servicer.script = plays(started(), delta("a"), finished())
    http.post("/v1/chat/completions", json=CHAT)
    response = http.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert f'vllm:prompt_tokens_total{{model_name="{MODEL}"}}' in response.text

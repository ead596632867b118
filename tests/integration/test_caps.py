"""All that can be large has a cap: at it both doors take a request, one beyond both refuse it by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import msgspec
import pytest
from fake_doors import FakeDoors, fake_doors
from fakes import INFO, FakeEngine
from google.protobuf import json_format

from pagewire.channel import CHANNEL_OPTIONS
from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.check("S12")

LONG = msgspec.structs.replace(INFO, max_model_len=1 << 16, vocab_size=2000)
CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
)
SAID = [{"role": "user", "content": "a"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAID, "max_tokens": 1},
    COMPLETIONS: {"prompt": "a", "max_tokens": 1},
    RESPONSES: {"input": "a", "max_output_tokens": 1},
    MESSAGES: {"messages": SAID, "max_tokens": 1},
    EMBEDDINGS: {"input": "a"},
}
GENERATING = (CHAT, COMPLETIONS, RESPONSES)


@dataclass(frozen=True)
class Cap:
    """How large a field may be, on each route that has it, and in the contract."""

    most: int
    fields: dict[str, tuple[str, Callable[[int], Any]]]
    """By route, the field's name and its value of a size."""
    contract: Callable[[int], dict[str, Any]] | None = None
    """Fields of GenerationSpec for a size."""
    beside: tuple[tuple[str, Any], ...] = ()


def everywhere(name: str, make: Callable[[int], Any], *routes: str) -> dict[str, Any]:
    return dict.fromkeys(routes or GENERATING, (name, make))


def ids(size: int) -> list[int]:
    return list(range(size))


def words(size: int) -> list[str]:
    return ["b"] * size


def one_text(size: int) -> list[str]:
    return ["b" * size]


def biases(size: int) -> dict[str, int]:
    return {str(token_id): 1 for token_id in range(size)}


def tool(index: int, **more: Any) -> dict[str, Any]:
    return {"name": f"f{index}", **more}


def chat_tools(size: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": tool(index)} for index in range(size)]


def schema(size: int) -> dict[str, Any]:
    """A schema of so many bytes, as the translator writes it."""
    rest = len('{"description":"","type":"integer"}')
    return {"description": "d" * (size - rest), "type": "integer"}


def schema_text(size: int) -> str:
    return json.dumps(schema(size), separators=(",", ":"))


def turns(size: int) -> list[dict[str, str]]:
    """Messages of two roles in turn, of which the last is the user's."""
    roles = ("assistant", "user")
    return [{"role": roles[(size - index) % 2], "content": "a"} for index in range(size)]


def chat(**fields: Any) -> dict[str, Any]:
    return {"chat": {"messages": [{"role": "user", "text": "a"}], **fields}}


def text(**fields: Any) -> dict[str, Any]:
    return {"text": "a", "stopping": {"maxTokens": 1}, **fields}


CAPS: dict[str, Cap] = {
    "stop texts": Cap(
        4,
        everywhere("stop", words) | everywhere("stop_sequences", words, MESSAGES),
        lambda size: text(stopping={"stop": words(size)}),
    ),
    "length of a stop text": Cap(
        256,
        everywhere("stop", one_text) | everywhere("stop_sequences", one_text, MESSAGES),
        lambda size: text(stopping={"stop": one_text(size)}),
    ),
    "stop token ids": Cap(
        64, everywhere("stop_token_ids", ids), lambda size: text(stopping={"stopTokenIds": ids(size)})
    ),
    "biases": Cap(
        300, everywhere("logit_bias", biases), lambda size: text(sampling={"logitBias": biases(size)})
    ),
    "bad words": Cap(
        128, everywhere("bad_words", words), lambda size: text(sampling={"badWords": words(size)})
    ),
    "length of a bad word": Cap(
        256, everywhere("bad_words", one_text), lambda size: text(sampling={"badWords": one_text(size)})
    ),
    "reported tokens": Cap(
        128,
        everywhere("logprob_token_ids", ids, COMPLETIONS),
        lambda size: text(output={"logprobs": 1, "logprobTokenIds": ids(size)}),
        beside=(("logprobs", 1),),
    ),
    "salt": Cap(
        128,
        everywhere("cache_salt", lambda size: "s" * size),
        lambda size: text(cache={"salt": "s" * size}),
    ),
    "choices": Cap(128, everywhere("n", int, CHAT, COMPLETIONS), lambda size: text(sampling={"n": size})),
    "tokens of all choices": Cap(
        64,
        everywhere("n", int, CHAT, COMPLETIONS),
        lambda size: {"text": "a", "stopping": {"maxTokens": 1 << 16}, "sampling": {"n": size}},
        beside=(("max_tokens", 1 << 16),),
    ),
    "messages": Cap(
        2048,
        everywhere("messages", turns, CHAT, MESSAGES) | everywhere("input", turns, RESPONSES),
        lambda size: {"chat": {"messages": [{"role": "user", "text": "a"}] * size}},
    ),
    "tools": Cap(
        128,
        {
            CHAT: ("tools", chat_tools),
            RESPONSES: ("tools", lambda size: [tool(index, type="function") for index in range(size)]),
            MESSAGES: ("tools", lambda size: [tool(index, input_schema={}) for index in range(size)]),
        },
        lambda size: chat(tools=[tool(index) for index in range(size)]),
    ),
    "length of a tool's name": Cap(
        64,
        {
            CHAT: ("tools", lambda size: [{"type": "function", "function": {"name": "f" * size}}]),
            RESPONSES: ("tools", lambda size: [{"type": "function", "name": "f" * size}]),
            MESSAGES: ("tools", lambda size: [{"name": "f" * size, "input_schema": {}}]),
        },
        lambda size: chat(tools=[{"name": "f" * size}]),
    ),
    "schema": Cap(
        65_536,
        everywhere("guided_json", schema, CHAT, COMPLETIONS),
        lambda size: text(constraint={"jsonSchema": schema_text(size)}),
    ),
    "prompt": Cap(
        LONG.max_model_len - 1,
        {COMPLETIONS: ("prompt", lambda size: "a" * size)},
        lambda size: {"text": "a" * size},
    ),
    "token ids of a prompt": Cap(
        LONG.max_model_len - 1,
        {COMPLETIONS: ("prompt", lambda size: [1] * size)},
        lambda size: {"tokenIds": {"ids": [1] * size}},
    ),
    "prompts": Cap(1024, {COMPLETIONS: ("prompt", words)}),
    "inputs": Cap(2048, {EMBEDDINGS: ("input", words)}),
    "length of an input": Cap(LONG.max_model_len, {EMBEDDINGS: ("input", lambda size: "a" * size)}),
    "metadata": Cap(16, {RESPONSES: ("metadata", lambda size: {str(index): "a" for index in range(size)})}),
    "length of metadata": Cap(512, {RESPONSES: ("metadata", lambda size: {"a": "b" * size})}),
    "request id": Cap(128, everywhere("request_id", lambda size: "r" * size)),
}
CASES = [(name, route) for name, cap in CAPS.items() for route in cap.fields]


@pytest.fixture(scope="module")
def doors() -> Iterator[FakeDoors]:
    with fake_doors(lambda: FakeEngine(info=LONG), max_queued_requests=2000) as doors:
        yield doors


@pytest.fixture(scope="module")
def stub(doors: FakeDoors) -> Iterator[Any]:
    with grpc.insecure_channel(doors.grpc_target, options=CHANNEL_OPTIONS) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


@pytest.mark.parametrize(("name", "route"), CASES)
def test_http_takes_as_much_and_no_more(doors: FakeDoors, name: str, route: str) -> None:
    cap = CAPS[name]
    field, make = cap.fields[route]
    body = BODIES[route] | dict(cap.beside)
    at_cap, beyond = (
        httpx.post(doors.url + route, json=body | {field: make(size)}, timeout=100)
        for size in (cap.most, cap.most + 1)
    )
    assert at_cap.status_code == 200, at_cap.text[:500]
    assert beyond.status_code == 400, beyond.text[:500]
    error = beyond.json()["error"]
    assert error["type"] == "invalid_request_error"
    named = error["message"] if route == MESSAGES else error["param"] or ""
    assert named.startswith(field), error


@pytest.mark.parametrize("name", [name for name, cap in CAPS.items() if cap.contract is not None])
def test_grpc_takes_as_much_and_no_more(stub: Any, name: str) -> None:
    cap = CAPS[name]
    assert cap.contract is not None
    at_cap, beyond = (
        inference_pb2.GenerateRequest(
            spec=json_format.ParseDict(cap.contract(size), inference_pb2.GenerationSpec())
        )
        for size in (cap.most, cap.most + 1)
    )
    stub.Generate(at_cap, timeout=100)
    with pytest.raises(grpc.RpcError) as raised:
        stub.Generate(beyond, timeout=100)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "spec." in (raised.value.details() or "")

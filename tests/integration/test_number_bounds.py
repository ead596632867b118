"""Every number of every route at and beyond its bounds: both doors take the same and refuse the same."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import msgspec
import pytest
from fake_doors import FakeDoors, fake_doors
from fakes import INFO

from pagewire.v1 import inference_pb2, inference_pb2_grpc
from translator.chat_request import ChatRequest
from translator.completion_request import CompletionRequest
from translator.embeddings import EmbeddingRequest
from translator.message_request import MessageRequest, ThinkingEnabled
from translator.response_request import ResponseRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("S11")

CONTEXT, VOCAB = INFO.max_model_len, INFO.vocab_size
UINT32 = 2**32 - 1
CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
)
SAID = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAID},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": SAID, "max_tokens": 5},
    EMBEDDINGS: {"input": "hi"},
}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    CHAT: ChatRequest,
    COMPLETIONS: CompletionRequest,
    RESPONSES: ResponseRequest,
    MESSAGES: MessageRequest,
    EMBEDDINGS: EmbeddingRequest,
}


@dataclass(frozen=True)
class Number:
    """One number: what is taken, where the contract has it, and what must be beside it in the body."""

    path: str
    low: float
    high: float
    kind: type = float
    also: tuple[float, ...] = ()
    """Values outside the bounds that are taken."""
    not_low: bool = False
    """Whether the lower bound itself is refused."""
    beside: tuple[tuple[str, Any], ...] = ()
    is_item: bool = False
    """Whether it stands in a list."""
    is_needed: bool = False
    or_text: bool = False

    def takes(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.or_text
        if value is None:
            return not self.is_needed and not self.is_item
        if isinstance(value, bool) or (self.kind is int and not isinstance(value, int)):
            return False
        within = self.low < value if self.not_low else self.low <= value
        return (within and value <= self.high) or value in self.also

    def values(self) -> list[Any]:
        edges = [self.low - 1, self.low, self.low + 1, self.high - 1, self.high, self.high + 1]
        others = [0, -1, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**30, 1e300, "5", True, None]
        return [*map(self.kind, edges), *self.also, *others]


def whole(path: str, low: int, high: int, *also: int, **more: Any) -> Number:
    return Number(path, low, high, int, also, **more)


MAX_TOKENS = whole("stopping.max_tokens", 1, CONTEXT)
LOGPROBS = whole("output.logprobs", 0, 20)
SAMPLING = {
    "temperature": Number("sampling.temperature", 0, 2),
    "top_p": Number("sampling.top_p", 0, 1, not_low=True),
    "top_k": whole("sampling.top_k", -1, VOCAB),
}
MORE = {
    **SAMPLING,
    "min_p": Number("sampling.min_p", 0, 1),
    "frequency_penalty": Number("sampling.frequency_penalty", -2, 2),
    "presence_penalty": Number("sampling.presence_penalty", -2, 2),
    "repetition_penalty": Number("sampling.repetition_penalty", 0, 10, not_low=True),
    "seed": whole("sampling.seed", -(2**63), 2**63 - 1),
    "min_tokens": whole("stopping.min_tokens", 0, CONTEXT),
    "stop_token_ids": whole("stopping.stop_token_ids", 0, VOCAB - 1, is_item=True),
    "allowed_token_ids": whole("sampling.allowed_token_ids", 0, VOCAB - 1, is_item=True),
    "stream_interval": whole("output.min_delta_tokens", 1, UINT32),
    "truncate_prompt_tokens": whole("truncate_prompt_tokens", 1, CONTEXT, -1),
    "priority": whole("scheduling.priority", -(2**31), 2**31 - 1),
}
BOTH = {
    **MORE,
    "n": whole("sampling.n", 1, 128, beside=(("max_tokens", 1),)),
    "max_tokens": MAX_TOKENS,
    "prompt_logprobs": whole("output.prompt_logprobs", 0, 20),
    "length_penalty": Number(
        "sampling.beam_search.length_penalty", -10, 10, beside=(("use_beam_search", True), ("max_tokens", 1))
    ),
}
# The fake model does not reason, so that only -1, no limit, is taken.
NO_REASONING = whole("reasoning.max_tokens", 1, 0, -1)
NUMBERS: dict[str, dict[str, Number]] = {
    CHAT: {
        **BOTH,
        "max_completion_tokens": MAX_TOKENS,
        "top_logprobs": whole("output.logprobs", 0, 20, beside=(("logprobs", True),)),
        "logprob_token_ids": whole(
            "output.logprob_token_ids", 0, VOCAB - 1, is_item=True, beside=(("logprobs", True),)
        ),
        "thinking_token_budget": NO_REASONING,
    },
    COMPLETIONS: {
        **BOTH,
        "logprobs": LOGPROBS,
        "logprob_token_ids": whole(
            "output.logprob_token_ids", 0, VOCAB - 1, is_item=True, beside=(("logprobs", 1),)
        ),
        "best_of": whole("", 1, 1),
        "min_tokens": whole("stopping.min_tokens", 0, CONTEXT, beside=(("max_tokens", CONTEXT),)),
        "prompt": whole("token_ids.ids", 0, VOCAB - 1, is_item=True, or_text=True),
    },
    RESPONSES: {
        **MORE,
        "max_output_tokens": MAX_TOKENS,
        "max_tool_calls": whole("", 1, UINT32),
        "top_logprobs": LOGPROBS,
        "logprob_token_ids": whole(
            "output.logprob_token_ids", 0, VOCAB - 1, is_item=True, beside=(("top_logprobs", 1),)
        ),
        "thinking_token_budget": NO_REASONING,
    },
    MESSAGES: {**SAMPLING, "max_tokens": whole("stopping.max_tokens", 1, CONTEXT, is_needed=True)},
    EMBEDDINGS: {
        "dimensions": whole("dimensions", 1, INFO.embedding_dimensions),
        "truncate_prompt_tokens": whole("truncate_prompt_tokens", 1, CONTEXT, -1),
        "priority": whole("scheduling.priority", -(2**31), 2**31 - 1),
        "input": whole("inputs.token_ids.ids", 0, VOCAB - 1, is_item=True, or_text=True),
    },
}
CASES = [(route, name) for route, numbers in NUMBERS.items() for name in numbers]
PATHS = {
    number.path: number
    for route, numbers in NUMBERS.items()
    for number in numbers.values()
    if number.path and route != EMBEDDINGS
}
# Tested by themselves below, and fields that the Responses API ignores.
ELSEWHERE = {"logit_bias", "thinking"}
IGNORED = {(RESPONSES, name) for name in ("n", "max_tokens", "prompt_logprobs", "length_penalty")}


@pytest.fixture(scope="module")
def doors() -> Iterator[FakeDoors]:
    with fake_doors() as doors:
        yield doors


@pytest.fixture(scope="module")
def http(doors: FakeDoors) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=doors.url, timeout=100) as client:
        yield client


@pytest.fixture(scope="module")
def stub(doors: FakeDoors) -> Iterator[Any]:
    with grpc.insecure_channel(doors.grpc_target) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


def post(http: httpx.Client, route: str, body: dict[str, Any]) -> httpx.Response:
    """Send JSON, even where it is none because it holds NaN."""
    headers = {"content-type": "application/json"}
    return http.post(route, content=json.dumps(body), headers=headers)


def is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def check_refused_by_name(response: httpx.Response, name: str) -> None:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    if response.url.path == MESSAGES:
        assert error["message"].startswith(name), error
    else:
        assert (error["param"] or "").startswith(name), error


@pytest.mark.parametrize(("route", "name"), CASES)
def test_http_takes_what_lies_within_the_bounds(http: httpx.Client, route: str, name: str) -> None:
    number = NUMBERS[route][name]
    for value in number.values():
        body = BODIES[route] | dict(number.beside) | {name: [value] if number.is_item else value}
        response = post(http, route, body)
        if number.takes(value):
            assert response.status_code == 200, (value, response.text)
        elif is_json(value):
            check_refused_by_name(response, name)
        else:
            assert response.status_code == 400, (value, response.text)


def put(message: Any, path: str, value: Any) -> bool:
    """Set a field of the contract; returns whether its type holds the value at all."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
        message.SetInParent()
    try:
        if message.DESCRIPTOR.fields_by_name[name].is_repeated:
            getattr(message, name).append(value)
        else:
            setattr(message, name, value)
    except (ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize("path", PATHS)
def test_grpc_takes_the_same(stub: Any, path: str) -> None:
    number = PATHS[path]
    for value in number.values():
        spec = inference_pb2.GenerationSpec()
        if not path.startswith("token_ids"):
            spec.text = "hi"
        if path == "output.logprob_token_ids":
            spec.output.logprobs = 1
        if path in ("sampling.n", "sampling.beam_search.length_penalty"):
            spec.stopping.max_tokens = 1
        if value is None or isinstance(value, bool | str) or not put(spec, path, value):
            continue  # it cannot be sent, and HTTP refuses it
        request = inference_pb2.GenerateRequest(spec=spec)
        if number.takes(value):
            stub.Generate(request, timeout=100)
            continue
        with pytest.raises(grpc.RpcError) as raised:
            stub.Generate(request, timeout=100)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, value
        assert f"spec.{path}" in (raised.value.details() or ""), value


@pytest.mark.parametrize("name", ["dimensions", "truncate_prompt_tokens", "input"])
def test_grpc_embeds_with_the_same(stub: Any, name: str) -> None:
    number = NUMBERS[EMBEDDINGS][name]
    for value in number.values():
        request = inference_pb2.EmbedRequest()
        given = request.inputs.add()
        holder, path = (given, "token_ids.ids") if name == "input" else (request, name)
        if name != "input":
            given.text = "hi"
        if value is None or isinstance(value, bool | str) or not put(holder, path, value):
            continue
        if number.takes(value):
            stub.Embed(request, timeout=100)
            continue
        with pytest.raises(grpc.RpcError) as raised:
            stub.Embed(request, timeout=100)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, value


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, RESPONSES])
def test_biases_are_clamped_and_their_tokens_checked(http: httpx.Client, stub: Any, route: str) -> None:
    for value in (0, -1, 100, 101, -1000, 2**31, 2**63, 1e300):
        assert post(http, route, BODIES[route] | {"logit_bias": {"1": value}}).status_code == 200
    for wrong in ("5", True, None, [], [1]):
        check_refused_by_name(post(http, route, BODIES[route] | {"logit_bias": {"1": wrong}}), "logit_bias")
    for value in (math.nan, math.inf):
        assert post(http, route, BODIES[route] | {"logit_bias": {"1": value}}).status_code == 400
    assert post(http, route, BODIES[route] | {"logit_bias": {str(VOCAB - 1): 1}}).status_code == 200
    for token in (str(VOCAB), "-1", "", "x", "1.0", " 1", "²", str(2**32), str(2**63), "9" * 5000):
        check_refused_by_name(post(http, route, BODIES[route] | {"logit_bias": {token: 1}}), "logit_bias")
    for token_id, bias, taken in ((VOCAB - 1, 1000, True), (VOCAB, 1, False), (1, math.nan, False)):
        spec = inference_pb2.GenerationSpec(text="hi")
        spec.sampling.logit_bias[token_id] = bias
        if taken:
            stub.Generate(inference_pb2.GenerateRequest(spec=spec), timeout=100)
        else:
            with pytest.raises(grpc.RpcError, match=r"spec\.sampling\.logit_bias"):
                stub.Generate(inference_pb2.GenerateRequest(spec=spec), timeout=100)


def test_the_budget_of_thinking_is_a_number_too(http: httpx.Client) -> None:
    for value in (-1, 2**32, 2**63, 1e300, "5", True, None):
        body = BODIES[MESSAGES] | {"thinking": {"type": "enabled", "budget_tokens": value}}
        check_refused_by_name(post(http, MESSAGES, body), "thinking.budget_tokens")


@pytest.mark.parametrize("route", STRUCTS)
def test_no_number_is_left_out(route: str) -> None:
    fields = msgspec.structs.fields(STRUCTS[route])
    numeric = {field.encode_name for field in fields if _holds_number(field.type)}
    missing = numeric - NUMBERS[route].keys() - ELSEWHERE
    assert {name for name in missing if (route, name) not in IGNORED} == set()


def test_thinking_holds_one_number() -> None:
    fields = msgspec.structs.fields(ThinkingEnabled)
    assert [field.name for field in fields if _holds_number(field.type)] == ["budget_tokens"]


def _holds_number(kind: Any) -> bool:
    """Whether a field's type admits a number, alone, in a list or as a mapping's value."""
    return _has_number(msgspec.inspect.type_info(kind))


def _has_number(info: msgspec.inspect.Type) -> bool:
    match info:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return True
        case msgspec.inspect.UnionType(types=types):
            return any(map(_has_number, types))
        case msgspec.inspect.ListType(item_type=item):
            return _has_number(item)
        case msgspec.inspect.DictType(value_type=value):
            return _has_number(value)
    return False

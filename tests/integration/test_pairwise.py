"""HTTP result = gRPC result, where every two values of any two fields meet, with the default model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from all_pairs import all_pairs
from processes import pagewire_up
from two_doors import ask_http, folded, from_grpc, same, spec_of

from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from all_pairs import Row
    from processes import House

Fields = dict[str, Any]
MESSAGES = [{"role": "user", "content": "Name three colours."}, {"role": "assistant", "content": "Red,"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CONTRACT_MESSAGES = [{"role": one["role"], "text": one["content"]} for one in MESSAGES]


def chat(http: Fields, contract: Fields) -> tuple[Fields, Fields]:
    return {"messages": MESSAGES, **http}, {"chat.messages": CONTRACT_MESSAGES, **contract}


def plain(name: str, path: str, *values: Any) -> dict[str, tuple[Fields, Fields]]:
    """A field that both doors take as it is; absent, too."""
    return {"absent": ({}, {})} | {repr(value): ({name: value}, {path: value}) for value in values}


# Of each setting its values: the fields of the HTTP request, and those of the contract.
SETTINGS: dict[str, dict[str, tuple[Fields, Fields]]] = {
    "prompt": {
        "text": ({"prompt": "The sky is"}, {"text": "The sky is"}),
        "ids": ({"prompt": [504, 4461, 314]}, {"token_ids.ids": [504, 4461, 314]}),
        "chat": chat({}, {}),
        "closed chat": chat({"add_generation_prompt": False}, {"chat.add_generation_prompt": False}),
        "continued chat": chat(
            {"continue_final_message": True},
            {"chat.continue_final_message": True, "chat.add_generation_prompt": False},
        ),
        "chat with variables": chat(
            {"chat_template_kwargs": {"x": [1]}, "reasoning_effort": "low", "documents": [{"text": "t"}]},
            {
                "chat.template_arguments_json": '{"x":[1],"reasoning_effort":"low","enable_thinking":true,'
                '"documents":[{"text":"t"}]}'
            },
        ),
    },
    "stream": {
        "no": ({}, {}),
        "yes": ({"stream": True, "stream_options": {"include_usage": True}}, {}),
        "continuous": (
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
            {},
        ),
    },
    "stream_interval": plain("stream_interval", "output.min_delta_tokens", 3),
    "n": plain("n", "sampling.n", 2),
    "temperature": plain("temperature", "sampling.temperature", 0, 0.5),
    "top_p": plain("top_p", "sampling.top_p", 0.75),
    "top_k": plain("top_k", "sampling.top_k", -1, 5),
    "min_p": plain("min_p", "sampling.min_p", 0.125),
    "frequency_penalty": plain("frequency_penalty", "sampling.frequency_penalty", 1.5),
    "presence_penalty": plain("presence_penalty", "sampling.presence_penalty", -0.5),
    "repetition_penalty": plain("repetition_penalty", "sampling.repetition_penalty", 1.25),
    "logit_bias": {
        "absent": ({}, {}),
        "two": ({"logit_bias": {"260": 3, "28": -100}}, {"sampling.logit_bias": {"260": 3, "28": -100}}),
    },
    "allowed_token_ids": plain("allowed_token_ids", "sampling.allowed_token_ids", [28, 260, 282, 284, 2]),
    "bad_words": plain("bad_words", "sampling.bad_words", ["the", " blue"]),
    "constraint": {
        "absent": ({}, {}),
        "regex": ({"guided_regex": "[a-z ]+[.]"}, {"constraint.regex": "[a-z ]+[.]"}),
        "choice": (
            {"structured_outputs": {"choice": ["green", "blue sky"]}},
            {"constraint.choices": {"texts": ["green", "blue sky"]}},
        ),
        "schema": (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            {"constraint.json_schema": json.dumps(SCHEMA)},
        ),
    },
    "search": {
        "no": ({}, {}),
        "beams": (
            {"use_beam_search": True, "length_penalty": 0.5},
            {"sampling.beam_search.length_penalty": 0.5},
        ),
    },
    "min_tokens": plain("min_tokens", "stopping.min_tokens", 3),
    "stop": {
        "absent": ({}, {}),
        "one": ({"stop": "e"}, {"stopping.stop": ["e"]}),
        "two": ({"stop": [",", "the"]}, {"stopping.stop": [",", "the"]}),
    },
    "stop_token_ids": plain("stop_token_ids", "stopping.stop_token_ids", [28, 30]),
    "ignore_eos": plain("ignore_eos", "stopping.ignore_eos", True),
    "include_stop": plain("include_stop_str_in_output", "stopping.include_stop_text", True),
    "prompt_logprobs": plain("prompt_logprobs", "output.prompt_logprobs", 1),
    "skip_special_tokens": plain("skip_special_tokens", "output.skip_special_tokens", False),
    "token_ids": {
        "absent": ({}, {}),
        "yes": ({"return_token_ids": True}, {"output.token_ids": True, "output.prompt_token_ids": True}),
    },
    "truncation": {
        "absent": ({}, {}),
        "left": ({"truncate_prompt_tokens": 2}, {"truncate_prompt_tokens": 2}),
        "right": (
            {"truncate_prompt_tokens": 3, "truncation_side": "right"},
            {"truncate_prompt_tokens": 3, "truncation_side": "TRUNCATION_SIDE_RIGHT"},
        ),
    },
    "add_special_tokens": plain("add_special_tokens", "add_special_tokens", False),
    "priority": plain("priority", "scheduling.priority", -3),
}
# These are spelt in one way for chats and in another for completions.
ROUTE_SETTINGS: dict[str, dict[str, tuple[Fields, Fields, Fields]]] = {
    "max_tokens": {
        "five": ({"max_completion_tokens": 5}, {"max_tokens": 5}, {"stopping.max_tokens": 5}),
        "seven": ({"max_tokens": 7}, {"max_tokens": 7}, {"stopping.max_tokens": 7}),
    },
    "logprobs": {
        "absent": ({}, {}, {}),
        "none": ({"logprobs": True}, {"logprobs": 0}, {"output.logprobs": 0}),
        "two": ({"logprobs": True, "top_logprobs": 2}, {"logprobs": 2}, {"output.logprobs": 2}),
    },
    "echo": {
        "absent": ({}, {}, {}),
        "yes": ({}, {"echo": True}, {"output.prompt_text": True}),
    },
}
NOT_WITH_BEAMS = (
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "constraint",
    "stop",
)


def allows(row: Row) -> bool:
    """Whether the fields may be sent together; those that may not are tested by their refusals."""
    is_search = row.get("search") == "beams"
    many_greedy = row.get("n") == "2" and row.get("temperature") == "0" and row.get("search") == "no"
    streams = row.get("stream", "no") != "no"
    return not (
        many_greedy
        or (is_search and any(row.get(name, "absent") != "absent" for name in NOT_WITH_BEAMS))
        or (
            row.get("constraint", "absent") != "absent" and row.get("allowed_token_ids", "absent") != "absent"
        )
        or (streams and row.get("prompt_logprobs", "absent") != "absent")
        or (row.get("echo") == "yes" and "chat" in row.get("prompt", ""))
    )


ROWS = all_pairs({name: list(values) for name, values in (SETTINGS | ROUTE_SETTINGS).items()}, allows)


def requests_of(row: Row, number: int) -> tuple[str, Fields, Fields]:
    """The path and body for HTTP, and the fields for gRPC. Nobody shares a cached prefix."""
    is_chat = "chat" in row["prompt"]
    body: Fields = {"seed": 7, "cache_salt": f"http-{number}"}
    contract: Fields = {"sampling.seed": 7, "cache.salt": f"grpc-{number}"}
    for name, values in SETTINGS.items():
        fields, spec = values[row[name]]
        body, contract = body | fields, contract | spec
    for name, routes in ROUTE_SETTINGS.items():
        for_chat, for_completions, spec = routes[row[name]]
        body, contract = body | (for_chat if is_chat else for_completions), contract | spec
    if "echo" in body and "output.logprobs" in contract:
        most = max(contract["output.logprobs"], contract.get("output.prompt_logprobs", 0))
        contract["output.prompt_logprobs"] = most
    return ("/v1/chat/completions" if is_chat else "/v1/completions"), body, contract


@pytest.fixture(scope="module")
def house(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """In float32: rounded to bfloat16, an answer may differ with what else is in its steps."""
    with pagewire_up(tmp_path_factory.mktemp("precise") / "log", "--dtype=float32") as house:
        house.wait_until_ready()
        yield house


@pytest.fixture(scope="module")
def stub(house: House) -> Iterator[Any]:
    with grpc.insecure_channel(house.grpc_target) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


@pytest.mark.check("R13")
@pytest.mark.parametrize("number", range(len(ROWS)))
def test_both_doors_give_the_same_answer(house: House, stub: Any, number: int) -> None:
    path, body, contract = requests_of(ROWS[number], number)
    spec = spec_of(contract)
    if body.get("stream"):
        response = folded(stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec), timeout=100))
    else:
        response = stub.Generate(inference_pb2.GenerateRequest(spec=spec), timeout=100)
    echoes = "echo" in body
    echo_top = body.get("logprobs") if echoes else None
    expected = from_grpc(response, echo=echoes, echo_top=echo_top, prompt_top=body.get("prompt_logprobs"))
    answer = ask_http(house.base_url, path, body)
    assert same(answer, expected), f"{body}\n{answer}\n{expected}"


# Fields with a bad value for both doors, and what the contract calls the field.
BAD: list[tuple[Fields, Fields, str]] = [
    ({"temperature": 2.5}, {"sampling.temperature": 2.5}, "temperature"),
    ({"top_p": 0}, {"sampling.top_p": 0}, "top_p"),
    ({"top_k": -2}, {"sampling.top_k": -2}, "top_k"),
    ({"min_p": 1.5}, {"sampling.min_p": 1.5}, "min_p"),
    ({"presence_penalty": 3}, {"sampling.presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, {"sampling.frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, {"sampling.repetition_penalty": 0}, "repetition_penalty"),
    ({"n": 0}, {"sampling.n": 0}, "n"),
    ({"n": 129}, {"sampling.n": 129}, "n"),
    ({"n": 2, "temperature": 0}, {"sampling.n": 2, "sampling.temperature": 0}, "n"),
    ({"logit_bias": {"49152": 1}}, {"sampling.logit_bias": {"49152": 1}}, "logit_bias"),
    ({"max_tokens": 8193}, {"stopping.max_tokens": 8193}, "max_tokens"),
    ({"max_tokens": 2, "min_tokens": 3}, {"stopping.max_tokens": 2, "stopping.min_tokens": 3}, "min_tokens"),
    ({"stop": ""}, {"stopping.stop": [""]}, "stop[0]"),
    ({"stop": list("abcde")}, {"stopping.stop": list("abcde")}, "stop"),
    ({"stop_token_ids": [49152]}, {"stopping.stop_token_ids": [49152]}, "stop_token_ids[0]"),
    ({"prompt_logprobs": 21}, {"output.prompt_logprobs": 21}, "prompt_logprobs"),
    ({"stream_interval": 0}, {"output.min_delta_tokens": 0}, "stream_interval"),
    ({"truncate_prompt_tokens": -2}, {"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 8193}, {"truncate_prompt_tokens": 8193}, "truncate_prompt_tokens"),
    ({"cache_salt": "a/b"}, {"cache.salt": "a/b"}, "cache_salt"),
    ({"cache_salt": "s" * 129}, {"cache.salt": "s" * 129}, "cache_salt"),
    ({"use_beam_search": True, "stop": "a"}, {"sampling.beam_search": {}, "stopping.stop": ["a"]}, "stop"),
    (
        {"use_beam_search": True, "length_penalty": 11},
        {"sampling.beam_search.length_penalty": 11},
        "length_penalty",
    ),
]


@pytest.mark.parametrize(("body", "contract", "param"), BAD, ids=[f"{param}" for _, _, param in BAD])
def test_both_doors_refuse_the_same(
    house: House, stub: Any, body: Fields, contract: Fields, param: str
) -> None:
    spec = spec_of({"text": "hi", **contract})
    with pytest.raises(grpc.RpcError) as raised:
        stub.Generate(inference_pb2.GenerateRequest(spec=spec), timeout=100)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for path, prompt in (
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", {"messages": MESSAGES}),
    ):
        for stream in (False, True) if "prompt_logprobs" not in body else (False,):
            answer = httpx.post(house.base_url + path, json={**prompt, **body, "stream": stream}, timeout=100)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == param

"""What a caller is told of a value of the wrong type or range: field, value, expectation, and no prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translator.chat_request import ChatRequest
from translator.completion_request import CompletionRequest
from translator.embeddings import EmbeddingRequest
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.message_request import MessageRequest
from translator.response_request import ResponseRequest
from translator.schema import RequestBody, parse_request

CANARY = "a-canary-that-nobody-else-says"
ROUTES: dict[Endpoint, tuple[type[RequestBody], dict[str, Any]]] = {
    Endpoint.CHAT: (ChatRequest, {"messages": [{"role": "user", "content": "hi"}]}),
    Endpoint.COMPLETIONS: (CompletionRequest, {"prompt": "hi"}),
    Endpoint.RESPONSES: (ResponseRequest, {"input": "hi"}),
    Endpoint.MESSAGES: (MessageRequest, {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}),
    Endpoint.EMBEDDINGS: (EmbeddingRequest, {"input": "hi"}),
}
MANY_NINES = int("9" * 500)


def refusal(endpoint: Endpoint, **fields: Any) -> ApiError:
    request_type, body = ROUTES[endpoint]
    with pytest.raises(ApiError) as caught:
        parse_request(json.dumps(body | fields).encode(), request_type, endpoint)
    assert (caught.value.status, caught.value.code) == (400, "invalid_type")
    return caught.value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n", -1, "n: expected `int` >= 0, got -1."),
        ("n", 2**32, "n: expected `int` <= 4294967295, got 4294967296."),
        ("n", MANY_NINES, f"n: expected `int` <= 4294967295, got {'9' * 64}…."),
        ("n", "5", 'n: expected `int | null`, got `str` "5".'),
        ("n", True, "n: expected `int | null`, got `bool` true."),
        ("n", [5], "n: expected `int | null`, got `array`."),
        ("temperature", 1e300, "temperature: expected `float` <= 3.4e+38, got 1e+300."),
        ("stop", ["a", 1], "stop[1]: expected `str`, got `int` 1."),
        ("stop_token_ids", [1, -2], "stop_token_ids[1]: expected `int` >= 0, got -2."),
        ("logit_bias", {"7": 1, "8": "x"}, 'logit_bias[...]: expected `float`, got `str` "x".'),
        ("stream", "y" * 500, f'stream: expected `bool | null`, got `str` "{"y" * 63}….'),
        ("stream_options", {"include_usage": 5},
         "stream_options.include_usage: expected `bool | null`, got `int` 5."),
        ("truncation_side", "middle",
         'truncation_side: "middle" is not known; expected one of "left", "right".'),
        ("truncation_side", "m" * 500,
         f'truncation_side: "{"m" * 63}… is not known; expected one of "left", "right".'),
        ("request_id", "a b",
         "request_id: expected `str` matching regex '^[A-Za-z0-9._-]{1,128}\\\\Z', got \"a b\"."),
        ("tool_choice", "some",
         'tool_choice: "some" is not known; expected one of "auto", "none", "required".'),
        ("tool_choice", {"type": "some"},
         'tool_choice.type: "some" is not known; expected one of "function", "allowed_tools".'),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "some", "tools": []}},
         'tool_choice.allowed_tools.mode: "some" is not known; expected one of "auto", "required".'),
        ("messages", [], "messages: expected `array` of length >= 1, got 0 elements."),
        ("messages", [{"content": "hi"}], "messages[0].role: required."),
    ],
)  # fmt: skip
def test_an_error_names_field_value_and_expectation(field: str, value: Any, message: str) -> None:
    error = refusal(Endpoint.CHAT, **{field: value})
    assert error.message == message
    assert error.param == message.partition(":")[0]


@pytest.mark.parametrize(
    ("block", "known"),
    [
        ({"role": "user", "content": [{"type": "image"}]}, '"text", "tool_result"'),
        (
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}],
            },
            '"text"',
        ),
    ],
)  # fmt: skip
def test_only_what_may_stand_at_that_place_is_expected(block: dict[str, Any], known: str) -> None:
    error = refusal(Endpoint.MESSAGES, messages=[block])
    assert error.message.endswith(f'.type: "image" is not known; expected one of {known}.')


def test_a_key_that_is_too_long_is_not_shown() -> None:
    error = refusal(Endpoint.RESPONSES, metadata={CANARY * 9: "x"})
    assert (error.param, error.message) == ("metadata", "metadata: expected `str` of length <= 64.")


TEXTS = {
    Endpoint.CHAT: ("messages", "tools", "documents", "functions", "chat_template_kwargs"),
    Endpoint.COMPLETIONS: ("response_format", "guided_choice"),
    Endpoint.RESPONSES: ("tools", "text", "chat_template_kwargs"),
    Endpoint.MESSAGES: ("messages", "tools", "output_config"),
}


@pytest.mark.check("S23")
@pytest.mark.parametrize(("endpoint", "name"), [(one, name) for one in TEXTS for name in TEXTS[one]])
@given(
    value=st.recursive(
        st.just(CANARY) | st.integers(),
        lambda children: (
            st.lists(children, min_size=1)
            | st.dictionaries(
                st.sampled_from(("content", "text", "function", "name", "format", "input", "parameters")),
                children,
                min_size=1,
            )
        ),
        max_leaves=6,
    )
)
def test_a_text_that_may_be_a_prompts_is_never_shown(endpoint: Endpoint, name: str, value: Any) -> None:
    request_type, body = ROUTES[endpoint]
    try:
        parse_request(json.dumps(body | {name: value}).encode(), request_type, endpoint)
    except ApiError as error:
        assert CANARY not in error.message  # noqa: PT017
        assert len(error.message) < 400  # noqa: PT017


@pytest.mark.parametrize(
    ("endpoint", "name"), [(Endpoint.COMPLETIONS, "prompt"), (Endpoint.EMBEDDINGS, "input")]
)
def test_nor_is_one_where_there_are_ids(endpoint: Endpoint, name: str) -> None:
    assert CANARY not in refusal(endpoint, **{name: [[CANARY]]}).message
    assert refusal(endpoint, **{name: [[1, -5]]}).message == f"{name}[0][1]: expected `int` >= 0, got -5."

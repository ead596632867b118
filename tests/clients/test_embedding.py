"""`embed` of both clients against a real gRPC server, and the requests that it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pagewire
from pagewire.embedding import build_embed_request
from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from scripted_server import ScriptedServer


def test_embed(server: ScriptedServer) -> None:
    with pagewire.Client(server.target, timeout=20) as client:
        response = client.embed(["a", "b"], dimensions=2, request_id="r-1")
    assert [list(one.values) for one in response.embeddings] == [[0.5, 0.0], [0.5, 1.0]]
    assert server.script.metadata["x-request-id"] == "r-1"
    assert server.script.requests == [build_embed_request(["a", "b"], None, {"dimensions": 2})]


async def test_embed_asynchronously(server: ScriptedServer) -> None:
    async with pagewire.AsyncClient(server.target, timeout=20) as client:
        response = await client.embed("a")
    assert len(response.embeddings) == 1


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("hi", ["hi"]),
        (["a", "b"], ["a", "b"]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        ([], []),
    ],
)
def test_inputs_of_every_form(inputs: Any, expected: list[Any]) -> None:
    request = build_embed_request(inputs, None, {})
    assert [one.text or list(one.token_ids.ids) for one in request.inputs] == expected


def test_a_chat_is_one_input() -> None:
    (one,) = build_embed_request(None, [{"role": "user", "content": "hi"}], {}).inputs
    assert one.chat.messages[0].text == "hi"


def test_every_option_reaches_its_field() -> None:
    options = pagewire.EmbedOptions(
        model="m",
        add_special_tokens=False,
        truncate_prompt_tokens=-1,
        truncation_side="left",
        pooling="cls",
        normalize=False,
        dimensions=4,
        priority=-1,
        cache_salt="s",
        bypass_prefix_cache=True,
    )
    assert set(options) == set(pagewire.EmbedOptions.__annotations__)
    assert build_embed_request("a", None, options) == inference_pb2.EmbedRequest(
        model="m",
        inputs=[inference_pb2.EmbedInput(text="a")],
        add_special_tokens=False,
        truncate_prompt_tokens=-1,
        truncation_side=inference_pb2.TRUNCATION_SIDE_LEFT,
        pooling=inference_pb2.POOLING_CLS,
        normalize=False,
        dimensions=4,
        scheduling=inference_pb2.Scheduling(priority=-1),
        cache=inference_pb2.CacheOptions(salt="s", bypass=True),
    )


@pytest.mark.parametrize(
    ("inputs", "options", "field"),
    [
        (None, {}, "inputs"),
        ([1, "a"], {}, "inputs"),
        ([[-1]], {}, "inputs"),
        ("a", {"pooling": "max"}, "pooling"),
        ("a", {"truncation_side": "middle"}, "truncation_side"),
        ("a", {"dimensions": -1}, "dimensions"),
        ("a", {"priority": "x"}, "priority"),
    ],
)
def test_what_fits_no_field_is_refused(inputs: Any, options: Any, field: str) -> None:
    with pytest.raises(pagewire.InvalidRequestError) as caught:
        build_embed_request(inputs, None, options)
    assert caught.value.violations[0].field == field


def test_an_unknown_option_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="temperature is not an option of embed"):
        build_embed_request("a", None, {"temperature": 1})  # type: ignore[typeddict-unknown-key]

"""POST /v1/embeddings over a real socket, against a scripted gRPC server."""

from __future__ import annotations

import base64
import struct
import threading
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import openai
import pytest
from scripted_backend import MODEL, reason, refuses

from pagewire.v1 import inference_pb2
from translator import embeddings
from translator.sse import encode_json

if TYPE_CHECKING:
    from scripted_backend import House

PATH = "/v1/embeddings"
THIRD = struct.unpack("<f", struct.pack("<f", 1 / 3))[0]


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post(PATH, json=fields, headers={"x-request-id": "r-1"})


def sent(http: httpx.Client, house: House, **fields: Any) -> inference_pb2.EmbedRequest:
    """What the contract's request is for a body."""
    response = post(http, **fields)
    assert response.status_code == 200, response.text
    return house.servicer.embed_requests[-1]


def test_the_answer(http: httpx.Client, house: House) -> None:
    response = post(http, input=["a", "b"], model=MODEL)
    assert response.headers["x-request-id"] == "r-1"
    assert response.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.0, THIRD, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, THIRD, -1.0]},
        ],
        "model": MODEL,
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert house.servicer.metadata[-1]["x-request-id"] == "r-1"
    assert house.servicer.embed_requests[-1].model == MODEL


def test_base64_holds_little_endian_floats(http: httpx.Client) -> None:
    (one,) = post(http, input="a", encoding_format="base64").json()["data"]
    assert struct.unpack("<3f", base64.b64decode(one["embedding"])) == (0.0, THIRD, -1.0)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_encoded_beside_the_loop(
    http: httpx.Client, house: House, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding_threads: set[int] = set()

    def noting_its_thread(value: object) -> bytes:
        encoding_threads.add(threading.get_ident())
        return encode_json(value)

    async def of_the_loop() -> int:
        return threading.get_ident()

    monkeypatch.setattr(embeddings, "encode_json", noting_its_thread)
    assert post(http, input="a", encoding_format=encoding).status_code == 200
    assert encoding_threads
    assert house.call(of_the_loop()) not in encoding_threads


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hi", ["hi"]),
        (["a", "b"], ["a", "b"]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_inputs_of_every_form(http: httpx.Client, house: House, given: Any, expected: list[Any]) -> None:
    inputs = sent(http, house, input=given).inputs
    assert [one.text or list(one.token_ids.ids) for one in inputs] == expected


def test_every_option_reaches_the_contract(http: httpx.Client, house: House) -> None:
    asked = sent(
        http,
        house,
        input="a",
        model=MODEL,
        dimensions=2,
        normalize=False,
        pooling="mean",
        add_special_tokens=False,
        truncate_prompt_tokens=-1,
        truncation_side="left",
        priority=-2,
        cache_salt="s",
        user="me",
        padding=True,
        encoding_format=None,
        endianness="little",
    )
    assert asked == inference_pb2.EmbedRequest(
        model=MODEL,
        inputs=[inference_pb2.EmbedInput(text="a")],
        dimensions=2,
        normalize=False,
        pooling=inference_pb2.POOLING_MEAN,
        add_special_tokens=False,
        truncate_prompt_tokens=-1,
        truncation_side=inference_pb2.TRUNCATION_SIDE_LEFT,
        scheduling=inference_pb2.Scheduling(priority=-2),
        cache=inference_pb2.CacheOptions(salt="s"),
    )


def test_what_is_absent_stays_absent(http: httpx.Client, house: House) -> None:
    assert sent(http, house, input="a") == inference_pb2.EmbedRequest(
        inputs=[inference_pb2.EmbedInput(text="a")]
    )
    assert sent(http, house, input="a", use_activation=False).HasField("normalize")


def test_a_conversation(http: httpx.Client, house: House) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    asked = sent(http, house, messages=messages, dimensions=3, cache_salt="s")
    (one,) = asked.inputs
    assert one.chat.messages[0].role == "user"
    assert one.chat.add_generation_prompt is False
    assert (asked.dimensions, asked.cache.salt) == (3, "s")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [True]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [[1, 2**32]]}, "input[0][1]"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype"),
        ({"input": "a", "endianness": "big"}, "endianness"),
        ({"input": "a", "dimensions": -1}, "dimensions"),
        ({"input": "a", "dimensions": "3"}, "dimensions"),
        ({"input": "a", "truncation_side": "middle"}, "truncation_side"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "normalize": True, "use_activation": False}, "use_activation"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"messages": [{"role": "user", "content": "a"}], "endianness": "big"}, "endianness"),
    ],
)
def test_bad_fields_are_named(http: httpx.Client, house: House, body: dict[str, Any], param: str) -> None:
    response = http.post(PATH, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert not house.servicer.embed_requests


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("inputs", "input"),
        ("inputs[3]", "input[3]"),
        ("inputs[3].text", "input[3]"),
        ("inputs[3].token_ids", "input[3]"),
        ("inputs[3].token_ids.ids[7]", "input[3][7]"),
        ("inputs[0].chat", "messages"),
        ("inputs[0].chat.messages[1].text", "messages[1].content"),
        ("dimensions", "dimensions"),
        ("normalize", "normalize"),
        ("cache.salt", "cache_salt"),
        ("truncate_prompt_tokens", "truncate_prompt_tokens"),
    ],
)
def test_refusals_of_the_server_name_the_fields(
    http: httpx.Client, house: House, path: str, param: str
) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    house.servicer.embed_refusal = (invalid, "text", refuses((path, "is wrong")))
    response = post(http, input="a")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["message"] == f"{param}: is wrong"


def test_a_model_that_embeds_nothing_is_named(http: httpx.Client, house: House) -> None:
    message = f"the model '{MODEL}' makes no embeddings"
    code = grpc.StatusCode.FAILED_PRECONDITION
    house.servicer.embed_refusal = (code, message, reason("UNSUPPORTED_BY_MODEL"))
    response = post(http, input="a")
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": "model",
        "code": "unsupported_by_model",
    }


def test_a_client_that_goes_cancels_the_call(house: House) -> None:
    house.servicer.holds_embeddings = True
    with httpx.Client(base_url=house.url, timeout=2.0) as http, pytest.raises(httpx.ReadTimeout):
        post(http, input="a")
    assert house.servicer.entered.acquire(timeout=10)
    assert house.servicer.left.acquire(timeout=10)


def test_the_openai_client(house: House) -> None:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model=MODEL, input=["a", "b"])
        assert [one.embedding for one in answer.data] == [
            pytest.approx([index, 1 / 3, -1]) for index in (0, 1)
        ]
        assert answer.usage.total_tokens == 4
        floats = client.embeddings.create(model=MODEL, input="a", encoding_format="float", dimensions=2)
        assert floats.data[0].embedding == pytest.approx([0, 1 / 3])
        many = client.embeddings.create(model=MODEL, input=[[1]] * 2048, dimensions=1024)
        assert len(many.data) == 2048
        assert len(many.data[2047].embedding) == 1024


async def test_the_asynchronous_openai_client(house: House) -> None:
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.embeddings.create(model=MODEL, input="a")
    assert answer.data[0].embedding == pytest.approx([0, 1 / 3, -1])

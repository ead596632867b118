"""The synchronous client against a real gRPC server."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import code_pb2
from scripted_server import INVALID, OVERLOADED, ScriptedServer, rich_failure

import pagewire
from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

CODES_TO_ERRORS = [
    (code_pb2.INVALID_ARGUMENT, pagewire.InvalidRequestError),
    (code_pb2.NOT_FOUND, pagewire.NotFoundError),
    (code_pb2.UNAUTHENTICATED, pagewire.AccessDeniedError),
    (code_pb2.PERMISSION_DENIED, pagewire.AccessDeniedError),
    (code_pb2.RESOURCE_EXHAUSTED, pagewire.OverloadedError),
    (code_pb2.UNAVAILABLE, pagewire.UnavailableError),
    (code_pb2.DEADLINE_EXCEEDED, pagewire.DeadlineExceededError),
    (code_pb2.CANCELLED, pagewire.RequestCancelledError),
    (code_pb2.INTERNAL, pagewire.InternalError),
    (code_pb2.UNKNOWN, pagewire.InternalError),
]


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[pagewire.Client]:
    with pagewire.Client(server.target, timeout=20) as client:
        yield client


def test_generate_returns_the_response_and_sends_deadline_and_request_id(
    server: ScriptedServer, client: pagewire.Client
) -> None:
    response = client.generate("The capital of France is", max_tokens=8, temperature=0, request_id="abc")
    assert response.choices[0].text == "Paris"
    assert response.started.model == "m"
    assert server.script.spec == inference_pb2.GenerationSpec(
        text="The capital of France is",
        sampling=inference_pb2.Sampling(temperature=0),
        stopping=inference_pb2.Stopping(max_tokens=8),
    )
    assert server.script.metadata["x-request-id"] == "abc"
    assert server.script.time_remaining is not None
    assert 5 < server.script.time_remaining < 21  # gRPC rounds a deadline up


def test_each_call_gets_a_request_id_and_the_clients_metadata(server: ScriptedServer) -> None:
    with pagewire.Client(server.target, metadata={"authorization": "Bearer k"}) as client:
        client.generate("a")
        first = server.script.metadata["x-request-id"]
        client.generate("a")
    assert first != server.script.metadata["x-request-id"]
    assert server.script.metadata["authorization"] == "Bearer k"


def test_chat_sends_messages(server: ScriptedServer, client: pagewire.Client) -> None:
    client.chat([{"role": "user", "content": "hi"}])
    assert server.script.spec.chat.messages[0].role == "user"
    assert server.script.spec.chat.messages[0].text == "hi"


def test_stream_yields_events_and_keeps_first_and_last(client: pagewire.Client) -> None:
    stream = client.stream("a")
    kinds = [event.WhichOneof("event") for event in stream]
    assert kinds == ["started", "delta", "delta", "delta", "finished"]
    assert stream.started is not None
    assert stream.started.num_prompt_tokens == 3
    assert stream.finished is not None
    assert stream.finished.usage.num_completion_tokens == 2


def test_texts_are_those_of_the_first_choice(client: pagewire.Client) -> None:
    assert list(client.stream(messages=[{"role": "user", "content": "hi"}]).texts()) == ["Pa", "ris"]


def test_closing_a_stream_cancels_the_call(server: ScriptedServer, client: pagewire.Client) -> None:
    server.script.hold = True
    with client.stream("a") as stream:
        next(stream)
    assert server.script.cancelled.wait(10)


def test_dropping_a_stream_cancels_the_call(server: ScriptedServer, client: pagewire.Client) -> None:
    server.script.hold = True
    for _ in client.stream("a"):
        break
    gc.collect()
    assert server.script.cancelled.wait(10)


def test_a_stream_that_was_cancelled_ends_with_a_typed_error(
    server: ScriptedServer, client: pagewire.Client
) -> None:
    server.script.hold = True
    stream = client.stream("a")
    next(stream)
    stream.close()
    with pytest.raises(pagewire.RequestCancelledError):
        list(stream)


@pytest.mark.parametrize(("code", "error_type"), CODES_TO_ERRORS)
def test_each_status_has_an_error_type(
    server: ScriptedServer, client: pagewire.Client, code: int, error_type: type[pagewire.PagewireError]
) -> None:
    server.script.fail = rich_failure(code, "what went wrong")
    with pytest.raises(error_type, match="what went wrong") as unary:
        client.generate("a")
    assert type(unary.value) is error_type
    assert unary.value.request_id == "request-7"
    with pytest.raises(error_type, match="what went wrong"):
        list(client.stream("a"))


def test_overload_says_when_to_come_back(server: ScriptedServer, client: pagewire.Client) -> None:
    server.script.fail = OVERLOADED
    with pytest.raises(pagewire.OverloadedError) as caught:
        client.generate("a")
    assert caught.value.retry_after_s == 1.5
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.script.num_calls == 1


def test_a_refused_field_is_named(server: ScriptedServer, client: pagewire.Client) -> None:
    server.script.fail = INVALID
    with pytest.raises(pagewire.InvalidRequestError) as caught:
        client.generate("a", temperature=9)
    assert caught.value.violations == (
        pagewire.FieldViolation("spec.sampling.temperature", "expected 0 to 2, got 9"),
    )


def test_a_stream_can_fail_after_its_start_and_is_then_not_retried(
    server: ScriptedServer, client: pagewire.Client
) -> None:
    server.script.fail = rich_failure(code_pb2.UNAVAILABLE, "the engine was lost")
    server.script.fail_after_start = True
    received: list[str] = []
    with pytest.raises(pagewire.UnavailableError, match="the engine was lost"):
        received.extend(client.stream("a").texts())
    assert server.script.num_calls == 1


def test_unavailable_before_the_start_is_retried(server: ScriptedServer, client: pagewire.Client) -> None:
    server.script.fail = rich_failure(code_pb2.UNAVAILABLE, "loading")
    with pytest.raises(pagewire.UnavailableError):
        client.generate("a")
    assert server.script.num_calls == 3


def test_the_deadline_of_a_call_beats_that_of_the_client(
    server: ScriptedServer, client: pagewire.Client
) -> None:
    server.script.hold = True
    with pytest.raises(pagewire.DeadlineExceededError):
        list(client.stream("a", timeout=0.2))


def test_an_unreachable_server_is_unavailable() -> None:
    with pagewire.Client("127.0.0.1:1") as client, pytest.raises(pagewire.UnavailableError):
        client.models()


def test_models_and_tokenizer(server: ScriptedServer, client: pagewire.Client) -> None:
    assert [model.name for model in client.models()] == ["m"]
    assert client.tokenize("hi") == [5, 6]
    assert client.tokenize(messages=[{"role": "user", "content": "hi"}], add_special_tokens=True) == [5, 6]
    assert client.detokenize([5, 6]) == "hi"
    with pytest.raises(pagewire.InvalidRequestError, match="either text or messages"):
        client.tokenize()


def test_readiness_is_the_health_services(server: ScriptedServer, client: pagewire.Client) -> None:
    server.set_ready(True)
    assert client.is_ready()
    server.set_ready(False)
    assert not client.is_ready()
    assert client.is_live()

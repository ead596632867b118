from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from calls import Caller, calling, details_of, status_of
from fakes import END_ID, INFO, FakeEngine, saying, serve
from google.protobuf import duration_pb2

from engine.messages import FinishReason
from pagewire.v1 import chat_pb2, inference_pb2
from server.engine import EngineUnavailableError

Event = inference_pb2.StreamGenerateResponse
Spec = inference_pb2.GenerationSpec
STOP, LENGTH = inference_pb2.FINISH_REASON_STOP, inference_pb2.FINISH_REASON_LENGTH


def text_spec(text: str = "hello", **fields: Any) -> Spec:
    return Spec(text=text, **fields)


def kinds(events: list[Event]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


async def test_a_stream_is_started_then_deltas_then_finished() -> None:
    async with calling(FakeEngine()) as caller:
        events = [event async for event in caller.stream(text_spec("hällo"))]
        assert kinds(events)[0] == "started"
        assert kinds(events)[-1] == "finished"
        assert set(kinds(events)[1:-1]) == {"delta"}
        assert "".join(event.delta.choices[0].text for event in events[1:-1]) == "hällo"
        (end,) = events[-1].finished.choices
        assert (end.index, end.finish_reason, end.WhichOneof("matched")) == (0, STOP, None)
        usage = events[-1].finished.usage
        assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (6, 7)
        assert usage.total_time.ToTimedelta() >= usage.time_to_first_token.ToTimedelta()
        assert caller.engine.live == set()


SPECS = [
    text_spec(output=inference_pb2.OutputOptions(token_ids=True, logprobs=2, prompt_logprobs=1)),
    text_spec(sampling=inference_pb2.Sampling(n=3, seed=5)),
    text_spec(stopping=inference_pb2.Stopping(stop=["ll"])),
    text_spec(
        stopping=inference_pb2.Stopping(stop=["l"], min_tokens=3), sampling=inference_pb2.Sampling(n=2)
    ),
    text_spec(stopping=inference_pb2.Stopping(max_tokens=2)),
]


@pytest.mark.parametrize("spec", SPECS, ids=["logprobs", "n", "stop", "late-stop", "length"])
async def test_the_unary_answer_is_the_fold_of_the_stream(spec: Spec) -> None:
    spec.sampling.seed = 7
    async with calling(FakeEngine()) as caller:
        whole = await caller.generate(spec)
        events = [event async for event in caller.stream(spec)]
        choices = {choice.end.index: choice for choice in whole.choices}
        for index, choice in choices.items():
            deltas = [
                delta for event in events[1:-1] for delta in event.delta.choices if delta.index == index
            ]
            assert "".join(delta.text for delta in deltas) == choice.text
            assert [one for delta in deltas for one in delta.token_ids] == list(choice.token_ids)
            assert [one for delta in deltas for one in delta.logprobs] == list(choice.logprobs)
            assert events[-1].finished.choices[index] == choice.end
        total = sum(delta.num_tokens for event in events[1:-1] for delta in event.delta.choices)
        assert total == whole.usage.num_completion_tokens
        started = events[0].started
        started.request_id = whole.started.request_id
        assert started == whole.started


@pytest.mark.parametrize(
    ("stop", "min_tokens", "text", "num_tokens"),
    [
        ("l", 0, "he", 3),
        ("l", 2, "he", 3),
        ("l", 3, "hel", 4),
        ("ll", 3, "he", 4),
        ("l", 4, "hello", 6),
    ],
)
@pytest.mark.parametrize("keeps_stop", [False, True])
async def test_no_stop_text_ends_a_choice_before_min_tokens(
    stop: str, min_tokens: int, text: str, num_tokens: int, keeps_stop: bool
) -> None:
    stopping = inference_pb2.Stopping(stop=[stop], min_tokens=min_tokens, include_stop_text=keeps_stop)
    async with calling(FakeEngine()) as caller:
        spec = text_spec(stopping=stopping, sampling=inference_pb2.Sampling(n=2))
        response = await caller.generate(spec)
        is_stopped = text != "hello"
        for choice in response.choices:
            assert choice.text == (text + stop if keeps_stop and is_stopped else text)
            assert choice.end.stop_text == (stop if is_stopped else "")
        assert response.usage.num_completion_tokens == 2 * num_tokens


async def test_started_says_what_was_understood() -> None:
    engine = FakeEngine()
    engine.num_cached_tokens = 4
    async with calling(engine) as caller:
        spec = text_spec(
            sampling=inference_pb2.Sampling(temperature=0.5, seed=3),
            output=inference_pb2.OutputOptions(prompt_token_ids=True, prompt_text=True, prompt_logprobs=1),
        )
        started = (await caller.generate(spec, metadata=[("x-request-id", "mine-1")])).started
        assert (started.request_id, started.model) == ("mine-1", "fake-model")
        assert (started.num_prompt_tokens, started.num_cached_tokens) == (5, 4)
        assert (started.sampling.temperature, started.sampling.seed, started.sampling.n) == (0.5, 3, 1)
        assert started.max_tokens == 128 - 5
        assert list(started.prompt_token_ids) == list(b"hello")
        assert started.prompt_text == "hello"
        assert [one.absent for one in started.prompt_logprobs] == [True, False, False, False, False]
        assert b"".join(one.token_bytes for one in started.prompt_logprobs) == b"hello"


async def test_a_chat_is_rendered_by_the_models_template() -> None:
    parts = chat_pb2.ContentParts(parts=[chat_pb2.ContentPart(text="a"), chat_pb2.ContentPart(text="b")])
    messages = [chat_pb2.Message(role="system", text="s"), chat_pb2.Message(role="user", parts=parts)]
    spec = Spec(chat=chat_pb2.Chat(messages=messages), output=inference_pb2.OutputOptions(prompt_text=True))
    async with calling(FakeEngine()) as caller:
        assert (await caller.generate(spec)).started.prompt_text == "<system>s\n<user>a\nb\n<assistant>"


async def test_a_lone_surrogate_from_json_is_refused() -> None:
    message = chat_pb2.Message(role="user", text="x")
    chat = chat_pb2.Chat(messages=[message], template_arguments_json='{"header": "\\ud800"}')
    async with calling(FakeEngine()) as caller:
        error = await status_of(caller.generate(Spec(chat=chat)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(error)["BadRequest"].field_violations[0].field == "spec.chat"


@pytest.mark.parametrize(
    ("limit", "side", "kept"),
    [(3, 0, b"llo"), (3, 2, b"hel"), (-1, 0, b"hello"), (5, 0, b"hello")],
)
async def test_prompts_are_truncated_at_the_asked_side(limit: int, side: Any, kept: bytes) -> None:
    async with calling(FakeEngine()) as caller:
        spec = text_spec(truncate_prompt_tokens=limit, truncation_side=side)
        spec.output.prompt_text = True
        response = await caller.generate(spec)
        assert response.started.prompt_text.encode() == kept
        assert list(caller.engine.requests[0].prompt_token_ids) == list(kept)


async def test_a_prompt_beyond_the_context_is_refused_in_words_that_clients_know() -> None:
    async with calling(FakeEngine()) as caller:
        await caller.generate(text_spec("a" * 127))
        error = await status_of(caller.generate(text_spec("a" * 128)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "This model's maximum context length is 128 tokens. However, " in (error.details() or "")
        (violation,) = details_of(error)["BadRequest"].field_violations
        assert violation.field == "spec.text"


async def test_a_stop_text_ends_the_choice_and_frees_the_sequence() -> None:
    async with calling(FakeEngine(saying(*b"abcdef"), manual=True)) as caller:
        call = caller.stream(text_spec(stopping=inference_pb2.Stopping(stop=["cd"])))
        await caller.engine.until(1)
        for _ in range(4):
            caller.engine.step()
        events = [event async for event in call]
        assert [delta.text for event in events for delta in event.delta.choices] == ["ab"]
        assert events[-1].finished.choices[0].stop_text == "cd"
        assert events[-1].finished.usage.num_completion_tokens == 4
        await caller.engine.until(0)


@pytest.mark.parametrize("includes", [False, True])
async def test_a_stop_token_is_reported_and_its_text_kept_on_demand(includes: bool) -> None:
    stopping = inference_pb2.Stopping(stop_token_ids=[ord("c")], include_stop_text=includes)
    async with calling(FakeEngine(saying(*b"abcdef"))) as caller:
        response = await caller.generate(text_spec(stopping=stopping))
        assert response.choices[0].text == ("abc" if includes else "ab")
        assert response.choices[0].end.stop_token_id == ord("c")
        assert response.usage.num_completion_tokens == 3


async def test_text_comes_in_whole_characters() -> None:
    async with calling(FakeEngine(saying(*"é".encode()), manual=True)) as caller:
        call = caller.stream(text_spec(stopping=inference_pb2.Stopping(max_tokens=2)))
        await caller.engine.until(1)
        caller.engine.step()
        assert (await call.read()).WhichOneof("event") == "started"
        assert [delta.text for delta in (await call.read()).delta.choices] == [""]
        caller.engine.step()
        assert [delta.text for delta in (await call.read()).delta.choices] == ["é"]
        assert (await call.read()).finished.choices[0].finish_reason == LENGTH


async def test_logprobs_carry_the_bytes_of_every_token() -> None:
    async with calling(FakeEngine(saying(*"é".encode()))) as caller:
        spec = text_spec(stopping=inference_pb2.Stopping(max_tokens=2))
        spec.output.logprobs = 3
        (choice,) = (await caller.generate(spec)).choices
        assert [one.token_bytes for one in choice.logprobs] == [b"\xc3", b"\xa9"]
        assert [len(one.top) for one in choice.logprobs] == [3, 3]


async def test_choices_are_sequences_with_seeds_of_their_own() -> None:
    async with calling(FakeEngine()) as caller:
        response = await caller.generate(text_spec(sampling=inference_pb2.Sampling(n=3, seed=9)))
        assert [choice.end.index for choice in response.choices] == [0, 1, 2]
        assert [request.sampling.seed for request in caller.engine.requests] == [9, 10, 11]
        assert response.usage.num_completion_tokens == 3 * 6


async def test_what_comes_while_the_writer_is_busy_is_one_delta() -> None:
    async with calling(FakeEngine(saying(*b"abc"), manual=True)) as caller:
        call = caller.stream(text_spec(stopping=inference_pb2.Stopping(max_tokens=30)))
        await caller.engine.until(1)
        for _ in range(30):
            caller.engine.step()
        events = [event async for event in call]
        assert kinds(events) == ["started", "delta", "finished"]
        assert events[1].delta.choices[0].num_tokens == 30


PHASES = ["queued", "running"]
KINDS = {"stream": False, "unary": True}
DEADLINE_S = 3.0
"""Long enough for any machine to reach the phase before it."""


async def leave(ending: str, phase: str, unary: bool) -> None:
    engine = FakeEngine(saying(1), manual=True)
    async with serve(engine) as server:
        channel = grpc.aio.insecure_channel(server.target)
        caller = Caller(server, channel)
        spec = text_spec(sampling=inference_pb2.Sampling(n=2), stopping=inference_pb2.Stopping(max_tokens=50))
        timeout = DEADLINE_S if ending == "deadline" else None
        call = (caller.generate if unary else caller.stream)(spec, timeout=timeout)
        await engine.until(2)
        if phase == "running":
            engine.step()
            if not unary:
                await call.read()
        if ending == "cancel":
            call.cancel()
        if ending == "close":
            await channel.close()
        await engine.until(0)
        assert len(engine.aborted) == 2
        await server.services.admission.drain(5, AssertionError())
        await channel.close()


@pytest.mark.parametrize("ending", ["cancel", "close"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("unary", KINDS.values(), ids=KINDS)
async def test_a_caller_that_leaves_frees_its_sequences(ending: str, phase: str, unary: bool) -> None:
    await leave(ending, phase, unary)


async def test_a_deadline_frees_the_sequences() -> None:
    await asyncio.gather(*(leave("deadline", phase, unary) for phase in PHASES for unary in KINDS.values()))


async def test_a_queue_timeout_ends_a_waiting_request_only() -> None:
    async with calling(FakeEngine(saying(1), manual=True)) as caller:
        spec = text_spec(stopping=inference_pb2.Stopping(max_tokens=2))
        spec.scheduling.queue_timeout.CopyFrom(duration_pb2.Duration(nanos=50_000_000))
        error = await status_of(caller.stream(spec))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details_of(error)["ErrorInfo"].reason == "QUEUE_TIMEOUT"
        await caller.engine.until(0)
        spec.scheduling.queue_timeout.seconds = 5
        call = caller.stream(spec)
        await caller.engine.until(1)
        caller.engine.step()
        caller.engine.step()
        assert kinds([event async for event in call])[-1] == "finished"


async def test_a_full_queue_refuses_at_once_and_running_requests_do_not_count() -> None:
    async with calling(FakeEngine(saying(1), manual=True), max_queued_requests=2) as caller:
        first = caller.stream(text_spec())
        await caller.engine.until(1)
        caller.engine.admit()
        assert (await first.read()).WhichOneof("event") == "started"
        waiting = [caller.stream(text_spec()) for _ in range(2)]
        await caller.engine.until(3)
        error = await status_of(caller.stream(text_spec()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = details_of(error)
        assert details["ErrorInfo"].reason == "QUEUE_FULL"
        assert details["RetryInfo"].retry_delay.seconds >= 1
        for call in (first, *waiting):
            call.cancel()
        await caller.engine.until(0)


async def test_an_engine_that_is_not_ready_refuses_before_anything_runs() -> None:
    engine = FakeEngine()
    engine.not_ready_reason = "the model is loading"
    async with calling(engine) as caller:
        error = await status_of(caller.generate(text_spec()))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the model is loading")
        assert "RetryInfo" in details_of(error)
        assert engine.requests == []


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_lost_engine_ends_every_stream_with_unavailable(admitted: bool) -> None:
    async with calling(FakeEngine(saying(1), manual=True)) as caller:
        calls = [caller.stream(text_spec()) for _ in range(4)]
        await caller.engine.until(4)
        if admitted:
            caller.engine.admit()
        caller.engine.crash()
        for call in calls:
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "RetryInfo" not in details_of(error)


@pytest.mark.check("R14")
@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        ("numerical_error", grpc.StatusCode.INTERNAL, "NUMERICAL_ERROR"),
        ("request_too_large", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
async def test_a_failed_sequence_fails_its_request(failure: str, code: Any, reason: str) -> None:
    async with calling(FakeEngine(saying(1), manual=True)) as caller:
        call = caller.generate(text_spec(sampling=inference_pb2.Sampling(n=2)))
        await caller.engine.until(2)
        caller.engine.finish(caller.engine.requests[1].request_id, FinishReason.FAILED, failure)
        error = await status_of(call)
        assert error.code() is code
        assert details_of(error)["ErrorInfo"].reason == reason
        assert caller.engine.live == set()


async def test_an_engine_lost_at_submission_is_unavailable() -> None:
    engine = FakeEngine()
    engine.submit_error = EngineUnavailableError("gone")
    async with calling(engine) as caller:
        assert (await status_of(caller.generate(text_spec()))).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("num_fronts", [0, 2])
async def test_a_reader_that_stops_is_cut_and_its_sequence_freed(num_fronts: int) -> None:
    """Scenario: a caller reads the first event and no more. Result: it gets RESOURCE_EXHAUSTED."""
    info = msgspec.structs.replace(INFO, max_model_len=10**6, num_blocks=10**6)
    engine = FakeEngine(lambda _: [65] * 10**6, manual=True, info=info)
    async with calling(engine, write_timeout_s=0.2, num_fronts=num_fronts) as caller:
        spec = text_spec(output=inference_pb2.OutputOptions(logprobs=20))
        call = caller.stream(spec)
        await engine.until(1)
        engine.step()
        await call.read()
        while engine.live:
            for _ in range(50):
                engine.step()
            await asyncio.sleep(0)
        assert len(engine.aborted) == 1
        error = await status_of(call)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(error)["ErrorInfo"].reason == "SLOW_READER"


async def test_unknown_models_and_adapters_are_not_found() -> None:
    async with calling(FakeEngine(), names=("a", "b")) as caller:
        assert (await caller.generate(text_spec(model="b"))).started.model == "a"
        for spec in (text_spec(model="c"), text_spec(adapter="x")):
            error = await status_of(caller.generate(spec))
            assert error.code() is grpc.StatusCode.NOT_FOUND
        assert caller.engine.requests[1:] == []


async def test_two_live_requests_may_share_an_id() -> None:
    async with calling(FakeEngine(saying(END_ID), manual=True)) as caller:
        calls = [caller.stream(text_spec(), metadata=[("x-request-id", "same")]) for _ in range(2)]
        await caller.engine.until(2)
        caller.engine.step()
        for call in calls:
            assert kinds([event async for event in call])[-1] == "finished"
            assert dict(await call.trailing_metadata())["x-request-id"] == "same"


async def test_an_unexpected_error_of_the_engine_is_internal_and_leaves_nothing() -> None:
    engine = FakeEngine()
    engine.submit_error = RuntimeError("secret")
    async with calling(engine) as caller:
        error = await status_of(caller.stream(text_spec(sampling=inference_pb2.Sampling(n=2))))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in (error.details() or "")
        assert caller.server.services.admission.num_live == 0


async def test_callers_that_leave_at_random_leave_nothing_behind() -> None:
    random = Random(7)
    engine = FakeEngine(saying(*b"abc"))
    async with calling(engine) as caller:

        async def leave_at_random() -> None:
            spec = text_spec(sampling=inference_pb2.Sampling(n=random.randint(1, 3)))
            call = caller.stream(spec, timeout=random.choice([None, 0.001, 0.01]))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                for _ in range(random.randint(0, 20)):
                    if await call.read() is grpc.aio.EOF:
                        return
                call.cancel()

        await asyncio.gather(*(leave_at_random() for _ in range(60)))
        await engine.until(0)
        await caller.server.services.admission.drain(20, AssertionError())
        await caller.generate(text_spec())
        assert engine.live == set()
        assert not [task for task in asyncio.all_tasks() if "Generation" in repr(task.get_coro())]

"""An engine is killed, its callers leave, its server drains: each gives the device's memory back."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from checked_device import MEBIBYTE, ON_CPU, SIZES, device_memory_bytes, on_gpu, record
from processes import is_alive, wait_until
from questions import Agreement, Question, ask, ask_together, random_prompt, read, read_until_lost

import pagewire
from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from on_gpu.conftest import Device
    from processes import House

pytestmark = [*on_gpu, pytest.mark.check("G05", "R01", "R06", "R12")]

SLACK_BYTES = 50 * MEBIBYTE
MEMORY_LIMIT_S = 10.0
END_LIMIT_S = 30.0 if ON_CPU else 2.0
QUESTION = Question(random_prompt(100, SIZES.vocab_size), SIZES.num_tokens)
NUM_DRAINED_TOKENS = SIZES.tight_len // 4


@pytest.fixture(scope="module")
def house(serve_tight: Callable[[], House]) -> House:
    return serve_tight()


@pytest.fixture
def client(house: House, keys: list[str]) -> Iterator[pagewire.Client]:
    with pagewire.Client(house.grpc_target, timeout=300, api_key=keys[0]) as client:
        yield client


def open_streams(client: pagewire.Client, max_tokens: int) -> list[pagewire.Stream]:
    """Streams of which each has begun."""
    streams = [
        client.stream(random_prompt(20, SIZES.vocab_size, number), max_tokens=max_tokens, ignore_eos=True)
        for number in range(SIZES.num_streams)
    ]
    for stream in streams:
        next(stream)
    return streams


def warm_up(client: pagewire.Client) -> int:
    """Ask what needs the memory that an engine takes only when it is used; return what is in use then."""
    prompts = [random_prompt(length, SIZES.vocab_size, "warm") for length in SIZES.prompt_lens]
    ask_together(client, [QUESTION] * SIZES.num_streams)
    ask_together(client, [Question(prompt, SIZES.num_tokens, seed=1) for prompt in prompts])
    return device_memory_bytes()[0]


def seconds_until_memory_is(limit_bytes: int) -> float:
    begun_s = time.monotonic()
    wait_until(lambda: device_memory_bytes()[0] <= limit_bytes, f"{limit_bytes} bytes in use", MEMORY_LIMIT_S)
    return time.monotonic() - begun_s


def test_aborts_give_everything_back(house: House, client: pagewire.Client) -> None:
    warm_bytes = warm_up(client)
    before = house.stats().engine

    def leave(number: int) -> None:
        dice = random.Random(number)
        prompt = random_prompt(dice.choice(SIZES.prompt_lens), SIZES.vocab_size, number)
        with client.stream(prompt, max_tokens=SIZES.num_tokens, ignore_eos=True) as stream:
            for _ in range(dice.choice([0, 0, 1, 2, 5, 20])):
                if next(stream, None) is None:
                    return

    with ThreadPoolExecutor(SIZES.num_streams) as callers:
        list(callers.map(leave, range(SIZES.num_aborts)))
    house.wait_until_idle()
    seconds_until_memory_is(warm_bytes + SLACK_BYTES)
    after = house.stats()
    assert after.num_engine_restarts == 0
    assert after.engine.num_failed == before.num_failed
    assert after.engine.num_aborted > before.num_aborted
    record(
        "G05 aborts",
        aborted=after.engine.num_aborted - before.num_aborted,
        change_bytes=device_memory_bytes()[0] - warm_bytes,
    )


def test_a_killed_engine_gives_its_memory_back_and_is_replaced(
    device: Device, house: House, client: pagewire.Client
) -> None:
    alone = ask(client, QUESTION, bypasses_cache=True)
    warm_bytes = warm_up(client)
    streams = open_streams(client, SIZES.tight_len // 2)
    pid, num_restarts = house.engine_pid(), house.stats().num_engine_restarts
    with ThreadPoolExecutor(len(streams)) as readers:
        ends = [readers.submit(read_until_lost, stream) for stream in streams]
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        errors = [end.result() for end in ends]
    end_s = max(told_s for _, told_s in errors) - killed_s
    assert not client.is_ready()
    freed_s = seconds_until_memory_is(device.empty_bytes + SLACK_BYTES)
    assert {error.reason for error, _ in errors} == {"ENGINE_UNAVAILABLE"}
    assert end_s < END_LIMIT_S
    house.wait_until_ready()
    ready_s = time.monotonic() - killed_s
    agreement = Agreement()
    agreement.add(alone, ask(client, QUESTION, bypasses_cache=True))
    assert house.stats().num_engine_restarts == num_restarts + 1
    assert not is_alive(pid)
    change_bytes = warm_up(client) - warm_bytes
    house.wait_until_idle()
    record(
        "G05 kill",
        streams=len(streams),
        ended_s=round(end_s, 3),
        freed_s=round(freed_s, 3),
        ready_s=round(ready_s, 2),
        change_bytes=change_bytes,
        **agreement.figures(),
    )
    assert change_bytes <= SLACK_BYTES


def refusal(house: House, key: str) -> str:
    """What a caller who does not try again is told now; empty if it is served."""
    stopping = inference_pb2.Stopping(max_tokens=1)
    spec = inference_pb2.GenerationSpec(text="more", stopping=stopping)
    with grpc.insecure_channel(house.grpc_target) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            stub.Generate(
                inference_pb2.GenerateRequest(spec=spec), metadata=(("authorization", f"Bearer {key}"),)
            )
        except grpc.RpcError as error:
            return str(error.details())
    return ""


def test_a_drain_loses_nothing_and_gives_the_memory_back(
    device: Device, house: House, client: pagewire.Client, keys: list[str]
) -> None:
    """It ends the server: the last of these."""
    streams = open_streams(client, NUM_DRAINED_TOKENS)
    with ThreadPoolExecutor(len(streams)) as readers:
        ends = [readers.submit(read, stream) for stream in streams]
        house.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refusal(house, keys[0]) == "the server is draining", "new requests are refused")
        finished = [end.result() for end in ends]
    told_s = time.monotonic()
    assert [end.usage.num_completion_tokens for end in finished] == [NUM_DRAINED_TOKENS] * len(streams)
    assert house.process.wait(60) == 0
    exit_s = time.monotonic() - told_s
    freed_s = seconds_until_memory_is(device.empty_bytes + SLACK_BYTES)
    record("G05 drain", finished=len(finished), exit_s=round(exit_s, 2), freed_s=round(freed_s, 3))
    device.clear()

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING

import pytest
from server_end import ServerEnd

from engine.channel import MAX_FRAME_BYTES, EngineChannel, decode_command, encode_command, pack
from engine.errors import ChannelClosedError
from engine.messages import (
    Abort,
    EngineInfo,
    EngineRequest,
    EngineStats,
    Fatal,
    FinishReason,
    Heartbeat,
    Loading,
    Ready,
    RequestOutput,
    ResetPrefixCache,
    SamplingParams,
    Shutdown,
    StepOutputs,
    Submit,
    TokenLogprobs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.messages import Command, Frame

REQUEST = EngineRequest(
    "r",
    array("I", [1, 2]),
    SamplingParams(max_tokens=3, logit_bias={5: -1.5}, eos_token_ids=(0,)),
    -4,
    "salt",
    True,
)
OUTPUT = RequestOutput(
    "r", [7], [TokenLogprobs(7, -0.5, 1, [(7, -0.5)])], 0, [], FinishReason.STOP, 7, "numerical_error"
)
COMMANDS: list[Command] = [Submit(REQUEST), Abort("r"), ResetPrefixCache(), Shutdown()]
FRAMES = [
    Loading("reading", 1, 2),
    Ready(EngineInfo("A", "float32", "cpu", 32, 64, 4, 8, 0.5)),
    StepOutputs([OUTPUT], EngineStats(num_running=1)),
    Heartbeat(EngineStats()),
    Fatal("no more"),
]


@pytest.fixture
def server() -> Iterator[ServerEnd]:
    with ServerEnd() as server:
        yield server


def receive(channel: EngineChannel, num_commands: int) -> list[Command]:
    commands: list[Command] = []
    while len(commands) < num_commands:
        commands += channel.receive(timeout_s=30.0)
    return commands


def test_commands_arrive_as_sent(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    server.send(*COMMANDS)
    assert receive(channel, len(COMMANDS)) == COMMANDS


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frames_arrive_as_sent(server: ServerEnd, frame: Frame) -> None:
    EngineChannel(server.theirs).send(frame)
    assert server.receive() == frame


def test_a_large_command(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    request = EngineRequest("r", array("I", range(300_000)), SamplingParams(max_tokens=1))
    sender = threading.Thread(target=server.send, args=(Submit(request),))
    sender.start()
    assert receive(channel, 1) == [Submit(request)]
    sender.join()


def test_token_ids_are_packed_and_arrive_so() -> None:
    prompt = array("I", range(70_000))
    frame = encode_command(Submit(EngineRequest("r", prompt, SamplingParams(max_tokens=1))))
    assert prompt.tobytes() in frame
    command = decode_command(frame)
    assert isinstance(command, Submit)
    assert command.request.prompt_token_ids == prompt


def test_frames_of_two_threads_do_not_mix(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    frames = [Loading(name * 100_000, 0, 0) for name in "ab"]

    def send(frame: Frame) -> None:
        for _ in range(20):
            channel.send(frame)

    senders = [threading.Thread(target=send, args=(frame,)) for frame in frames]
    for sender in senders:
        sender.start()
    received = [server.receive() for _ in range(40)]
    for sender in senders:
        sender.join()
    assert [received.count(frame) for frame in frames] == [20, 20]


def test_nothing_arrives_in_time(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    assert channel.receive(timeout_s=0.0) == []
    assert channel.receive(timeout_s=0.01) == []


def test_a_closed_channel_gives_what_came_before(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    server.send(Abort("r"))
    server.close()
    channel.wait_closed()
    assert channel.receive(timeout_s=0.0) == [Abort("r")]
    with pytest.raises(ChannelClosedError):
        channel.receive(timeout_s=30.0)
    with pytest.raises(ChannelClosedError):
        channel.send(Heartbeat(EngineStats()))


def test_closing_wakes_who_waits_for_commands(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    closer = threading.Timer(0.05, server.close)
    closer.start()
    with pytest.raises(ChannelClosedError):
        channel.receive(timeout_s=60.0)
    closer.join()


def test_nonsense_closes_the_channel(server: ServerEnd) -> None:
    channel = EngineChannel(server.theirs)
    server.send_bytes(pack(b"nonsense"))
    with pytest.raises(ChannelClosedError):
        channel.receive(timeout_s=30.0)


def test_frames_have_a_limit() -> None:
    with pytest.raises(AssertionError):
        pack(bytes(MAX_FRAME_BYTES + 1))

"""An engine process that computes nothing: every sequence gets a token at each step, at a fixed rate.

Started by the server of `benchmarks.front_speed`, as the real one is: `--channel-fd N --config JSON`. The
environment says how many steps it takes a second.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import time
from dataclasses import dataclass, field

from engine.channel import EngineChannel
from engine.errors import ChannelClosedError
from engine.messages import (
    Abort,
    EngineInfo,
    EngineStats,
    FinishReason,
    Heartbeat,
    Ready,
    RequestOutput,
    Shutdown,
    StepOutputs,
    Submit,
)

STEPS_S = "FRONT_ENGINE_STEPS_S"
FIRST_ID, LAST_ID = 300, 48_000
"""Of the tokens that it picks: plain ones, in vocabularies of at least so many."""
_HEARTBEAT_S = 1.0
_INFO = EngineInfo(
    architecture="none",
    dtype="none",
    device="none",
    vocab_size=LAST_ID,
    max_model_len=1_000_000,
    block_size=16,
    num_blocks=1_000_000,
    load_seconds=0.0,
)


@dataclass
class FrontEngine:
    """The sequences that run, and how many tokens each may still get."""

    channel: EngineChannel
    numbers: random.Random = field(default_factory=lambda: random.Random(0))
    remaining: dict[str, int] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    num_steps: int = 0
    num_tokens: int = 0

    def run(self, steps_s: float) -> None:
        """Step until the server says so or is gone. A step that comes late delays those after it."""
        self.channel.send(Ready(_INFO))
        due_s = beat_s = time.monotonic()
        while self._follow(due_s):
            now_s = time.monotonic()
            if now_s >= beat_s:
                beat_s = now_s + _HEARTBEAT_S
                self.channel.send(Heartbeat(self._stats()))
            due_s = max(due_s + 1 / steps_s, now_s)
            if self.remaining:
                self.num_steps += 1
                outputs = [self._output(request_id) for request_id in tuple(self.remaining)]
                self.channel.send(StepOutputs(outputs, self._stats()))

    def _follow(self, until_s: float) -> bool:
        """Follow commands until then. Return whether to go on."""
        while True:
            wait_s = until_s - time.monotonic()
            for command in self.channel.receive(max(0.0, wait_s)):
                match command:
                    case Submit(request):
                        self.remaining[request.request_id] = request.sampling.max_tokens
                        self.fresh.add(request.request_id)
                    case Abort(request_id):
                        self.remaining.pop(request_id, None)
                        self.fresh.discard(request_id)
                    case Shutdown():
                        return False
            if wait_s <= 0:
                return True

    def _output(self, request_id: str) -> RequestOutput:
        token_ids = [self.numbers.randrange(FIRST_ID, LAST_ID)]
        self.num_tokens += 1
        self.remaining[request_id] -= 1
        if not self.remaining[request_id]:
            del self.remaining[request_id]
            return RequestOutput(request_id, token_ids, finish_reason=FinishReason.LENGTH)
        if request_id in self.fresh:
            self.fresh.remove(request_id)
            return RequestOutput(request_id, token_ids, num_cached_tokens=0, began_s=time.monotonic())
        return RequestOutput(request_id, token_ids)

    def _stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self.remaining), num_steps=self.num_steps, num_generated_tokens=self.num_tokens
        )


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--config", required=True)
    arguments = parser.parse_args()
    channel = EngineChannel(socket.socket(fileno=arguments.channel_fd))
    try:
        FrontEngine(channel).run(float(os.environ[STEPS_S]))
    except ChannelClosedError:
        return


if __name__ == "__main__":
    main()

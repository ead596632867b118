"""What is noted of a request while it is served, for log and metrics: counts and times, never text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from watch.trace_context import TraceContext

WORK = ("Generate", "StreamGenerate", "Embed")
"""Every other method is a short question, which probes ask again and again, or a watch."""
CALLER_GONE = "CALLER_GONE"
DEADLINE_PASSED = "DEADLINE_PASSED"
"""Reasons of ends that nobody was left to hear of."""

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


@dataclass(slots=True)
class RequestRecord:
    """Of one request. What has not come about is None or empty."""

    model: str = ""
    num_choices: int | None = None
    max_tokens: int | None = None
    sampling: inference_pb2.Sampling | None = None
    """The values in force."""
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_completion_tokens: int | None = None
    finish_reasons: tuple[str, ...] = ()
    """Of its choices."""
    is_queued: bool = False
    """Whether it is a generation that was found right, and waited to begin."""
    queue_s: float | None = None
    """From arrival to the beginning of the first step that ran it."""
    first_token_s: float | None = None
    """From arrival."""
    total_s: float | None = None

    def note(self, event: inference_pb2.StreamGenerateResponse) -> None:
        """Take what an event of a generation tells."""
        if event.HasField("started"):
            started = event.started
            self.num_choices = started.sampling.n
            self.max_tokens = started.max_tokens
            self.sampling = started.sampling
            self.num_prompt_tokens = started.num_prompt_tokens
            self.num_cached_tokens = started.num_cached_tokens
        elif event.HasField("finished"):
            usage = event.finished.usage
            self.num_completion_tokens = usage.num_completion_tokens
            self.finish_reasons = tuple(
                _FINISH_REASONS.get(choice.finish_reason, "stop") for choice in event.finished.choices
            )
            self.total_s = _seconds(usage.total_time)

    def note_progress(
        self, queue_s: float | None, first_token_s: float | None, num_completion_tokens: int
    ) -> None:
        """Take how far a generation came, to whatever end."""
        self.queue_s, self.first_token_s = queue_s, first_token_s
        self.num_completion_tokens = num_completion_tokens

    def finish_embedding(self, response: inference_pb2.EmbedResponse) -> None:
        """Take what a response of Embed tells."""
        self.model = response.model
        self.num_prompt_tokens = response.num_prompt_tokens
        self.finish_reasons = ("stop",)


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended."""

    method: str
    request_id: str
    tenant: str
    """Whose key it came with; empty where nobody needs one."""
    code: str
    """Name of the gRPC status."""
    reason: str
    """The stable name of the cause; empty where all went well."""
    seconds: float
    """Since it arrived."""
    record: RequestRecord
    fault: BaseException | None
    """An error that we did not expect: a bug of ours."""
    request: Message | None = None
    """What was asked, where it could be read. It may go nowhere but into the settings that a span tells."""
    trace: TraceContext | None = None
    """The trace that the call belongs to."""
    peer: str = ""
    """The address that it came from, with its port: the caller's, or that of what stands between."""

    @property
    def is_work(self) -> bool:
        """Whether the engine was to do something for it."""
        return self.method in WORK


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9

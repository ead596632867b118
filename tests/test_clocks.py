"""Nothing is measured by the clock on the wall, which may jump."""

from __future__ import annotations

import ast
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from calls import calling, status_of
from fakes import FakeEngine, saying
from google.protobuf import duration_pb2

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("R23")

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "engine", "gate", "kernels", "server", "translator", "clients/python/src/pagewire")
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
WHAT_TELLS_THE_TIME = {
    "cli/top_figures.py": "how long ago the server says that it started",
    "server/adapters.py": "when an adapter was loaded",
    "server/admin_service.py": "when the server started",
    "server/call_spans.py": "when a call ended; how long it took is measured",
    "server/chat/environment.py": "the date in a chat template",
    "server/engine_collector.py": "vLLM's metric of adapters is a time",
    "server/loading.py": "when the model was loaded",
    "translator/chat.py": "`created`",
    "translator/completions.py": "`created`",
    "translator/response_object.py": "`created_at`",
}
HOUR_S = 3600.0


def files_with_wall_clocks() -> Iterator[str]:
    for path in itertools.chain.from_iterable((ROOT / package).rglob("*.py") for package in PACKAGES):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if any(ast.unparse(call.func) in WALL_CLOCKS for call in calls):
            yield str(path.relative_to(ROOT))


def test_the_clock_on_the_wall_is_read_only_to_tell_the_time() -> None:
    assert set(files_with_wall_clocks()) <= WHAT_TELLS_THE_TIME.keys()


async def test_requests_are_timed_well_while_the_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario: each reading of the wall clock is an hour before or after the last one."""
    jumps = itertools.cycle((HOUR_S, -HOUR_S, 0.0))
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(next(jumps) * 1e9))
    spec = inference_pb2.GenerationSpec(text="hi", stopping=inference_pb2.Stopping(max_tokens=20))
    async with calling(FakeEngine(saying(65))) as caller:
        for _ in range(5):
            events = [event async for event in caller.stream(spec)]
            usage = events[-1].finished.usage
            assert usage.num_completion_tokens == 20
            for took in (usage.queue_time, usage.time_to_first_token, usage.total_time):
                assert 0 <= took.ToTimedelta().total_seconds() < HOUR_S / 2
            assert (await caller.generate(spec)).usage.num_completion_tokens == 20
        for family in caller.server.services.metrics.registry.collect():
            for sample in family.samples:
                if family.name.startswith("vllm:") and sample.name.endswith("_seconds_sum"):
                    assert 0 <= sample.value < HOUR_S / 2, sample


async def test_deadlines_hold_while_the_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = itertools.cycle((HOUR_S, -HOUR_S))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    async with calling(FakeEngine(saying(65), manual=True)) as caller:
        patient = caller.stream(inference_pb2.GenerationSpec(text="hi"))
        hasty = inference_pb2.GenerationSpec(text="hi")
        hasty.scheduling.queue_timeout.CopyFrom(duration_pb2.Duration(nanos=50_000_000))
        error = await status_of(caller.stream(hasty))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await caller.engine.until(1)
        caller.engine.admit()
        assert (await patient.read()).HasField("started")
        patient.cancel()
        await caller.engine.until(0)

"""A fault at each wait of each handler, in what it waits for, and in what runs beside it.

The caller always gets a status, never UNKNOWN, nothing of the request is left, and the server goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from fakes import END_ID, FakeEngine, FakeServer, saying, serve
from figures import in_ms, show
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2
from torture import Plan, TorturedServicer

from pagewire.v1 import admin_pb2, chat_pb2, inference_pb2, models_pb2
from server import services
from server.choice import Choice
from server.rpc import generic_handler
from server.services import ADMIN, HEALTH, INFERENCE, MODELS
from server.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from engine.messages import EngineRequest, RequestOutput
    from server.engine import Outlet

    Fault = Callable[[], BaseException]

pytestmark = pytest.mark.check("R11")

SECRET = "/etc/secret 0xdeadbeef"
FAULTS: dict[str, Fault] = {
    "CancelledError": asyncio.CancelledError,
    "TimeoutError": lambda: TimeoutError(SECRET),
    "RuntimeError": lambda: RuntimeError(SECRET),
    "KeyError": lambda: KeyError(SECRET),
    "MemoryError": MemoryError,
    "UnicodeEncodeError": lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, SECRET),
}
INTERNAL = grpc.StatusCode.INTERNAL
OF_TIMEOUTS = {
    INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # in the queue
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # of a reader
}
MAX_WAITS = 200


@dataclass(frozen=True)
class Case:
    """A call that goes well if nothing happens to it."""

    service: ServiceDescriptor
    method: str
    request: Message
    num_waits: int = MAX_WAITS
    """Before it ends; of a call without an end, how many of them are looked at."""
    code: grpc.StatusCode = grpc.StatusCode.OK


def generation(**fields: Any) -> inference_pb2.GenerationSpec:
    spec = inference_pb2.GenerationSpec(**fields)
    spec.stopping.max_tokens = 3
    if not spec.HasField("chat"):
        spec.text = "hi"
    return spec


def unary(**fields: Any) -> Case:
    return Case(INFERENCE, "Generate", inference_pb2.GenerateRequest(spec=generation(**fields)))


def stream(**fields: Any) -> Case:
    return Case(INFERENCE, "StreamGenerate", inference_pb2.StreamGenerateRequest(spec=generation(**fields)))


CHAT = chat_pb2.Chat(messages=[chat_pb2.Message(role="user", text="hi")])
ONE = inference_pb2.EmbedInput(text="hi")
CASES = {
    "text": stream(),
    "text, at once": unary(),
    "a chat": stream(chat=CHAT),
    "a constraint": unary(constraint=inference_pb2.Constraint(regex="A+")),
    "two choices": stream(sampling=inference_pb2.Sampling(n=2, temperature=1)),
    "beams": unary(sampling=inference_pb2.Sampling(n=2, beam_search=inference_pb2.BeamSearch())),
    "prompt log probabilities": stream(output=inference_pb2.OutputOptions(prompt_logprobs=1)),
    "patience": stream(scheduling=inference_pb2.Scheduling(queue_timeout=duration_pb2.Duration(seconds=500))),
    "an adapter": stream(adapter="lora"),
    "inputs": Case(INFERENCE, "Embed", inference_pb2.EmbedRequest(inputs=[ONE, ONE])),
    "ListModels": Case(MODELS, "ListModels", models_pb2.ListModelsRequest()),
    "GetModel": Case(MODELS, "GetModel", models_pb2.GetModelRequest()),
    "Tokenize": Case(MODELS, "Tokenize", models_pb2.TokenizeRequest(text="hi")),
    "Tokenize a chat": Case(MODELS, "Tokenize", models_pb2.TokenizeRequest(chat=CHAT)),
    "Detokenize": Case(MODELS, "Detokenize", models_pb2.DetokenizeRequest(token_ids=[65])),
    "RenderChat": Case(MODELS, "RenderChat", models_pb2.RenderChatRequest(chat=CHAT)),
    "GetTokenizerInfo": Case(MODELS, "GetTokenizerInfo", models_pb2.GetTokenizerInfoRequest()),
    "Check": Case(HEALTH, "Check", health_pb2.HealthCheckRequest()),
    "List": Case(HEALTH, "List", health_pb2.HealthListRequest()),
    "Watch": Case(HEALTH, "Watch", health_pb2.HealthCheckRequest(), num_waits=2),
    "GetStats": Case(ADMIN, "GetStats", admin_pb2.GetStatsRequest()),
    "AbortRequest": Case(
        ADMIN,
        "AbortRequest",
        admin_pb2.AbortRequestRequest(request_id="of nobody"),
        code=grpc.StatusCode.NOT_FOUND,
    ),
    "LoadAdapter": Case(
        ADMIN, "LoadAdapter", admin_pb2.LoadAdapterRequest(name="new", path="x", replace=True)
    ),
    "UnloadAdapter": Case(ADMIN, "UnloadAdapter", admin_pb2.UnloadAdapterRequest(name="lora")),
    "ListAdapters": Case(ADMIN, "ListAdapters", admin_pb2.ListAdaptersRequest()),
    "ResetPrefixCache": Case(ADMIN, "ResetPrefixCache", admin_pb2.ResetPrefixCacheRequest()),
    "Drain": Case(ADMIN, "Drain", admin_pb2.DrainRequest()),
}


def test_every_method_has_a_case() -> None:
    methods = {
        method.full_name for service in (INFERENCE, MODELS, ADMIN, HEALTH) for method in service.methods
    }
    assert methods == {f"{case.service.full_name}.{case.method}" for case in CASES.values()}


class Caller:
    """Makes the call of a case, to a server that has an adapter."""

    def __init__(self, server: FakeServer, stack: contextlib.AsyncExitStack, times_s: list[float]) -> None:
        """What its calls took goes to `times_s`."""
        self.server = server
        self._stack = stack
        self._times_s = times_s

    async def code_of(self, case: Case) -> grpc.StatusCode:
        """Call, and return how the call ended."""
        await self.server.services.adapters.load("lora", "x", replace=True)
        is_admin = case.service is ADMIN
        target = self.server.admin_target if is_admin else self.server.target
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target))
        descriptor = case.service.methods_by_name[case.method]
        make: Any = channel.unary_stream if descriptor.server_streaming else channel.unary_unary
        began_s = time.monotonic()
        call = make(f"/{case.service.full_name}/{case.method}")(case.request.SerializeToString(), timeout=60)
        with contextlib.suppress(grpc.aio.AioRpcError):
            if descriptor.server_streaming:
                while await call.read() is not grpc.aio.EOF:
                    pass
            else:
                await call
        assert SECRET not in (await call.details() or "")
        self._times_s.append(time.monotonic() - began_s)
        code: grpc.StatusCode = await call.code()
        return code

    async def check_nothing_is_left(self) -> None:
        """No blocks, no tickets."""
        await self.server.engine.until(num_live=0)
        assert self.server.services.admission.num_live == 0
        assert self.server.services.admission.num_waiting == 0


Calling = Callable[[FakeEngine], contextlib.AbstractAsyncContextManager[Caller]]


@pytest.fixture(scope="module")
def times_s() -> Iterator[list[float]]:
    """How long each call took until it had a status."""
    times_s: list[float] = []
    yield times_s
    show("R11", calls_ms=in_ms(times_s))


@pytest.fixture
def calling(times_s: list[float]) -> Calling:
    @contextlib.asynccontextmanager
    async def calling(engine: FakeEngine) -> AsyncIterator[Caller]:
        async with contextlib.AsyncExitStack() as stack, serve(engine, max_adapters=3, max_loras=1) as server:
            yield Caller(server, stack, times_s)

    return calling


def check_code(code: grpc.StatusCode, name: str) -> None:
    assert code in (OF_TIMEOUTS if name == "TimeoutError" else {INTERNAL}), name


@pytest.mark.parametrize("name", CASES)
async def test_a_fault_at_each_wait_of_a_handler(
    name: str, calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, plan = CASES[name], Plan()

    def tortured(service: ServiceDescriptor, servicer: object, *more: Any) -> grpc.GenericRpcHandler:
        return generic_handler(service, TorturedServicer(servicer, plan), *more)

    monkeypatch.setattr(services, "generic_handler", tortured)
    async with calling(FakeEngine(saying(65, 65, END_ID))) as caller:
        for fault_name, fault in FAULTS.items():
            for at in range(case.num_waits):
                plan.at, plan.fault, plan.has_happened = at, fault, False
                code = await caller.code_of(case)
                await caller.check_nothing_is_left()
                if not plan.has_happened:
                    assert code is case.code
                    break
                check_code(code, fault_name)
        plan.fault = None
        if name not in ("Watch", "Drain"):
            assert await caller.code_of(case) is case.code


class FaultyEngine(FakeEngine):
    """An engine whose outputs end in a fault."""

    fault: Fault = asyncio.CancelledError
    at = 0
    has_happened = False

    def submit(self, request: EngineRequest, outlet: Outlet) -> None:
        """See `server.engine.Engine`."""
        super().submit(request, FaultyOutlet(self, request.request_id, outlet))


class FaultyOutlet:
    """Passes on so many outputs, and then a fault."""

    def __init__(self, engine: FaultyEngine, request_id: str, outlet: Outlet) -> None:
        self._engine = engine
        self._request_id = request_id
        self._outlet = outlet
        self._num_outputs = 0
        self.fail = outlet.fail

    def put(self, output: RequestOutput) -> None:
        """See `server.engine.Outlet`."""
        num_outputs, self._num_outputs = self._num_outputs, self._num_outputs + 1
        if num_outputs < self._engine.at:
            self._outlet.put(output)
        if num_outputs == self._engine.at:
            self._engine.has_happened = True
            self._outlet.fail(self._engine.fault())
            self._engine.abort(self._request_id)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["text", "text, at once", "two choices", "beams", "inputs", "patience"])
async def test_a_fault_at_each_output_of_the_engine(name: str, fault: str, calling: Calling) -> None:
    engine = FaultyEngine(saying(65, 66, 67))
    engine.fault = FAULTS[fault]
    async with calling(engine) as caller:
        for engine.at in range(MAX_WAITS):
            engine.has_happened = False
            code = await caller.code_of(CASES[name])
            await caller.check_nothing_is_left()
            if not engine.has_happened:
                assert code is grpc.StatusCode.OK
                break
            check_code(code, fault)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "CancelledError"])
@pytest.mark.parametrize("name", ["text", "text, at once", "inputs", "Tokenize", "RenderChat"])
async def test_a_fault_of_the_tokenizer(
    name: str, fault: str, calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object, **__: object) -> None:
        raise FAULTS[fault]()

    async with calling(FakeEngine()) as caller:
        monkeypatch.setattr(Tokenizer, "encode", encode)
        check_code(await caller.code_of(CASES[name]), fault)
        await caller.check_nothing_is_left()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_detokenizer(
    fault: str, calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(*_: object) -> None:
        raise FAULTS[fault]()

    async with calling(FakeEngine(saying(65, 66))) as caller:
        monkeypatch.setattr(Choice, "take", take)
        for name in ("text", "text, at once", "beams"):
            check_code(await caller.code_of(CASES[name]), fault)
            await caller.check_nothing_is_left()

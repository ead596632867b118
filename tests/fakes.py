"""A scripted engine, and a tokenizer small enough to build in a test.

`FakeEngine` runs on the event loop, generates what its script says and draws no time of its own:
either it goes on by itself, one token of every live sequence at a time, or, with `manual=True`, a
test calls `step()` for each token.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from engine.errors import AdapterError
from engine.messages import (
    EngineInfo,
    EngineRequest,
    EngineStats,
    FinishReason,
    Pooling,
    RequestOutput,
    TokenLogprobs,
)
from gate.key_ring import KeyRing
from server.delivery import Delivery
from server.engine import EngineUnavailableError
from server.front_messages import SILENCE_TIMEOUT_S, FrontConfig
from server.fronts import Fronts
from server.gate import Gate
from server.generation_defaults import GenerationDefaults
from server.listeners import bind, make_listener, options_for, reflection_handler, reserve
from server.served_model import ModelSlot, ServedModel
from server.services import INFERENCE, Services
from server.step_totals import StepTotals
from server.tenants import EQUAL_TENANTS, Tenants
from server.tokenizer import Tokenizer
from server.tokenizer_source import TokenizerSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import grpc

    from gate.certificates import CertificateFiles
    from server.engine import Outlet
    from server.engine_failure import FailureReason

    Script = Callable[[EngineRequest], Sequence[int]]

INFO = EngineInfo(
    architecture="FakeForCausalLM",
    dtype="float32",
    device="cpu",
    vocab_size=260,
    max_model_len=128,
    block_size=4,
    num_blocks=64,
    load_seconds=0.0,
    embedding_dimensions=4,
    poolings=(Pooling.LAST, Pooling.MEAN),
)


def echo(request: EngineRequest) -> Sequence[int]:
    """Script: the prompt's tokens again, then end-of-sequence."""
    return [*request.prompt_token_ids, *request.sampling.eos_token_ids[:1]]


def saying(*token_ids: int) -> Script:
    """Script: these tokens, whatever the prompt, over and over."""
    return lambda request: [token_ids[i % len(token_ids)] for i in range(request.sampling.max_tokens)]


def vector_of(token_ids: Sequence[int]) -> tuple[float, ...]:
    """The fake model's embedding of an input, before it is normalised."""
    return float(len(token_ids)), float(token_ids[0]), float(token_ids[-1]), -1.0


class _Sequence:
    def __init__(self, request: EngineRequest, script: Sequence[int], delivery: Delivery) -> None:
        self.request = request
        self.script = script
        self.delivery = delivery
        self.num_generated = 0
        self.admitted = False

    def step(self, num_cached_tokens: int) -> RequestOutput:
        """Generate the next token of the script, or the vector that is asked for."""
        if self.request.pooling is not None:
            self.admitted = True
            return RequestOutput(
                request_id=self.request.request_id,
                num_cached_tokens=num_cached_tokens,
                finish_reason=FinishReason.STOP,
                embedding=struct.pack("<4f", *vector_of(self.request.prompt_token_ids)),
            )
        sampling = self.request.sampling
        token_id = self.script[self.num_generated] if self.script else 0
        self.num_generated += 1
        stopped = token_id in sampling.stop_token_ids
        ended = stopped or token_id in sampling.eos_token_ids
        full = self.num_generated in (sampling.max_tokens, len(self.script))
        first, self.admitted = not self.admitted, True
        prompt = self.request.prompt_token_ids[1:]
        num_prompt_logprobs = sampling.num_prompt_logprobs
        return RequestOutput(
            request_id=self.request.request_id,
            token_ids=[token_id],
            logprobs=_logprobs([token_id], sampling.num_logprobs),
            num_cached_tokens=num_cached_tokens if first else None,
            began_s=time.monotonic() if first else None,
            prompt_logprobs=_logprobs(prompt, num_prompt_logprobs)
            if self.num_generated == 1 and num_prompt_logprobs is not None
            else None,
            finish_reason=FinishReason.STOP if ended else FinishReason.LENGTH if full else None,
            stop_token_id=token_id if stopped else None,
        )


def _logprobs(token_ids: Sequence[int], num_top: int | None) -> list[TokenLogprobs]:
    if num_top is None:
        return []
    top = [(rank, -1.0 - rank) for rank in range(num_top)]
    return [TokenLogprobs(token_id=id_, logprob=-0.5, rank=1, top=top) for id_ in token_ids]


class FakeEngine:
    """Implements `server.engine.Engine` with scripted tokens.

    Public state is there for tests: `requests` holds all that was submitted, `aborted` the ids that
    were aborted while live; `submit_error` is raised by the next `submit`.
    """

    def __init__(self, script: Script = echo, *, manual: bool = False, info: EngineInfo = INFO) -> None:
        self.info = info
        self.stats = EngineStats(num_free_blocks=info.num_blocks, block_size=info.block_size)
        self.restarts: dict[FailureReason, int] = {}
        self.steps = StepTotals()
        self.last_step_age_s: float | None = None
        self.not_ready_reason: str | None = None
        self.num_cached_tokens = 0
        self.submit_error: Exception | None = None
        self.requests: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.adapters: dict[int, str] = {}
        self.num_cache_resets = 0
        self._script = script
        self._manual = manual
        self._live: dict[str, _Sequence] = {}
        self._changed = asyncio.Event()

    @property
    def live(self) -> set[str]:
        """Ids of the sequences that have not ended."""
        return set(self._live)

    @property
    def totals(self) -> EngineStats:
        """See `server.engine.Engine`. This engine is the first one."""
        return self.stats

    async def load_adapter(self, adapter: int, path: str) -> int:
        """See `server.engine.Engine`. Folders called "broken" are refused."""
        if "broken" in path:
            raise AdapterError(f"{path}: not an adapter")
        self.adapters[adapter] = path
        return 8

    def unload_adapter(self, adapter: int) -> None:
        """See `server.engine.Engine`."""
        del self.adapters[adapter]
        self._notify()

    def has_adapter(self, adapter: int) -> bool:
        """See `server.engine.Engine`."""
        return adapter in self.adapters

    def reset_prefix_cache(self) -> None:
        """See `server.engine.Engine`."""
        self.num_cache_resets += 1

    def submit(self, request: EngineRequest, outlet: Outlet) -> None:
        """See `server.engine.Engine`."""
        if self.submit_error is not None:
            raise self.submit_error
        if self.not_ready_reason is not None:
            raise EngineUnavailableError(self.not_ready_reason)
        assert request.request_id not in self._live
        delivery = Delivery(outlet, self.steps.token_gaps)
        self.requests.append(request)
        self._live[request.request_id] = _Sequence(request, self._script(request), delivery)
        self._notify()
        if not self._manual and len(self._live) == 1:
            asyncio.get_running_loop().call_soon(self._run)

    def abort(self, request_id: str) -> None:
        """See `server.engine.Engine`."""
        if request_id in self._live:
            self.aborted.append(request_id)
            self.finish(request_id, FinishReason.ABORTED)

    def admit(self) -> None:
        """Give every waiting sequence its blocks."""
        for sequence in self._live.values():
            if not sequence.admitted:
                sequence.admitted = True
                request_id = sequence.request.request_id
                output = RequestOutput(
                    request_id=request_id, num_cached_tokens=self.num_cached_tokens, began_s=time.monotonic()
                )
                sequence.delivery.put(output)

    def step(self) -> None:
        """Generate one token of every live sequence."""
        for request_id, sequence in list(self._live.items()):
            if request_id not in self._live:
                continue  # an output before has ended its whole request
            output = sequence.step(self.num_cached_tokens)
            if output.finish_reason is not None:
                del self._live[request_id]
                self._notify()
            sequence.delivery.put(output)

    def finish(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """End a sequence now."""
        sequence = self._live.pop(request_id)
        output = RequestOutput(request_id=request_id, finish_reason=reason, error=error)
        sequence.delivery.put(output)
        self._notify()

    def crash(self, reason: str = "the engine process ended") -> None:
        """Lose every live sequence and be not ready."""
        self.not_ready_reason = reason
        live, self._live = self._live, {}
        for sequence in live.values():
            sequence.delivery.fail(EngineUnavailableError(reason))
        self._notify()

    async def until(self, num_live: int) -> None:
        """Wait until that many sequences are live."""
        while len(self._live) != num_live:
            self._changed.clear()
            await self._changed.wait()

    async def until_submitted(self, num_requests: int) -> None:
        """Wait until that many sequences have been submitted, whatever became of them."""
        while len(self.requests) < num_requests:
            self._changed.clear()
            await self._changed.wait()

    async def until_adapters(self, num_adapters: int) -> None:
        """Wait until that many adapters are left."""
        while len(self.adapters) != num_adapters:
            self._changed.clear()
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()

    def _run(self) -> None:
        self.step()
        if self._live:
            asyncio.get_running_loop().call_soon(self._run)


END_ID = 256
CHAT_TEMPLATE = (
    "{{ header }}{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@functools.cache
def make_tokenizer() -> Tokenizer:
    """A tokenizer whose ids 0 to 255 are the bytes, followed by <end>, <begin> and two spare marks."""
    return byte_tokenizer("<begin>", "<spare-0>", "<spare-1>")


@functools.cache
def byte_tokenizer(*marks: str) -> Tokenizer:
    """A tokenizer whose ids 0 to 255 are the bytes, followed by <end> and these marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_of)
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>", *marks])
    return Tokenizer(
        TokenizerSource(
            backend=backend,
            special_tokens={"bos_token": "<begin>", "eos_token": "<end>"},
            eos_token_ids=(END_ID,),
            chat_templates={"default": CHAT_TEMPLATE},
        )
    )


def _byte_of(character: str) -> int:
    """The byte that a character of the byte-level alphabet stands for."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    code = ord(character)
    return code if code in printable else others[code - 256]


@dataclass(frozen=True)
class FakeServer:
    """A gRPC server over a fake engine."""

    engine: FakeEngine
    services: Services
    target: str
    admin_target: str
    public: grpc.aio.Server | Fronts


def fake_model(**values: Any) -> ServedModel:
    """The model that a fake engine runs; `values` are those of its fields that matter."""
    usual: dict[str, Any] = {
        "names": ("fake-model",),
        "root": "fake",
        "created_s": 1_700_000_000.0,
        "tokenizer": make_tokenizer(),
        "defaults": GenerationDefaults(),
        "info": INFO,
    }
    return ServedModel(**(usual | values))


@contextlib.asynccontextmanager
async def serve(
    engine: FakeEngine,
    *,
    names: tuple[str, ...] = ("fake-model",),
    max_queued_requests: int = 64,
    max_adapters: int = 0,
    max_loras: int = 0,
    write_timeout_s: float = 30.0,
    traces_endpoint: str | None = None,
    keys: KeyRing | None = None,
    admin_keys: KeyRing | None = None,
    tenants: Tenants = EQUAL_TENANTS,
    queue_timeout_s: float | None = None,
    reflects: bool = False,
    credentials: Callable[[], grpc.ServerCredentials | None] = lambda: None,
    num_fronts: int = 0,
    front_silence_timeout_s: float = SILENCE_TIMEOUT_S,
    tls: CertificateFiles | None = None,
) -> AsyncIterator[FakeServer]:
    """Serve a fake engine with the real services, on free ports of this machine.

    Fronts read certificates themselves: `tls` is for them, `credentials` for listeners of this process.
    """
    slot = ModelSlot()
    services = Services(
        engine,
        slot,
        max_queued_requests=max_queued_requests,
        max_logprobs=20,
        max_adapters=max_adapters,
        max_loras=max_loras,
        tenants=tenants,
        queue_timeout_s=queue_timeout_s,
        write_timeout_s=write_timeout_s,
        traces_endpoint=traces_endpoint,
    )
    services.announce(fake_model(names=names, info=engine.info))
    reflection = [reflection_handler([INFERENCE.full_name])] if reflects else []
    public_gate, admin_gate = (
        Gate(ring or KeyRing(()), functools.partial(services.metrics.count_refusal, name))
        for name, ring in (("public", keys), ("admin", admin_keys))
    )
    handlers = [*services.public_handlers(), *reflection]
    public: grpc.aio.Server | Fronts
    if num_fronts:
        reserved, port = reserve("127.0.0.1", 0, "--port")
        options = options_for(1 << 22) | {"grpc.so_reuseport": 1}
        config = FrontConfig("127.0.0.1", port, options, tls, front_silence_timeout_s)
        public = Fronts(handlers, public_gate, config, reserved, num_fronts)
    else:
        public = make_listener(handlers, max_message_bytes=1 << 22, gate=public_gate)
        port = bind(public, "127.0.0.1", 0, "--port", credentials())
    admin = make_listener(
        [*services.admin_handlers(), *reflection], max_message_bytes=1 << 22, gate=admin_gate
    )
    admin_port = bind(admin, "127.0.0.1", 0, "--admin-port", credentials())
    await public.start()
    await admin.start()
    try:
        yield FakeServer(engine, services, f"127.0.0.1:{port}", f"127.0.0.1:{admin_port}", public)
    finally:
        # A call that has been answered ends by itself; the event loop must not be gone before.
        await asyncio.gather(public.stop(0.5), admin.stop(0.5))
        await services.close()

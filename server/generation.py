"""One accepted request while it runs: its sequences in the engine, and the events for its caller.

The engine is read all the time. What it brings while an event is being written gathers in the choices,
so a slow reader gets bigger deltas and no queue grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2

from engine.messages import EngineRequest, SamplingParams
from pagewire.v1 import inference_pb2
from server.beam_search import BeamSearch
from server.caller import in_time
from server.choice import Choice, token_logprob
from server.errors import SlowReaderError
from server.prompts import text_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from engine.messages import RequestOutput
    from server.caller import Caller
    from server.engine import Engine
    from server.generation_request import GenerationRequest
    from server.prompts import EncodedPrompt
    from server.served_model import ServedModel

# What may gather for one reader while a message is written to it, which was gathered before and is no larger.
MAX_GATHERED_BYTES = 112 * 1024
# Who asks for several choices counts as so many readers, as long as one message holds it: clients take 4 MiB.
MAX_GATHERED_BYTES_OF_ALL = 2 * 1024 * 1024

TOKENS_PER_LOOK = 8
"""How many tokens may come for a reader who is behind before it is seen how much has gathered."""

_serial_numbers = itertools.count()


class Generation:
    """Runs one request. Create it and consume `events` once."""

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        request: GenerationRequest,
        prompt: EncodedPrompt,
        grammar: str,
        caller: Caller,
    ) -> None:
        self._engine = engine
        self._model = model
        self._request = request
        self._prompt = prompt
        self._grammar = grammar
        self._caller = caller
        self._first_step_s: float | None = None
        self._first_token_s: float | None = None
        self._serial = next(_serial_numbers)
        self._sampling = request.for_prompt(len(prompt.token_ids), model.max_model_len)
        self._choices = [
            Choice(index, request, model.tokenizer, prompt.token_ids) for index in range(request.num_choices)
        ]
        self._search_task: asyncio.Task[None] | None = None
        self._num_tokens_behind = 0
        self._num_kept_bytes = 0  # by choice, since the reader wants larger deltas
        self._changed = asyncio.Event()
        self._is_awaited = False
        """Whether the reader waits for what comes; else it writes what came before."""
        self._error: BaseException | None = None

    async def events(self) -> AsyncGenerator[inference_pb2.StreamGenerateResponse, None]:
        """Run the request and yield `started`, deltas and `finished`.

        Raises:
            ServiceError: the request failed.
            EngineUnavailableError: the engine was lost.
        """
        try:
            self._start()
            await self._until_admitted()
            # What describes a long prompt takes so long to write that others would wait for it.
            describes = self._choices[0].prompt_logprobs is not None
            started = await asyncio.to_thread(self._started) if describes else self._started()
            yield inference_pb2.StreamGenerateResponse(started=started)
            self._changed.set()  # the admission may have come with tokens
            while not all(choice.is_done for choice in self._choices):
                if self._error is None:
                    await self._until_changed()
                delta = self._pop_delta()
                if delta.choices:
                    yield inference_pb2.StreamGenerateResponse(delta=delta)
                elif self._error is not None:
                    raise self._error
            yield inference_pb2.StreamGenerateResponse(finished=self._finished())
        finally:
            self.abort()

    def abort(self) -> None:
        """Free what the request holds in the engine. May be called at any time, more than once."""
        if self._search_task is not None:
            self._search_task.cancel()
        for choice in self._choices:
            if choice.end is None:
                self._engine.abort(self._sequence_id(choice))

    @property
    def queue_s(self) -> float | None:
        """From the call's arrival to the beginning of the first step; None before that."""
        return self._since_arrival_s(self._first_step_s)

    @property
    def first_token_s(self) -> float | None:
        """From the call's arrival to the first token; None before that."""
        return self._since_arrival_s(self._first_token_s)

    @property
    def num_tokens(self) -> int:
        """Generated so far, of all choices."""
        return sum(choice.num_tokens for choice in self._choices)

    def _start(self) -> None:
        if self._is_search:
            self._search_task = asyncio.create_task(self._search())
            self._search_task.add_done_callback(self._on_search_done)
            return
        for choice in self._choices:
            self._engine.submit(self._engine_request(choice), _ChoiceOutlet(self, choice))

    @property
    def _is_search(self) -> bool:
        return self._request.length_penalty is not None

    def _sequence_id(self, choice: Choice) -> str:
        return f"{self._caller.request_id}#{self._serial}.{choice.index}"

    def _engine_request(self, choice: Choice) -> EngineRequest:
        request = self._request
        return EngineRequest(
            request_id=self._sequence_id(choice),
            prompt_token_ids=self._prompt.token_ids,
            sampling=request.for_choice(self._sampling, choice.index),
            priority=request.priority,
            cache_salt=request.cache_salt,
            bypass_prefix_cache=request.bypass_prefix_cache,
            grammar=self._grammar,
            adapter=self._model.adapter_id,
            tenant=self._caller.tenant,
            weight=self._caller.weight,
            deadline_s=self._caller.deadline_to_begin_s(self._engine_patience_s),
        )

    @property
    def _engine_patience_s(self) -> float | None:
        """How long a sequence may wait in the engine. Of several, the first one to begin ends the waiting."""
        is_alone = len(self._choices) == 1 and not self._is_search
        return self._request.queue_timeout_s if is_alone else None

    def take(self, choice: Choice, output: RequestOutput) -> None:
        """Move an output into its choice. A sequence whose choice a stop text has ended is aborted."""
        was_over = choice.end is not None or self._error is not None
        if was_over:
            return
        try:
            choice.take(output)
            self._note(output)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - `events` raises it
            self.fail(error)
        if choice.end is not None and output.finish_reason is None:
            self._engine.abort(self._sequence_id(choice))

    def fail(self, error: BaseException) -> None:
        """Let the request end with an error, after what has gathered. The first one counts."""
        if self._error is None:
            self._error = error
            self._changed.set()
            self.abort()

    async def _search(self) -> None:
        """Move what a beam search finds into the choices. It comes at once, when the search has ended."""
        request = self._request
        assert request.length_penalty is not None
        first = self._engine_request(self._choices[0])
        vocab_size = self._model.info.vocab_size
        search = BeamSearch(self._engine, first, request.num_choices, request.length_penalty, vocab_size)
        async with contextlib.aclosing(search.outputs()) as outputs:
            async for index, output in outputs:
                self._choices[index].take(output)
                self._note_time(output)
                self._changed.set()

    def _note_time(self, output: RequestOutput) -> None:
        if self._first_step_s is None:
            self._first_step_s = output.began_s
        if self._first_token_s is None and output.token_ids:
            self._first_token_s = time.monotonic()

    def _note(self, output: RequestOutput) -> None:
        self._note_time(output)
        self._num_tokens_behind = 0 if self._is_awaited else self._num_tokens_behind + len(output.token_ids)
        if self._num_tokens_behind >= TOKENS_PER_LOOK:
            self._num_tokens_behind = 0
            allowed = min(MAX_GATHERED_BYTES * len(self._choices), MAX_GATHERED_BYTES_OF_ALL)
            if self._num_gathered_bytes > self._num_kept_bytes + allowed:
                raise SlowReaderError("the stream is read too slowly for the output that it asks for")
        self._changed.set()

    @property
    def _num_gathered_bytes(self) -> int:
        return sum(choice.num_gathered_bytes for choice in self._choices)

    def _on_search_done(self, search: asyncio.Task[None]) -> None:
        """Let the reader go on. He also hears of a search that was cancelled, though by nobody we know."""
        error = asyncio.CancelledError() if search.cancelled() else search.exception()
        if error is not None:
            self.fail(error)

    async def _until_changed(self) -> None:
        self._is_awaited = True
        await self._changed.wait()
        self._is_awaited = False
        self._changed.clear()

    async def _change(self) -> None:
        """Wait until something new has come, and raise it if it is an error."""
        await self._until_changed()
        if self._error is not None:
            raise self._error

    async def _until_admitted(self) -> None:
        async with in_time(self._caller, self._request.queue_timeout_s):
            while self._choices[0].num_cached_tokens is None:
                await self._change()
        while self._sampling.num_prompt_logprobs is not None and self._choices[0].prompt_logprobs is None:
            await self._change()

    def _pop_delta(self) -> inference_pb2.Delta:
        deltas = (choice.pop_delta() for choice in self._choices)
        delta = inference_pb2.Delta(choices=[delta for delta in deltas if delta is not None])
        if self._request.min_delta_tokens > 1:
            self._num_kept_bytes = self._num_gathered_bytes
        return delta

    def _started(self) -> inference_pb2.Started:
        request, prompt = self._request, self._prompt
        started = inference_pb2.Started(
            request_id=self._caller.request_id,
            model=self._model.name,
            num_prompt_tokens=len(prompt.token_ids),
            num_cached_tokens=self._choices[0].num_cached_tokens or 0,
            sampling=effective_sampling(self._sampling, request.num_choices),
            max_tokens=self._sampling.max_tokens,
        )
        if request.returns_prompt_token_ids:
            started.prompt_token_ids.extend(prompt.token_ids)
        if request.returns_prompt_text:
            started.prompt_text = text_of(prompt, self._model)
        if self._choices[0].prompt_logprobs is not None:
            first = prompt.token_ids[0]
            token_bytes = self._model.tokenizer.token_bytes(first)
            started.prompt_logprobs.add(token_id=first, token_bytes=token_bytes, absent=True)
            started.prompt_logprobs.extend(
                token_logprob(one, self._model.tokenizer) for one in self._choices[0].prompt_logprobs
            )
        return started

    def _finished(self) -> inference_pb2.Finished:
        return inference_pb2.Finished(
            choices=[choice.end for choice in self._choices if choice.end is not None],
            usage=inference_pb2.Usage(
                num_prompt_tokens=len(self._prompt.token_ids),
                num_cached_tokens=self._choices[0].num_cached_tokens or 0,
                num_completion_tokens=self.num_tokens,
                num_reasoning_tokens=sum(choice.num_reasoning_tokens for choice in self._choices),
                queue_time=_duration(self.queue_s),
                time_to_first_token=_duration(self.first_token_s),
                total_time=_duration(self._since_arrival_s(time.monotonic())),
            ),
        )

    def _since_arrival_s(self, at_s: float | None) -> float | None:
        return None if at_s is None else at_s - self._caller.arrived_s


class _ChoiceOutlet:
    """Where the outputs of a choice's sequence go."""

    __slots__ = ("_choice", "_generation")

    def __init__(self, generation: Generation, choice: Choice) -> None:
        self._generation = generation
        self._choice = choice

    def put(self, output: RequestOutput) -> None:
        self._generation.take(self._choice, output)

    def fail(self, error: BaseException) -> None:
        self._generation.fail(error)


def _duration(seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def effective_sampling(sampling: SamplingParams, num_choices: int) -> inference_pb2.Sampling:
    """The values in force, as `started` reports them."""
    return inference_pb2.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        logit_bias=sampling.logit_bias,
        n=num_choices,
    )

"""InferenceService: from a request to its answer."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from server.caller import Caller, in_time
from server.embedding import Embedding, make_response
from server.embedding_request import encode_inputs, validate_embedding
from server.errors import UnsupportedByModelError
from server.fields import invalid
from server.fold import fold
from server.generation import Generation
from server.output_format import output_after
from server.output_grammar import output_grammar
from server.prompts import encode_to_fit, fit
from server.tenants import salt_of
from server.validation import validate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pagewire.v1 import inference_pb2
    from server.adapters import Adapters
    from server.admission import Admission
    from server.embedding_request import EmbeddingRequest
    from server.engine import Engine
    from server.fair_threads import FairThreads
    from server.generation_request import GenerationRequest
    from server.grammar_checker import GrammarChecker
    from server.rpc import Call
    from server.served_model import ServedModel
    from server.template_renderer import TemplateRenderer
    from server.tenants import Tenants


class InferenceService:
    """Generates text and makes embeddings."""

    def __init__(
        self,
        engine: Engine,
        adapters: Adapters,
        admission: Admission,
        threads: FairThreads,
        templates: TemplateRenderer,
        grammars: GrammarChecker,
        max_logprobs: int,
        tenants: Tenants,
        queue_timeout_s: float | None,
    ) -> None:
        """Build the service.

        Args:
            engine: runs the sequences.
            adapters: those that requests may name.
            admission: who may come in.
            threads: run what takes CPU time, such as encoding prompts.
            templates: renders chats.
            grammars: compiles grammars.
            max_logprobs: alternatives that a request may ask for.
            tenants: their shares.
            queue_timeout_s: how long requests wait that do not say so themselves; None: as long as need be.
        """
        self._engine = engine
        self._adapters = adapters
        self._admission = admission
        self._threads = threads
        self._templates = templates
        self._grammars = grammars
        self._max_logprobs = max_logprobs
        self._tenants = tenants
        self._queue_timeout_s = queue_timeout_s

    async def generate(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> inference_pb2.GenerateResponse:
        """Answer once, with the whole output."""
        async with contextlib.aclosing(self._events(request, call)) as events:
            return await fold(events)

    async def stream_generate(self, request: inference_pb2.StreamGenerateRequest, call: Call) -> None:
        """Answer with events, as they come."""
        async with contextlib.aclosing(self._events(request, call)) as events:
            async for event in events:
                await call.write(event)

    async def embed(self, request: inference_pb2.EmbedRequest, call: Call) -> inference_pb2.EmbedResponse:
        """Answer with a vector for each input."""
        with self._admission.admit(call) as ticket, self._adapters.use(request.model, "") as model:
            if model.adapter is not None:
                raise UnsupportedByModelError("embeddings are made by the base model alone, without adapters")
            checked = validate_embedding(request, model)
            checked = replace(
                checked,
                cache_salt=salt_of(call.tenant, checked.cache_salt),
                queue_timeout_s=self._patience_s(checked),
            )
            caller = self._caller(call)
            async with in_time(caller, checked.queue_timeout_s):
                prompts = [
                    await self._templates.rendered(prompt, model, call.tenant) for prompt in checked.prompts
                ]
                checked = replace(checked, prompts=prompts)
                inputs = await self._threads.run(call.tenant, encode_inputs, checked, model)
            embedding = Embedding(self._engine, checked, inputs, caller, ticket.stop_waiting)
            call.on_end(embedding.abort)
            vectors = await embedding.vectors()
            response = await self._threads.run(
                call.tenant, make_response, model.name, vectors, checked, inputs
            )
        call.record.finish_embedding(response)
        return response

    async def _events(
        self, request: inference_pb2.GenerateRequest | inference_pb2.StreamGenerateRequest, call: Call
    ) -> AsyncGenerator[inference_pb2.StreamGenerateResponse, None]:
        spec = request.spec
        with self._admission.admit(call) as ticket, self._adapters.use(spec.model, spec.adapter) as model:
            ticket.adapter = "" if model.adapter is None else model.name
            call.record.model = model.name
            generation = await self._prepare(request, model, call)
            call.on_end(generation.abort)
            try:
                async with contextlib.aclosing(generation.events()) as events:
                    async for event in events:
                        ticket.stop_waiting()
                        call.record.note(event)
                        yield event
            finally:
                call.record.note_progress(generation.queue_s, generation.first_token_s, generation.num_tokens)

    async def _prepare(
        self,
        request: inference_pb2.GenerateRequest | inference_pb2.StreamGenerateRequest,
        model: ServedModel,
        call: Call,
    ) -> Generation:
        if not request.HasField("spec"):
            raise invalid("spec", "is needed")
        if not model.info.can_generate:
            raise UnsupportedByModelError(f"the model {model.name!r} makes embeddings, and generates no text")
        checked = validate(request.spec, model, self._max_logprobs)
        checked = replace(checked, queue_timeout_s=self._patience_s(checked))
        call.record.is_queued = True
        caller = self._caller(call)
        async with in_time(caller, checked.queue_timeout_s):
            prompt = await self._templates.rendered(checked.prompt, model, call.tenant)
            encoded = await self._threads.run(call.tenant, encode_to_fit, prompt, checked.truncation, model)
            fitted = fit(encoded, prompt, checked.truncation, model)
            checked = replace(
                checked,
                output=output_after(checked.output, fitted.token_ids, model.tokenizer),
                cache_salt=salt_of(call.tenant, checked.cache_salt),
            )
            shape = output_grammar(checked, model)
            grammar = "" if shape is None else await self._grammars.check(shape, model)
        return Generation(self._engine, model, checked, fitted, grammar, caller)

    def _patience_s(self, checked: GenerationRequest | EmbeddingRequest) -> float | None:
        """How long a request may wait."""
        return self._queue_timeout_s if checked.queue_timeout_s is None else checked.queue_timeout_s

    def _caller(self, call: Call) -> Caller:
        weight = self._tenants.weight(call.tenant)
        return Caller(call.request_id, call.arrived_s, call.deadline_s, call.tenant, weight)

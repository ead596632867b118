"""POST /v1/completions, the legacy route."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from translator.chunks import ChunkWriter, finish_members
from translator.completion_request import CompletionRequest, completion_specs, parse_completion
from translator.fields import Endpoint
from translator.folded import Folded, FoldedChoice, fold
from translator.generate import Answer, generate
from translator.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs, with_top
from translator.repeated import (
    LOGPROB_BYTES,
    PROMPT_LOGPROB_BYTES,
    Repeated,
    num_logprob_bytes,
    num_prompt_bytes,
)
from translator.request_headers import apply_headers
from translator.requests import read_parsed
from translator.sse import encode_json, encode_text
from translator.usage import UsageTally
from translator.version import SYSTEM_FINGERPRINT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from pagewire.v1 import inference_pb2
    from translator.generation_group import GenerationGroup


async def create_completion(request: Request) -> Response:
    """Go on with one or more prompts, at once or as a stream."""
    completion = await read_parsed(request, parse_completion)
    apply_headers(request, completion)
    specs = completion_specs(completion)
    return await generate(request, specs, Endpoint.COMPLETIONS, CompletionAnswer(completion))


class CompletionAnswer(Answer):
    """Renders text completions."""

    id_prefix = "cmpl-"

    def __init__(self, completion: CompletionRequest) -> None:
        self._completion = completion
        self._names = TokenNames(bool(completion.return_tokens_as_token_ids))
        self.streams = bool(completion.stream)
        self.given = completion.given
        self._repeated = Repeated(completion.num_choices, "prompt")

    def admit(self, started: inference_pb2.Started) -> None:
        """Each choice repeats what was asked for of its prompt."""
        completion = self._completion
        echoed = completion.logprobs if completion.echo else None
        self._repeated.add(
            completion.num_choices
            * (
                num_prompt_bytes(started)
                + num_logprob_bytes(started, echoed, LOGPROB_BYTES)
                + num_logprob_bytes(started, completion.prompt_logprobs, PROMPT_LOGPROB_BYTES)
            )
        )

    def chunks(self, response_id: str, starts: Mapping[int, inference_pb2.Started]) -> CompletionChunks:
        """Return the renderer of a stream."""
        return CompletionChunks(self._completion, response_id, _model_of(starts), self._names)

    async def whole(
        self, response_id: str, starts: Mapping[int, inference_pb2.Started], group: GenerationGroup
    ) -> dict[str, Any]:
        """Return the body of a response in one piece. Choices are ordered by prompt, then by index."""
        created = int(time.time())
        folded = await fold(group, starts, self._completion.num_choices)
        tally = UsageTally(folded.starts.values()) if self._completion.prompt_only else folded.tally
        # Log probabilities of a long prompt take so long to render that others would wait.
        describes = any(started.prompt_logprobs for started in folded.starts.values())
        choices = await asyncio.to_thread(self._choices, folded) if describes else self._choices(folded)
        return {
            "id": response_id,
            "object": "text_completion",
            "created": created,
            "model": _model_of(starts),
            "choices": choices,
            "usage": tally.as_dict(),
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    def _choices(self, folded: Folded) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = []
        for prompt, of_prompt in enumerate(folded.choices):
            shared = _Shared(self._completion, folded.starts[prompt], self._names)
            choices += [shared.choice(index, choice) for index, choice in enumerate(of_prompt, len(choices))]
        return choices


class _Shared:
    """What the choices of a prompt have in common, rendered once for all of them."""

    def __init__(
        self, completion: CompletionRequest, started: inference_pb2.Started, names: TokenNames
    ) -> None:
        self._completion = completion
        self._text = started.prompt_text if completion.echo else ""
        self._logprobs = CompletionLogprobs(names)
        self._lists: dict[str, list[Any]] = {}
        if completion.logprobs is not None:
            echoed = started.prompt_logprobs if completion.echo else ()
            self._lists = self._logprobs.add(with_top(echoed, completion.logprobs))
        self._members: dict[str, msgspec.Raw] = {}
        if completion.prompt_logprobs is not None:
            tokens = with_top(started.prompt_logprobs, completion.prompt_logprobs)
            self._members["prompt_logprobs"] = _raw(prompt_logprobs(tokens, names))
        if completion.return_token_ids:
            self._members["prompt_token_ids"] = _raw(list(started.prompt_token_ids))

    def choice(self, index: int, choice: FoldedChoice) -> dict[str, Any]:
        """Return the choice of this index in the answer."""
        completion = self._completion
        generated = FoldedChoice(finish_reason="length") if completion.prompt_only else choice
        logprobs = None
        if completion.logprobs is not None:
            lists = self._logprobs.copy().add(generated.logprobs)
            logprobs = {name: self._lists[name] + of_choice for name, of_choice in lists.items()}
        rendered: dict[str, Any] = {
            "text": self._text + generated.text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": generated.finish_reason,
            "stop_reason": generated.stop_reason,
            **self._members,
        }
        if completion.return_token_ids:
            rendered["token_ids"] = generated.token_ids
        return rendered


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(encode_json(value))


def _model_of(starts: Mapping[int, inference_pb2.Started]) -> str:
    return next(iter(starts.values())).model


class CompletionChunks:
    """Renders the chunks of a stream: the prompt if echoed, deltas, and a finish for each choice."""

    def __init__(
        self,
        completion: CompletionRequest,
        response_id: str,
        model: str,
        names: TokenNames,
    ) -> None:
        self._completion = completion
        self._writer = ChunkWriter("text_completion", response_id, int(time.time()), model, completion)
        num_choices = len(completion.prompts()) * completion.num_choices
        self._heads = [b'{"index":%d,"text":' % index for index in range(num_choices)]
        self._names = names
        self._logprobs = [CompletionLogprobs(names) for _ in range(num_choices)]

    def start(self, prompt: int, started: inference_pb2.Started) -> bytes:
        """Return a chunk with the prompt for each choice, if it was asked for."""
        completion = self._completion
        self._writer.tally.add_prompt(started)
        if not completion.echo and not completion.return_token_ids:
            return b""
        logprobs = CompletionLogprobs(self._names)
        tail = self._tail(logprobs, started.prompt_logprobs if completion.echo else ())
        if completion.return_token_ids:
            prompt_token_ids = encode_json(list(started.prompt_token_ids))
            tail = tail[:-1] + b',"prompt_token_ids":' + prompt_token_ids + b',"token_ids":[]}'
        shared = encode_text(started.prompt_text if completion.echo else "") + tail
        indices = range(prompt * completion.num_choices, (prompt + 1) * completion.num_choices)
        for index in indices:
            self._logprobs[index] = logprobs.copy()
        return b"".join(self._writer.chunk(self._heads[index] + shared) for index in indices)

    def delta(self, prompt: int, delta: inference_pb2.Delta) -> bytes:
        """Return a chunk for each choice that has something new."""
        if self._completion.prompt_only:
            return b""
        frames = b""
        for new in delta.choices:
            self._writer.tally.add(new.num_tokens)
            if new.text or new.logprobs or new.token_ids:
                index = prompt * self._completion.num_choices + new.index
                tail = self._tail(self._logprobs[index], new.logprobs)
                if self._completion.return_token_ids:
                    tail = tail[:-1] + b',"token_ids":' + encode_json(list(new.token_ids)) + b"}"
                frames += self._writer.chunk(self._heads[index] + encode_text(new.text) + tail)
        return frames

    def _tail(self, logprobs: CompletionLogprobs, tokens: Sequence[inference_pb2.TokenLogprob]) -> bytes:
        """Return what follows the text of a choice that has not ended."""
        if self._completion.logprobs is None:
            return b',"logprobs":null,"finish_reason":null}'
        return b',"logprobs":' + encode_json(logprobs.add(tokens)) + b',"finish_reason":null}'

    def end(self, prompt: int, finished: inference_pb2.Finished) -> bytes:
        """Return the finish chunk of each choice."""
        self._writer.tally.add_reasoning(finished.usage)
        first = prompt * self._completion.num_choices
        frames = b""
        for end in finished.choices:
            head = self._heads[first + end.index] + b'"","logprobs":null,'
            if self._completion.prompt_only:
                frames += self._writer.chunk(head + b'"finish_reason":"length","stop_reason":null}')
            else:
                frames += self._writer.chunk(head + finish_members(end))
        return frames

    def usage(self) -> bytes:
        """Return the usage chunk, if it was asked for."""
        return self._writer.usage_chunk()

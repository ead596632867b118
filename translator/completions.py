"""POST /v1/completions, the legacy route."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from translator.chunks import ChunkWriter, finish_members
from translator.completion_request import CompletionRequest, completion_specs, parse_completion
from translator.fields import Endpoint
from translator.folded import FoldedChoice, fold
from translator.generate import Answer, generate
from translator.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs, with_top
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

    def chunks(self, response_id: str, starts: Mapping[int, inference_pb2.Started]) -> CompletionChunks:
        """Return the renderer of a stream."""
        return CompletionChunks(self._completion, response_id, _model_of(starts), self._names)

    async def whole(
        self, response_id: str, starts: Mapping[int, inference_pb2.Started], group: GenerationGroup
    ) -> dict[str, Any]:
        """Return the body of a response in one piece. Choices are ordered by prompt, then by index."""
        created = int(time.time())
        num_choices = self._completion.num_choices
        folded = await fold(group, starts, num_choices)
        tally = UsageTally(folded.starts.values()) if self._completion.prompt_only else folded.tally
        choices = [
            self._choice(prompt * num_choices + index, folded.starts[prompt], choice)
            for prompt, of_prompt in enumerate(folded.choices)
            for index, choice in enumerate(of_prompt)
        ]
        return {
            "id": response_id,
            "object": "text_completion",
            "created": created,
            "model": _model_of(starts),
            "choices": choices,
            "usage": tally.as_dict(),
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    def _choice(self, index: int, started: inference_pb2.Started, choice: FoldedChoice) -> dict[str, Any]:
        completion = self._completion
        generated = FoldedChoice(finish_reason="length") if completion.prompt_only else choice
        logprobs = None
        if completion.logprobs is not None:
            prompt_tokens = with_top(started.prompt_logprobs if completion.echo else (), completion.logprobs)
            logprobs = CompletionLogprobs(self._names).add((*prompt_tokens, *generated.logprobs))
        rendered = {
            "text": (started.prompt_text if completion.echo else "") + generated.text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": generated.finish_reason,
            "stop_reason": generated.stop_reason,
        }
        if completion.prompt_logprobs is not None:
            tokens = with_top(started.prompt_logprobs, completion.prompt_logprobs)
            rendered["prompt_logprobs"] = prompt_logprobs(tokens, self._names)
        if completion.return_token_ids:
            rendered["prompt_token_ids"] = list(started.prompt_token_ids)
            rendered["token_ids"] = generated.token_ids
        return rendered


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
        self._logprobs = [CompletionLogprobs(names) for _ in range(num_choices)]

    def start(self, prompt: int, started: inference_pb2.Started) -> bytes:
        """Return a chunk with the prompt for each choice, if it was asked for."""
        completion = self._completion
        self._writer.tally.add_prompt(started)
        if not completion.echo and not completion.return_token_ids:
            return b""
        frames = b""
        for index in range(prompt * completion.num_choices, (prompt + 1) * completion.num_choices):
            text = started.prompt_text if completion.echo else ""
            choice = self._choice(index, text, started.prompt_logprobs if completion.echo else ())
            if completion.return_token_ids:
                prompt_token_ids = encode_json(list(started.prompt_token_ids))
                choice = choice[:-1] + b',"prompt_token_ids":' + prompt_token_ids + b',"token_ids":[]}'
            frames += self._writer.chunk(choice)
        return frames

    def delta(self, prompt: int, delta: inference_pb2.Delta) -> bytes:
        """Return a chunk for each choice that has something new."""
        if self._completion.prompt_only:
            return b""
        frames = b""
        for new in delta.choices:
            self._writer.tally.add(new.num_tokens)
            if new.text or new.logprobs or new.token_ids:
                index = prompt * self._completion.num_choices + new.index
                choice = self._choice(index, new.text, new.logprobs)
                if self._completion.return_token_ids:
                    choice = choice[:-1] + b',"token_ids":' + encode_json(list(new.token_ids)) + b"}"
                frames += self._writer.chunk(choice)
        return frames

    def _choice(self, index: int, text: str, tokens: Sequence[inference_pb2.TokenLogprob]) -> bytes:
        tail = b',"logprobs":null,"finish_reason":null}'
        if self._completion.logprobs is not None:
            tail = (
                b',"logprobs":' + encode_json(self._logprobs[index].add(tokens)) + b',"finish_reason":null}'
            )
        return self._heads[index] + encode_text(text) + tail

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

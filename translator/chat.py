"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from translator.chat_message import message_deltas, whole_message
from translator.chat_request import ChatRequest, chat_spec, parse_chat
from translator.chunks import ChunkWriter, finish_members
from translator.fields import Endpoint
from translator.folded import FoldedChoice, fold
from translator.generate import Answer, generate
from translator.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from translator.repeated import (
    PROMPT_LOGPROB_BYTES,
    Repeated,
    num_logprob_bytes,
    num_prompt_bytes,
    num_text_bytes,
)
from translator.request_headers import apply_headers
from translator.requests import read_parsed
from translator.sse import encode_json, encode_text
from translator.version import SYSTEM_FINGERPRINT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from pagewire.v1 import inference_pb2
    from translator.generation_group import GenerationGroup


_PLAIN_TAIL = b',"logprobs":null,"finish_reason":null}'


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, at once or as a stream."""
    chat = await read_parsed(request, parse_chat)
    apply_headers(request, chat)
    return await generate(request, [chat_spec(chat)], Endpoint.CHAT, ChatAnswer(chat))


class ChatAnswer(Answer):
    """Renders chat completions."""

    id_prefix = "chatcmpl-"

    def __init__(self, chat: ChatRequest) -> None:
        self._chat = chat
        self._names = TokenNames(bool(chat.return_tokens_as_token_ids))
        self.streams = bool(chat.stream)
        self.given = chat.given
        self._repeated = Repeated(chat.n or 1, "messages")

    def admit(self, started: inference_pb2.Started) -> None:
        """Each choice repeats the echo, and in a stream what was asked for of the prompt."""
        num_choices = self._chat.n or 1
        self._repeated.add(
            num_choices * num_text_bytes(self._chat.echoed_text)
            + (num_choices if self.streams else 1) * num_prompt_bytes(started)
            + num_logprob_bytes(started, self._chat.prompt_logprobs, PROMPT_LOGPROB_BYTES)
        )

    def chunks(self, response_id: str, starts: Mapping[int, inference_pb2.Started]) -> ChatChunks:
        """Return the renderer of a stream."""
        return ChatChunks(self._chat, response_id, starts[0].model, self._names)

    async def whole(
        self, response_id: str, starts: Mapping[int, inference_pb2.Started], group: GenerationGroup
    ) -> dict[str, Any]:
        """Return the body of a response in one piece."""
        created = int(time.time())
        started = starts[0]
        folded = await fold(group, starts, self._chat.n or 1)
        body = {
            "id": response_id,
            "object": "chat.completion",
            "created": created,
            "model": started.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(folded.choices[0])],
            "usage": folded.tally.as_dict(),
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }
        if self._chat.prompt_logprobs is not None:
            # Of a long prompt they take so long to render that others would wait.
            body["prompt_logprobs"] = await asyncio.to_thread(
                prompt_logprobs, started.prompt_logprobs, self._names
            )
        if self._chat.return_token_ids:
            body["prompt_token_ids"] = list(started.prompt_token_ids)
        if self._chat.return_prompt_text:
            body["prompt_text"] = started.prompt_text
        return body

    def _choice(self, index: int, choice: FoldedChoice) -> dict[str, Any]:
        logprobs = None
        if self._chat.logprobs:
            logprobs = {"content": chat_logprobs(choice.logprobs, self._names), "refusal": None}
        rendered = {
            "index": index,
            "message": whole_message(
                self._chat.response_role, self._chat.echoed_text, choice, self._chat.calls_functions
            ),
            "logprobs": logprobs,
            "finish_reason": self._chat.calls_as
            if choice.finish_reason == "tool_calls"
            else choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._chat.return_token_ids:
            rendered["token_ids"] = choice.token_ids
        return rendered


class ChatChunks:
    """Renders the chunks of a stream: a role, deltas, and a finish for each choice, then the usage."""

    def __init__(self, chat: ChatRequest, response_id: str, model: str, names: TokenNames) -> None:
        self._chat = chat
        self._names = names
        self._writer = ChunkWriter("chat.completion.chunk", response_id, int(time.time()), model, chat)
        self._heads = [b'{"index":%d,"delta":' % index for index in range(chat.n or 1)]

    def start(self, prompt: int, started: inference_pb2.Started) -> bytes:
        """Return the role chunk of each choice."""
        self._writer.tally.add_prompt(started)
        role, text = encode_text(self._chat.response_role), encode_text(self._chat.echoed_text)
        delta = b'"delta":{"role":%b,"content":%b,"refusal":null},"logprobs":null,"finish_reason":null}' % (
            role,
            text,
        )
        extra = b""
        if self._chat.return_token_ids:
            extra = b',"prompt_token_ids":' + encode_json(list(started.prompt_token_ids))
        if self._chat.return_prompt_text:
            extra += b',"prompt_text":' + encode_text(started.prompt_text)
        return b"".join(
            self._writer.chunk(b'{"index":%d,' % index + delta, extra) for index in range(self._chat.n or 1)
        )

    def delta(self, prompt: int, delta: inference_pb2.Delta) -> bytes:
        """Return chunks for each choice that has something new."""
        frames = b""
        for choice in delta.choices:
            self._writer.tally.add(choice.num_tokens)
            frames += self._news(choice)
        return frames

    def _news(self, choice: inference_pb2.ChoiceDelta) -> bytes:
        """Chunks of one choice. The first of them has what belongs to the tokens."""
        head, tail = self._heads[choice.index], self._tail(choice)
        deltas = list(message_deltas(choice, self._chat.calls_functions))
        if not deltas and (choice.logprobs or choice.token_ids):
            deltas = [b'{"content":""}']
        frames = b""
        for delta in deltas:
            frames += self._writer.chunk(head + delta + tail)
            tail = _PLAIN_TAIL
        return frames

    def _tail(self, choice: inference_pb2.ChoiceDelta) -> bytes:
        tail = _PLAIN_TAIL
        if self._chat.logprobs:
            logprobs = {"content": chat_logprobs(choice.logprobs, self._names), "refusal": None}
            tail = b',"logprobs":' + encode_json(logprobs) + b',"finish_reason":null}'
        if self._chat.return_token_ids:
            tail = tail[:-1] + b',"token_ids":' + encode_json(list(choice.token_ids)) + b"}"
        return tail

    def end(self, prompt: int, finished: inference_pb2.Finished) -> bytes:
        """Return the finish chunk of each choice."""
        self._writer.tally.add_reasoning(finished.usage)
        return b"".join(
            self._writer.chunk(
                b'{"index":%d,"delta":{},"logprobs":null,' % end.index
                + finish_members(end, self._chat.calls_as)
            )
            for end in finished.choices
        )

    def usage(self) -> bytes:
        """Return the usage chunk, if it was asked for."""
        return self._writer.usage_chunk()

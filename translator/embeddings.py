"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from typing import TYPE_CHECKING, Literal

import msgspec
from starlette.responses import Response

from pagewire.v1 import inference_pb2
from translator.chat_request import ChatRequest, chat_spec
from translator.errors import ApiError
from translator.field import CHAT, EMBEDDINGS
from translator.json_body import parse_json
from translator.patience import patience_of
from translator.requests import backend_of, read_parsed, request_id_of, until_disconnect
from translator.schema import Int32, RequestBody, UInt32, apply_plain, parse_request
from translator.sse import encode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

_POOLINGS = {
    "last": inference_pb2.POOLING_LAST,
    "mean": inference_pb2.POOLING_MEAN,
    "cls": inference_pb2.POOLING_CLS,
}
_SIDES = {"left": inference_pb2.TRUNCATION_SIDE_LEFT, "right": inference_pb2.TRUNCATION_SIDE_RIGHT}


class EmbeddingRequest(RequestBody, kw_only=True):
    """Texts or token ids to embed; `embedding_fields.py` says what each field does."""

    model: str | None = None
    input: str | list[UInt32 | str | list[UInt32]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: UInt32 | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    pooling: Literal["last", "mean", "cls"] | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Int32 | None = None
    truncation_side: Literal["left", "right"] | None = None
    priority: Int32 | None = None
    cache_salt: str | None = None


class EmbeddingChat(ChatRequest, kw_only=True):
    """A conversation to embed: a body of /v1/chat/completions, with the fields that it lacks."""

    encoding_format: Literal["float", "base64"] | None = None
    dimensions: UInt32 | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    pooling: Literal["last", "mean", "cls"] | None = None


async def create_embeddings(request: Request) -> Response:
    """Embed the inputs."""
    asked, is_base64 = await read_parsed(request, translate)
    call = backend_of(request).embed(
        asked, request_id_of(request), EMBEDDINGS, patience_of(request, streams=False)
    )
    answer = await until_disconnect(request.receive, call.response())
    return Response(await asyncio.to_thread(_render, answer, is_base64), media_type="application/json")


def translate(body: bytes) -> tuple[inference_pb2.EmbedRequest, bool]:
    """Return the contract's request, and whether vectors are wanted in base64.

    Raises:
        ApiError: 400; it names the field.
    """
    value = parse_json(body)
    asked = inference_pb2.EmbedRequest()
    if isinstance(value, dict) and value.get("messages") is not None:
        if value.get("input") is not None:
            raise ApiError(400, "input: excludes messages; send one of them.", param="input")
        chat = parse_request(body, EmbeddingChat, CHAT | EMBEDDINGS)
        asked.inputs.add(chat=chat_spec(chat).chat)
        asked.inputs[0].chat.add_generation_prompt = bool(chat.add_generation_prompt)
        _apply_options(asked, chat)
        return asked, chat.encoding_format == "base64"
    request = parse_request(body, EmbeddingRequest, EMBEDDINGS)
    asked.inputs.extend(_inputs(request.input))
    _apply_options(asked, request)
    return asked, request.encoding_format == "base64"


def _inputs(value: str | list[UInt32 | str | list[UInt32]]) -> Sequence[inference_pb2.EmbedInput]:
    """Return the inputs: one text, one list of token ids, or a list of either."""
    if isinstance(value, str):
        return [_input(value)]
    ids = [item for item in value if isinstance(item, int)]
    if value and len(ids) == len(value):
        return [_input(ids)]
    if len({type(item) for item in value}) > 1:
        raise ApiError(
            400, "input: expected texts, token ids or lists of token ids, not a mix.", param="input"
        )
    return [_input(item) for item in value if not isinstance(item, int)]


def _input(value: str | list[UInt32]) -> inference_pb2.EmbedInput:
    if isinstance(value, str):
        return inference_pb2.EmbedInput(text=value)
    return inference_pb2.EmbedInput(token_ids=inference_pb2.TokenIds(ids=value))


def _apply_options(asked: inference_pb2.EmbedRequest, options: EmbeddingRequest | EmbeddingChat) -> None:
    if options.normalize is not None and options.use_activation not in (None, options.normalize):
        raise ApiError(400, "use_activation: contradicts normalize.", param="use_activation")
    apply_plain(asked, options, EMBEDDINGS)
    if options.use_activation is not None:
        asked.normalize = options.use_activation
    if options.pooling is not None:
        asked.pooling = _POOLINGS[options.pooling]
    if options.truncation_side is not None:
        asked.truncation_side = _SIDES[options.truncation_side]


def _render(answer: inference_pb2.EmbedResponse, is_base64: bool) -> bytes:
    """Return the body. Vectors are encoded one by one, so that the loop has its turns in between."""
    body = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": msgspec.Raw(encode_json(_base64(one) if is_base64 else list(one.values))),
            }
            for index, one in enumerate(answer.embeddings)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": answer.num_prompt_tokens, "total_tokens": answer.num_prompt_tokens},
    }
    return encode_json(body)


def _base64(embedding: inference_pb2.Embedding) -> str:
    values = array("f", embedding.values)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values).decode()

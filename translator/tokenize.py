"""POST /tokenize, POST /detokenize and GET /tokenizer_info, as vLLM has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from pagewire.v1 import models_pb2
from translator.chat_request import ChatRequest, chat_spec
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.json_body import parse_json
from translator.patience import patience_of
from translator.requests import backend_of, read_parsed, request_id_of, until_disconnect
from translator.schema import RequestBody, UInt32, parse_request
from translator.sse import encode_json

if TYPE_CHECKING:
    from starlette.requests import Request


class TokenizeText(RequestBody, kw_only=True):
    """A text to encode."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChat(ChatRequest, kw_only=True):
    """A conversation to render and encode: any body of /v1/chat/completions counts its tokens here."""

    return_token_strs: bool | None = None


class DetokenizeRequest(RequestBody, kw_only=True):
    """Token ids to decode."""

    model: str | None = None
    tokens: list[UInt32]


async def tokenize(request: Request) -> Response:
    """Encode a text or a conversation."""
    asked, endpoint = await read_parsed(request, _parse)
    call = backend_of(request).tokenize(
        asked, request_id_of(request), endpoint, patience_of(request, streams=False)
    )
    answer = await until_disconnect(request.receive, call)
    return _json(
        {
            "count": len(answer.token_ids),
            "max_model_len": answer.max_model_len,
            "tokens": list(answer.token_ids),
            "token_strs": list(answer.token_texts) if asked.token_texts else None,
        }
    )


async def detokenize(request: Request) -> Response:
    """Decode token ids. Special tokens stay in the text."""
    body = await read_parsed(
        request, lambda body: parse_request(body, DetokenizeRequest, Endpoint.DETOKENIZE)
    )
    asked = models_pb2.DetokenizeRequest(model=body.model or "", token_ids=body.tokens)
    call = backend_of(request).detokenize(
        asked, request_id_of(request), Endpoint.DETOKENIZE, patience_of(request, streams=False)
    )
    answer = await until_disconnect(request.receive, call)
    return _json({"prompt": answer.text})


async def tokenizer_info(request: Request) -> Response:
    """Tell the tokenizer's settings: special tokens, added tokens and the chat template."""
    asked = models_pb2.GetTokenizerInfoRequest(model=request.query_params.get("model", ""))
    call = backend_of(request).tokenizer_info(
        asked, request_id_of(request), patience_of(request, streams=False)
    )
    answer = await until_disconnect(request.receive, call)
    return Response(answer.tokenizer_config_json.encode(), media_type="application/json")


def _parse(body: bytes) -> tuple[models_pb2.TokenizeRequest, Endpoint]:
    value = parse_json(body)
    if isinstance(value, dict) and value.get("messages") is not None:
        if value.get("prompt") is not None:
            raise ApiError(400, "prompt: excludes messages; send one of them.", param="prompt")
        return _of_chat(parse_request(body, TokenizeChat, Endpoint.CHAT)), Endpoint.CHAT
    return _of_text(parse_request(body, TokenizeText, Endpoint.TOKENIZE)), Endpoint.TOKENIZE


def _of_text(body: TokenizeText) -> models_pb2.TokenizeRequest:
    asked = models_pb2.TokenizeRequest(
        model=body.model or "", text=body.prompt, token_texts=bool(body.return_token_strs)
    )
    if body.add_special_tokens is not None:
        asked.add_special_tokens = body.add_special_tokens
    return asked


def _of_chat(body: TokenizeChat) -> models_pb2.TokenizeRequest:
    asked = models_pb2.TokenizeRequest(
        model=body.model or "", chat=chat_spec(body).chat, token_texts=bool(body.return_token_strs)
    )
    if body.add_special_tokens is not None:
        asked.add_special_tokens = body.add_special_tokens
    return asked


def _json(body: dict[str, Any]) -> Response:
    return Response(encode_json(body), media_type="application/json")

"""What the OpenAPI document says of each route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from translator.adapters import LoadAdapterBody, UnloadAdapterBody
from translator.chat_request import ChatRequest
from translator.completion_request import CompletionRequest
from translator.embeddings import EmbeddingChat, EmbeddingRequest
from translator.fields import Endpoint
from translator.message_request import MessagePrompt, MessageRequest
from translator.openapi_answers import FLAG, TEXT, Schema
from translator.response_request import ResponseRequest
from translator.tokenize import DetokenizeRequest, TokenizeChat, TokenizeText


@dataclass(frozen=True, slots=True)
class Body:
    """A request body."""

    name: str
    """Of its schema."""
    type: type
    """Its fields are those of this msgspec struct."""
    endpoint: Endpoint
    """Whose rows of `fields.py` say what the fields do, and which others are refused."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the path or the query."""

    name: str
    schema: Schema
    what: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    summary: str
    tag: str
    answer: str | None = None
    """Name of the answer's schema; None for text."""
    bodies: tuple[Body, ...] = ()
    """The forms that the body may have; none: there is no body."""
    event: str | None = None
    """Name of the schema of each event, where the answer may be a stream."""
    query: tuple[Parameter, ...] = ()
    statuses: tuple[int, ...] = ()
    """Errors that can be answered, beside those of every route."""
    media_type: str = "application/json"
    unready: str = ""
    """Name of the schema of a 503, where it is no plain error."""


_BODY = (400, 408, 413)
_CALL = (401, 403, 500, 501, 503, 504)
_GENERATION = (*_BODY, 404, 429, *_CALL)

CHAT = Body("ChatRequest", ChatRequest, Endpoint.CHAT)
_COMPLETION = Body("CompletionRequest", CompletionRequest, Endpoint.COMPLETIONS)
_MESSAGE = Body("MessageRequest", MessageRequest, Endpoint.MESSAGES)
_MESSAGE_PROMPT = Body("MessagePrompt", MessagePrompt, Endpoint.MESSAGES)
_RESPONSE = Body("ResponseRequest", ResponseRequest, Endpoint.RESPONSES)
_INPUTS = Body("EmbeddingRequest", EmbeddingRequest, Endpoint.EMBEDDINGS)
_CHAT_INPUT = Body("EmbeddingChat", EmbeddingChat, Endpoint.CHAT | Endpoint.EMBEDDINGS)
_TEXT = Body("TokenizeText", TokenizeText, Endpoint.TOKENIZE)
_CHAT_TOKENS = Body("TokenizeChat", TokenizeChat, Endpoint.CHAT)
_TOKENS = Body("DetokenizeRequest", DetokenizeRequest, Endpoint.DETOKENIZE)
_LOADED_ADAPTER = Body("LoadAdapterBody", LoadAdapterBody, Endpoint.LOAD_ADAPTER)
_UNLOADED_ADAPTER = Body("UnloadAdapterBody", UnloadAdapterBody, Endpoint.UNLOAD_ADAPTER)

_PAGE: Schema = {"type": "integer", "minimum": 1, "maximum": 100}
_SEQUENCE: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def _generation(summary: str, tag: str, answer: str, body: Body, event: str) -> Operation:
    return Operation(summary, tag, answer, (body,), event, statuses=_GENERATION)


def _ready(summary: str) -> Operation:
    return Operation(summary, "Operation", "Status", statuses=(503,), unready="NotReady")


_TOKENIZE = Operation(
    "Turns a text or a conversation into tokens",
    "Tokens",
    "Tokens",
    (_TEXT, _CHAT_TOKENS),
    statuses=_GENERATION,
)
_DETOKENIZE = Operation("Turns tokens into text", "Tokens", "Detokenized", (_TOKENS,), statuses=_GENERATION)
_HEALTH = _ready("Tells whether a request can be served now, and why not")
_STORED = (400, 404)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): _generation(
        "Answers a conversation", "OpenAI", "ChatCompletion", CHAT, "ChatCompletionChunk"
    ),
    ("POST", "/v1/completions"): _generation(
        "Goes on with a text", "OpenAI", "Completion", _COMPLETION, "CompletionChunk"
    ),
    ("POST", "/v1/responses"): _generation(
        "Answers a conversation, which may be kept", "OpenAI", "Response", _RESPONSE, "ResponseEvent"
    ),
    ("POST", "/v1/responses/input_tokens"): Operation(
        "Counts the tokens of a prompt",
        "OpenAI",
        "ResponseInputTokens",
        (_RESPONSE,),
        statuses=_GENERATION,
    ),
    ("GET", "/v1/responses/{response_id}"): Operation(
        "Returns a kept response",
        "OpenAI",
        "Response",
        event="ResponseEvent",
        query=(
            Parameter("stream", FLAG, "Returns the events of a response made in the background."),
            Parameter("starting_after", _SEQUENCE, "Leaves events out up to this number."),
        ),
        statuses=_STORED,
    ),
    ("DELETE", "/v1/responses/{response_id}"): Operation(
        "Forgets a response", "OpenAI", "ResponseDeleted", statuses=_STORED
    ),
    ("POST", "/v1/responses/{response_id}/cancel"): Operation(
        "Cancels a response that runs in the background", "OpenAI", "Response", statuses=_STORED
    ),
    ("GET", "/v1/responses/{response_id}/input_items"): Operation(
        "Lists what a response was made from",
        "OpenAI",
        "ResponseItems",
        query=(
            Parameter("limit", _PAGE, "Most items on the page."),
            Parameter("order", {"type": "string", "enum": ["asc", "desc"]}, "Newest first unless asc."),
            Parameter("after", TEXT, "Id of the item before the page."),
        ),
        statuses=_STORED,
    ),
    ("POST", "/v1/embeddings"): Operation(
        "Turns texts into vectors", "OpenAI", "Embeddings", (_INPUTS, _CHAT_INPUT), statuses=_GENERATION
    ),
    ("POST", "/v1/messages"): _generation(
        "Answers a conversation", "Anthropic", "AnthropicMessage", _MESSAGE, "AnthropicEvent"
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "Counts the tokens of a prompt",
        "Anthropic",
        "TokenCount",
        (_MESSAGE_PROMPT,),
        statuses=_GENERATION,
    ),
    ("GET", "/v1/models"): Operation("Lists the served models", "OpenAI", "Models", statuses=_CALL),
    ("GET", "/v1/models/{model}"): Operation(
        "Describes a model, whose id may hold slashes", "OpenAI", "Model", statuses=(404, *_CALL)
    ),
    ("POST", "/tokenize"): _TOKENIZE,
    ("POST", "/v1/tokenize"): _TOKENIZE,
    ("POST", "/detokenize"): _DETOKENIZE,
    ("POST", "/v1/detokenize"): _DETOKENIZE,
    ("POST", "/v1/load_lora_adapter"): Operation(
        "Loads a LoRA adapter, where the translator may",
        "Operation",
        bodies=(_LOADED_ADAPTER,),
        statuses=_GENERATION,
        media_type="text/plain",
    ),
    ("POST", "/v1/unload_lora_adapter"): Operation(
        "Forgets a LoRA adapter, where the translator may",
        "Operation",
        bodies=(_UNLOADED_ADAPTER,),
        statuses=_GENERATION,
        media_type="text/plain",
    ),
    ("GET", "/tokenizer_info"): Operation(
        "Tells the tokenizer's settings and the chat template",
        "Tokens",
        "TokenizerInfo",
        query=(Parameter("model", TEXT, "A served name. Absent: the server's model."),),
        statuses=(404, *_CALL),
    ),
    ("GET", "/health"): _HEALTH,
    ("GET", "/v1/health"): _HEALTH,
    ("GET", "/health/ready"): _HEALTH,
    ("GET", "/ping"): _HEALTH,
    ("POST", "/ping"): _HEALTH,
    ("GET", "/health/live"): Operation("Tells that this process answers", "Operation", "Status"),
    ("GET", "/version"): Operation("Tells which version runs", "Operation", "Version"),
    ("GET", "/load"): Operation("Tells how many generations are open", "Operation", "Load"),
    ("GET", "/metrics"): Operation(
        "Tells what this process has measured, for Prometheus",
        "Operation",
        media_type="text/plain",
    ),
    ("GET", "/openapi.json"): Operation("Returns this document", "Operation", "Document"),
    ("GET", "/"): Operation(
        "Shows the console, a page to chat on and to watch the engine",
        "Console",
        media_type="text/html",
    ),
    ("GET", "/console/models"): Operation(
        "Tells what a form needs of each model", "Console", "ConsoleModels", statuses=_CALL
    ),
    ("GET", "/console/stats"): Operation(
        "Tells the engine's figures, where the translator may know them",
        "Console",
        "ConsoleStats",
        statuses=_CALL,
    ),
    ("GET", "/docs"): Operation("Shows this document", "Operation", media_type="text/html"),
}


def example_of(name: str) -> dict[str, Any]:
    """Return a small body of this schema that works."""
    hello = [{"role": "user", "content": "Say hello."}]
    examples: dict[str, dict[str, Any]] = {
        "ChatRequest": {"messages": hello, "max_tokens": 16},
        "CompletionRequest": {"prompt": "Once upon a time", "max_tokens": 16},
        "ResponseRequest": {"input": "Say hello.", "max_output_tokens": 16},
        "MessageRequest": {"max_tokens": 16, "messages": hello},
        "MessagePrompt": {"messages": hello},
        "EmbeddingRequest": {"input": "Say hello."},
        "EmbeddingChat": {"messages": hello},
        "TokenizeText": {"prompt": "Say hello."},
        "TokenizeChat": {"messages": hello},
        "DetokenizeRequest": {"tokens": [1, 2, 3]},
        "LoadAdapterBody": {"lora_name": "sql", "lora_path": "/adapters/sql"},
        "UnloadAdapterBody": {"lora_name": "sql"},
    }
    return examples[name]

"""Every request field that we know of OpenAI, vLLM, SGLang and llama.cpp, and what becomes of it.

The tables stand in files of their own, one for each family of routes, and the types of the honoured fields in
the modules of their routes, such as `chat_request.py`. A field that is not listed is unknown, and unknown
fields are ignored. The page docs/fields.md is written from these tables.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from translator.adapter_fields import ADAPTER_FIELDS
from translator.embedding_fields import EMBEDDING_FIELDS
from translator.field import (
    BOTH,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    Endpoint,
    Field,
    Support,
)
from translator.generation_fields import GENERATION_FIELDS
from translator.message_fields import MESSAGE_FIELDS
from translator.response_fields import RESPONSE_FIELDS
from translator.tokenize_fields import TOKENIZE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["FIELDS", "Endpoint", "Field", "Support", "fields_of", "is_neutral", "parameter_of"]

FIELDS: tuple[Field, ...] = (
    *GENERATION_FIELDS,
    *RESPONSE_FIELDS,
    *MESSAGE_FIELDS,
    *EMBEDDING_FIELDS,
    *TOKENIZE_FIELDS,
    *ADAPTER_FIELDS,
)


def fields_of(endpoint: Endpoint, support: Support) -> Iterator[Field]:
    """Yield the fields of a route."""
    return (field for field in FIELDS if field.endpoint & endpoint and field.support is support)


def is_neutral(field: Field, value: object) -> bool:
    """Whether a value of a refused field asks for nothing."""
    return value is None or value in ("", [], {}) or value in field.neutral


def _names_by_path(endpoint: Endpoint) -> dict[str, tuple[str, ...]]:
    """A route's names for each path of the contract."""
    names: dict[str, tuple[str, ...]] = {}
    for field in FIELDS:
        if field.contract and field.endpoint & endpoint:
            names[field.contract] = (*names.get(field.contract, ()), field.name)
    return names


_PATHS = {endpoint: _names_by_path(endpoint) for endpoint in (*Endpoint, BOTH)}
_PATHS[CHAT] |= {
    "prompt": ("messages",),
    "chat": ("messages",),
    "chat.tools": ("tools",),
    "chat.tool_choice": ("tool_choice",),
}
_PATHS[MESSAGES] |= {
    "prompt": ("messages",),
    "chat": ("messages",),
    "reasoning.max_tokens": ("thinking.budget_tokens",),
}
_PATHS[RESPONSES] |= {"prompt": ("input",), "chat": ("input",), "chat.messages": ("input",)}
_PATHS[COMPLETIONS] |= {"prompt": ("prompt",), "token_ids": ("prompt",), "token_ids.ids": ("prompt",)}


def parameter_of(path: str, endpoint: Endpoint, given: Collection[str] = ()) -> str:
    """Return the HTTP API's name for a field of the gRPC contract, such as "spec.sampling.top_p".

    Args:
        path: of the field in its request.
        endpoint: the route.
        given: the fields that the request has, one of which is meant where several lead to the same path.
    """
    path = path.removeprefix("spec.")
    if endpoint is EMBEDDINGS and path.startswith("inputs["):
        return _input_path(path)
    heads = list(_heads(path))
    known = [(head, name) for head in heads for name in _PATHS[endpoint].get(head, ())]
    head, name = next(((head, name) for head, name in known if name in given), (known or [("", "")])[0])
    # One item or message of these may be several of the contract's, and several one. Constraints are built
    # otherwise in JSON.
    if (
        name == "input"
        or (name == "tools" and endpoint is RESPONSES)
        or (name == "messages" and endpoint is MESSAGES)
        or head.startswith("constraint")
    ):
        return name
    return _content_path(name + path[len(head) :], endpoint) if name else path


def _heads(path: str) -> Iterator[str]:
    """Yield a path and those of the messages that it lies in, from within."""
    while path:
        yield path
        path = re.sub(r"(\.[^.\[]+|\[[^\]]*\]|^[^.\[]+)$", "", path)


def _input_path(path: str) -> str:
    """An input's kind is a oneof in the contract; JSON has a list of inputs, or one conversation."""
    chat = re.match(r"inputs\[\d+\]\.chat\.?(.*)", path)
    if chat is not None:
        return _content_path(chat[1] or "messages", CHAT)
    return re.sub(r"^inputs(\[\d+\])(?:\.text|\.token_ids(?:\.ids)?)?", r"input\1", path)


def _content_path(parameter: str, endpoint: Endpoint) -> str:
    """A message's content is a oneof in the contract and one field in JSON; schemas are text there."""
    parameter = re.sub(r"^(messages\[\d+\])\.(?:parts\.parts|parts|text)", r"\1.content", parameter)
    if endpoint is CHAT:
        parameter = re.sub(r"^(tools\[\d+\])\.parameters_json", r"\1.function.parameters", parameter)
        parameter = re.sub(r"^(tools\[\d+\])\.name", r"\1.function.name", parameter)
        parameter = parameter.replace("tool_choice.function_name", "tool_choice.function.name")
    if endpoint is MESSAGES:
        parameter = parameter.replace(".parameters_json", ".input_schema")
    return re.sub(r"^(messages\[\d+\])\.reasoning_text", r"\1.reasoning_content", parameter)

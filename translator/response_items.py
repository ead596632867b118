"""The items of a Responses conversation, in the one form in which they are kept, listed and read."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from translator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Item = dict[str, Any]

_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_SEALED = "pagewire.reasoning.v1:"

Value = TypeVar("Value")


class ItemPart(msgspec.Struct, kw_only=True):
    """One part of an item's content. Parts that are not text are refused."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct, kw_only=True):
    """One item of the input: the fields of every kind of item. Which are needed depends on `type`."""

    type: str | None = None
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[ItemPart] | None = None
    call_id: str | None = None
    namespace: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ItemPart] | None = None
    summary: list[ItemPart] | None = None
    encrypted_content: str | None = None


class ItemIds:
    """Makes the ids of one response's items, each unique."""

    def __init__(self, response_id: str) -> None:
        self._stem = response_id.removeprefix("resp_")
        self._num_made = 0

    def make(self, prefix: str) -> str:
        """Return a new id, such as "msg_…"."""
        self._num_made += 1
        return f"{prefix}_{self._stem}{self._num_made:04x}"


def parse_items(
    given: str | Sequence[InputItem], ids: ItemIds, find: Callable[[str], Item | None]
) -> list[Item]:
    """Return the items of a request in the kept form.

    Args:
        given: the input; a text is one user message.
        ids: of items that have none.
        find: returns a stored item by its id.

    Raises:
        ApiError: 400; it names the item.
    """
    if isinstance(given, str):
        given = [InputItem(role="user", content=given)]
    return [_parse(item, f"input[{index}]", ids, find) for index, item in enumerate(given)]


def referenced_ids(given: str | Sequence[InputItem]) -> list[str]:
    """Return the ids of stored items that a request's input refers to."""
    if isinstance(given, str):
        return []
    return [item.id for item in given if item.id is not None and _kind_of(item) == "item_reference"]


def is_whole_call(arguments: str) -> bool:
    """Whether a call's arguments are JSON. No template could read others, as those of a call that was cut."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True


def seal_reasoning(text: str) -> str:
    """Return reasoning as `encrypted_content`: to send back, not to read. It is encoded, no secret."""
    return _SEALED + base64.b64encode(text.encode()).decode()


def _kind_of(item: InputItem) -> str:
    return item.type or ("item_reference" if item.role is None and item.id else "message")


def _parse(item: InputItem, where: str, ids: ItemIds, find: Callable[[str], Item | None]) -> Item:
    kind = _kind_of(item)
    match kind:
        case "message":
            return _message(item, where, ids)
        case "function_call":
            return _function_call(item, where, ids)
        case "function_call_output":
            return _function_call_output(item, where, ids)
        case "reasoning":
            return _reasoning(item, where, ids)
        case "item_reference":
            return _reference(item, where, find)
    raise ApiError(
        400,
        f"{where}.type: items of type {kind[:40]!a} are not supported.",
        param=f"{where}.type",
        code="unsupported_parameter",
    )


def _status(item: InputItem) -> str:
    """What came to its end, as all does that a caller wrote, or was cut when it was output of ours."""
    return "incomplete" if item.status == "incomplete" else "completed"


def _message(item: InputItem, where: str, ids: ItemIds) -> Item:
    role = _need(item.role, f"{where}.role")
    texts = _texts(item.content, f"{where}.content")
    if role == "assistant":
        parts = [output_text(text) for text in texts]
    else:
        parts = [{"type": "input_text", "text": text} for text in texts]
    return {
        "id": item.id or ids.make("msg"),
        "type": "message",
        "role": role,
        "status": _status(item),
        "content": parts,
    }


def output_text(text: str, logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a part of an assistant's message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def _function_call(item: InputItem, where: str, ids: ItemIds) -> Item:
    call = {
        "id": item.id or ids.make("fc"),
        "type": "function_call",
        "status": _status(item),
        "call_id": _need(item.call_id, f"{where}.call_id"),
        "name": _need(item.name, f"{where}.name"),
        "arguments": _need(item.arguments, f"{where}.arguments"),
    }
    if item.namespace:
        call["namespace"] = item.namespace
    return call


def _function_call_output(item: InputItem, where: str, ids: ItemIds) -> Item:
    output = _texts(item.output, f"{where}.output")
    return {
        "id": item.id or ids.make("fco"),
        "type": "function_call_output",
        "status": "completed",
        "call_id": _need(item.call_id, f"{where}.call_id"),
        "output": "\n".join(output),
    }


def _reasoning(item: InputItem, where: str, ids: ItemIds) -> Item:
    if item.content:
        texts = _texts(item.content, f"{where}.content")
    elif item.encrypted_content:
        texts = [_unseal(item.encrypted_content, f"{where}.encrypted_content")]
    else:
        texts = []
    return {
        "id": item.id or ids.make("rs"),
        "type": "reasoning",
        "summary": [
            {"type": "summary_text", "text": text}
            for text in _texts(item.summary or [], f"{where}.summary", may_be_empty=True)
        ],
        "content": [{"type": "reasoning_text", "text": text} for text in texts],
    }


def _unseal(sealed: str, where: str) -> str:
    message = f"{where}: it was not made by this server."
    foreign = ApiError(400, message, param=where, code="invalid_encrypted_content")
    if not sealed.startswith(_SEALED):
        raise foreign
    try:
        return base64.b64decode(sealed.removeprefix(_SEALED), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise foreign from error


def _reference(item: InputItem, where: str, find: Callable[[str], Item | None]) -> Item:
    item_id = _need(item.id, f"{where}.id")
    found = find(item_id)
    if found is None:
        raise ApiError(
            404,
            f"Item with id '{item_id[:100]}' not found. Items are kept only with responses that are stored.",
            param=f"{where}.id",
        )
    return found


def _texts(content: str | list[ItemPart] | None, where: str, *, may_be_empty: bool = False) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = _need(content, where)
    if not parts and not may_be_empty:
        raise ApiError(400, f"{where}: expected at least one part.", param=where)
    return [_text(part, f"{where}[{index}]") for index, part in enumerate(parts)]


def _text(part: ItemPart, where: str) -> str:
    if part.type == "refusal":
        return _need(part.refusal, f"{where}.refusal")
    if part.type not in _TEXT_PARTS:
        raise ApiError(
            400,
            f"{where}.type: only text is supported, got {part.type[:40]!a}.",
            param=f"{where}.type",
            code="unsupported_parameter",
        )
    return _need(part.text, f"{where}.text")


def _need(value: Value | None, where: str) -> Value:
    if value is None:
        raise ApiError(400, f"{where}: required.", param=where)
    return value

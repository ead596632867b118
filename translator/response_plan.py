"""What is to be done for one Responses request, before anything is asked of the model server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from translator.errors import ApiError
from translator.logprobs import TokenNames
from translator.response_conversation import write_conversation
from translator.response_events import ResponseWriter
from translator.response_items import ItemIds, parse_items
from translator.response_object import new_body
from translator.response_request import response_spec, write_options
from translator.response_tools import parse_tools

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2
    from translator.response_items import Item
    from translator.response_request import ResponseRequest
    from translator.response_shelf import EarlierResponses


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """One response to make."""

    spec: inference_pb2.GenerationSpec
    writer: ResponseWriter
    owner: str
    """Whose response it will be."""
    input_items: list[Item]
    """The request's own."""
    is_stored: bool


def plan_response(
    request: ResponseRequest, response_id: str, known: EarlierResponses, owner: str, max_bytes: int
) -> ResponsePlan:
    """Prepare a response of this id, for a conversation whose earlier turns have at most so many bytes.

    Raises:
        ApiError: 400, 404 or 413; it names the field.
    """
    is_storing = known.store.is_on
    if request.background and not is_storing:
        raise ApiError(
            400,
            "background: responses are not stored by this server.",
            param="background",
            code="unsupported_parameter",
        )
    is_stored = is_storing and request.store is not False
    ids = ItemIds(response_id)
    toolbox = parse_tools(request.tools or ())
    earlier = earlier_items(known, owner, request.previous_response_id, max_bytes)
    items = parse_items(request.input or [], ids, lambda item_id: known.find_item(owner, item_id))
    spec = response_spec(request)
    said = filter(_is_whole, (*earlier, *items))
    write_conversation(spec.chat, request.instructions, said, toolbox)
    write_options(spec.chat, request, toolbox)
    writer = ResponseWriter(
        new_body(response_id, request, toolbox, is_stored=is_stored),
        ids,
        toolbox,
        seals_reasoning=request.returns_sealed_reasoning,
        names=TokenNames(bool(request.return_tokens_as_token_ids)),
    )
    return ResponsePlan(spec, writer, owner, items, is_stored)


def earlier_items(known: EarlierResponses, owner: str, response_id: str | None, max_bytes: int) -> list[Item]:
    """Return the input and output of a response and of all before it, oldest first.

    Raises:
        ApiError: 400; one of them is not there. 413; they have more bytes than that.
    """
    turns: list[list[Item]] = []
    num_bytes = 0
    while response_id is not None:
        stored = known.get(owner, response_id)
        if stored is None:
            raise ApiError(
                400,
                f"Previous response with id '{response_id[:100]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        num_bytes += stored.turn_bytes
        if num_bytes > max_bytes:
            raise ApiError(
                413,
                f"The conversation's earlier turns exceed {max_bytes} bytes.",
                param="previous_response_id",
                code="request_too_large",
            )
        turn, response_id = stored.turn()
        turns.append(turn)
    return [item for turn in reversed(turns) for item in turn]


def kept_items(known: EarlierResponses, owner: str, response_id: str | None) -> list[Item]:
    """Return what `earlier_items` does, back to the first response that is not there."""
    turns: list[list[Item]] = []
    while response_id is not None and (stored := known.get(owner, response_id)) is not None:
        turn, response_id = stored.turn()
        turns.append(turn)
    return [item for turn in reversed(turns) for item in turn]


def _is_whole(item: Item) -> bool:
    """A call that was cut is not told to the model again."""
    return bool(item["type"] != "function_call" or item["status"] == "completed")

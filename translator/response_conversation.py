"""From the items of a Responses conversation to the messages of a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from translator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagewire.v1 import chat_pb2
    from translator.response_items import Item
    from translator.response_tools import Toolbox


def write_conversation(
    chat: chat_pb2.Chat, instructions: str | None, items: Iterable[Item], toolbox: Toolbox
) -> None:
    """Write instructions and items as messages.

    One turn of the assistant is several items but one message: its reasoning, its text and its calls.

    Raises:
        ApiError: 400; an output answers no call.
    """
    if instructions:
        chat.messages.add(role="system", text=instructions)
    writer = _Writer(chat, toolbox)
    for item in items:
        writer.add(item)
    writer.close_turn()


class _Writer:
    """Writes item after item."""

    def __init__(self, chat: chat_pb2.Chat, toolbox: Toolbox) -> None:
        self._chat = chat
        self._toolbox = toolbox
        self._turn: chat_pb2.Message | None = None
        """The assistant's message, while it may still grow."""
        self._called: dict[str, str] = {}
        """The function's name by call id."""

    def add(self, item: Item) -> None:
        match item["type"]:
            case "message":
                self._add_message(item)
            case "reasoning":
                self._add_reasoning(item)
            case "function_call":
                self._add_call(item)
            case "function_call_output":
                self._add_output(item)
            case kind:
                raise AssertionError(f"no item is of type {kind}")

    def close_turn(self) -> None:
        """End the assistant's message. Reasoning alone, which a limit cut, says nothing."""
        turn, self._turn = self._turn, None
        if turn is not None and turn.WhichOneof("content") is None and not turn.tool_calls:
            turn.text = ""

    def _add_message(self, item: Item) -> None:
        texts = [part["text"] for part in item["content"]]
        if item["role"] == "assistant":
            turn = self._open_turn()
            if turn.WhichOneof("content") is not None or turn.tool_calls:
                self.close_turn()
                turn = self._open_turn()
            turn.text = "".join(texts)
            return
        self.close_turn()
        message = self._chat.messages.add(role=item["role"])
        if len(texts) == 1:
            message.text = texts[0]
        else:
            for text in texts:
                message.parts.parts.add(text=text)

    def _add_reasoning(self, item: Item) -> None:
        texts = [part["text"] for part in item["content"] or item["summary"]]
        if not texts:
            return
        turn = self._open_turn()
        if turn.WhichOneof("content") is not None or turn.tool_calls:
            self.close_turn()
            turn = self._open_turn()
        turn.reasoning_text += "\n".join(texts)

    def _add_call(self, item: Item) -> None:
        name = self._toolbox.called_name(item["name"], item.get("namespace"))
        self._called[item["call_id"]] = name
        self._open_turn().tool_calls.add(id=item["call_id"], name=name, arguments=item["arguments"])

    def _add_output(self, item: Item) -> None:
        self.close_turn()
        name = self._called.get(item["call_id"])
        if name is None:
            call_id = item["call_id"][:100]
            raise ApiError(
                400, f"No tool call found for function call output with call_id {call_id}.", param="input"
            )
        self._chat.messages.add(role="tool", tool_call_id=item["call_id"], name=name, text=item["output"])

    def _open_turn(self) -> chat_pb2.Message:
        if self._turn is None:
            self._turn = self._chat.messages.add(role="assistant")
        return self._turn

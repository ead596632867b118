"""The events of a Responses stream, made from the contract's events, and the response that they add up to."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from translator.errors import internal_error
from translator.logprobs import TokenNames, chat_logprobs
from translator.response_items import is_whole_call, output_text, seal_reasoning
from translator.response_object import note_failed, note_finished, note_started, response_usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagewire.v1 import inference_pb2
    from translator.errors import ApiError
    from translator.response_items import Item, ItemIds
    from translator.response_object import Body
    from translator.response_tools import Toolbox

    Event = dict[str, Any]

log = logging.getLogger("translator")

_TERMINAL = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
}


class ResponseWriter:
    """Builds one response. One item is open at a time: what comes next of another kind closes it."""

    def __init__(
        self, body: Body, ids: ItemIds, toolbox: Toolbox, *, seals_reasoning: bool, names: TokenNames
    ) -> None:
        """Begin.

        Args:
            body: the response object, which grows with every event.
            ids: makes the items' ids.
            toolbox: the functions that may be called.
            seals_reasoning: whether reasoning items come with `encrypted_content`.
            names: how tokens are written in log probabilities.
        """
        self.body = body
        self._ids = ids
        self._toolbox = toolbox
        self._seals_reasoning = seals_reasoning
        self._names = names
        self._started: inference_pb2.Started | None = None
        self._num_events = 0
        self._num_tokens = 0
        self._open: Item | None = None
        self._pieces: list[str] = []
        """The open item's text, reasoning or arguments so far."""
        self._call_index = -1
        """Index of the last call that was begun."""
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens whose text has not come yet."""

    def create(self) -> Iterator[Event]:
        """Yield what comes before the server has admitted the request."""
        yield self._response_event("response.created")
        if self.body["status"] == "queued":
            yield self._response_event("response.queued")

    def start(self, started: inference_pb2.Started) -> None:
        """Note that the server has admitted the request."""
        self._started = started
        note_started(self.body, started)

    def begin(self) -> Iterator[Event]:
        """Yield what comes before all output."""
        yield self._response_event("response.in_progress")

    def add(self, delta: inference_pb2.ChoiceDelta) -> Iterator[Event]:
        """Yield the events of new output."""
        self._num_tokens += delta.num_tokens
        if delta.reasoning_text:
            yield from self._add_reasoning(delta.reasoning_text)
        self._logprobs.extend(chat_logprobs(delta.logprobs, self._names))
        if delta.text:
            yield from self._add_text(delta.text)
        for fragment in delta.tool_calls:
            yield from self._add_call(fragment)
        if delta.reasoning_text or delta.tool_calls:
            self._logprobs.clear()

    def finish(self, finished: inference_pb2.Finished) -> Iterator[Event]:
        """Yield the last events."""
        assert self._started is not None
        (end,) = finished.choices
        usage = response_usage(self._started, self._num_tokens, finished.usage.num_reasoning_tokens)
        note_finished(self.body, end, usage)
        if self._open is None and not self.body["output"]:
            yield from self._open_message()
        if self._logprobs and self._open is not None and self._open["type"] == "message":
            yield self._text_delta("")
        yield from self._close(self.body["status"])
        yield self._response_event(_TERMINAL[self.body["status"]])

    def fail(self, error: ApiError) -> Iterator[Event]:
        """Yield the last events of a response that failed."""
        yield from self._close("incomplete")
        note_failed(self.body, error)
        yield self._error(error.message, error.code, error.param)
        yield self._response_event("response.failed")

    def cancel(self) -> Iterator[Event]:
        """Yield the last events of a response that was cancelled. The API has no event for just that."""
        yield from self._close("incomplete")
        self.body["status"] = "cancelled"
        yield self._error("The response was cancelled.", "cancelled", None)

    def _add_reasoning(self, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "reasoning":
            item: Item = {
                "id": self._ids.make("rs"),
                "type": "reasoning",
                "status": "in_progress",
                "summary": [],
                "content": [],
            }
            yield from self._begin(item)
            yield self._part_event("added", {"type": "reasoning_text", "text": ""})
        self._pieces.append(text)
        yield self._content_event("response.reasoning_text.delta", delta=text)

    def _add_text(self, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "message":
            yield from self._open_message()
        self._pieces.append(text)
        yield self._text_delta(text)

    def _open_message(self) -> Iterator[Event]:
        item: Item = {
            "id": self._ids.make("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        yield from self._begin(item)
        item["content"].append(output_text(""))
        yield self._part_event("added", output_text(""))

    def _text_delta(self, text: str) -> Event:
        assert self._open is not None
        logprobs, self._logprobs = self._logprobs, []
        self._open["content"][0]["logprobs"].extend(logprobs)
        return self._content_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def _add_call(self, fragment: inference_pb2.ToolCallDelta) -> Iterator[Event]:
        if fragment.index > self._call_index:
            self._call_index = fragment.index
            namespace, name = self._toolbox.origin(fragment.name)
            call: Item = {
                "id": self._ids.make("fc"),
                "type": "function_call",
                "status": "in_progress",
                "call_id": fragment.id,
                "name": name,
                "arguments": "",
            }
            if namespace is not None:
                call["namespace"] = namespace
            yield from self._begin(call)
        elif fragment.index < self._call_index or self._open is None or self._open["type"] != "function_call":
            log.error("the model server broke the contract: a tool call goes on after its end")
            raise internal_error()
        if fragment.arguments:
            self._pieces.append(fragment.arguments)
            yield self._item_event("response.function_call_arguments.delta", delta=fragment.arguments)

    def _begin(self, item: Item) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        self.body["output"].append(item)
        yield self._event(
            "response.output_item.added", output_index=self._output_index, item=copy.deepcopy(item)
        )

    def _close(self, status: str) -> Iterator[Event]:
        """Close the open item, if there is one."""
        item, text = self._open, "".join(self._pieces)
        if item is None:
            return
        if item["type"] == "function_call":
            # Whatever ends an answer may cut a call, or come after it.
            status = "completed" if is_whole_call(text) else "incomplete"
        item["status"] = status
        match item["type"]:
            case "message":
                (part,) = item["content"]
                part["text"] = text
                yield self._content_event("response.output_text.done", text=text, logprobs=part["logprobs"])
                yield self._part_event("done", part)
            case "reasoning":
                part = {"type": "reasoning_text", "text": text}
                item["content"].append(part)
                if self._seals_reasoning:
                    item["encrypted_content"] = seal_reasoning(text)
                yield self._content_event("response.reasoning_text.done", text=text)
                yield self._part_event("done", part)
            case "function_call":
                item["arguments"] = text
                yield self._item_event(
                    "response.function_call_arguments.done", name=item["name"], arguments=text
                )
        yield self._event("response.output_item.done", output_index=self._output_index, item=item)
        self._open = None
        self._pieces.clear()

    @property
    def _output_index(self) -> int:
        return len(self.body["output"]) - 1

    def _item_event(self, kind: str, **members: object) -> Event:
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=self._output_index, **members)

    def _content_event(self, kind: str, **members: object) -> Event:
        return self._item_event(kind, content_index=0, **members)

    def _part_event(self, what: str, part: dict[str, Any]) -> Event:
        return self._content_event(f"response.content_part.{what}", part=part)

    def _response_event(self, kind: str) -> Event:
        return self._event(kind, response={**self.body, "output": list(self.body["output"])})

    def _error(self, message: str, code: str | None, param: str | None) -> Event:
        return self._event("error", code=code, message=message, param=param)

    def _event(self, kind: str, **members: object) -> Event:
        event = {"type": kind, "sequence_number": self._num_events, **members}
        self._num_events += 1
        return event

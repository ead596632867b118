"""Calls over gRPC, with the client that services install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soak.history import DEADLINE_S, Outcome

import pagewire
from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from soak.history import Call
    from soak.oracle import Question

    from pagewire.options import Options

SHORT_DEADLINE_S = 0.05


def options_of(question: Question) -> Options:
    return {"max_tokens": question.num_tokens, "temperature": 0.0, "ignore_eos": True, "token_ids": True}


async def ask_unary(client: pagewire.AsyncClient, call: Call, timeout_s: float = DEADLINE_S) -> None:
    question = call.question
    try:
        response = await client.generate(
            None if question.is_chat else question.prompt,
            messages=question.messages if question.is_chat else None,
            timeout=timeout_s,
            **options_of(question),
        )
    except pagewire.PagewireError as error:
        _fail(call, error)
        return
    call.is_accepted = True
    (choice,) = response.choices
    _take(call, choice.token_ids, choice.text)
    call.ends.append(inference_pb2.FinishReason.Name(choice.end.finish_reason))
    call.outcome = Outcome.FINISHED


async def ask_stream(client: pagewire.AsyncClient, call: Call, leaves_after: int | None = None) -> None:
    """Read a stream, perhaps only so many of its events; then leave."""
    question = call.question
    num_events = 0
    try:
        async with client.stream(
            None if question.is_chat else question.prompt,
            messages=question.messages if question.is_chat else None,
            timeout=DEADLINE_S,
            **options_of(question),
        ) as stream:
            async for event in stream:
                call.is_accepted = True
                for choice in event.delta.choices:
                    _take(call, choice.token_ids, choice.text)
                if event.HasField("finished"):
                    (end,) = event.finished.choices
                    call.ends.append(inference_pb2.FinishReason.Name(end.finish_reason))
                num_events += 1
                if num_events == leaves_after:
                    call.outcome = Outcome.LEFT
                    return
    except pagewire.PagewireError as error:
        _fail(call, error)
        return
    call.outcome = Outcome.FINISHED


def _take(call: Call, token_ids: Iterable[int], text: str) -> None:
    call.token_ids += token_ids
    call.text += text


def _fail(call: Call, error: pagewire.PagewireError) -> None:
    call.error = f"{error.code.name} {error.reason}".strip()
    call.ends.append("error")
    if isinstance(error, pagewire.DeadlineExceededError):
        call.outcome = Outcome.EXPIRED
    else:
        call.outcome = Outcome.FAILED if call.is_accepted else Outcome.REFUSED

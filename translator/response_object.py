"""The response object: what a request asked for, what came of it, and every key that clients read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from translator.errors import ApiError
    from translator.response_request import ResponseRequest
    from translator.response_tools import Toolbox

    Body = dict[str, Any]

_ERROR_CODES = {
    400: "invalid_prompt",
    404: "invalid_prompt",
    413: "invalid_prompt",
    429: "rate_limit_exceeded",
}


def new_body(response_id: str, request: ResponseRequest, toolbox: Toolbox, *, is_stored: bool) -> Body:
    """Return the object of a response that has not begun."""
    reasoning, text = request.reasoning, request.text
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if request.background else "in_progress",
        "background": bool(request.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model or "",
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": is_stored,
        "temperature": request.temperature,
        "text": {
            "format": (text.format if text else None) or {"type": "text"},
            "verbosity": (text.verbosity if text else None) or "medium",
        },
        "tool_choice": "auto" if request.tool_choice is None else request.tool_choice,
        "tools": toolbox.listed,
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }


def note_started(body: Body, started: inference_pb2.Started) -> None:
    """Write what the server understood into a response that now runs."""
    body["status"] = "in_progress"
    body["model"] = started.model
    for name in ("temperature", "top_p"):
        if body[name] is None and started.sampling.HasField(name):
            # The contract's numbers have single precision: say 0.7, not 0.699999988.
            body[name] = float(f"{getattr(started.sampling, name):.7g}")


def note_finished(body: Body, end: inference_pb2.ChoiceEnd, usage: Body) -> None:
    """Write how a response ended."""
    if end.finish_reason == inference_pb2.FINISH_REASON_LENGTH:
        body["status"] = "incomplete"
        body["incomplete_details"] = {"reason": "max_output_tokens"}
    else:
        body["status"] = "completed"
        body["completed_at"] = int(time.time())
    body["usage"] = usage


def note_failed(body: Body, error: ApiError) -> None:
    """Write why a response failed."""
    body["status"] = "failed"
    body["error"] = {"code": _ERROR_CODES.get(error.status, "server_error"), "message": error.message}


def response_usage(started: inference_pb2.Started, num_generated: int, num_reasoning: int) -> Body:
    """Return the token counts."""
    return {
        "input_tokens": started.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": started.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": num_generated,
        "output_tokens_details": {"reasoning_tokens": num_reasoning},
        "total_tokens": started.num_prompt_tokens + num_generated,
    }

"""One log line for each request, at its end. It holds counts and times, never a prompt or an output."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.request_record import CallEnd
    from server.tracebacks import Tracebacks

logger = logging.getLogger("server.requests")

_NOT_READY = "NOT_READY"


def log_end(end: CallEnd, tracebacks: Tracebacks | None = None) -> None:
    """Log how a call ended.

    The text of an error that the caller was told stays out: it may quote the request. `tracebacks` chooses
    which faults are shown with theirs; without it all are.
    """
    level = logging.INFO if end.is_work and end.reason != _NOT_READY else logging.DEBUG
    if end.fault is not None:
        level = logging.ERROR
    if not logger.isEnabledFor(level):
        return
    fields, shown = _fields(end), end.fault
    if shown is not None and tracebacks is not None:
        num_left_out = tracebacks.take(shown)
        if num_left_out is None:
            shown = None
        elif num_left_out:
            fields["tracebacks_left_out"] = num_left_out
    logger.log(level, "%s", _text(end), exc_info=shown, extra={"fields": fields})


def _fields(end: CallEnd) -> dict[str, object]:
    record = end.record
    fields = {
        "request_id": end.request_id,
        "trace_id": None if end.trace is None else end.trace.trace_name,
        "tenant": end.tenant or None,
        "peer": end.peer or None,
        "method": end.method,
        "status": end.code,
        "reason": end.reason or None,
        "model": record.model or None,
        "finish_reasons": list(record.finish_reasons) or None,
        "prompt_tokens": record.num_prompt_tokens,
        "cached_tokens": record.num_cached_tokens,
        "completion_tokens": record.num_completion_tokens,
        "queue_s": _rounded(record.queue_s),
        "first_token_s": _rounded(record.first_token_s),
        "total_s": _rounded(end.seconds),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _text(end: CallEnd) -> str:
    record = end.record
    text = f"{end.method} {end.request_id} {end.code} after {end.seconds:.3f} s"
    if end.reason:
        text += f": {end.reason}"
    elif record.num_completion_tokens is not None:
        first_s = record.first_token_s or 0.0
        text += (
            f": {record.num_prompt_tokens} prompt tokens ({record.num_cached_tokens} cached),"
            f" {record.num_completion_tokens} generated, first after {first_s:.3f} s"
        )
    elif record.num_prompt_tokens is not None:
        text += f": {record.num_prompt_tokens} prompt tokens"
    return text


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)

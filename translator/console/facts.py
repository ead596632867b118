"""What the console asks for beside the public API: /console/models and /console/stats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from starlette.responses import Response

from translator.errors import ApiError
from translator.requests import backend_of, request_id_of
from translator.sse import encode_json

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from starlette.requests import Request

    from pagewire.v1 import admin_pb2, models_pb2
    from translator.admin_backend import AdminBackend

_NO_STATS = (
    "The engine's figures come from the server's AdminService. To show them, start the translator with"
    " --stats-target or --admin-target."
)
_NO_KEY = (
    "The engine's figures come from the server's AdminService, which wants an operator's key. To show them,"
    " give the translator one in full, by --admin-api-key or --admin-api-key-file."
)
_UNAUTHORIZED = 401
_MODEL_FACTS = (
    "root",
    "parent",
    "max_model_len",
    "architecture",
    "dtype",
    "device",
    "can_generate",
    "has_chat_template",
    "tool_format",
    "reasoning_format",
)


async def models(request: Request) -> Response:
    """Tell of each served model what a form for it needs, its sampling defaults among that."""
    served = await backend_of(request).list_models()
    return _answer({"models": [_facts(model) for model in served]})


async def stats(request: Request) -> Response:
    """Tell the engine's counters and gauges, or why this translator cannot know them."""
    source = cast("AdminBackend | None", request.app.state.stats)
    if source is None:
        return _answer({"available": False, "reason": _NO_STATS})
    try:
        answer = await source.get_stats(request_id_of(request))
    except ApiError as error:
        if error.status != _UNAUTHORIZED:  # that is the translator's own key, not the caller's
            raise
        return _answer({"available": False, "reason": _NO_KEY})
    return _answer({"available": True, **_figures(answer)})


def _facts(model: models_pb2.Model) -> dict[str, Any]:
    facts = {name: getattr(model, name) for name in _MODEL_FACTS}
    defaults = {field.name: _rounded(value) for field, value in model.default_sampling.ListFields()}
    return {"id": model.name, **facts, "default_sampling": defaults}


def _rounded(value: object) -> object:
    """A float of 32 bits as people write it: 0.1, not 0.10000000149."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _figures(answer: admin_pb2.GetStatsResponse) -> dict[str, Any]:
    engine: Message = answer.engine
    figures = {
        field.name: getattr(engine, field.name)
        for field in engine.DESCRIPTOR.fields
        if field.message_type is None
    }
    return {
        "ready": answer.ready,
        "not_ready_reason": answer.not_ready_reason,
        "started": answer.started.seconds,
        "num_engine_restarts": answer.num_engine_restarts,
        "engine": figures,
    }


def _answer(body: dict[str, Any]) -> Response:
    return Response(encode_json(body), headers={"cache-control": "no-store"}, media_type="application/json")

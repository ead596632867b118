"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from translator.requests import backend_of
from translator.sse import encode_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from pagewire.v1 import models_pb2


async def list_models(request: Request) -> Response:
    """List the served models."""
    models = await backend_of(request).list_models()
    body = {"object": "list", "data": [_card(model) for model in models]}
    return Response(encode_json(body), media_type="application/json")


async def get_model(request: Request) -> Response:
    """Describe one model. Its id may contain slashes; none is that of all, as a list."""
    if not request.path_params["model"]:
        return await list_models(request)
    model = await backend_of(request).get_model(request.path_params["model"])
    return Response(encode_json(_card(model)), media_type="application/json")


def _card(model: models_pb2.Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created.seconds,
        "owned_by": "pagewire",
        "root": model.root,
        "parent": model.parent or None,
        "max_model_len": model.max_model_len,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: models_pb2.Model) -> list[str]:
    """What the model can be asked for."""
    asked = {"completion": model.can_generate, "embedding": model.embedding_dimensions > 0}
    return [name for name, can in asked.items() if can]

"""How a generation becomes an HTTP response, whatever the route."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from translator.chunks import ChunkRenderer, render_frames
from translator.generation_group import GenerationGroup
from translator.patience import patience_of
from translator.requests import backend_of, config_of, request_id_of, until_disconnect
from translator.sse import OPENAI_STREAM, EventStream, encode_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from starlette.requests import Request

    from pagewire.v1 import inference_pb2
    from translator.backend import Backend, Generation
    from translator.fields import Endpoint
    from translator.patience import Patience


class Answer(ABC):
    """Renders the answer to one request."""

    id_prefix: str
    """Of the response's id."""
    streams: bool
    """Whether the client asked for a stream."""
    stream_format = OPENAI_STREAM
    given: Collection[str] = ()
    """The fields that the request has."""

    def admit(self, started: inference_pb2.Started) -> None:  # noqa: B027 - most answers are no larger for it
        """Look at a generation that begins, before anything of it is rendered.

        Raises:
            ApiError: 400; the answer would be too large.
        """

    @abstractmethod
    def chunks(self, response_id: str, starts: Mapping[int, inference_pb2.Started]) -> ChunkRenderer:
        """Return the renderer of a stream. `starts` has one entry at least, by the generation's index."""

    @abstractmethod
    async def whole(
        self, response_id: str, starts: Mapping[int, inference_pb2.Started], group: GenerationGroup
    ) -> dict[str, Any]:
        """Return the body of a response in one piece."""


async def generate(
    request: Request, specs: Sequence[inference_pb2.GenerationSpec], endpoint: Endpoint, answer: Answer
) -> Response:
    """Run one generation for each spec.

    Headers are sent once all are admitted that there is room for at once, so a refusal is a status.

    Raises:
        ApiError: the request was refused or failed.
        ClientDisconnectedError: the client went before the answer.
    """
    request_id = request_id_of(request)
    response_id = answer.id_prefix + request_id
    patience = patience_of(request, streams=answer.streams)
    generations = _open(backend_of(request), specs, request_id, endpoint, answer.given, patience)
    group = GenerationGroup(generations, answer.admit)
    is_handed_over = False
    try:
        starts = await until_disconnect(request.receive, group.start())
        if answer.streams:
            renderer = answer.chunks(response_id, starts)
            frames = render_frames(group, starts, renderer, answer.stream_format.done)
            response = EventStream(
                frames, group.cancel, request_id, config_of(request).sse_keep_alive_s, answer.stream_format
            )
            is_handed_over = True
            return response
        body = await until_disconnect(request.receive, answer.whole(response_id, starts, group))
        return Response(encode_json(body), media_type="application/json")
    finally:
        if not is_handed_over:
            group.cancel()


def _open(
    backend: Backend,
    specs: Sequence[inference_pb2.GenerationSpec],
    request_id: str,
    endpoint: Endpoint,
    given: Collection[str],
    patience: Patience,
) -> list[Generation]:
    if len(specs) == 1:
        return [backend.generate(specs[0], request_id, endpoint, given, patience)]
    return [
        backend.generate(spec, f"{request_id[:120]}-{index}", endpoint, given, patience)
        for index, spec in enumerate(specs)
    ]

"""The synchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from pagewire.channel import CHANNEL_OPTIONS, DEFAULT_TARGET, DEFAULT_TIMEOUT_S, call_metadata, with_key
from pagewire.embedding import build_embed_request
from pagewire.errors import from_rpc_error
from pagewire.health import CHECK_METHOD, LIVE, check_request, is_serving
from pagewire.options import Options, build_spec, build_tokenize_request
from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Unpack

    from pagewire.embedding import EmbedOptions, Inputs
    from pagewire.v1 import chat_pb2

    ChatMessage = Mapping[str, object] | chat_pb2.Message

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Stream:
    """The events of one generation: an iterator of StreamGenerateResponse.

    Closing it, leaving its `with` block or dropping it before its end cancels the generation.
    """

    started: inference_pb2.Started | None = None
    """What the server understood, from the first event on."""
    finished: inference_pb2.Finished | None = None
    """How the choices ended, and the usage; set by the last event."""

    def __init__(self, call: grpc._CallIterator[inference_pb2.StreamGenerateResponse]) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> inference_pb2.StreamGenerateResponse:
        """Return the next event.

        Raises:
            PagewireError: the call failed.
        """
        try:
            event = next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        match event.WhichOneof("event"):
            case "started":
                self.started = event.started
            case "finished":
                self.finished = event.finished
        return event

    def texts(self) -> Iterator[str]:
        """Yield the text of the first choice, piece by piece.

        Raises:
            PagewireError: the call failed.
        """
        for event in self:
            for choice in event.delta.choices:
                if choice.index == 0 and choice.text:
                    yield choice.text

    def close(self) -> None:
        """Cancel the generation unless it has ended."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Client:
    """A connection to a Pagewire server, safe to share between threads."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        api_key: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        metadata: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Set up a channel; it connects with the first call, and carries 128 calls at once.

        Args:
            target: host:port, unix:PATH, or any other gRPC name.
            api_key: shown with each call.
            timeout: deadline of a call in seconds, where the call gives none. None: no deadline.
            metadata: sent with each call.
            credentials: for TLS; without them the connection is in clear text.
        """
        self._timeout = timeout
        self._metadata = with_key(metadata, api_key)
        self._channel = (
            grpc.insecure_channel(target, CHANNEL_OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, CHANNEL_OPTIONS)
        )
        self._inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = models_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that are open end with RequestCancelledError."""
        self._channel.close()

    def generate(
        self,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        spec: inference_pb2.GenerationSpec | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> inference_pb2.GenerateResponse:
        """Generate, and return once all is there. The text is in `.choices[0].text`.

        Args:
            prompt: text or token ids.
            messages: a chat instead, as dictionaries with role and content.
            spec: a request to start from, for what has no option.
            timeout: deadline in seconds.
            request_id: the id of the request in logs and errors. Default: a random one.
            options: see `Options`.

        Raises:
            PagewireError: the call failed.
        """
        request = inference_pb2.GenerateRequest(spec=build_spec(prompt, messages, spec, options))
        return self._call(self._inference.Generate, request, timeout, request_id)

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> inference_pb2.GenerateResponse:
        """Answer a chat; short for `generate(messages=…)`."""
        return self.generate(messages=messages, timeout=timeout, request_id=request_id, **options)

    def stream(
        self,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        spec: inference_pb2.GenerationSpec | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Start a generation and return its events as they come. Arguments are those of `generate`.

        Raises:
            InvalidRequestError: the arguments make no request. Other errors come from the iterator.
        """
        request = inference_pb2.StreamGenerateRequest(spec=build_spec(prompt, messages, spec, options))
        call = self._inference.StreamGenerate(
            request,
            timeout=self._timeout if timeout is None else timeout,
            metadata=call_metadata(request_id, self._metadata),
        )
        return Stream(call)

    def embed(
        self,
        inputs: Inputs | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[EmbedOptions],
    ) -> inference_pb2.EmbedResponse:
        """Turn each input into a vector, in `.embeddings[i].values`.

        Args:
            inputs: a text, the token ids of one, or a list of either.
            messages: a chat instead, as one input.
            timeout: deadline in seconds.
            request_id: the id of the request in logs and errors. Default: a random one.
            options: see `EmbedOptions`.

        Raises:
            PagewireError: the call failed.
        """
        request = build_embed_request(inputs, messages, options)
        return self._call(self._inference.Embed, request, timeout, request_id)

    def tokenize(
        self,
        text: str | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> list[int]:
        """Return the token ids of a text or a chat.

        Raises:
            PagewireError: the call failed.
        """
        request = build_tokenize_request(text, messages, model, add_special_tokens)
        return list(self._call(self._models.Tokenize, request, timeout, None).token_ids)

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Return the text of token ids.

        Raises:
            PagewireError: the call failed.
        """
        request = models_pb2.DetokenizeRequest(
            model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        return self._call(self._models.Detokenize, request, timeout, None).text

    def models(self, *, timeout: float | None = None) -> list[models_pb2.Model]:
        """Return the served models.

        Raises:
            PagewireError: the call failed.
        """
        request = models_pb2.ListModelsRequest()
        return list(self._call(self._models.ListModels, request, timeout, None).models)

    def is_ready(self, *, timeout: float | None = None) -> bool:
        """Ask the server's health service whether requests are accepted.

        Raises:
            PagewireError: the call failed, which includes a server that cannot be reached.
        """
        return self._check_health("", timeout)

    def is_live(self, *, timeout: float | None = None) -> bool:
        """Ask whether the server's process answers, whatever its engine does.

        Raises:
            PagewireError: the call failed, which includes a server that cannot be reached.
        """
        return self._check_health(LIVE, timeout)

    def _check_health(self, service: str, timeout: float | None) -> bool:
        check = self._channel.unary_unary(
            CHECK_METHOD, request_serializer=check_request, response_deserializer=is_serving
        )
        return self._call(check, service, timeout, None)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None,
        request_id: str | None,
    ) -> ResponseT:
        try:
            return method(
                request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=call_metadata(request_id, self._metadata),
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

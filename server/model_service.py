"""ModelService: what is served, its tokenizer and its chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf import timestamp_pb2

from pagewire.v1 import inference_pb2, models_pb2
from server.conversations import parse_chat
from server.fields import Fields
from server.prompts import Prompt, encode

if TYPE_CHECKING:
    from server.admission import Admission
    from server.fair_threads import FairThreads
    from server.rpc import Call
    from server.served_model import ModelSlot, ServedModel
    from server.template_renderer import TemplateRenderer


class ModelService:
    """Describes the model and gives access to its text side."""

    def __init__(
        self, models: ModelSlot, admission: Admission, templates: TemplateRenderer, threads: FairThreads
    ) -> None:
        self._models = models
        self._admission = admission
        self._templates = templates
        self._threads = threads

    async def list_models(
        self, request: models_pb2.ListModelsRequest, call: Call
    ) -> models_pb2.ListModelsResponse:
        """List the model under each of its names, then its adapters."""
        models = [self._models.get(), *self._models.adapters]
        return models_pb2.ListModelsResponse(
            models=[_describe(model, name) for model in models for name in model.names]
        )

    async def get_model(self, request: models_pb2.GetModelRequest, call: Call) -> models_pb2.GetModelResponse:
        """Describe the model of one name."""
        model = self._models.get(request.name)
        return models_pb2.GetModelResponse(model=_describe(model, request.name or model.name))

    async def tokenize(self, request: models_pb2.TokenizeRequest, call: Call) -> models_pb2.TokenizeResponse:
        """Encode text or a chat."""
        with self._admission.admit_aside(call):
            model = self._models.get(request.model)
            prompt = await self._templates.rendered(_prompt_of(request), model, call.tenant)
            return await self._threads.run(call.tenant, _tokenized, prompt, model, request.token_texts)

    async def detokenize(
        self, request: models_pb2.DetokenizeRequest, call: Call
    ) -> models_pb2.DetokenizeResponse:
        """Decode token ids."""
        with self._admission.admit_aside(call):
            model = self._models.get(request.model)
            return await self._threads.run(call.tenant, _detokenized, request, model)

    async def render_chat(
        self, request: models_pb2.RenderChatRequest, call: Call
    ) -> models_pb2.RenderChatResponse:
        """Render a chat as Generate would."""
        with self._admission.admit_aside(call):
            model = self._models.get(request.model)
            fields = Fields()
            fields.require(request.HasField("chat"), "chat", "is needed")
            fields.check()
            prompt = Prompt("chat", conversation=parse_chat(fields, "chat", request.chat))
            fields.check()
            prompt = await self._templates.rendered(prompt, model, call.tenant)
            return await self._threads.run(call.tenant, _rendered, prompt, model)

    async def get_tokenizer_info(
        self, request: models_pb2.GetTokenizerInfoRequest, call: Call
    ) -> models_pb2.GetTokenizerInfoResponse:
        """Tell the tokenizer's settings. They hold no paths: they come from what was read, not from where."""
        model = self._models.get(request.model)
        settings = model.tokenizer.settings() | {"model_max_length": model.max_model_len}
        return models_pb2.GetTokenizerInfoResponse(
            tokenizer_config_json=json.dumps(settings, ensure_ascii=False)
        )


def _prompt_of(request: models_pb2.TokenizeRequest) -> Prompt:
    fields = Fields()
    adds = request.add_special_tokens if request.HasField("add_special_tokens") else None
    match request.WhichOneof("input"):
        case "text":
            prompt = Prompt("text", text=request.text, add_special_tokens=adds is not False)
        case "chat":
            conversation = parse_chat(fields, "chat", request.chat)
            prompt = Prompt("chat", conversation=conversation, add_special_tokens=bool(adds))
        case _:
            fields.refuse("input", "is needed: text or chat")
            prompt = Prompt("input")
    fields.check()
    return prompt


def _tokenized(prompt: Prompt, model: ServedModel, with_texts: bool) -> models_pb2.TokenizeResponse:
    token_ids = encode(prompt, model).token_ids
    texts = map(model.tokenizer.token_text, token_ids) if with_texts else ()
    return models_pb2.TokenizeResponse(
        token_ids=token_ids, token_texts=texts, max_model_len=model.max_model_len
    )


def _detokenized(request: models_pb2.DetokenizeRequest, model: ServedModel) -> models_pb2.DetokenizeResponse:
    fields = Fields()
    fields.token_ids("token_ids", request.token_ids, model.info.vocab_size)
    fields.check()
    text = model.tokenizer.decode(request.token_ids, request.skip_special_tokens)
    return models_pb2.DetokenizeResponse(text=text)


def _rendered(prompt: Prompt, model: ServedModel) -> models_pb2.RenderChatResponse:
    encoded = encode(prompt, model)
    return models_pb2.RenderChatResponse(text=encoded.text or "", token_ids=encoded.token_ids)


def _describe(model: ServedModel, name: str) -> models_pb2.Model:
    defaults = model.defaults
    created = timestamp_pb2.Timestamp()
    created.FromMilliseconds(int(model.created_s * 1000))
    return models_pb2.Model(
        name=name,
        root=model.root,
        parent=model.parent,
        created=created,
        max_model_len=model.max_model_len,
        vocab_size=model.info.vocab_size,
        eos_token_ids=model.eos_token_ids,
        default_sampling=inference_pb2.Sampling(
            temperature=defaults.temperature,
            top_k=defaults.top_k,
            top_p=defaults.top_p,
            min_p=defaults.min_p,
            repetition_penalty=defaults.repetition_penalty,
        ),
        has_chat_template=model.tokenizer.chat_template is not None,
        architecture=model.info.architecture,
        dtype=model.info.dtype,
        tool_format=model.tool_format.name if model.tokenizer.chat_template else "",
        reasoning_format=model.reasoning_format.name if model.reasoning_format else "",
        tokenizer_fingerprint=model.tokenizer.fingerprint,
        num_step_weights=model.info.num_step_weights,
        step_weight_bytes=model.info.step_weight_bytes,
        kv_bytes_per_token=model.info.kv_bytes_per_token,
        device=model.info.device,
        can_generate=model.info.can_generate,
        embedding_dimensions=model.info.embedding_dimensions,
    )

"""The model that is served: its names, its text side and what the engine says of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.messages import Vocabulary
from server.chat.tool_formats import HERMES
from server.errors import NotFoundError, NotReadyError
from server.fields import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.messages import EngineInfo
    from server.chat.reasoning import ReasoningFormat
    from server.chat.tool_formats import ToolFormat
    from server.generation_defaults import GenerationDefaults
    from server.tokenizer import Tokenizer


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in the engine."""

    number: int
    """Its id there, from 1, never given twice."""
    name: str
    path: str
    """Its folder, on this machine."""
    rank: int
    created_s: float
    """When it was loaded, in seconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """Everything that answering a request needs to know of the model."""

    names: tuple[str, ...]
    """Names under which it is served; the first one is in responses."""
    root: str
    """What was loaded, without its path."""
    created_s: float
    """When, in seconds since the epoch."""
    tokenizer: Tokenizer
    defaults: GenerationDefaults
    info: EngineInfo
    tool_format: ToolFormat = HERMES
    """How it calls tools."""
    reasoning_format: ReasoningFormat | None = None
    """How it marks its reasoning; None where it has none."""
    trusts_chat_templates: bool = False
    """Whether a chat may bring its own template."""
    adapter: Adapter | None = None
    """What the engine adds to the weights."""
    parent: str = ""
    """Name of the base model, where this is an adapter."""

    @property
    def adapter_id(self) -> int:
        """What the engine calls the adapter; 0 where there is none."""
        return 0 if self.adapter is None else self.adapter.number

    def with_adapter(self, adapter: Adapter) -> ServedModel:
        """Return the model that the base model and an adapter make, served under the adapter's name."""
        return replace(
            self,
            names=(adapter.name,),
            root=Path(adapter.path).resolve().name,
            created_s=adapter.created_s,
            adapter=adapter,
            parent=self.name,
        )

    @property
    def name(self) -> str:
        """The name that responses carry."""
        return self.names[0]

    @property
    def max_model_len(self) -> int:
        """Longest prompt and output together, in tokens: what the model can and the cache can hold."""
        return self.info.max_model_len

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokens stand for. Takes a while the first time."""
        tokenizer = self.tokenizer
        token_ids = range(tokenizer.vocab_size)
        return Vocabulary(
            tokens=[tokenizer.token_bytes(token_id) for token_id in token_ids],
            special_token_ids=[token_id for token_id in token_ids if tokenizer.is_special(token_id)],
            eos_token_ids=list(self.eos_token_ids),
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Token ids that end an output: those that are named, and that the model has."""
        return tuple(each for each in self.named_eos_token_ids if 0 <= each < self.info.vocab_size)

    @property
    def named_eos_token_ids(self) -> tuple[int, ...]:
        """Those that the tokenizer and generation_config.json name."""
        return tuple(dict.fromkeys((*self.tokenizer.eos_token_ids, *(self.defaults.eos_token_ids or ()))))


class ModelSlot:
    """Holds the served model once it is loaded, and what it is with each of its adapters."""

    def __init__(self) -> None:
        self._model: ServedModel | None = None
        self._adapters: dict[str, ServedModel] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    def put(self, model: ServedModel, adapters: Sequence[Adapter] = ()) -> None:
        """Serve this model from now on, alone and with each of these adapters."""
        self._model = model
        for adapter in adapters:
            self.put_adapter(adapter)

    def get(self, name: str = "") -> ServedModel:
        """Return the model or adapter of that name; empty means the server's model.

        Raises:
            NotReadyError: it is still loading.
            NotFoundError: no model has this name.
        """
        if self._model is None:
            raise NotReadyError("the model is loading")
        if name in self._adapters:
            return self._adapters[name]
        if name and name not in self._model.names:
            raise NotFoundError("MODEL_NOT_FOUND", f"the model {shown(name)} does not exist")
        return self._model

    @property
    def adapters(self) -> list[ServedModel]:
        """The model with each of its adapters, in the order in which they were loaded."""
        return list(self._adapters.values())

    def get_adapter(self, name: str) -> ServedModel:
        """Return the model with the adapter of that name.

        Raises:
            NotFoundError: there is none.
        """
        if name not in self._adapters:
            raise NotFoundError("ADAPTER_NOT_FOUND", f"the adapter {shown(name)} is not loaded")
        return self._adapters[name]

    def put_adapter(self, adapter: Adapter) -> Adapter | None:
        """Serve an adapter from now on. Return the one of the same name whose place it takes."""
        replaced = self._adapters.pop(adapter.name, None)
        self._adapters[adapter.name] = self.get().with_adapter(adapter)
        return None if replaced is None else replaced.adapter

    def remove_adapter(self, name: str) -> Adapter:
        """Serve an adapter no longer, and return it.

        Raises:
            NotFoundError: there is none of that name.
        """
        adapter = self.get_adapter(name).adapter
        assert adapter is not None
        del self._adapters[name]
        return adapter

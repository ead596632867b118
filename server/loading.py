"""From the configured model to one that can be served: files, text side and engine, all at once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from server.chat.detection import choose_reasoning_format, choose_tool_format
from server.generation_defaults import GenerationDefaults
from server.model_store import resolve_model
from server.served_model import ServedModel
from server.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.config import EngineConfig
    from server.config import ServerConfig
    from server.engine_process import EngineProcess

    OnProgress = Callable[[str, int, int], None]

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def locate(config: ServerConfig, on_progress: OnProgress) -> Path:
    """Return where the model lies, which is downloaded first if need be.

    Raises:
        ModelStoreError: there is no such model.
    """
    return await _in_thread(lambda: resolve_model(config, on_progress))


async def load(config: ServerConfig, path: Path, engine: EngineProcess) -> ServedModel:
    """Load the text side and wait for the engine, which loads meanwhile.

    Raises:
        TokenizerError: the tokenizer or the chat template cannot be used.
        GenerationConfigError: the model's sampling values are malformed.
        ModelLoadError: the .gguf file is not readable.
    """
    tokenizer, defaults = await _in_thread(lambda: _load_text(config, path))
    info = await engine.loaded()
    model = ServedModel(
        names=config.served_model_names or (config.name_of_model(),),
        root=msgspec.structs.replace(config, served_model_names=()).name_of_model(),
        created_s=time.time(),
        tokenizer=tokenizer,
        defaults=defaults,
        info=info,
        tool_format=choose_tool_format(config.tool_call_parser, tokenizer.chat_template),
        reasoning_format=choose_reasoning_format(config.reasoning_parser, tokenizer.chat_template),
        trusts_chat_templates=config.trust_request_chat_template,
    )
    if model.eos_token_ids != model.named_eos_token_ids:
        logger.warning(
            "the model is told to end at the tokens %s, and has only 0 to %d",
            model.named_eos_token_ids, info.vocab_size - 1,
        )  # fmt: skip
    if info.can_generate:
        engine.learn(await _in_thread(lambda: model.vocabulary))
    return model


def engine_config(config: ServerConfig, path: Path) -> EngineConfig:
    """The engine's settings, with the model's place."""
    return msgspec.structs.replace(config.engine, model_path=str(path))


def _load_text(config: ServerConfig, path: Path) -> tuple[Tokenizer, GenerationDefaults]:
    tokenizer_path = path if config.tokenizer is None else Path(config.tokenizer).expanduser()
    tokenizer = Tokenizer.load(tokenizer_path, config.chat_template)
    ignores_defaults = config.generation_config == "none"
    return tokenizer, GenerationDefaults() if ignores_defaults else GenerationDefaults.load(path)


async def _in_thread(function: Callable[[], T]) -> T:
    """Call a blocking function in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # None only where T is

    def call() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001 - it is raised again where it is awaited
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=call, daemon=True).start()
    return await future

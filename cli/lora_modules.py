"""The flag that names LoRA adapters."""

from __future__ import annotations

import msgspec

from server.config import LoraModule


def lora_module(text: str) -> LoraModule:
    """Parse an adapter to load: NAME=PATH, or an object as vLLM has it."""
    name, separator, path = text.partition("=")
    if text.lstrip().startswith("{"):
        try:
            module = msgspec.json.decode(text, type=LoraModule)
        except msgspec.DecodeError as error:
            raise ValueError(f"NAME=PATH or a JSON object with name and path ({error})") from error
    else:
        module = LoraModule(name, path) if separator else LoraModule("", "")
    if not module.name or not module.path:
        raise ValueError("NAME=PATH or a JSON object with name and path")
    return module

"""The fields of /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them."""

from __future__ import annotations

from translator.field import LOAD_ADAPTER, UNLOAD_ADAPTER, Field, honoured, ignored

ADAPTER_FIELDS: tuple[Field, ...] = (
    honoured("lora_name", "name", "The name to serve it by. Required.", LOAD_ADAPTER | UNLOAD_ADAPTER),
    honoured("lora_path", "path", "Its folder on the server's machine. Required.", LOAD_ADAPTER),
    honoured("load_inplace", "replace", "Takes the place of an adapter of this name.", LOAD_ADAPTER),
    ignored("lora_int_id", "an adapter is known by its name", UNLOAD_ADAPTER),
)

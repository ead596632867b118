"""Writes docs/fields.md from the tables: `python -m translator.field_page > docs/fields.md`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from translator.fields import FIELDS, Endpoint, Support

if TYPE_CHECKING:
    from collections.abc import Iterator

    from translator.fields import Field

ROUTES = {
    Endpoint.CHAT: "POST /v1/chat/completions",
    Endpoint.COMPLETIONS: "POST /v1/completions",
    Endpoint.RESPONSES: "POST /v1/responses",
    Endpoint.MESSAGES: "POST /v1/messages and /v1/messages/count_tokens",
    Endpoint.EMBEDDINGS: "POST /v1/embeddings",
    Endpoint.TOKENIZE: "POST /tokenize",
    Endpoint.DETOKENIZE: "POST /detokenize",
    Endpoint.LOAD_ADAPTER: "POST /v1/load_lora_adapter",
    Endpoint.UNLOAD_ADAPTER: "POST /v1/unload_lora_adapter",
}
_INTRODUCTION = """\
# Request fields

Every request field that we know of OpenAI, Anthropic, vLLM, SGLang and llama.cpp, and what becomes of it.
This page is written from the tables in `translator/` by `python -m translator.field_page > docs/fields.md`.

- **honoured**: does what the note says. Where the value goes to the gRPC server, the last column has its
  field in the contract, for `GenerationSpec` unless the route has a message of its own. Its bounds are
  written there, and the server checks them for both doors.
- **ignored**: cannot change the answer here, whatever its value.
- **refused**: answered with status 400 and the field's name, unless the value asks for nothing: null, an
  empty text, list or object, or one that the note lists.

Null stands for a field that is absent. Fields that are not listed are unknown, and ignored. A bad value is
answered with 400 before the first byte of a stream, naming the field, the value and what was expected.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION, *(line for endpoint in ROUTES for line in _table(endpoint))])


def _table(endpoint: Endpoint) -> Iterator[str]:
    """A route's fields, or nothing for a route without any."""
    fields = [field for field in FIELDS if field.endpoint & endpoint]
    if not fields:
        return
    yield f"## {ROUTES[endpoint]}\n"
    yield "| Field | Status | Note | Contract |"
    yield "|---|---|---|---|"
    for support in Support:
        for field in fields:
            if field.support is support:
                contract = f"`{field.contract}`" if field.contract else ""
                yield f"| `{field.name}` | {support.value} | {_note(field)} | {contract} |"
    yield ""


def _note(field: Field) -> str:
    note = field.note.replace("|", "\\|")
    if field.support is not Support.HONOURED:
        note = note[:1].upper() + note[1:] + "."
    if field.neutral:
        values = ", ".join(f"`{json.dumps(value)}`" for value in field.neutral)
        note += f" Asks for nothing: {values}."
    return note


if __name__ == "__main__":
    sys.stdout.write(page())

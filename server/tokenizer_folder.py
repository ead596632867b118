"""The tokenizer of a model folder, in the files that transformers writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tokenizers

from server.tokenizer_source import TokenizerError, TokenizerSource

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def read_tokenizer_folder(folder: Path) -> TokenizerSource:
    """Read tokenizer.json and what stands beside it.

    As in transformers, tokenizer.json's post-processor decides about BOS and EOS, whatever the flags in
    tokenizer_config.json say.

    Raises:
        TokenizerError: a file is missing or malformed.
    """
    config = read_json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens({**read_json(folder / "special_tokens_map.json"), **config})
    backend = _read_backend(folder)
    backend.no_truncation()
    backend.no_padding()
    _mark_special(backend, special_tokens.values())
    return TokenizerSource(
        backend=backend,
        special_tokens=special_tokens,
        eos_token_ids=_eos_token_ids(folder, backend, special_tokens),
        chat_templates=_chat_templates(folder, config),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file.

    Raises:
        TokenizerError: the file does not hold a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object")
    return value


def as_token_ids(value: object) -> tuple[int, ...]:
    """Token ids that a config gives as a number, a list, or not at all."""
    values = value if isinstance(value, list) else [value]
    return tuple(number for number in values if isinstance(number, int) and number >= 0)


def _read_backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        return _convert(folder)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{path}: {error}") from error


def _convert(folder: Path) -> tokenizers.Tokenizer:
    """Let transformers make the tokenizer from older files. It takes seconds to import."""
    if not any((folder / name).exists() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        raise TokenizerError(f"{folder}: no tokenizer.json, tokenizer.model or vocab.json")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return tokenizer.backend_tokenizer
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise TokenizerError(f"{folder}: no tokenizer.json, and conversion failed: {error}") from error


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in SPECIAL_TOKENS:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _mark_special(backend: tokenizers.Tokenizer, tokens: Iterable[str]) -> None:
    """Let the named special tokens be found in text and skipped in output, where the file forgot to."""
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    known = [token for token in tokens if backend.token_to_id(token) is not None]
    backend.add_special_tokens([token for token in known if token not in special])


def _eos_token_ids(
    folder: Path, backend: tokenizers.Tokenizer, special_tokens: dict[str, str]
) -> tuple[int, ...]:
    """The tokenizer's own and those of generation_config.json; config.json's only where these have none."""
    eos_token = special_tokens.get("eos_token")
    own = None if eos_token is None else backend.token_to_id(eos_token)
    ids = as_token_ids(own) + as_token_ids(read_json(folder / "generation_config.json").get("eos_token_id"))
    ids = ids or as_token_ids(read_json(folder / "config.json").get("eos_token_id"))
    return tuple(dict.fromkeys(ids))


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates in files of their own go before one in tokenizer_config.json."""
    named = _named_templates(config.get("chat_template"))
    named |= _named_templates(read_json(folder / "chat_template.json").get("chat_template"))
    files = {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (folder / "chat_template.jinja").exists():
        files["default"] = folder / "chat_template.jinja"
    for name, path in files.items():
        try:
            named[name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: {error}") from error
    return named


def _named_templates(value: object) -> dict[str, str]:
    if isinstance(value, str):
        return {"default": value}
    if not isinstance(value, list):
        return {}
    entries = [entry for entry in value if isinstance(entry, dict)]
    return {entry["name"]: entry["template"] for entry in entries if {"name", "template"} <= entry.keys()}

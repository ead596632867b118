"""The tokenizer of a GGUF file, built from its metadata.

A GGUF file holds the vocabulary, but of the pre-tokenizer only its name in llama.cpp's table. The rules
here are those of the original models. transformers' own converter drops them, and splits numbers wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from engine.errors import ModelLoadError
from engine.gguf_metadata import read_gguf_metadata
from server.tokenizer_source import TokenizerError, TokenizerSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# tokenizer.ggml.token_type
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3_WORDS = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
LLAMA3_NAMES = ("llama3", "llama-v3", "llama-bpe")
GPT2_NAMES = ("gpt-2", "gpt2", "default")


def read_gguf_tokenizer(path: Path) -> TokenizerSource:
    """Build the tokenizer of a .gguf file.

    Raises:
        TokenizerError: the file is not readable, or its tokenizer is not supported.
    """
    try:
        metadata = read_gguf_metadata(path)
    except ModelLoadError as error:
        raise TokenizerError(str(error)) from error
    try:
        return tokenizer_from_metadata(metadata)
    except (TokenizerError, KeyError, TypeError, IndexError) as error:
        raise TokenizerError(f"{path.name}: {_explain(error)}") from error


def tokenizer_from_metadata(metadata: Mapping[str, Any]) -> TokenizerSource:
    """Build the tokenizer that GGUF metadata describes.

    Raises:
        TokenizerError: its kind or its pre-tokenizer is not supported.
        KeyError: an entry is missing.
    """
    kind = metadata["tokenizer.ggml.model"]
    if kind == "gpt2":
        backend = _byte_level_bpe(metadata)
        adds_bos = metadata["tokenizer.ggml.pre"] in LLAMA3_NAMES
    elif kind == "llama":
        backend = _sentencepiece(metadata)
        adds_bos = True
    else:
        raise TokenizerError(f"tokenizer.ggml.model {kind!r} is not supported; gpt2 and llama are")
    tokens = metadata["tokenizer.ggml.tokens"]
    _add_marks(backend, tokens, metadata["tokenizer.ggml.token_type"])
    special_tokens = _special_tokens(metadata, tokens)
    _set_bos_and_eos(
        backend,
        special_tokens.get("bos_token") if metadata.get("tokenizer.ggml.add_bos_token", adds_bos) else None,
        special_tokens.get("eos_token") if metadata.get("tokenizer.ggml.add_eos_token", False) else None,
    )
    ends = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return TokenizerSource(
        backend=backend,
        special_tokens=special_tokens,
        eos_token_ids=tuple(dict.fromkeys(token_id for token_id in ends if token_id is not None)),
        chat_templates=_chat_templates(metadata),
    )


def _byte_level_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    name = metadata["tokenizer.ggml.pre"]
    backend = Tokenizer(
        models.BPE(
            vocab={token: token_id for token_id, token in enumerate(metadata["tokenizer.ggml.tokens"])},
            merges=[_split_merge(merge) for merge in metadata["tokenizer.ggml.merges"]],
            ignore_merges=name in LLAMA3_NAMES,
        )
    )
    backend.pre_tokenizer = _pre_tokenizer(name)
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    if name in GPT2_NAMES:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in (*LLAMA3_NAMES, "qwen2"):
        words = Regex(QWEN2_WORDS if name == "qwen2" else LLAMA3_WORDS)
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    known = ", ".join((*GPT2_NAMES, "smollm", *LLAMA3_NAMES, "qwen2"))
    raise TokenizerError(f"tokenizer.ggml.pre {name!r} is not supported; these are: {known}")


def _split_merge(merge: str) -> tuple[str, str]:
    """Two pieces with a space between. A piece may begin with the space, and neither is empty."""
    left, _, right = merge[1:].partition(" ")
    return merge[0] + left, right


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges_by_score(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    marked: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    plain: list[decoders.Decoder] = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        marked = [normalizers.Prepend("▁"), *marked]
        plain = [*plain, decoders.Strip(content=" ", left=1, right=0)]
    backend.normalizer = normalizers.Sequence(marked)
    backend.decoder = decoders.Sequence(plain)
    return backend


def _merges_by_score(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Sentencepiece joins the pair whose result has the best score; BPE wants these pairs best first."""
    merges = []
    for token, token_id in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((-scores[token_id], vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _add_marks(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Let the tokens that stand outside the vocabulary's text be found in it before all others."""
    for kind, special in ((CONTROL, True), (UNKNOWN, True), (USER_DEFINED, False)):
        marks = [token for token, found in zip(tokens, types, strict=True) if found == kind]
        backend.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])


def _set_bos_and_eos(backend: Tokenizer, bos_token: str | None, eos_token: str | None) -> None:
    """Make the tokenizer put these around a text, where they are given and known to it."""
    bos, eos = ([t] if t and backend.token_to_id(t) is not None else [] for t in (bos_token, eos_token))
    backend.post_processor = TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[*bos, "$A", "$B", *eos],
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(bos + eos)],
    )


def _special_tokens(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {short: metadata.get(f"tokenizer.ggml.{long}_token_id") for long, short in names.items()}
    return {f"{short}_token": tokens[token_id] for short, token_id in ids.items() if token_id is not None}


def _chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    found = {"default": metadata.get("tokenizer.chat_template")}
    found |= {
        name: metadata.get(f"tokenizer.chat_template.{name}")
        for name in metadata.get("tokenizer.chat_templates", [])
    }
    return {name: source for name, source in found.items() if source}


def _explain(error: Exception) -> str:
    return f"no entry {error}" if isinstance(error, KeyError) else str(error)

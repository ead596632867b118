"""Small tokenizers of both kinds, made on the spot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [
    "The capital of France is Paris. The capital of Japan is Tokyo (東京).",
    "In 1998, 3,141 cats sat; 2,718 dogs didn't. It's what they've said: we'll see!",
    "def main():\n    return {'naïve': 'café', \"emoji\": '👩‍👩‍👧 🎉'}\n\n",
] * 3
MARKS = ["<|end|>", "<|user|>", "<|assistant|>"]


def byte_level(vocab_size: int = 400) -> tokenizers.Tokenizer:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it. Ids 0 to 2 are the marks."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=MARKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece(vocab_size: int = 420) -> tokenizers.Tokenizer:
    """BPE over characters with byte fallback, as Llama 2 and Mistral have it. <unk>, <s>, </s>, bytes."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=60,
        show_progress=False,
    )
    # Without a pre-tokenizer the trainer would learn whole lines.
    backend.train_from_iterator((word for line in CORPUS for word in line.split()), trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def write_folder(folder: Path, backend: tokenizers.Tokenizer, **configs: dict[str, Any]) -> Path:
    """Write tokenizer.json, and each keyword as a JSON file of that name."""
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def gguf_metadata(backend: tokenizers.Tokenizer, kind: str, **entries: Any) -> dict[str, Any]:
    """What a converter to GGUF writes for a tokenizer of the kind "gpt2" or "llama"."""
    state = json.loads(backend.to_str())
    tokens = sorted(backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    special = {token["content"] for token in state["added_tokens"]}
    scores = {left + right: -float(rank) for rank, (left, right) in enumerate(merges)}
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": [token for token, _ in tokens],
        "tokenizer.ggml.token_type": [_token_type(token, special) for token, _ in tokens],
        "tokenizer.ggml.scores": [scores.get(token, -1e6) for token, _ in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        **{f"tokenizer.ggml.{name}": value for name, value in entries.items()},
    }


def _token_type(token: str, special: set[str]) -> int:
    if token == "<unk>":
        return 2
    if token in special:
        return 3
    return 6 if token.startswith("<0x") else 1

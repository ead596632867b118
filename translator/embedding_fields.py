"""The fields of /v1/embeddings. A conversation to embed has those of /v1/chat/completions too."""

from __future__ import annotations

from translator.field import EMBEDDINGS, Field, honoured, ignored, plain, refused

EMBEDDING_FIELDS: tuple[Field, ...] = (
    plain("model", "model", "A served name. Absent: the server's model.", EMBEDDINGS),
    honoured("input", "inputs", "A text, token ids, or a list of up to 2048 of these. Required.", EMBEDDINGS),
    honoured("messages", "inputs", "A conversation instead of `input`, as one vector.", EMBEDDINGS),
    honoured("encoding_format", "", "`float`, or `base64` of little-endian float32.", EMBEDDINGS),
    plain("dimensions", "dimensions", "Keeps this many leading components.", EMBEDDINGS),
    plain("normalize", "normalize", "Scales vectors to length 1, as most models have it.", EMBEDDINGS),
    honoured("use_activation", "normalize", "vLLM's name for it.", EMBEDDINGS),
    honoured("pooling", "pooling", "`last`, `mean` or `cls`. Absent: the model's own way.", EMBEDDINGS),
    plain("add_special_tokens", "add_special_tokens", "Adds the tokenizer's special tokens.", EMBEDDINGS),
    plain("truncate_prompt_tokens", "truncate_prompt_tokens", "Keeps this many tokens.", EMBEDDINGS),
    honoured("truncation_side", "truncation_side", "Which end is cut: `left` or `right`.", EMBEDDINGS),
    plain("priority", "scheduling.priority", "Lower runs earlier.", EMBEDDINGS),
    plain("cache_salt", "cache.salt", "Shares cached prefixes only within one salt.", EMBEDDINGS),
    ignored("user", "for abuse monitoring", EMBEDDINGS),
    ignored("safety_identifier", "for abuse monitoring", EMBEDDINGS),
    ignored("request_id", "use the header X-Request-Id", EMBEDDINGS),
    ignored("padding", "vectors do not depend on it", EMBEDDINGS),
    ignored("input_type", "inputs are embedded as they are", EMBEDDINGS),
    refused("embed_dtype", "components are float32", "float32", endpoint=EMBEDDINGS),
    refused("endianness", "base64 holds little-endian numbers", "native", "little", endpoint=EMBEDDINGS),
    refused("chat_template", "templates come with the model alone", endpoint=EMBEDDINGS),
    refused("mm_processor_kwargs", "only text is supported", endpoint=EMBEDDINGS),
)

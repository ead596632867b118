"""The fields of /tokenize and /detokenize. A conversation to tokenize has those of /v1/chat/completions."""

from __future__ import annotations

from translator.field import DETOKENIZE, TOKENIZE, Field, honoured, plain

TOKENIZE_FIELDS: tuple[Field, ...] = (
    plain("model", "model", "A served name. Absent: the server's model.", TOKENIZE | DETOKENIZE),
    honoured("prompt", "text", "The text. Required, unless there are messages.", TOKENIZE),
    plain("add_special_tokens", "add_special_tokens", "Adds BOS and the like; true for a text.", TOKENIZE),
    honoured("return_token_strs", "token_texts", "Adds each token's vocabulary entry.", TOKENIZE),
    honoured("tokens", "token_ids", "The token ids. Required.", DETOKENIZE),
)

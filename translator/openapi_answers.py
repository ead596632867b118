"""JSON Schemas of what the routes answer. Written by hand: answers are rendered from pieces, not types."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
ANY_OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "integer", "minimum": 0, "description": "Seconds since the epoch."}


def ref(name: str) -> Schema:
    """Refer to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def maybe(schema: Schema) -> Schema:
    """The schema or null."""
    return {"anyOf": [schema, NULL]}


def constant(value: str) -> Schema:
    """This text alone."""
    return {"type": "string", "const": value}


def one_of(*values: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def members(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these members."""
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


_USAGE = members(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": members({"cached_tokens": COUNT}),
        "completion_tokens_details": members({"reasoning_tokens": COUNT}),
    }
)
_TOKEN_LOGPROB = {"token": TEXT, "logprob": NUMBER, "bytes": array(COUNT)}
_CHAT_LOGPROBS = members(
    {"content": array(members({**_TOKEN_LOGPROB, "top_logprobs": array(members(_TOKEN_LOGPROB))}))}
)
_PROMPT_LOGPROB = members({"logprob": NUMBER, "rank": COUNT, "decoded_token": TEXT})
_PROMPT_LOGPROBS = array(maybe({"type": "object", "additionalProperties": _PROMPT_LOGPROB}))
_TOKEN_IDS = array(COUNT)
_STOP_REASON = {"anyOf": [TEXT, INTEGER, NULL], "description": "The stop text or token that was found."}
_FINISH_REASON = one_of("stop", "length", "tool_calls", "function_call", "content_filter")
_TOOL_CALL = members(
    {"id": TEXT, "type": constant("function"), "function": members({"name": TEXT, "arguments": TEXT})}
)
_TOOL_CALL_DELTA = members({"index": COUNT}, {"id": TEXT, "type": TEXT, "function": ANY_OBJECT})
_REASONING = {"reasoning": maybe(TEXT), "reasoning_content": maybe(TEXT)}

_CHAT_MESSAGE = members(
    {"role": TEXT, "content": maybe(TEXT), "refusal": maybe(TEXT)},
    {"tool_calls": array(_TOOL_CALL), **_REASONING},
)
_CHAT_DELTA = members(
    {},
    {
        "role": TEXT,
        "content": maybe(TEXT),
        "refusal": maybe(TEXT),
        "tool_calls": array(_TOOL_CALL_DELTA),
        **_REASONING,
    },
)
_COMPLETION_LOGPROBS = members(
    {
        "tokens": array(TEXT),
        "token_logprobs": array(maybe(NUMBER)),
        "top_logprobs": array(maybe({"type": "object", "additionalProperties": NUMBER})),
        "text_offset": array(COUNT),
    }
)
_COMPLETION_HEAD = {"id": TEXT, "created": TIME, "model": TEXT, "system_fingerprint": TEXT}
_OF_CHOICE = {"stop_reason": _STOP_REASON, "token_ids": _TOKEN_IDS}
_OF_PROMPT = {
    "prompt_logprobs": maybe(_PROMPT_LOGPROBS),
    "prompt_token_ids": _TOKEN_IDS,
    "prompt_text": TEXT,
}


def _completion_choice(finish_reason: Schema) -> Schema:
    return members(
        {
            "index": COUNT,
            "text": TEXT,
            "logprobs": maybe(_COMPLETION_LOGPROBS),
            "finish_reason": finish_reason,
        },
        _OF_CHOICE | _OF_PROMPT,
    )


def _chat_choice(part: str, content: Schema, finish_reason: Schema) -> Schema:
    required = {"index": COUNT, part: content, "logprobs": maybe(_CHAT_LOGPROBS)}
    return members({**required, "finish_reason": finish_reason}, _OF_CHOICE)


_ERROR = members({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": maybe(TEXT)})
_MESSAGE_BLOCK = {
    "anyOf": [
        members({"type": constant("text"), "text": TEXT}),
        members({"type": constant("thinking"), "thinking": TEXT, "signature": TEXT}),
        members({"type": constant("tool_use"), "id": TEXT, "name": TEXT, "input": ANY_OBJECT}),
    ]
}
_STOP_REASONS = one_of("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded")
_RESPONSE_STATUS = one_of("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
_ITEM = members({"type": TEXT}, {"id": TEXT})

ANSWERS: dict[str, Schema] = {
    "Error": members({"error": _ERROR}),
    "AnthropicError": members(
        {
            "type": constant("error"),
            "error": members({"type": TEXT, "message": TEXT}),
            "request_id": TEXT,
        }
    ),
    "NotReady": members({"status": constant("not ready"), "error": _ERROR}),
    "Status": members({"status": one_of("ready", "live")}),
    "Version": members({"version": TEXT}),
    "Load": members({"server_load": {**COUNT, "description": "Generations that are open."}}),
    "Usage": _USAGE,
    "ChatCompletion": members(
        {
            **_COMPLETION_HEAD,
            "object": constant("chat.completion"),
            "choices": array(_chat_choice("message", _CHAT_MESSAGE, _FINISH_REASON)),
            "usage": ref("Usage"),
        },
        _OF_PROMPT,
    ),
    "ChatCompletionChunk": members(
        {
            **_COMPLETION_HEAD,
            "object": constant("chat.completion.chunk"),
            "choices": array(_chat_choice("delta", _CHAT_DELTA, maybe(_FINISH_REASON))),
        },
        {"usage": maybe(ref("Usage")), **_OF_PROMPT},
    ),
    "Completion": members(
        {
            **_COMPLETION_HEAD,
            "object": constant("text_completion"),
            "choices": array(_completion_choice(_FINISH_REASON)),
            "usage": ref("Usage"),
        }
    ),
    "CompletionChunk": members(
        {
            **_COMPLETION_HEAD,
            "object": constant("text_completion"),
            "choices": array(_completion_choice(maybe(_FINISH_REASON))),
        },
        {"usage": maybe(ref("Usage"))},
    ),
    "AnthropicMessage": members(
        {
            "id": TEXT,
            "type": constant("message"),
            "role": constant("assistant"),
            "model": TEXT,
            "content": array(_MESSAGE_BLOCK),
            "stop_reason": maybe(_STOP_REASONS),
            "stop_sequence": maybe(TEXT),
            "usage": members(
                {
                    "input_tokens": COUNT,
                    "cache_creation_input_tokens": COUNT,
                    "cache_read_input_tokens": COUNT,
                    "output_tokens": COUNT,
                    "output_tokens_details": members({"thinking_tokens": COUNT}),
                }
            ),
        }
    ),
    "AnthropicEvent": members(
        {
            "type": one_of(
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
                "ping",
                "error",
            )
        }
    ),
    "TokenCount": members({"input_tokens": COUNT}),
    "Response": members(
        {
            "id": TEXT,
            "object": constant("response"),
            "created_at": TIME,
            "status": _RESPONSE_STATUS,
            "error": maybe(members({"code": TEXT, "message": TEXT})),
            "incomplete_details": maybe(members({"reason": TEXT})),
            "model": TEXT,
            "output": array(_ITEM),
            "usage": maybe(members({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT})),
        }
    ),
    "ResponseEvent": members({"type": TEXT, "sequence_number": COUNT}),
    "ResponseDeleted": members({"id": TEXT, "object": constant("response"), "deleted": FLAG}),
    "ResponseInputTokens": members({"object": constant("response.input_tokens"), "input_tokens": COUNT}),
    "ResponseItems": members(
        {
            "object": constant("list"),
            "data": array(_ITEM),
            "first_id": maybe(TEXT),
            "last_id": maybe(TEXT),
            "has_more": FLAG,
        }
    ),
    "Model": members(
        {
            "id": TEXT,
            "object": constant("model"),
            "created": TIME,
            "owned_by": TEXT,
            "root": TEXT,
            "parent": maybe(TEXT),
            "max_model_len": COUNT,
            "capabilities": array(one_of("completion", "embedding")),
        }
    ),
    "Models": members({"object": constant("list"), "data": array(ref("Model"))}),
    "ConsoleModels": members(
        {
            "models": array(
                members(
                    {
                        "id": TEXT,
                        "root": TEXT,
                        "max_model_len": COUNT,
                        "architecture": TEXT,
                        "dtype": TEXT,
                        "device": TEXT,
                        "can_generate": FLAG,
                        "has_chat_template": FLAG,
                        "tool_format": TEXT,
                        "reasoning_format": TEXT,
                        "default_sampling": ANY_OBJECT,
                    },
                    {"parent": TEXT},
                )
            )
        }
    ),
    "ConsoleStats": members(
        {"available": FLAG},
        {
            "reason": {**TEXT, "description": "Why the figures are not available."},
            "ready": FLAG,
            "not_ready_reason": TEXT,
            "started": TIME,
            "num_engine_restarts": COUNT,
            "engine": {
                "type": "object",
                "description": "EngineStats of the contract, by its names.",
                "additionalProperties": COUNT,
            },
        },
    ),
    "Embeddings": members(
        {
            "object": constant("list"),
            "model": TEXT,
            "data": array(
                members(
                    {
                        "object": constant("embedding"),
                        "index": COUNT,
                        "embedding": {"anyOf": [array(NUMBER), TEXT]},
                    }
                )
            ),
            "usage": members({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        }
    ),
    "Tokens": members(
        {
            "count": COUNT,
            "max_model_len": COUNT,
            "tokens": _TOKEN_IDS,
            "token_strs": maybe(array(TEXT)),
        }
    ),
    "Detokenized": members({"prompt": TEXT}),
    "TokenizerInfo": members(
        {},
        {
            "bos_token": TEXT,
            "eos_token": TEXT,
            "chat_template": TEXT,
            "model_max_length": COUNT,
            "added_tokens_decoder": ANY_OBJECT,
        },
    ),
}

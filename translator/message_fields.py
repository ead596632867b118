"""The fields of Anthropic's Messages."""

from __future__ import annotations

from translator.field import MESSAGES, Field, honoured, ignored, plain, refused

_NOTHING_CLEARED = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}

MESSAGE_FIELDS: tuple[Field, ...] = (
    plain("model", "model", "A served name. Absent: the server's model.", MESSAGES),
    honoured("messages", "chat.messages", "The conversation, in blocks of text. Required.", MESSAGES),
    honoured("system", "chat.messages", "What comes before it: a text or text blocks.", MESSAGES),
    plain("max_tokens", "stopping.max_tokens", "Most tokens to generate. Required.", MESSAGES),
    honoured("stop_sequences", "stopping.stop", "Texts that end the answer, up to four.", MESSAGES),
    plain("temperature", "sampling.temperature", "0 is greedy.", MESSAGES),
    plain("top_p", "sampling.top_p", "Nucleus sampling.", MESSAGES),
    plain("top_k", "sampling.top_k", "Keeps the k most likely tokens.", MESSAGES),
    honoured("stream", "", "Answers with server-sent events.", MESSAGES),
    honoured("tools", "chat.tools", "Functions that the model may call.", MESSAGES),
    honoured("tool_choice", "chat.tool_choice", "Whether it must, and how many at once.", MESSAGES),
    honoured("thinking", "reasoning", "Whether and how long the model reasons.", MESSAGES),
    honoured("output_config", "constraint", "`format` and `effort` of the answer.", MESSAGES),
    honoured("cache_control", "", "Prefixes are always cached; `usage` then says how much was.", MESSAGES),
    ignored("metadata", "for abuse monitoring", MESSAGES),
    ignored("service_tier", "there is one tier", MESSAGES),
    ignored("speed", "there is one speed", MESSAGES),
    ignored("inference_geo", "the server stays where it is", MESSAGES),
    ignored("diagnostics", "prefixes are found by their content", MESSAGES),
    ignored("user_profile_id", "there are no accounts", MESSAGES),
    ignored("betas", "a header for Anthropic's own service", MESSAGES),
    refused("container", "there is no code execution", endpoint=MESSAGES),
    refused("mcp_servers", "the server calls no tools itself", endpoint=MESSAGES),
    refused("output_format", "use output_config.format", endpoint=MESSAGES),
    refused("context_management", "conversations are not edited", _NOTHING_CLEARED, endpoint=MESSAGES),
)

"""Every request field that we know of OpenAI, vLLM, SGLang and llama.cpp, and what becomes of it.

The types of the honoured fields stand in `chat_request.py` and `completion_request.py`. A field that is
not listed is unknown, and unknown fields are ignored.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Endpoint(enum.Flag):
    """The routes that take a field."""

    CHAT = enum.auto()
    COMPLETIONS = enum.auto()
    RESPONSES = enum.auto()
    MESSAGES = enum.auto()
    EMBEDDINGS = enum.auto()
    TOKENIZE = enum.auto()
    DETOKENIZE = enum.auto()
    BOTH = CHAT | COMPLETIONS


class Support(enum.Enum):
    """What becomes of a field."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    """It cannot change the answer here, whatever its value."""
    REFUSED = "refused"
    """A value that asks for something is answered with 400, naming the field."""


CHAT, COMPLETIONS, BOTH = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.BOTH
RESPONSES, MESSAGES, EMBEDDINGS = Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.EMBEDDINGS
TOKENIZE, DETOKENIZE = Endpoint.TOKENIZE, Endpoint.DETOKENIZE


@dataclass(frozen=True, slots=True)
class Field:
    """One request field."""

    name: str
    endpoint: Endpoint
    support: Support
    note: str = ""
    """What it does, or why it is ignored or refused."""
    contract: str = ""
    """Where its value goes: a path in `GenerationSpec`. Empty for what the translator does itself."""
    plain: bool = False
    """Whether the value goes there unchanged."""
    neutral: tuple[object, ...] = ()
    """Values of a refused field, beside null and empty ones, that ask for nothing."""


def _plain(name: str, contract: str, note: str, endpoint: Endpoint = BOTH) -> Field:
    return Field(name, endpoint, Support.HONOURED, note, contract, plain=True)


def _honoured(name: str, contract: str, note: str, endpoint: Endpoint = BOTH) -> Field:
    return Field(name, endpoint, Support.HONOURED, note, contract)


def _ignored(name: str, note: str, endpoint: Endpoint = BOTH) -> Field:
    return Field(name, endpoint, Support.IGNORED, note)


def _refused(name: str, note: str, *neutral: object, endpoint: Endpoint = BOTH) -> Field:
    return Field(name, endpoint, Support.REFUSED, note, neutral=neutral)


_UNCONSTRAINED = "constrained output is not supported"
_NO_TOOLS = "tool calls are not supported"
_NO_MEDIA = "only text is supported"
_NO_SAMPLER = "this kind of sampling is not supported"
_NOTHING_CLEARED = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}

FIELDS: tuple[Field, ...] = (
    _plain("model", "model", "A served name. Absent: the server's model."),
    _honoured("messages", "chat.messages", "The conversation. Required.", CHAT),
    _honoured("prompt", "text", "A text, a list of texts, token ids, or a list of these.", COMPLETIONS),
    _honoured("stream", "", "Answers with server-sent events."),
    _honoured("stream_options", "", "`include_usage` and `continuous_usage_stats`."),
    _honoured("n", "sampling.n", "Number of choices."),
    _honoured("max_tokens", "stopping.max_tokens", "Most tokens to generate; 16 for completions."),
    _honoured("max_completion_tokens", "stopping.max_tokens", "The newer name; wins over max_tokens.", CHAT),
    _plain("min_tokens", "stopping.min_tokens", "Tokens to generate before a token may end the choice."),
    _honoured("stop", "stopping.stop", "Texts that end the choice: one, or a list of up to four."),
    _plain("stop_token_ids", "stopping.stop_token_ids", "Token ids that end the choice."),
    _plain("ignore_eos", "stopping.ignore_eos", "Goes on past the end-of-sequence token."),
    _plain("include_stop_str_in_output", "stopping.include_stop_text", "Keeps the matched stop text."),
    _plain("temperature", "sampling.temperature", "0 is greedy."),
    _plain("top_p", "sampling.top_p", "Nucleus sampling."),
    _plain("top_k", "sampling.top_k", "Keeps the k most likely tokens."),
    _plain("min_p", "sampling.min_p", "Drops tokens less likely than this share of the best one."),
    _plain("frequency_penalty", "sampling.frequency_penalty", "Per time that a token was generated."),
    _plain("presence_penalty", "sampling.presence_penalty", "Once a token was generated."),
    _plain("repetition_penalty", "sampling.repetition_penalty", "Divides the logits of seen tokens."),
    _plain("seed", "sampling.seed", "Makes sampling repeatable."),
    _honoured("logit_bias", "sampling.logit_bias", "Added to the logits of these token ids."),
    _plain("allowed_token_ids", "sampling.allowed_token_ids", "Only these tokens may be generated."),
    _plain("bad_words", "sampling.bad_words", "Texts that must not be generated."),
    _honoured("top_logprobs", "output.logprobs", "Alternatives at each token; needs logprobs.", CHAT),
    _honoured("logprobs", "output.logprobs", "Log probabilities of the generated tokens."),
    _plain("prompt_logprobs", "output.prompt_logprobs", "The same for the prompt. Not with stream."),
    _plain("skip_special_tokens", "output.skip_special_tokens", "Drops special tokens from the text."),
    _honoured("return_token_ids", "output.token_ids", "Adds `prompt_token_ids` and `token_ids`."),
    _honoured("return_tokens_as_token_ids", "", "Writes the tokens of logprobs as `token_id:123`."),
    _honoured("echo", "output.prompt_text", "Puts the prompt before the text.", COMPLETIONS),
    _honoured("best_of", "", "Only as many as n.", COMPLETIONS),
    _plain("priority", "scheduling.priority", "Lower runs earlier."),
    _plain("cache_salt", "cache.salt", "Shares cached prefixes only within one salt."),
    _plain("add_special_tokens", "add_special_tokens", "Whether the tokenizer adds its special tokens."),
    _plain("truncate_prompt_tokens", "truncate_prompt_tokens", "Keeps this many prompt tokens."),
    _honoured("truncation_side", "truncation_side", "Which end of the prompt is cut: left or right."),
    _honoured("add_generation_prompt", "chat.add_generation_prompt", "Opens the assistant's turn.", CHAT),
    _plain("continue_final_message", "chat.continue_final_message", "Goes on with the last message.", CHAT),
    _honoured("chat_template_kwargs", "chat.template_arguments_json", "Variables of the template.", CHAT),
    _honoured("reasoning_effort", "chat.template_arguments_json", "A variable of the template.", CHAT),
    _honoured("documents", "chat.template_arguments_json", "A variable of the template.", CHAT),
    _honoured("tools", "", "Refused unless empty or tool_choice is none.", CHAT),
    _honoured("tool_choice", "", "Only none, or auto without tools.", CHAT),
    # Bookkeeping of other services, and hints that have no meaning here.
    _ignored("user", "for abuse monitoring"),
    _ignored("safety_identifier", "for abuse monitoring", CHAT),
    _ignored("store", "nothing is stored", CHAT),
    _ignored("metadata", "belongs to stored completions", CHAT),
    _ignored("service_tier", "there is one tier", CHAT),
    _ignored("prompt_cache_key", "prefixes are found by their content", CHAT),
    _ignored("prompt_cache_retention", "prefixes are kept as long as memory allows", CHAT),
    _ignored("prediction", "a hint for speed", CHAT),
    _ignored("verbosity", "the model has no such control", CHAT),
    _ignored("parallel_tool_calls", "there are no tool calls", CHAT),
    _ignored("function_call", "as tool_choice; `functions` decides", CHAT),
    _ignored("request_id", "use the header X-Request-Id"),
    _ignored("rid", "use the header X-Request-Id"),
    _ignored("session_id", "a hint for routing"),
    _ignored("stream_interval", "deltas grow with the reader's pace"),
    _ignored("spaces_between_special_tokens", "tokenizers decide"),
    _ignored("length_penalty", "belongs to beam search"),
    _ignored("include_reasoning", "there is no reasoning parser", CHAT),
    _ignored("separate_reasoning", "there is no reasoning parser", CHAT),
    _ignored("stream_reasoning", "there is no reasoning parser", CHAT),
    _ignored("cache_prompt", "always on"),
    # What would change the answer, and cannot be done.
    _refused("response_format", _UNCONSTRAINED, {"type": "text"}),
    _refused("structured_outputs", _UNCONSTRAINED),
    _refused("guided_json", _UNCONSTRAINED),
    _refused("guided_regex", _UNCONSTRAINED),
    _refused("guided_choice", _UNCONSTRAINED),
    _refused("guided_grammar", _UNCONSTRAINED),
    _refused("guided_whitespace_pattern", _UNCONSTRAINED),
    _refused("guided_decoding_backend", _UNCONSTRAINED),
    _refused("regex", _UNCONSTRAINED),
    _refused("ebnf", _UNCONSTRAINED),
    _refused("json_schema", _UNCONSTRAINED),
    _refused("grammar", _UNCONSTRAINED),
    _refused("stop_regex", "stop takes texts only"),
    _refused("functions", _NO_TOOLS, endpoint=CHAT),
    _refused("web_search_options", "there is no web search", endpoint=CHAT),
    _refused("modalities", _NO_MEDIA, ["text"], endpoint=CHAT),
    _refused("audio", _NO_MEDIA, endpoint=CHAT),
    _refused("media_io_kwargs", _NO_MEDIA, endpoint=CHAT),
    _refused("mm_processor_kwargs", _NO_MEDIA, endpoint=CHAT),
    _refused("chat_template", "templates come with the model alone", endpoint=CHAT),
    _refused("return_prompt_text", "use the gRPC service's RenderChat", False, endpoint=CHAT),
    _refused("echo", "use /v1/completions", False, endpoint=CHAT),
    _refused("suffix", "filling in the middle is not supported", endpoint=COMPLETIONS),
    _refused("prompt_embeds", "a prompt is text or token ids", endpoint=COMPLETIONS),
    _refused("input_ids", "use /v1/completions with token ids", endpoint=CHAT),
    _refused("logprob_token_ids", "use logprobs"),
    _refused("use_beam_search", "beam search is not supported", False),
    _refused("thinking_token_budget", "there is no reasoning parser", -1),
    _refused("repetition_detection", "it is not supported"),
    _refused("no_stop_trim", "use include_stop_str_in_output", False),
    _refused("return_hidden_states", "it is not supported", False),
    _refused("custom_logit_processor", "it is not supported"),
    _refused("lora_path", "adapters are not supported"),
    _refused("vllm_xargs", "it is not supported"),
    _refused("kv_transfer_params", "it is not supported"),
    _refused("typical_p", _NO_SAMPLER, 1),
    _refused("mirostat", _NO_SAMPLER, 0),
    _refused("dry_multiplier", _NO_SAMPLER, 0),
    _refused("xtc_probability", _NO_SAMPLER, 0),
    # Anthropic's Messages, and the counting of their tokens.
    _plain("model", "model", "A served name. Absent: the server's model.", MESSAGES),
    _honoured("messages", "chat.messages", "The conversation, in blocks of text. Required.", MESSAGES),
    _honoured("system", "chat.messages", "What comes before it: a text or text blocks.", MESSAGES),
    _plain("max_tokens", "stopping.max_tokens", "Most tokens to generate. Required.", MESSAGES),
    _honoured("stop_sequences", "stopping.stop", "Texts that end the answer.", MESSAGES),
    _plain("temperature", "sampling.temperature", "0 is greedy.", MESSAGES),
    _plain("top_p", "sampling.top_p", "Nucleus sampling.", MESSAGES),
    _plain("top_k", "sampling.top_k", "Keeps the k most likely tokens.", MESSAGES),
    _honoured("stream", "", "Answers with server-sent events.", MESSAGES),
    _honoured("tools", "chat.tools", "Functions that the model may call.", MESSAGES),
    _honoured("tool_choice", "chat.tool_choice", "Whether it must, and how many at once.", MESSAGES),
    _honoured("thinking", "reasoning", "Whether and how long the model reasons.", MESSAGES),
    _honoured("output_config", "constraint", "`format` and `effort` of the answer.", MESSAGES),
    _honoured("cache_control", "", "Prefixes are always cached; `usage` then says how much was.", MESSAGES),
    _ignored("metadata", "for abuse monitoring", MESSAGES),
    _ignored("service_tier", "there is one tier", MESSAGES),
    _ignored("speed", "there is one speed", MESSAGES),
    _ignored("inference_geo", "the server stays where it is", MESSAGES),
    _ignored("diagnostics", "prefixes are found by their content", MESSAGES),
    _ignored("user_profile_id", "there are no accounts", MESSAGES),
    _ignored("betas", "a header for Anthropic's own service", MESSAGES),
    _refused("container", "there is no code execution", endpoint=MESSAGES),
    _refused("mcp_servers", "the server calls no tools itself", endpoint=MESSAGES),
    _refused("output_format", "use output_config.format", endpoint=MESSAGES),
    _refused("context_management", "conversations are not edited", _NOTHING_CLEARED, endpoint=MESSAGES),
    # The Responses API.
    _plain("model", "model", "A served name. Absent: the server's model.", RESPONSES),
    _honoured("input", "chat.messages", "A text, or messages, calls, outputs and reasoning.", RESPONSES),
    _honoured("instructions", "chat.messages", "The first message; later turns do not keep it.", RESPONSES),
    _honoured("previous_response_id", "chat.messages", "Goes on after a stored response.", RESPONSES),
    _honoured("stream", "", "Answers with server-sent events.", RESPONSES),
    _honoured("max_output_tokens", "stopping.max_tokens", "Most tokens to generate.", RESPONSES),
    _plain("temperature", "sampling.temperature", "0 is greedy.", RESPONSES),
    _plain("top_p", "sampling.top_p", "Nucleus sampling.", RESPONSES),
    _plain("top_k", "sampling.top_k", "Keeps the k most likely tokens.", RESPONSES),
    _plain("min_p", "sampling.min_p", "Drops tokens less likely than this share of the best.", RESPONSES),
    _plain("frequency_penalty", "sampling.frequency_penalty", "Per time of a token.", RESPONSES),
    _plain("presence_penalty", "sampling.presence_penalty", "Once a token was generated.", RESPONSES),
    _plain("repetition_penalty", "sampling.repetition_penalty", "Divides logits of seen tokens.", RESPONSES),
    _plain("seed", "sampling.seed", "Makes sampling repeatable.", RESPONSES),
    _honoured("logit_bias", "sampling.logit_bias", "Added to the logits of these token ids.", RESPONSES),
    _plain("allowed_token_ids", "sampling.allowed_token_ids", "Only these may be generated.", RESPONSES),
    _plain("bad_words", "sampling.bad_words", "Texts that must not be generated.", RESPONSES),
    _honoured("stop", "stopping.stop", "Texts that end the answer: one, or up to four.", RESPONSES),
    _plain("stop_token_ids", "stopping.stop_token_ids", "Token ids that end the answer.", RESPONSES),
    _plain("min_tokens", "stopping.min_tokens", "Tokens before a token may end the answer.", RESPONSES),
    _plain("ignore_eos", "stopping.ignore_eos", "Goes on past the end-of-sequence token.", RESPONSES),
    _plain("include_stop_str_in_output", "stopping.include_stop_text", "Keeps the stop text.", RESPONSES),
    _plain("skip_special_tokens", "output.skip_special_tokens", "Drops them from the text.", RESPONSES),
    _honoured("text", "constraint", "`format` of the answer; `verbosity` is only returned.", RESPONSES),
    _honoured("reasoning", "chat.template_arguments_json", "`effort` reaches the template.", RESPONSES),
    _honoured("tools", "chat.tools", "Functions, alone or in namespaces; others are left out.", RESPONSES),
    _honoured("tool_choice", "chat.tool_choice", "A mode, a function, or allowed ones.", RESPONSES),
    _honoured("parallel_tool_calls", "chat.parallel_tool_calls", "Several calls at once.", RESPONSES),
    _honoured("top_logprobs", "output.logprobs", "Alternatives at each token.", RESPONSES),
    _honoured("return_tokens_as_token_ids", "", "Names tokens `token_id:123`.", RESPONSES),
    _honoured("include", "", "`message.output_text.logprobs`, `reasoning.encrypted_content`.", RESPONSES),
    _honoured("truncation", "truncate_prompt_tokens", "auto cuts the oldest tokens.", RESPONSES),
    _plain("truncate_prompt_tokens", "truncate_prompt_tokens", "Keeps this many.", RESPONSES),
    _honoured("truncation_side", "truncation_side", "Which end of the prompt is cut.", RESPONSES),
    _honoured("chat_template_kwargs", "chat.template_arguments_json", "Of the template.", RESPONSES),
    _plain("priority", "scheduling.priority", "Lower runs earlier.", RESPONSES),
    _plain("cache_salt", "cache.salt", "Shares cached prefixes only within one salt.", RESPONSES),
    _honoured("store", "", "Keeps the response, in bounded memory. Default true.", RESPONSES),
    _honoured("background", "", "Runs without the client; needs store.", RESPONSES),
    _honoured("metadata", "", "Up to 16 texts, kept with the response.", RESPONSES),
    _ignored("stream_options", "no padding is sent", RESPONSES),
    _ignored("max_tool_calls", "limits tools that run on the server; returned", RESPONSES),
    _ignored("service_tier", "there is one tier", RESPONSES),
    _ignored("user", "for abuse monitoring; returned", RESPONSES),
    _ignored("safety_identifier", "for abuse monitoring; returned", RESPONSES),
    _ignored("prompt_cache_key", "prefixes are found by their content; returned", RESPONSES),
    _ignored("prompt_cache_retention", "prefixes are kept as long as memory allows", RESPONSES),
    _ignored("prompt_cache_options", "prefixes are kept as long as memory allows", RESPONSES),
    _ignored("client_metadata", "for the service's own statistics", RESPONSES),
    _refused("n", "a response has one answer", 1, endpoint=RESPONSES),
    _refused("max_tokens", "use max_output_tokens", endpoint=RESPONSES),
    _refused("max_completion_tokens", "use max_output_tokens", endpoint=RESPONSES),
    _refused("messages", "use input", endpoint=RESPONSES),
    _refused("response_format", "use text.format", {"type": "text"}, endpoint=RESPONSES),
    _refused("prompt", "there are no prompt templates", endpoint=RESPONSES),
    _refused("conversation", "use previous_response_id", endpoint=RESPONSES),
    _refused("context_management", "conversations are not edited", endpoint=RESPONSES),
    _refused("moderation", "there is no moderation", endpoint=RESPONSES),
    _refused("prompt_logprobs", "use /v1/completions", endpoint=RESPONSES),
    _refused("return_token_ids", "use /v1/chat/completions", False, endpoint=RESPONSES),
)


def fields_of(endpoint: Endpoint, support: Support) -> Iterator[Field]:
    """Yield the fields of a route."""
    return (field for field in FIELDS if field.endpoint & endpoint and field.support is support)


def is_neutral(field: Field, value: object) -> bool:
    """Whether a value of a refused field asks for nothing."""
    return value is None or value in ("", [], {}) or value in field.neutral


_PATHS: dict[Endpoint, dict[str, str]] = {
    endpoint: {
        field.contract: field.name
        for field in reversed(FIELDS)
        if field.contract and field.endpoint & endpoint
    }
    for endpoint in (*Endpoint, BOTH)
}
_PATHS[CHAT] |= {
    "prompt": "messages",
    "chat": "messages",
    "chat.tools": "tools",
    "chat.tool_choice": "tool_choice",
}
_PATHS[MESSAGES] |= {"prompt": "messages", "chat": "messages"}
_PATHS[RESPONSES] |= {"prompt": "input", "chat": "input", "chat.messages": "input"}
_PATHS[COMPLETIONS] |= {"prompt": "prompt", "token_ids": "prompt", "token_ids.ids": "prompt"}


def parameter_of(path: str, endpoint: Endpoint) -> str:
    """Return the HTTP API's name for a field of the gRPC contract, such as "spec.sampling.top_p"."""
    path = path.removeprefix("spec.")
    head = path
    while head:
        name = _PATHS[endpoint].get(head)
        if name == "input":  # one item may be several messages, and several one
            return name
        if name is not None:
            return _content_path(name + path[len(head) :])
        head = re.sub(r"(\.[^.\[]+|\[[^\]]*\]|^[^.\[]+)$", "", head)
    return path


def _content_path(parameter: str) -> str:
    """A message's content is a oneof in the contract and one field in JSON."""
    parameter = re.sub(r"^(messages\[\d+\])\.(?:parts\.parts|parts|text)", r"\1.content", parameter)
    return re.sub(r"^(messages\[\d+\])\.reasoning_text", r"\1.reasoning_content", parameter)

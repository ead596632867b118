"""The fields of chat and completions."""

from __future__ import annotations

from translator.field import CHAT, COMPLETIONS, Field, honoured, ignored, plain, refused

_NOT_HERE = "it is not supported"
_NO_MEDIA = "only text is supported"
_NO_SAMPLER = "this kind of sampling is not supported"

GENERATION_FIELDS: tuple[Field, ...] = (
    plain("model", "model", "A served name or adapter. Absent or empty: the server's model."),
    honoured("messages", "chat.messages", "The conversation, of texts and text parts. Required.", CHAT),
    honoured("prompt", "text", "A text, texts, token ids, or lists of these; at most 1024.", COMPLETIONS),
    honoured("stream", "", "Answers with server-sent events."),
    honoured("stream_options", "", "`include_usage`, and with it `continuous_usage_stats`. Needs stream."),
    honoured("stream_interval", "output.min_delta_tokens", "Fewest tokens in a chunk, at least 1."),
    honoured(
        "n",
        "sampling.n",
        "Choices for each prompt, 1 to 128, n times max_tokens at most 4,194,304. More than one needs"
        " temperature > 0.",
    ),
    honoured(
        "max_tokens",
        "stopping.max_tokens",
        "At least 1; cut to what the prompt leaves of the"
        " context. More than the context is refused. Absent: all that is left, or 16 for completions,"
        " which also take 0 together with echo.",
    ),
    honoured(
        "max_completion_tokens", "stopping.max_tokens", "Newer name of max_tokens, which it wins over.", CHAT
    ),
    plain(
        "min_tokens", "stopping.min_tokens", "No token or stop text ends the choice before; 0 to max_tokens."
    ),
    honoured(
        "stop",
        "stopping.stop",
        "A text that ends the choice, or up to 4; none empty, 256 characters. Reasoning and calls count.",
    ),
    plain("stop_token_ids", "stopping.stop_token_ids", "Up to 64 token ids that end the choice."),
    plain("ignore_eos", "stopping.ignore_eos", "Goes on past the end-of-sequence token."),
    plain("include_stop_str_in_output", "stopping.include_stop_text", "Keeps the matched stop text."),
    plain("temperature", "sampling.temperature", "0 to 2; 0 is greedy."),
    plain("top_p", "sampling.top_p", "Nucleus sampling: above 0, at most 1."),
    plain(
        "top_k",
        "sampling.top_k",
        "Keeps the k most likely tokens; -1 and 0 keep all. More than the"
        " vocabulary is refused as a mistake.",
    ),
    plain("min_p", "sampling.min_p", "Drops tokens less likely than this share of the best one; 0 to 1."),
    plain("frequency_penalty", "sampling.frequency_penalty", "Per time a token was generated; -2 to 2."),
    plain("presence_penalty", "sampling.presence_penalty", "Once a token was generated; -2 to 2."),
    plain(
        "repetition_penalty",
        "sampling.repetition_penalty",
        "Divides the logits of tokens seen in prompt"
        " or output; above 0, at most 10, beyond which it only breaks the text.",
    ),
    honoured(
        "seed",
        "sampling.seed",
        "Makes sampling repeatable; choice i draws from seed + i. -1: none. In 16 bits what else is"
        " computed, or cached, still moves probabilities a little; `--dtype float32` keeps them.",
    ),
    honoured(
        "use_beam_search",
        "sampling.beam_search",
        "Searches for the n most likely choices. A stream"
        " gets them when the search has ended. Not with penalties, logit_bias, stop or constraints.",
    ),
    honoured(
        "length_penalty",
        "sampling.beam_search.length_penalty",
        "Exponent of the length in a beam's"
        " score, over generated tokens; -10 to 10. Without use_beam_search it has no effect.",
    ),
    honoured(
        "logit_bias",
        "sampling.logit_bias",
        "Added to the logits of up to 300 token ids; clamped to -100 to 100.",
    ),
    plain("allowed_token_ids", "sampling.allowed_token_ids", "Only these tokens may be generated."),
    plain("bad_words", "sampling.bad_words", "Up to 128 texts that must not be generated."),
    honoured("top_logprobs", "output.logprobs", "Alternatives at each token, 0 to 20; needs logprobs.", CHAT),
    honoured(
        "logprobs", "output.logprobs", "Log probabilities of the tokens: true. None is below -9999.", CHAT
    ),
    honoured(
        "logprobs",
        "output.logprobs",
        "Log probabilities of the tokens and of this many alternatives, 0 to 20.",
        COMPLETIONS,
    ),
    plain(
        "logprob_token_ids",
        "output.logprob_token_ids",
        "Up to 128 tokens to report instead of the most likely ones; needs logprobs.",
    ),
    plain("prompt_logprobs", "output.prompt_logprobs", "The same for the prompt, 0 to 20. Not with stream."),
    plain("skip_special_tokens", "output.skip_special_tokens", "Drops special tokens from the text."),
    honoured("return_token_ids", "output.token_ids", "Adds `prompt_token_ids` and `token_ids`."),
    honoured("return_tokens_as_token_ids", "", "Writes the tokens of logprobs as `token_id:123`."),
    honoured("return_prompt_text", "output.prompt_text", "Adds `prompt_text`, the rendered chat.", CHAT),
    honoured("echo", "", "Puts the last message before the text, where its role is the answer's.", CHAT),
    honoured(
        "echo",
        "output.prompt_text",
        "Puts the prompt before the text, and its log probabilities before theirs.",
        COMPLETIONS,
    ),
    honoured("best_of", "", "Only as many as n: more would be generated and thrown away.", COMPLETIONS),
    honoured("response_format", "constraint", "`text`, `json_object`, `json_schema` or `structural_tag`."),
    honoured(
        "structured_outputs",
        "constraint",
        "One of `json`, `regex`, `choice`, `grammar`, `json_object`"
        " and `structural_tag`; `disable_any_whitespace`, `disable_additional_properties` and"
        " `whitespace_pattern` say how JSON is written.",
    ),
    honoured("guided_json", "constraint.json_schema", "Older name of structured_outputs.json."),
    honoured("guided_regex", "constraint.regex", "Older name of structured_outputs.regex."),
    honoured("guided_choice", "constraint.choices", "Older name of structured_outputs.choice."),
    honoured("guided_grammar", "constraint.grammar", "Older name of structured_outputs.grammar."),
    honoured("guided_whitespace_pattern", "constraint.json_style", "White space of constrained JSON."),
    honoured("json_schema", "constraint.json_schema", "SGLang's and llama.cpp's guided_json."),
    honoured("regex", "constraint.regex", "SGLang's guided_regex."),
    honoured("grammar", "constraint.grammar", "llama.cpp's guided_grammar."),
    honoured("ebnf", "constraint.grammar", "SGLang's guided_grammar."),
    plain("priority", "scheduling.priority", "Lower runs earlier. The header X-Vllm-Priority wins."),
    plain(
        "cache_salt",
        "cache.salt",
        "Shares cached prefixes only within one salt: 1 to 128 characters, none of them @, /, \\ or NUL.",
    ),
    honoured(
        "request_id",
        "",
        "Id of the request and of its response: letters, digits, `.`, `_` and `-`."
        " The header X-Request-Id wins.",
    ),
    plain("add_special_tokens", "add_special_tokens", "Whether the tokenizer adds its special tokens."),
    plain(
        "truncate_prompt_tokens",
        "truncate_prompt_tokens",
        "Keeps this many prompt tokens, up to the context; -1 keeps one less than the context.",
    ),
    honoured("truncation_side", "truncation_side", "Which end of the prompt is cut: left or right."),
    honoured("add_generation_prompt", "chat.add_generation_prompt", "Opens the assistant's turn.", CHAT),
    plain(
        "continue_final_message",
        "chat.continue_final_message",
        "Goes on with the last message, whose role is the answer's. Not with add_generation_prompt.",
        CHAT,
    ),
    plain(
        "chat_template",
        "chat.template",
        "A template for this chat. Refused unless the server runs with `--trust-request-chat-template`.",
        CHAT,
    ),
    honoured("chat_template_kwargs", "chat.template_arguments_json", "Variables of the template.", CHAT),
    honoured(
        "reasoning_effort",
        "chat.template_arguments_json",
        "A variable of the template; also sets `enable_thinking` unless that is given.",
        CHAT,
    ),
    honoured("documents", "chat.template_arguments_json", "A variable of the template.", CHAT),
    honoured("tools", "chat.tools", "Up to 128 functions that the model may call.", CHAT),
    honoured(
        "tool_choice",
        "chat.tool_choice",
        "`none`, `auto`, `required`, a function or `allowed_tools`. With `none` the model is shown no tools.",
        CHAT,
    ),
    honoured("parallel_tool_calls", "chat.parallel_tool_calls", "Several calls in one turn.", CHAT),
    honoured("functions", "chat.tools", "The old form of tools; answered with `function_call`.", CHAT),
    honoured("function_call", "chat.tool_choice", "The old form of tool_choice.", CHAT),
    honoured("include_reasoning", "reasoning.exclude", "If false, reasoning is left out.", CHAT),
    honoured("separate_reasoning", "reasoning.separate", "If false, reasoning is a part of the text.", CHAT),
    honoured(
        "thinking_token_budget",
        "reasoning.max_tokens",
        "Most reasoning tokens, after which the model is made to answer. -1: no limit.",
        CHAT,
    ),
    # Bookkeeping of other services, and hints that have no meaning here.
    ignored("user", "for abuse monitoring"),
    ignored("safety_identifier", "for abuse monitoring", CHAT),
    ignored("store", "nothing is stored", CHAT),
    ignored("metadata", "belongs to stored completions", CHAT),
    ignored("service_tier", "there is one tier", CHAT),
    ignored("prompt_cache_key", "prefixes are found by their content", CHAT),
    ignored("prompt_cache_retention", "prefixes are kept as long as memory allows", CHAT),
    ignored("prediction", "a hint for speed", CHAT),
    ignored("verbosity", "the model has no such control", CHAT),
    ignored("rid", "use request_id"),
    ignored("session_id", "a hint for routing"),
    ignored("guided_decoding_backend", "there is one"),
    ignored("spaces_between_special_tokens", "text is what the tokens' bytes say"),
    ignored("stream_reasoning", "reasoning streams as it comes", CHAT),
    ignored("cache_prompt", "always on"),
    # What would change the answer, and cannot be done.
    refused("stop_regex", "stop takes texts only"),
    refused("web_search_options", "there is no web search", endpoint=CHAT),
    refused("modalities", _NO_MEDIA, ["text"], endpoint=CHAT),
    refused("audio", _NO_MEDIA, endpoint=CHAT),
    refused("media_io_kwargs", _NO_MEDIA, endpoint=CHAT),
    refused("mm_processor_kwargs", _NO_MEDIA, endpoint=CHAT),
    refused("suffix", "filling in the middle is not supported", endpoint=COMPLETIONS),
    refused("prompt_embeds", "a prompt is text or token ids", endpoint=COMPLETIONS),
    refused("input_ids", "use /v1/completions with token ids", endpoint=CHAT),
    refused(
        "thinking_token_budget", "completions are not separated from reasoning", -1, endpoint=COMPLETIONS
    ),
    refused("repetition_detection", _NOT_HERE),
    refused("no_stop_trim", "use include_stop_str_in_output", False),
    refused("return_hidden_states", _NOT_HERE, False),
    refused("return_token_offsets", _NOT_HERE, False),
    refused("return_weight_versions", _NOT_HERE, False),
    refused("routed_experts_prompt_start", _NOT_HERE, 0),
    refused("custom_logit_processor", _NOT_HERE),
    refused("session_params", _NOT_HERE),
    refused("watermarking", _NOT_HERE, False),
    refused("lora_path", "name the adapter as the model"),
    refused("lora", "name the adapter as the model"),
    refused("vllm_xargs", _NOT_HERE),
    refused("kv_transfer_params", _NOT_HERE),
    refused("ec_transfer_params", _NOT_HERE),
    refused("mm_payload", _NO_MEDIA),
    refused("logits_processors", _NOT_HERE),
    refused("typical_p", _NO_SAMPLER, 1),
    refused("top_a", _NO_SAMPLER, 0),
    refused("tfs_z", _NO_SAMPLER, 1),
    refused("mirostat", _NO_SAMPLER, 0),
    refused("dry_multiplier", _NO_SAMPLER, 0),
    refused("xtc_probability", _NO_SAMPLER, 0),
    refused("dynatemp_range", _NO_SAMPLER, 0),
    refused("samplers", _NO_SAMPLER),
    refused("n_probs", "use logprobs", 0),
    refused("t_max_predict_ms", "use max_tokens", 0, -1),
)

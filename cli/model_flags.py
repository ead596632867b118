"""Flags of the model and of the engine that runs it."""

from __future__ import annotations

from cli.flags import Flag, Group
from cli.lora_modules import lora_module
from cli.values import (
    choice,
    exactly_one,
    file_or_template,
    filled,
    folder,
    integer,
    model_len,
    number,
)
from server.chat.reasoning import REASONING_FORMATS
from server.chat.tool_formats import TOOL_FORMATS
from server.config import DEFAULT_MODEL

DEFAULT_MAX_LORAS = 4
DTYPES = {
    "auto": "auto", "float32": "float32", "float": "float32", "bfloat16": "bfloat16", "float16": "float16",
    "half": "float16",
}  # fmt: skip

MODEL = Group(
    "model",
    (
        Flag(
            name="model",
            field="model",
            help="A local folder, a .gguf file, a Hugging Face id, or the default model's name.",
            parse=filled,
            metavar="MODEL",
            default=DEFAULT_MODEL,
            positional=True,
        ),
        Flag(
            name="served-model-name",
            field="served_model_names",
            help="Names under which it is served; the first one is in responses.",
            parse=filled,
            metavar="NAME",
            many=True,
            default="MODEL",
        ),
        Flag(
            name="tokenizer",
            field="tokenizer",
            help="Folder or .gguf file to take the tokenizer from.",
            parse=filled,
            metavar="PATH",
            default="MODEL",
        ),
        Flag(
            name="chat-template",
            field="chat_template",
            help="A Jinja file that replaces the model's chat template, or the template itself.",
            parse=file_or_template,
            metavar="FILE",
        ),
        Flag(
            name="trust-request-chat-template",
            field="trust_request_chat_template",
            help="Lets a chat bring its own template: a program, run in a process with limits.",
            switch=True,
            default="off",
        ),
        Flag(
            name="tool-call-parser",
            field="tool_call_parser",
            help=f"How the model calls tools: auto (its chat template tells), {', '.join(TOOL_FORMATS)}.",
            parse=choice(("auto", *TOOL_FORMATS)),
            metavar="FORMAT",
            default="auto",
        ),
        Flag(
            name="enable-auto-tool-choice",
            field="enable_auto_tool_choice",
            help="For vLLM's command lines: a model may always choose tools itself.",
            switch=True,
            default="on",
        ),
        Flag(
            name="reasoning-parser",
            field="reasoning_parser",
            help="How it marks reasoning: auto (its chat template tells), none,"
            f" {', '.join(REASONING_FORMATS)}.",
            parse=choice(("auto", "none", *REASONING_FORMATS)),
            metavar="FORMAT",
            default="auto",
        ),
        Flag(
            name="revision",
            field="revision",
            help="Revision of a Hugging Face id.",
            parse=filled,
            metavar="NAME",
        ),
        Flag(
            name="download-dir",
            field="cache_dir",
            help="Where downloads are kept.",
            parse=folder,
            metavar="DIR",
            default="the user's cache folder",
        ),
        Flag(
            name="load-format",
            field="engine.load_format",
            help="auto, safetensors, gguf, or dummy (random weights from the config alone).",
            parse=choice(("auto", "safetensors", "gguf", "dummy")),
            metavar="FORMAT",
            default="auto",
        ),
        Flag(
            name="model-impl",
            field="engine.model_impl",
            help="What computes the model: auto (our own code where there is some), or transformers.",
            parse=choice(("auto", "transformers")),
            metavar="NAME",
            default="auto",
        ),
        Flag(
            name="dtype",
            field="engine.dtype",
            help="Of weights, activations and cache: auto (the model's own), float32, bfloat16, float16.",
            parse=choice(DTYPES),
            metavar="TYPE",
            default="auto",
        ),
        Flag(
            name="quantization",
            aliases=("-q",),
            field="engine.quantization",
            help="fp8 rounds weights to eight bits, and what they are multiplied with.",
            parse=choice(("fp8",)),
            metavar="METHOD",
            default="none",
        ),
        Flag(
            name="max-model-len",
            field="engine.max_model_len",
            help="Longest prompt and output together, in tokens: 4096, 4k (4000), 4K (4096), or auto.",
            parse=model_len,
            metavar="N",
            default="auto, the model's own or what the cache holds",
        ),
        Flag(
            name="generation-config",
            field="generation_config",
            help="auto takes sampling defaults from the model's generation_config.json, none (vllm) ignores"
            " them.",
            parse=choice({"auto": "auto", "none": "none", "vllm": "none"}),
            metavar="MODE",
            default="auto",
        ),
        Flag(
            name="seed",
            field="engine.seed",
            help="Of dummy weights.",
            parse=integer(0, 2**63 - 1),
            metavar="N",
            default="0",
        ),
    ),
)

ENGINE = Group(
    "engine",
    (
        Flag(
            name="device",
            field="engine.device",
            help="auto (the GPU where there is one), cpu or cuda.",
            parse=choice(("auto", "cpu", "cuda")),
            metavar="NAME",
            default="auto",
        ),
        Flag(
            name="tensor-parallel-size",
            aliases=("-tp",),
            field="tensor_parallel_size",
            help="Devices to split the model over. Only 1 in this version.",
            parse=exactly_one,
            metavar="N",
            default="1",
        ),
        Flag(
            name="kv-cache-dtype",
            field="engine.kv_cache_dtype",
            help="Of keys and values: auto (that of activations), or fp8.",
            parse=choice({"auto": "auto", "fp8": "fp8", "fp8_e4m3": "fp8"}),
            metavar="TYPE",
            default="auto",
        ),
        Flag(
            name="gpu-memory-utilization",
            field="engine.gpu_memory_utilization",
            help="Share of the GPU's memory for weights, activations and cache together.",
            parse=number(0, 1, above=True),
            metavar="SHARE",
            default="0.9",
        ),
        Flag(
            name="kv-cache-memory-bytes",
            field="engine.kv_cache_memory_bytes",
            help="Size of the KV cache: 2G, 500m.",
            parse=integer(1),
            metavar="BYTES",
            default="from memory",
        ),
        Flag(
            name="num-gpu-blocks-override",
            field="engine.num_blocks",
            help="Size of the KV cache in blocks, on any device.",
            parse=integer(1),
            metavar="N",
            default="from memory",
        ),
        Flag(
            name="block-size",
            field="engine.block_size",
            help="Tokens in a block of the KV cache.",
            parse=integer(1, 1024),
            metavar="N",
            default="by device",
        ),
        Flag(
            name="max-num-seqs",
            field="engine.max_num_seqs",
            help="Most sequences running at once.",
            parse=integer(1),
            metavar="N",
            default="by device",
        ),
        Flag(
            name="max-num-batched-tokens",
            field="engine.max_num_batched_tokens",
            help="Most tokens computed in one step.",
            parse=integer(1),
            metavar="N",
            default="by device",
        ),
        Flag(
            name="long-prefill-token-threshold",
            field="engine.long_prefill_token_threshold",
            help="A prompt that lacks more tokens gets at most so many of a step; 0 sets no limit.",
            parse=integer(0),
            metavar="N",
            default="0",
        ),
        Flag(
            name="enable-prefix-caching",
            field="engine.enable_prefix_caching",
            help="Keeps computed prompts for later requests that begin alike.",
            switch=True,
            default="on",
        ),
        Flag(
            name="num-threads",
            field="engine.num_threads",
            help="CPU threads for tensor operations.",
            parse=integer(1, 4096),
            metavar="N",
            default="the physical cores",
        ),
    ),
)

LORA = Group(
    "adapters",
    (
        Flag(
            name="enable-lora",
            field="enable_lora",
            help="Takes LoRA adapters, then and while it runs.",
            switch=True,
            default="on with --lora-modules",
        ),
        Flag(
            name="lora-modules",
            field="lora_modules",
            help='Adapters (PEFT folders) to serve from the start: NAME=PATH or {"name": ..., "path": ...}.',
            parse=lora_module,
            metavar="NAME=PATH",
            many=True,
            default="none",
        ),
        Flag(
            name="max-loras",
            field="max_loras",
            help="Adapters that may take part in one step; the device has room for each.",
            parse=integer(1, 256),
            metavar="N",
            default=str(DEFAULT_MAX_LORAS),
        ),
        Flag(
            name="max-lora-rank",
            field="engine.max_lora_rank",
            help="Largest rank of an adapter.",
            parse=integer(1, 512),
            metavar="N",
            default="16",
        ),
        Flag(
            name="max-cpu-loras",
            field="max_cpu_loras",
            help="Adapters in memory at once, at least --max-loras; more are refused.",
            parse=integer(1),
            metavar="N",
            default="16",
        ),
    ),
)

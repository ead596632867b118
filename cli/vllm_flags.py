"""Flags of vLLM that set nothing here: they ask for what is so anyway, or for what is not in Pagewire."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from functools import partial

from cli.flags import UsageError

logger = logging.getLogger(__name__)

_DEST = "vllm_flags"
_NOT_HERE = "not in Pagewire"
_ONE_LINE = "a request is one line of the log, without its text; --log-level warning leaves that out too"
_ONE_DEVICE = "a model runs on one device"
_NO_TEXT = "no text of a request or an answer is ever logged"
_NO_CODE = "code that comes with a model is never run; docs/models.md says which models are"
_NO_PLUGIN = "no code from elsewhere is run"
_BY_KIND = "a decoder generates and embeds, an encoder embeds"
_LLGUIDANCE = "output is held to its structure by llguidance"
_HEADS = "a request's head has fixed limits; docs/security.md"
_EVERY_WAY = "the origins of --allowed-origins may use all methods and headers"

SWITCHES = {
    "enable-chunked-prefill": ("on", "prompts are computed in chunks"),
    "async-scheduling": ("on", "on a GPU a step is launched before the last one's tokens are read"),
    "enforce-eager": ("off", "on a GPU steps run as CUDA graphs where there is one, and eagerly elsewhere"),
    "disable-custom-all-reduce": ("on", _ONE_DEVICE),
    "enable-expert-parallel": ("off", _ONE_DEVICE),
    "enable-sleep-mode": ("off", "an engine keeps its memory until it ends"),
    "enable-prompt-embeds": ("off", "a prompt is text or token ids"),
    "trust-remote-code": ("off", _NO_CODE),
    "grpc": ("off", "`pagewire serve` speaks gRPC alone, and `pagewire up` gRPC beside HTTP"),
    "enable-reasoning": ("on", "--reasoning-parser says how reasoning is marked, or else the chat template"),
    "exclude-tools-when-tool-choice-none": ("on", "with tool_choice none a model is shown no tools"),
    "return-tokens-as-token-ids": ("off", "a request may ask for it, by the field of that name"),
    "enable-prompt-tokens-details": ("on", "usage always has them"),
    "enable-per-request-metrics": ("off", "times of a request are in the log and in traces"),
    "enable-request-id-headers": ("on", "every answer has x-request-id"),
    "enable-server-load-tracking": ("on", "GET /load tells"),
    "enable-tokenizer-info-endpoint": ("on", "GET /tokenizer_info tells"),
    "enable-offline-docs": ("on", "the page at /docs loads nothing from elsewhere"),
    "disable-fastapi-docs": ("off", "/docs and /openapi.json are there; a proxy may close them"),
    "allow-credentials": ("off", "callers show keys in a header, for which browsers need no credentials"),
    "enable-ssl-refresh": ("on", "certificates are read again when they change"),
    "enable-log-requests": ("off", _ONE_LINE),
    "disable-log-requests": ("on", _ONE_LINE),
    "disable-uvicorn-access-log": ("off", _ONE_LINE),
    "enable-log-outputs": ("off", _NO_TEXT),
    "disable-log-stats": ("on", "statistics are metrics, and no lines of the log"),
}
"""By name: whether on or off is so here, and why."""

VALUES: dict[str, tuple[tuple[str, ...] | None, str]] = {
    "config": ((), "each flag has a variable, PAGEWIRE_ and its name in capitals"),
    "scheduling-policy": (("fcfs", "priority"), "lower priority runs first, and of equals who came first"),
    "max-num-queued-reqs": ((), "it counts running requests too; --max-queued-requests those that wait"),
    "max-num-queued-tokens": ((), "--max-queued-requests bounds the queue"),
    "stream-interval": (("1",), "a request may ask for more, by the field of that name"),
    "pipeline-parallel-size": (("1",), _ONE_DEVICE),
    "data-parallel-size": (("1",), "a server has one engine; run several behind a load balancer"),
    "distributed-executor-backend": (("mp", "uni"), "the engine is one process, on one device"),
    "cpu-offload-gb": (("0",), "weights stay on the device"),
    "swap-space": (("0",), "a sequence that gave up its blocks is computed again"),
    "prefix-caching-hash-algo": ((), "prefixes are known by BLAKE2b, of 32 bytes"),
    "attention-backend": ((), "attention is computed by kernels of Pagewire's own"),
    "compilation-config": ((), "there is nothing to choose"),
    "speculative-config": ((), "there is no speculative decoding"),
    "kv-transfer-config": ((), "a KV cache stays with its engine"),
    "runner": (("auto", "generate", "pooling"), _BY_KIND),
    "task": (("auto", "generate", "embed"), _BY_KIND),
    "limit-mm-per-prompt": ((), "only text is served"),
    "hf-overrides": ((), "change config.json in the model's folder"),
    "code-revision": ((), _NO_CODE),
    "tokenizer-revision": ((), "the tokenizer comes with the model, of the same --revision"),
    "tokenizer-mode": (("auto", "hf"), "the tokenizer is that of the model's files"),
    "override-generation-config": ((), "a request may set such values; see --generation-config"),
    "default-chat-template-kwargs": ((), "a request may send chat_template_kwargs; see --chat-template"),
    "chat-template-content-format": (("auto",), "the chat template tells"),
    "response-role": (("assistant",), "answers are the assistant's"),
    "logprobs-mode": (("raw_logprobs",), "log probabilities are those before temperature and filters"),
    "structured-outputs-config.backend": (("auto", "guidance"), _LLGUIDANCE),
    "guided-decoding-backend": (("auto", "guidance"), _LLGUIDANCE),
    "tool-parser-plugin": ((), _NO_PLUGIN),
    "reasoning-parser-plugin": ((), _NO_PLUGIN),
    "tool-server": ((), "the server calls no tools itself"),
    "middleware": ((), _NO_PLUGIN),
    "allowed-methods": (('["*"]',), _EVERY_WAY),
    "allowed-headers": (('["*"]',), _EVERY_WAY),
    "root-path": ((), "let the proxy take the prefix away"),
    "uds": ((), "--host and --port say where to listen"),
    "ssl-ciphers": ((), "TLS is 1.2 or newer, with the ciphers of OpenSSL"),
    "h11-max-incomplete-event-size": ((), _HEADS),
    "h11-max-header-count": ((), _HEADS),
    "max-log-len": (None, _NO_TEXT),
    "uvicorn-log-level": ((), "--log-level says it for all"),
    "log-config-file": ((), "--log-level and --log-format say it"),
    "disable-access-log-for-endpoints": ((), "probes are logged at --log-level debug alone"),
}
"""By name: the values that are so here, None for all, and why, or what to do instead."""

_ALIASES = {"pipeline-parallel-size": ["-pp"], "data-parallel-size": ["-dp"]}


@dataclass(frozen=True, slots=True)
class _Given:
    """A flag that was given."""

    typed: str
    fact: str
    """What is so here, or what to do instead."""
    problem: str | None
    """None: it asks for what is so."""


def add_vllm_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them, without a word in the help."""
    for name, (so, fact) in SWITCHES.items():
        for typed, position in ((f"--{name}", "on"), (f"--no-{name}", "off")):
            given = _Given(typed, fact, None if position == so else _NOT_HERE)
            parser.add_argument(typed, dest=_DEST, action="append_const", const=given, help=argparse.SUPPRESS)
    for name, (values, fact) in VALUES.items():
        read = partial(_read, f"--{name}", fact, values)
        names = [f"--{name}", *_ALIASES.get(name, [])]
        parser.add_argument(*names, dest=_DEST, action="append", type=read, help=argparse.SUPPRESS)


def _read(name: str, fact: str, values: tuple[str, ...] | None, text: str) -> _Given:
    if values is None or text in values:
        return _Given(f"{name} {text}", fact, None)
    return _Given(name, fact, f'expected {" or ".join(values)}, got "{text}"' if values else _NOT_HERE)


def tell_vllm_flags(arguments: argparse.Namespace) -> None:
    """Log which of the flags that were given change nothing, and why.

    Raises:
        UsageError: one asks for what is not here; the text says what is, or what to do instead.
    """
    flags: list[_Given] = getattr(arguments, _DEST) or []
    for flag in flags:
        if flag.problem is not None:
            raise UsageError(f"{flag.typed}: {flag.problem}: {flag.fact}")
    if flags:
        told = "; ".join(f"{flag.typed} ({flag.fact})" for flag in flags)
        logger.info("these flags change nothing, as what they ask for is so anyway: %s", told)

"""How the gRPC server runs. Built once, at the command line; derived values are properties."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from server.tenants import EQUAL_TENANTS, Tenants

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from gate.certificates import CertificateFiles
    from gate.keys import Key

DEFAULT_MODEL = "smollm2-135m-instruct"


class LoraModule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter to load at the start."""

    name: str
    path: str
    """Its folder, in PEFT's format."""
    base_model_name: str | None = None
    """A name of the model, as vLLM has it here; any other is refused."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one server process and of the engine process that it starts."""

    model: str = DEFAULT_MODEL
    """The default model's name, a local folder, a .gguf file, or a Hugging Face model id."""
    served_model_names: tuple[str, ...] = ()
    """Names under which the model is served; the first one is in responses. Empty: the model's own."""
    tokenizer: str | None = None
    """A local folder or .gguf file to take tokenizer and template from. None is the model."""
    chat_template: Path | str | None = None
    """A Jinja file, or a template's text, that replaces the model's chat template."""
    tool_call_parser: str = "auto"
    """The format in which the model calls tools, one of `server.chat.tool_formats`; auto: by its template."""
    reasoning_parser: str = "auto"
    """The format in which it reasons; auto: by its template; none: reasoning is not separated."""
    trust_request_chat_template: bool = False
    """Whether a chat may bring its own template, which is a program that runs here."""
    revision: str | None = None
    """Revision of a Hugging Face model id."""
    cache_dir: Path | None = None
    """Where downloads are kept. None is the user's cache folder."""
    engine: EngineConfig
    """`engine.model_path` is set by the server once the model is on disk."""
    generation_config: str = "auto"
    """`auto` takes sampling defaults from the model's generation_config.json, `none` ignores them."""
    lora_modules: tuple[LoraModule, ...] = ()
    """Adapters that are served from the start. `engine.max_loras` must not be 0."""
    max_cpu_loras: int = 16
    """Adapters in memory at once, of which `engine.max_loras` may take part in one step."""
    max_logprobs: int = 20
    """Most alternatives that a request may ask for at a position."""
    host: str = "127.0.0.1"
    port: int = 50051
    """Of the public services. 0 takes a free one."""
    grpc_front_count: int = 1
    """Processes that speak gRPC at that port. 1: the server itself does."""
    admin_host: str = "127.0.0.1"
    admin_port: int = 50052
    """Of AdminService. 0 takes a free one."""
    enable_metrics: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 50053
    """Of Prometheus metrics, over HTTP. 0 takes a free one."""
    otlp_traces_endpoint: str | None = None
    """The OpenTelemetry collector that spans are sent to. None: none are made."""
    enable_reflection: bool = False
    api_keys: tuple[Key, ...] = ()
    """Keys of the public services. With no key and no file of keys they are open to all."""
    api_key_file: Path | None = None
    """A file of more keys, read again when it changes."""
    admin_api_keys: tuple[Key, ...] = ()
    """Keys of AdminService, which takes no others."""
    admin_api_key_file: Path | None = None
    tls: CertificateFiles | None = None
    """What both listeners show, and whose certificates their clients must show. None: clear text."""
    tenants: Tenants = EQUAL_TENANTS
    """Shares and limits of the tenants."""
    max_queued_requests: int = 1024
    """Requests beyond the running ones that may wait; more are refused with RESOURCE_EXHAUSTED."""
    queue_timeout_s: float | None = None
    """How long requests wait for the engine that do not say so themselves. None: until their deadlines."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Of one gRPC request."""
    drain_timeout_s: float = 30.0
    """How long running requests may go on after SIGTERM."""

    @property
    def max_adapters(self) -> int:
        """Adapters in memory at once; 0 where there are none."""
        return self.max_cpu_loras if self.engine.max_loras else 0

    def name_of_model(self) -> str:
        """The name that responses carry. A local model's own name is that of its folder or file."""
        if self.served_model_names:
            return self.served_model_names[0]
        path = Path(self.model).expanduser()
        return path.resolve().name if path.exists() else self.model

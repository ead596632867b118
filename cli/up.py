"""`pagewire up`: server and translator as two supervised processes."""

from __future__ import annotations

import http.client
import json
import shlex
import urllib.error
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cli import serve, translate
from cli.descriptors import raise_descriptor_limit
from cli.flags import Group, UsageError, give_again, read_groups
from cli.health import TIMEOUT_S, answers_requests
from cli.keys import ADMIN_API_KEY_FILE, API_KEY_FILE, UP_KEYS, key_header, key_to_show, variables_of
from cli.model_flags import ENGINE, LORA, MODEL
from cli.process import DRAIN_TIMEOUT, LOG_FORMAT, LOG_LEVEL, pagewire_command, set_up_logging
from cli.supervisor import Child, Supervisor
from cli.tenants import TENANT_FLAGS
from cli.tls import CLIENT_TLS, GRPC_TLS, HTTP_TLS, certificate_files, probe_context
from cli.traces import TRACES_ENDPOINT
from cli.values import integer
from cli.vllm_flags import tell_vllm_flags
from cli.workers import API_SERVER_COUNT, num_processes, reachable, translators
from gate.certificates import CertificateError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from gate.certificates import CertificateFiles

# The server's --host and --port have other names here, beside the translator's.
GRPC_HOST = replace(serve.HOST, name="grpc-host", field="grpc_host")
# Both processes must know that port beforehand, so a free one cannot be picked.
GRPC_PORT = replace(
    serve.PORT, name="grpc-port", field="grpc_port", help="Port for gRPC.", parse=integer(1, 65535)
)
_SHARED = (DRAIN_TIMEOUT, LOG_LEVEL, LOG_FORMAT, TRACES_ENDPOINT)
_SERVING = tuple(flag for flag in serve.SERVING.flags if flag not in (serve.HOST, serve.PORT, *_SHARED))

GROUPS = (
    MODEL,
    ENGINE,
    LORA,
    Group("gRPC", (GRPC_HOST, GRPC_PORT, *_SERVING)),
    Group("HTTP", (translate.HOST, translate.PORT, API_SERVER_COUNT, *translate.HTTP)),
    Group("keys", (*UP_KEYS, *TENANT_FLAGS)),
    Group("HTTP with TLS", HTTP_TLS),
    Group("gRPC with TLS", (*GRPC_TLS, *CLIENT_TLS)),
    Group("processes", _SHARED),
)
# The server's exit code where its engine has failed again and again.
_ENGINE_GIVEN_UP = 3
_KEY_FILES = (API_KEY_FILE, ADMIN_API_KEY_FILE)
_SERVER_FLAGS = (
    *MODEL.flags,
    *ENGINE.flags,
    *LORA.flags,
    *_SERVING,
    *_KEY_FILES,
    *TENANT_FLAGS,
    *GRPC_TLS,
    *_SHARED,
)
_TRANSLATOR_FLAGS = (*translate.HTTP, *_KEY_FILES, *HTTP_TLS, *CLIENT_TLS, *_SHARED)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run both until a signal, and return the exit code.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    grpc_host = str(values.get("grpc_host", "127.0.0.1"))
    grpc_port = values.get("grpc_port", 50051)
    grpc_target = f"{reachable(grpc_host)}:{grpc_port}"
    config = translate.to_config(values | {"grpc_target": grpc_target})
    if certificate_files(values, "grpc_") is not None and config.grpc_ca_certs is None:
        raise UsageError("--grpc-ssl-certfile: expected --grpc-ca-certs beside it, by which HTTP trusts gRPC")
    secrets, api_key = variables_of(values), key_to_show(values)
    set_up_logging(values)
    tell_vllm_flags(arguments)
    raise_descriptor_limit()
    # Flags beat the environment, so these are always said; the rest is inherited or said again.
    server = [f"--host={grpc_host}", f"--port={grpc_port}", *give_again(_SERVER_FLAGS, arguments)]
    translator = [
        f"--grpc-target={grpc_target}",
        f"--host={config.host}",
        f"--port={config.port}",
        *stats_target(values),
        *give_again(_TRANSLATOR_FLAGS, arguments),
    ]
    with translators(config, num_processes(values), translator, secrets) as http:
        base_url = http.base_url
        supervisor = Supervisor(
            [
                Child("pagewire serve", pagewire_command("serve", server), secrets, [_ENGINE_GIVEN_UP]),
                *http.children,
            ],
            probe=lambda: served_model(base_url, api_key, config.tls),
            on_ready=lambda card, seconds: print(
                next_step(card, base_url, grpc_target, seconds, needs_key=api_key is not None), flush=True
            ),
        )
        return supervisor.run()


def served_model(
    base_url: str, api_key: str | None, tls: CertificateFiles | None = None
) -> dict[str, Any] | None:
    """Return the card of the model that answers there; None while nothing does.

    The card is empty where no key is known that opens the door.
    """
    try:
        context = probe_context(tls)
        if not answers_requests(base_url, context):
            return None
        request = urllib.request.Request(f"{base_url}/v1/models", headers=key_header(api_key))
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:
            card: dict[str, Any] = json.load(response)["data"][0]
            return card
    except urllib.error.HTTPError as error:
        return {} if error.code == http.HTTPStatus.UNAUTHORIZED else None
    except (CertificateError, OSError, http.client.HTTPException):
        return None


def next_step(
    card: dict[str, Any], base_url: str, grpc_target: str, seconds: float, *, needs_key: bool = False
) -> str:
    """Return the line that says what to do now with the model of this card."""
    if not card:
        return f"Ready in {seconds:.1f} s at {base_url}/v1 and gRPC {grpc_target}, for those who have a key."
    model, question = card["id"], "What is the capital of France?"
    if "completion" in card["capabilities"]:
        route = "chat/completions"
        asked = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    else:
        route, asked = "embeddings", {"model": model, "input": question}
    key = " -H 'authorization: Bearer YOUR-KEY'" if needs_key else ""
    return (
        f"Ready in {seconds:.1f} s: model {model} at {base_url}/v1 and gRPC {grpc_target}. Try: "
        f"curl {base_url}/v1/{route} -H 'content-type: application/json'{key}"
        f" -d {shlex.quote(json.dumps(asked))}"
    )


def stats_target(values: Mapping[str, object]) -> list[str]:
    """Return the flag that lets the console show the engine.

    None where somebody says where it is, or where nobody knows the port beforehand.
    """
    port = values.get("admin_port", 50052)
    if port == 0 or {"admin_target", "stats_target"} & values.keys():
        return []
    host = reachable(str(values.get("admin_host", "127.0.0.1")))
    return [f"--{translate.STATS_TARGET.name}={host}:{port}"]

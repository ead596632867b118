"""The server process: listens, loads, serves, drains, ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING

from engine.errors import ModelLoadError
from gate.certificates import CertificateError
from gate.credentials import is_loopback
from gate.key_ring import KeyRing
from gate.keys import KeyFileError
from server import loading
from server.adapters import LoraModuleError
from server.engine_link import ENGINE_COMMAND
from server.engine_process import EngineGivenUpError, EngineProcess, EngineStartError
from server.errors import RequestLostError
from server.front_messages import FrontConfig
from server.fronts import Fronts
from server.gate import Gate
from server.generation_defaults import GenerationConfigError
from server.libraries import LibraryError, check_libraries
from server.listeners import PortError, bind, make_listener, options_for, reflection_handler, reserve
from server.memory_return import return_memory
from server.metrics_port import MetricsPort
from server.model_store import ModelStoreError
from server.progress import Progress
from server.served_model import Adapter, ModelSlot, ServedModel
from server.services import ADMIN, HEALTH, INFERENCE, MODELS, Services
from server.tls import server_credentials
from server.tokenizer import TokenizerError
from watch import heap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import grpc.aio

    from server.config import ServerConfig
    from server.restart_policy import RestartLimits

logger = logging.getLogger(__name__)

ENGINE_GRACE_S = 5.0
LISTENER_GRACE_S = 0.5

_LOAD_ERRORS = (
    EngineStartError,
    GenerationConfigError,
    LoraModuleError,
    ModelLoadError,
    ModelStoreError,
    TokenizerError,
)


def run(
    config: ServerConfig,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    restart_limits: RestartLimits | None = None,
) -> int:
    """Serve until a signal, and return the process's exit code.

    0: ended by a signal, after draining. 1: the model cannot be served. 2: a port, a file of keys
    or certificates, or a library cannot be used. 3: the engine failed again and again.
    """
    heap.share_arena()
    try:
        check_libraries()
        asyncio.run(_run(config, engine_command, restart_limits))
    except PortError as error:
        logger.error("%s", error)
        return 2
    except (CertificateError, KeyFileError, LibraryError) as error:
        logger.error("%s", error)
        return 2
    except EngineGivenUpError as error:
        logger.error("giving up: %s", error)
        return 3
    except _LOAD_ERRORS as error:
        logger.error("%s", error)
        return 1
    return 0


async def _run(
    config: ServerConfig, engine_command: Sequence[str], restart_limits: RestartLimits | None
) -> None:
    server = Server(config, engine_command, restart_limits)
    await server.listen()
    returning = asyncio.create_task(return_memory())
    try:
        await server.serve()
    finally:
        returning.cancel()
        heap.unsettle()
        await server.close()


class Server:
    """Everything that one server process owns. `listen`, `serve` and `close` are called in that order."""

    def __init__(
        self,
        config: ServerConfig,
        engine_command: Sequence[str],
        restart_limits: RestartLimits | None,
    ) -> None:
        self._config = config
        self._started_s = time.monotonic()
        self._progress = Progress()
        self._models = ModelSlot()
        self._engine = EngineProcess(
            self._progress,
            lambda: self._services.readiness.refresh(),
            command=engine_command,
            limits=restart_limits,
        )
        self._services = Services(
            self._engine,
            self._models,
            max_queued_requests=config.max_queued_requests,
            max_logprobs=config.max_logprobs,
            max_adapters=config.max_adapters,
            max_loras=config.engine.max_loras,
            tenants=config.tenants,
            queue_timeout_s=config.queue_timeout_s,
            traces_endpoint=config.otlp_traces_endpoint,
        )
        self._listeners: list[grpc.aio.Server | Fronts] = []
        self._metrics_port: MetricsPort | None = None
        self._port = 0
        self._stop = asyncio.Event()
        self._engine_grace_s = ENGINE_GRACE_S

    async def listen(self) -> None:
        """Open the ports. Until the model is loaded, health says that the server is not ready.

        Raises:
            CertificateError, KeyFileError: a file of certificates or keys cannot be used.
            PortError: a port cannot be taken.
        """
        config, services = self._config, self._services
        keys = KeyRing(config.api_keys, config.api_key_file)
        admin_keys = KeyRing(config.admin_api_keys, config.admin_api_key_file)
        warn_if_open(keys, config.host, "--api-key")
        warn_if_open(admin_keys, config.admin_host, "--admin-api-key")
        public_names = [service.full_name for service in (INFERENCE, MODELS, HEALTH)]
        admin_names = [ADMIN.full_name, HEALTH.full_name]
        public = self._open_public([*services.public_handlers(), *self._reflection(public_names)], keys)
        admin = make_listener(
            [*services.admin_handlers(), *self._reflection(admin_names)],
            max_message_bytes=config.max_message_bytes,
            gate=self._gate("admin", admin_keys),
        )
        bind(admin, config.admin_host, config.admin_port, "--admin-port", self._credentials())
        if config.enable_metrics:
            registry = services.metrics.registry
            self._metrics_port = MetricsPort(registry, config.metrics_host, config.metrics_port)
            logger.info("metrics on http://%s:%d/metrics", config.metrics_host, self._metrics_port.port)
            warn_of_open_metrics(config.metrics_host)
        self._listeners = [public, admin]
        for listener in self._listeners:
            await listener.start()

    async def serve(self) -> None:
        """Load the model and serve it until a signal; then drain.

        Raises:
            EngineStartError: the engine cannot be started.
            EngineGivenUpError: it was lost for good.
            ModelStoreError, TokenizerError, GenerationConfigError, ModelLoadError: the model cannot be
                loaded.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        running = asyncio.create_task(self._load_and_run())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if running.done():
            self._services.readiness.refuse_new(self._engine.not_ready_reason or "the server is ending")
            self._end_all()
            await running
        self._services.readiness.refuse_new()
        await self._services.admission.drain(self._config.drain_timeout_s, _stopping())
        await self._engine.stop(self._engine_grace_s)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def close(self) -> None:
        """Close the ports and end the engine, whatever state they are in."""
        self._progress.close()
        for listener in self._listeners:
            await listener.stop(LISTENER_GRACE_S)
        if self._metrics_port is not None:
            await asyncio.to_thread(self._metrics_port.close)
        await self._services.close()
        await self._engine.stop(0.0)

    def _open_public(
        self, handlers: Sequence[grpc.GenericRpcHandler], keys: KeyRing
    ) -> grpc.aio.Server | Fronts:
        """Take the public port, for this process or for fronts of it."""
        config, gate = self._config, self._gate("public", keys)
        if config.grpc_front_count == 1:
            server = make_listener(handlers, max_message_bytes=config.max_message_bytes, gate=gate)
            self._port = bind(server, config.host, config.port, "--port", self._credentials())
            return server
        if config.tls is not None:
            config.tls.check()
        reserved, self._port = reserve(config.host, config.port, "--port")
        options = options_for(config.max_message_bytes) | {"grpc.so_reuseport": 1}
        front = FrontConfig(config.host, self._port, options, config.tls)
        return Fronts(handlers, gate, front, reserved, config.grpc_front_count)

    def _gate(self, name: str, keys: KeyRing) -> Gate:
        return Gate(keys, lambda reason: self._services.metrics.count_refusal(name, reason))

    def _reflection(self, services: list[str]) -> list[grpc.GenericRpcHandler]:
        return [reflection_handler(services)] if self._config.enable_reflection else []

    def _credentials(self) -> grpc.ServerCredentials | None:
        return None if self._config.tls is None else server_credentials(self._config.tls)

    async def _load_and_run(self) -> None:
        config = self._config
        path = await loading.locate(config, self._progress)
        running = asyncio.create_task(self._engine.run(loading.engine_config(config, path)))
        loaded = asyncio.create_task(self._load(path))
        try:
            await asyncio.wait({running, loaded}, return_when=asyncio.FIRST_COMPLETED)
            if loaded.done():
                self._announce(*loaded.result())
            await running
        finally:
            running.cancel()
            loaded.cancel()

    async def _load(self, path: Path) -> tuple[ServedModel, list[Adapter]]:
        model, _ = await asyncio.gather(
            loading.load(self._config, path, self._engine), self._services.templates.start()
        )
        return model, await self._services.adapters.load_first(self._config.lora_modules, model)

    def _announce(self, model: ServedModel, adapters: list[Adapter]) -> None:
        self._services.announce(model, adapters)
        self._progress.close()
        heap.settle()
        seconds = time.monotonic() - self._started_s
        host, port = self._config.host, self._port
        logger.info("gRPC server ready on %s:%d, model %s, %.1f s", host, port, model.name, seconds)

    def _on_signal(self) -> None:
        """The first signal drains, the second one ends what is left at once."""
        if self._stop.is_set():
            self._engine_grace_s = 0.0
            self._end_all()
        self._stop.set()

    def _end_all(self) -> None:
        self._services.admission.end_all(_stopping())


def warn_if_open(keys: KeyRing, host: str, flag: str) -> None:
    """Say aloud that strangers may enter, if they may."""
    if keys.is_open and not is_loopback(host):
        logger.warning("ANYBODY who reaches %s may send requests: no key is set; see %s", host, flag)


def warn_of_open_metrics(host: str) -> None:
    """Say aloud that strangers may read the metrics, if they may: their port takes no keys."""
    if not is_loopback(host):
        logger.warning(
            "ANYBODY who reaches %s may read the metrics, which take no key; see --metrics-host", host
        )


def _stopping() -> RequestLostError:
    return RequestLostError("the server is shutting down")

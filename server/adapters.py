"""The LoRA adapters that are served: loaded by name, counted while requests use them, and forgotten after.

An adapter has an id in the engine that is never given again. So one that takes another's name shares nothing
with it: requests that run go on with the old one, which goes when the last of them has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import AdapterError
from server.engine import EngineUnavailableError
from server.errors import (
    AdaptersOffError,
    AlreadyExistsError,
    NotFoundError,
    ServiceError,
    TooManyAdaptersError,
)
from server.fields import invalid, shown
from server.served_model import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from server.config import LoraModule
    from server.engine import Engine
    from server.served_model import ModelSlot, ServedModel

logger = logging.getLogger(__name__)


class LoraModuleError(Exception):
    """An adapter that was to be served from the start cannot be; the text is for the operator."""


class Adapters:
    """Loads and unloads adapters, one at a time.

    Args:
        engine: computes with them.
        models: where requests find them.
        max_adapters: in memory at once, not counting those that are being replaced. 0 switches them off.
    """

    def __init__(self, engine: Engine, models: ModelSlot, max_adapters: int) -> None:
        self._engine = engine
        self._models = models
        self._max_adapters = max_adapters
        self._ids = itertools.count(1)
        self._num_users: dict[int, int] = {}
        self._idle: dict[int, asyncio.Event] = {}
        self._lock = asyncio.Lock()
        self._farewells: set[asyncio.Task[None]] = set()

    @property
    def all(self) -> list[Adapter]:
        """The served adapters, in the order in which they were loaded."""
        return [model.adapter for model in self._models.adapters if model.adapter is not None]

    @contextlib.contextmanager
    def use(self, model: str, adapter: str) -> Iterator[ServedModel]:
        """Find the model that a request names. Within, its adapter stays in the engine.

        Args:
            model: a served name, of the model or of an adapter. Empty: the server's model.
            adapter: name of an adapter, or empty.

        Raises:
            NotReadyError: the model is still loading.
            NotFoundError: no model or adapter has this name.
            InvalidRequestError: the names are of two adapters.
        """
        served = self._models.get(model)
        if adapter:
            named = served.adapter
            served = self._models.get_adapter(adapter)
            if named is not None and named != served.adapter:
                raise invalid("spec.adapter", f"{shown(adapter)} is not the adapter that spec.model names")
        number = served.adapter_id
        if number and not self._engine.has_adapter(number):
            lost = f"the adapter {shown(served.name)} was lost when the engine was started again; replace it"
            raise NotFoundError("ADAPTER_NOT_FOUND", lost)
        self._num_users[number] = self._num_users.get(number, 0) + 1
        try:
            yield served
        finally:
            self._num_users[number] -= 1
            if not self._num_users[number]:
                del self._num_users[number]
                if number in self._idle:
                    self._idle[number].set()

    async def load_first(self, modules: Sequence[LoraModule], base: ServedModel) -> list[Adapter]:
        """Load what is to be served from the start. It is not served yet, as `base` is not.

        Raises:
            LoraModuleError: one of them cannot be loaded.
        """
        names = [module.name for module in modules]
        if len(modules) > self._max_adapters:
            raise LoraModuleError(
                f"--lora-modules: {len(modules)} adapters; expected at most {self._max_adapters}, which is"
                " --max-cpu-loras"
            )
        for module in modules:
            if names.count(module.name) > 1 or module.name in base.names:
                raise LoraModuleError(f"--lora-modules: the name {shown(module.name)} is given twice")
            if module.base_model_name is not None and module.base_model_name not in base.names:
                raise LoraModuleError(
                    f"--lora-modules: {shown(module.name)} is for the model {shown(module.base_model_name)},"
                    " which is not served"
                )
        try:
            return [await self._read(module.name, module.path) for module in modules]
        except (ServiceError, EngineUnavailableError) as error:
            raise LoraModuleError(f"--lora-modules: {error}") from error

    async def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Load an adapter, and serve it from now on.

        Raises:
            InvalidRequestError: it cannot be used with this model.
            AlreadyExistsError: the name is in use.
            TooManyAdaptersError: no more can be kept.
            AdaptersOffError: the server takes no adapters.
            EngineUnavailableError: the engine is not there, or was lost meanwhile.
        """
        if not self._max_adapters:
            raise AdaptersOffError("LoRA adapters are switched off; start the server with --enable-lora")
        async with self._lock:
            base = self._models.get()
            if name in base.names:
                raise AlreadyExistsError(f"{shown(name)} is a name of the model itself")
            names = {adapter.name for adapter in self.all}
            if name in names and not replace:
                raise AlreadyExistsError(
                    f"the adapter {shown(name)} is loaded; unload it first, or replace it"
                )
            num_others = len(names - {name})
            if num_others >= self._max_adapters:
                raise TooManyAdaptersError(
                    f"{num_others} adapters are loaded, as many as --max-cpu-loras lets the server keep"
                )
            adapter = await self._read(name, path)
            replaced = self._models.put_adapter(adapter)  # not what was there before: that may be unloaded
            if replaced is not None:
                self._bid_farewell(replaced)
        logger.info("adapter %s loaded from %s, rank %d", name, path, adapter.rank)
        return adapter

    async def unload(self, name: str) -> None:
        """Refuse new requests for an adapter, and forget it once those that use it have ended.

        Raises:
            NotFoundError: it is not loaded.
        """
        await asyncio.shield(self._bid_farewell(self._models.remove_adapter(name)))
        logger.info("adapter %s unloaded", name)

    async def _read(self, name: str, path: str) -> Adapter:
        number = next(self._ids)
        folder = _expanded(path)
        try:
            rank = await self._engine.load_adapter(number, folder)
        except AdapterError as error:
            raise invalid("path", str(error)) from error
        return Adapter(number, name, folder, rank, time.time())

    def _bid_farewell(self, adapter: Adapter) -> asyncio.Task[None]:
        """Forget an adapter that has no name any more, as soon as nobody uses it."""
        farewell = asyncio.create_task(self._forget(adapter.number))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)
        return farewell

    async def _forget(self, number: int) -> None:
        if number in self._num_users:
            self._idle[number] = asyncio.Event()
            await self._idle[number].wait()
            del self._idle[number]
        self._engine.unload_adapter(number)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser())

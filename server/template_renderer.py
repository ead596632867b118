"""Renders chats in processes that are killed when a template takes too long or needs too much memory.

Neither the event loop nor the threads that encode wait for a template. One that a request brings is rendered
in a process of its own, so that the model's goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import sys
from typing import TYPE_CHECKING

import msgspec

from server.chat.template import TemplateArgumentError, check_template_arguments
from server.errors import NotReadyError
from server.fields import invalid
from server.template_worker import EXIT_OUT_OF_MEMORY, Rendered, TemplateJob
from server.turns import Turns
from server.worker_pool import WorkerPool
from server.worker_process import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.conversations import Conversation
    from server.prompts import Prompt
    from server.served_model import ServedModel
    from server.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "server.template_worker")
NUM_WORKERS = 2
WAITS_S = (10.0, 30.0)
"""For a process whose work is bounded by processor time. One that is stuck is replaced after the first; the
second is for a machine that has no processor time left."""

_TOO_SLOW = "the chat template takes too long to render this conversation"
_TOO_LARGE = "the chat template needs too much memory to render this conversation"
_BY_OTHERS = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM}
"""Ends of a process that had nothing to do with its work."""


class TemplateRenderer:
    """Owns the processes. They start when they are first needed, or with `start`."""

    def __init__(self, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._trusted = WorkerPool(command, NUM_WORKERS)
        self._foreign = WorkerPool(command, 1)
        self._turns = {self._trusted: Turns(NUM_WORKERS), self._foreign: Turns(1)}
        self._running: set[asyncio.Task[Rendered]] = set()

    async def start(self) -> None:
        """Start the processes for the model's own template, so that no request waits for it."""
        await self._trusted.start()

    async def rendered(self, prompt: Prompt, model: ServedModel, tenant: str) -> Prompt:
        """Return the prompt of a tenant with its conversation, if it has one, as text.

        Raises:
            InvalidRequestError: there is no template, it refuses the conversation or cannot render it.
            NotReadyError: the processes are killed by others or do not answer.
        """
        chat = prompt.conversation
        if chat is None:
            return prompt
        workers = self._foreign if chat.template else self._trusted
        result = await self._render(_job(chat, model), workers, tenant)
        if result.error:
            path = f"{chat.path}.template" if result.is_template_wrong and chat.template else chat.path
            raise invalid(path, result.error)
        return dataclasses.replace(prompt, text=result.text, conversation=None)

    async def aclose(self) -> None:
        """End the processes."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._trusted.stop()
        await self._foreign.stop()

    async def _render(self, job: TemplateJob, workers: WorkerPool, tenant: str) -> Rendered:
        """Render. A caller that leaves does not disturb the process, whose next answer is another's."""
        with contextlib.ExitStack() as taken:
            taken.callback(await self._turns[workers].take(tenant))
            worker = await workers.take()
            taken.callback(workers.give_back, worker)
            give_back = taken.pop_all().close
        task = asyncio.create_task(_ask(worker, job))
        self._running.add(task)

        def end(_: object) -> None:
            self._running.discard(task)
            if not task.cancelled():
                task.exception()  # which nobody waits for, if the caller left
            give_back()

        task.add_done_callback(end)
        return await asyncio.shield(task)


def _job(chat: Conversation, model: ServedModel) -> TemplateJob:
    tokenizer = model.tokenizer
    template = tokenizer.chat_template
    if chat.template and not model.trusts_chat_templates:
        hint = "templates of requests are refused; --trust-request-chat-template allows them"
        raise invalid(f"{chat.path}.template", hint)
    if not chat.template and template is None:
        raise invalid(chat.path, "the model has no chat template; give text or token_ids instead")
    try:
        check_template_arguments(chat.arguments, tokenizer.special_tokens)
    except TemplateArgumentError as error:
        raise invalid(f"{chat.path}.template_arguments_json", str(error)) from error
    return TemplateJob(
        source=chat.template or (template.source if template else ""),
        tool_use_source=None if chat.template or template is None else template.tool_use_source,
        special_tokens=tokenizer.special_tokens,
        messages=chat.messages,
        tools=chat.tools.for_template(),
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        arguments=chat.arguments,
    )


async def _ask(worker: WorkerProcess, job: TemplateJob) -> Rendered:
    """Render. Where a process ended for no known reason, the conversation is to blame if it happens again."""
    frame = json.dumps(msgspec.structs.asdict(job)).encode()
    is_to_blame = False
    for wait_s in WAITS_S:
        try:
            await worker.start()
        except (TimeoutError, WorkerLostError) as error:
            logger.warning("a process that renders chat templates cannot be started: %r", error)
            is_to_blame = False
            continue
        try:
            return Rendered(**json.loads(await worker.ask(frame, wait_s)))
        except TimeoutError:
            # Not for its work: that would have taken its processor time, and the kernel would have ended it.
            logger.warning("a process that renders chat templates did not answer in time and was killed")
            is_to_blame = False
        except WorkerLostError as error:
            if error.exit_code == -signal.SIGPROF:
                return Rendered(error=_TOO_SLOW)
            if error.exit_code == EXIT_OUT_OF_MEMORY:
                return Rendered(error=_TOO_LARGE)
            is_to_blame = error.exit_code not in _BY_OTHERS
    if is_to_blame:
        return Rendered(error=_TOO_LARGE)
    raise NotReadyError("the processes that render chat templates do not answer")

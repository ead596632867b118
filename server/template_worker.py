"""A process that renders chat templates, `python -m server.template_worker`: a hostile one costs only itself.

Frames, as in `worker_frames`, hold JSON: the fields of a `TemplateJob` come in, those of a `Rendered` go out.
Unlike msgpack, JSON takes any number and any broken text that a caller's JSON brought.

The process can open no file and no socket, may map little memory, and is ended by the kernel when a job has
taken MAX_CPU_S of processor time, so that waiting for a busy machine does not count.
"""

from __future__ import annotations

import functools
import json
import os
import pprint  # noqa: F401 - Jinja would import it late, when no file can be opened
import resource
import signal
import sys
from typing import Any

import jinja2.debug  # noqa: F401 - as above
import msgspec

from server.chat.template import ChatTemplate, ChatTemplateError
from server.worker_frames import limit_memory, read_frame, write_frame

MAX_CPU_S = 1.5
MAX_MEMORY_BYTES = 512 << 20
"""Beyond what the process has mapped when it is ready."""
MAX_CHARACTERS = 8 << 20
"""Of a prompt."""
NUM_TEMPLATES = 8
NUM_STANDARD_FILES = 3
EXIT_OUT_OF_MEMORY = 3


class TemplateJob(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation and what it is rendered with; see `ChatTemplate`."""

    source: str
    tool_use_source: str | None
    special_tokens: dict[str, str]
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    add_generation_prompt: bool
    continue_final_message: bool
    arguments: dict[str, Any]


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job."""

    text: str = ""
    error: str = ""
    """Why there is no text; empty where there is one."""
    is_template_wrong: bool = False
    """Whether the template itself is not valid."""


def main() -> None:
    """Answer until the input ends."""
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    if read_frame(requests) is None:
        return
    _use_what_loads_late()
    limit_memory(MAX_MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (NUM_STANDARD_FILES, NUM_STANDARD_FILES))
    write_frame(replies, b"")
    while (request := read_frame(requests)) is not None:
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        try:
            rendered = run(TemplateJob(**json.loads(request)))
        except MemoryError:
            os._exit(EXIT_OUT_OF_MEMORY)  # too little is left to end in order
        write_frame(replies, json.dumps(msgspec.structs.asdict(rendered)).encode())
        signal.setitimer(signal.ITIMER_PROF, 0)


def run(job: TemplateJob) -> Rendered:
    """Render a conversation."""
    try:
        template = _template(job.source, job.tool_use_source, tuple(job.special_tokens.items()))
    except ChatTemplateError as error:
        return Rendered(error=str(error), is_template_wrong=True)
    try:
        text = template.render(
            job.messages,
            job.tools,
            add_generation_prompt=job.add_generation_prompt,
            continue_final_message=job.continue_final_message,
            arguments=job.arguments,
        )
    except ChatTemplateError as error:
        return Rendered(error=str(error))
    if len(text) > MAX_CHARACTERS:
        return Rendered(error=f"the rendered prompt has {len(text)} characters, more than {MAX_CHARACTERS}")
    return Rendered(text=text)


@functools.lru_cache(NUM_TEMPLATES)
def _template(
    source: str, tool_use_source: str | None, special_tokens: tuple[tuple[str, str], ...]
) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens), tool_use_source=tool_use_source)


def _use_what_loads_late() -> None:
    """Read what Python and the C library read from files the first time that it is used."""
    ChatTemplate("{{ strftime_now('%c %Z') }}", {}).render([{"role": "user"}])


if __name__ == "__main__":
    main()

"""Templates in processes of their own: hostile ones are ended there, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import byte_tokenizer, fake_model
from hostile_templates import PAYLOADS
from processes import descendants
from scarce_descriptors import no_descriptors

from pagewire.v1 import chat_pb2
from server import template_renderer
from server.chat.template import MAX_ARGUMENTS_CHARACTERS, ChatTemplate
from server.conversations import parse_chat
from server.errors import InvalidRequestError, NotReadyError
from server.fields import Fields
from server.prompts import Prompt
from server.template_renderer import TemplateRenderer
from server.template_worker import MAX_CHARACTERS, NUM_STANDARD_FILES, Rendered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from server.served_model import ServedModel

pytestmark = pytest.mark.check("S09")

MODEL = fake_model(trusts_chat_templates=True)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
ENDLESS_IN_C = "{{ 10 ** (10 ** 9) }}"
"""Holds the interpreter all the time, so that no handler of Python's could end it."""


@pytest.fixture
async def renderer() -> AsyncIterator[TemplateRenderer]:
    async with contextlib.aclosing(TemplateRenderer()) as renderer:
        yield renderer


async def render(
    renderer: TemplateRenderer, template: str = "", model: ServedModel = MODEL, tenant: str = "", **chat: Any
) -> str:
    """The prompt of a chat that brings this template; empty: of the model's."""
    message = chat_pb2.Message(role="user", text="hi")
    fields = Fields()
    conversation = parse_chat(
        fields, "spec.chat", chat_pb2.Chat(messages=[message], template=template, **chat)
    )
    fields.check()
    prompt = await renderer.rendered(Prompt("spec.chat", conversation=conversation), model, tenant)
    assert prompt.text is not None
    return prompt.text


async def refusal(renderer: TemplateRenderer, template: str = "", **chat: Any) -> tuple[str, str]:
    """The field that is blamed, and why."""
    with pytest.raises(InvalidRequestError) as raised:
        await render(renderer, template, **chat)
    (violation,) = raised.value.violations
    return violation.field, violation.description


async def test_hostile_templates_do_nothing(
    renderer: TemplateRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stands where the payloads would leave their mark."""
    monkeypatch.chdir(tmp_path)
    for payload in PAYLOADS:
        assert (await refusal(renderer, payload))[0] == "spec.chat"
    assert os.listdir(tmp_path) == []


async def test_a_process_can_open_nothing(renderer: TemplateRenderer) -> None:
    """What a payload would do that got out of the sandbox."""
    before = set(descendants(os.getpid()))
    await renderer.start()
    started = set(descendants(os.getpid())) - before
    assert len(started) == 2
    for pid in started:
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (NUM_STANDARD_FILES, NUM_STANDARD_FILES)
        assert resource.prlimit(pid, resource.RLIMIT_AS)[1] < 2 << 30


@pytest.mark.parametrize("template", [ENDLESS, ENDLESS_IN_C])
async def test_an_endless_template_is_ended_and_others_are_served(
    renderer: TemplateRenderer, template: str
) -> None:
    endless = asyncio.create_task(refusal(renderer, template))
    for _ in range(20):
        assert await render(renderer) == "<user>hi\n<assistant>"
    field, reason = await endless
    assert (field, reason) == (
        "spec.chat",
        "the chat template takes too long to render this conversation",
    )
    assert await render(renderer, "{{ messages[0].content }}") == "hi"


async def test_the_models_own_endless_template_holds_up_no_other_kind_of_prompt(
    renderer: TemplateRenderer,
) -> None:
    tokenizer = byte_tokenizer("<endless>")
    tokenizer.chat_template = ChatTemplate(ENDLESS, {})
    model = replace(MODEL, tokenizer=tokenizer)
    endless = [asyncio.create_task(render(renderer, model=model)) for _ in range(3)]
    text = Prompt("spec.text", text="as it is")
    assert await renderer.rendered(text, model, "") is text
    assert await render(renderer, "{{ messages[0].content }}", model) == "hi"
    results = await asyncio.gather(*endless, return_exceptions=True)
    assert [type(result) for result in results] == [InvalidRequestError] * 3


@pytest.mark.parametrize(
    "template",
    ["{{ ('x' * 10 ** 9) | length }}", DOUBLING],
)
async def test_a_template_may_not_fill_the_memory(renderer: TemplateRenderer, template: str) -> None:
    assert "too much memory" in (await refusal(renderer, template))[1]
    assert await render(renderer, "{{ messages[0].content }}") == "hi"


async def test_a_prompt_may_not_be_endless(renderer: TemplateRenderer) -> None:
    assert f"more than {MAX_CHARACTERS}" in (await refusal(renderer, "{{ 'x' * 10 ** 7 }}"))[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"tokenize": true}', "reserved"),
        ('{"chat_template": "x"}', "reserved"),
        ('{"__class__": 1}', "reserved"),
        ('{"range": [1]}', "reserved"),
        ('{"a": "' + "x" * (MAX_ARGUMENTS_CHARACTERS + 1) + '"}', "characters as JSON"),
        ('{"a": ' + "[" * 50 + "]" * 50 + "}", "nested"),
    ],
)
async def test_hostile_arguments_are_refused(renderer: TemplateRenderer, arguments: str, says: str) -> None:
    field, reason = await refusal(renderer, template_arguments_json=arguments)
    assert field == "spec.chat.template_arguments_json"
    assert says in reason


@pytest.mark.parametrize("value", [str(10**400), "1e999", '"\\ud800"', '"\\u0000"'])
async def test_any_json_reaches_the_template(renderer: TemplateRenderer, value: str) -> None:
    shown = await render(renderer, "{{ a is defined }}", template_arguments_json=f'{{"a": {value}}}')
    assert shown == "True"


async def test_a_caller_that_leaves_does_not_disturb_the_process(renderer: TemplateRenderer) -> None:
    leaving = asyncio.create_task(render(renderer, ENDLESS))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await render(renderer, "{{ messages[0].content }}") == "hi"


async def test_a_process_that_others_kill_costs_nobody_his_request(renderer: TemplateRenderer) -> None:
    before = set(descendants(os.getpid()))
    await renderer.start()
    started = set(descendants(os.getpid())) - before
    for pid in started:
        os.kill(pid, signal.SIGKILL)
    assert await render(renderer) == "<user>hi\n<assistant>"


async def test_a_process_that_is_stuck_is_replaced(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_renderer, "WAITS_S", (0.2, 30.0))
    before = set(descendants(os.getpid()))
    await renderer.start()
    started = set(descendants(os.getpid())) - before
    for pid in started:
        os.kill(pid, signal.SIGSTOP)
    assert await render(renderer) == "<user>hi\n<assistant>"


WORKER = """
import os, signal, sys, time
from server.worker_frames import read_frame, write_frame
read_frame(sys.stdin.buffer)
if "start" in sys.argv: os._exit(1)
write_frame(sys.stdout.buffer, b"")
read_frame(sys.stdin.buffer)
if "hang" in sys.argv: time.sleep(600)
if "kill" in sys.argv: os.kill(os.getpid(), signal.SIGKILL)
os._exit(1)
"""


async def test_a_machine_without_room_for_a_process_is_asked_again(renderer: TemplateRenderer) -> None:
    with no_descriptors(), pytest.raises(NotReadyError, match="do not answer"):
        await render(renderer)
    assert await render(renderer)


@pytest.mark.parametrize("end", ["start", "hang", "kill"])
async def test_what_the_machine_does_is_not_told_as_the_callers_fault(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_renderer, "WAITS_S", (0.2, 0.2) if end == "hang" else (30.0, 30.0))
    async with contextlib.aclosing(TemplateRenderer((sys.executable, "-P", "-c", WORKER, end))) as renderer:
        with pytest.raises(NotReadyError, match="do not answer"):
            await render(renderer)


async def test_a_conversation_by_which_processes_crash_is_refused() -> None:
    async with contextlib.aclosing(TemplateRenderer((sys.executable, "-P", "-c", WORKER))) as renderer:
        assert "too much memory" in (await refusal(renderer))[1]


class HeldRendering:
    """Stands for the processes' work, which ends when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Semaphore(0)
        monkeypatch.setattr(template_renderer, "_ask", self._ask)

    async def _ask(self, *_: Any) -> Rendered:
        self.begun.release()
        await self.may_end.acquire()
        return Rendered(text="rendered")


def renders(renderer: TemplateRenderer, tenant: str, count: int) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(render(renderer, tenant=tenant)) for _ in range(count)]


async def test_a_flood_of_chats_is_rendered_in_turns(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldRendering(monkeypatch)
    flood = renders(renderer, "flood", 8)
    for _ in range(2):
        await held.begun.acquire()
    (light,) = renders(renderer, "light", 1)
    for _ in range(3):
        held.may_end.release()
    try:
        async with asyncio.timeout(60):
            assert await light == "rendered"
        assert sum(task.done() for task in flood) == 2
    finally:
        for _ in flood:
            held.may_end.release()
        assert await asyncio.gather(*flood) == ["rendered"] * 8


async def test_who_leaves_the_queue_for_a_process_gives_his_turn_back(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldRendering(monkeypatch)
    flood = renders(renderer, "flood", 2)
    for _ in range(2):
        await held.begun.acquire()
    leaving = renders(renderer, "light", 4)
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    (last,) = renders(renderer, "light", 1)
    for _ in range(3):
        held.may_end.release()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*flood, last) == ["rendered"] * 3

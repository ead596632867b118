"""Fuzzes the readers of tool calls and reasoning, guided by coverage: `python -m soak.fuzz_readers SECONDS`.

Needs atheris. Any text in any pieces must be read without an error, and give what it gives as a whole.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["server.chat"]):
    from server.chat.output_reader import OutputFormat, OutputReader
    from server.chat.pieces import CallArguments, CallStart, ReasoningText, Text
    from server.chat.reasoning import DEEPSEEK_R1, QWEN3, Stage
    from server.chat.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC

TOOLS = (None, HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC)
REASONING = (None, QWEN3, DEEPSEEK_R1)
MARKS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>",
    '{"name": "f", "arguments": {', "f(a=", '"', "}", "]",
)  # fmt: skip
Message = tuple[str, str, list[str]]


def read(form: OutputFormat, pieces: list[str]) -> Message:
    """What the pieces say: text, reasoning and calls."""
    reader = OutputReader(form)
    found = [one for piece in pieces for one in reader.push(piece)] + reader.flush()
    calls: list[str] = []
    for one in found:
        if isinstance(one, CallStart):
            calls.append(f"{one.name} ")
        elif isinstance(one, CallArguments):
            calls[-1] += one.text
    text = "".join(one.text for one in found if isinstance(one, Text))
    return text, "".join(one.text for one in found if isinstance(one, ReasoningText)), calls


def try_one(data: bytes) -> None:
    """Read a text that the bytes choose, whole and in pieces."""
    choices = atheris.FuzzedDataProvider(data)
    form = OutputFormat(
        tools=choices.PickValueInList(list(TOOLS)),
        tool_names=frozenset({"f", "g"}),
        max_calls=choices.PickValueInList([None, 1]),
        is_forced=choices.ConsumeBool(),
        reasoning=choices.PickValueInList(list(REASONING)),
        stage=choices.PickValueInList(list(Stage)),
        separates_reasoning=choices.ConsumeBool(),
    )
    pieces = []
    while choices.remaining_bytes():
        is_mark = choices.ConsumeBool()
        pieces.append(
            choices.PickValueInList(list(MARKS)) if is_mark else choices.ConsumeUnicodeNoSurrogates(8)
        )
    assert read(form, pieces) == read(form, ["".join(pieces)])


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], f"-max_total_time={sys.argv[1]}", "-max_len=512", "-verbosity=0"], try_one)
    atheris.Fuzz()

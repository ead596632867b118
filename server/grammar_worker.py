"""A process that compiles grammars, `python -m server.grammar_worker`: a bad one costs nobody else anything.

Frames, as in `worker_frames`, hold msgpack: a vocabulary and its size in the model come in, then one grammar
after another, and a `Compiled` goes out for each of these frames. The process ends with its input, when it
needs too much memory, or long after anyone waits for its answer.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import msgspec
from llguidance.gbnf_to_lark import gbnf_to_lark

from engine.grammar_compiler import GrammarCompiler, GrammarError
from engine.messages import Vocabulary
from server.worker_frames import limit_memory, read_frame, write_frame

MAX_MEMORY_BYTES = 1 << 30
"""Beyond what the process has mapped when it is ready."""
MAX_SECONDS = 10
NICENESS = 5


class Compiled(msgspec.Struct, frozen=True):
    """What came of a frame."""

    text: str = ""
    """The grammar as the engine takes it."""
    error: str = ""
    """Why it cannot be used; empty where it can."""


def main() -> None:
    """Answer until the input ends."""
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    first = read_frame(requests)
    if first is None:
        return
    compiler = GrammarCompiler(*msgspec.msgpack.decode(first, type=tuple[Vocabulary, int]))
    os.nice(NICENESS)
    limit_memory(MAX_MEMORY_BYTES)
    write_frame(replies, msgspec.msgpack.encode(Compiled()))
    while (request := read_frame(requests)) is not None:
        signal.alarm(MAX_SECONDS)
        write_frame(replies, msgspec.msgpack.encode(compile_text(compiler, request.decode())))
        signal.alarm(0)


def compile_text(compiler: GrammarCompiler, text: str) -> Compiled:
    """Compile the text of a `Grammar`, whose parts may be in llama.cpp's notation."""
    grammar = json.loads(text)
    try:
        for part in grammar["grammars"]:
            if "gbnf" in part:
                part["lark_grammar"] = _to_lark(part.pop("gbnf"))
        text = json.dumps(grammar)
        compiler.compile(text)
    except RecursionError:
        return Compiled(error="it is nested too deeply")
    except GrammarError as error:
        return Compiled(error=str(error))
    return Compiled(text)


def _to_lark(gbnf: str) -> str:
    try:
        return gbnf_to_lark(gbnf)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # the library has no type of its own for a rule that is missing
        raise GrammarError(str(error)) from error


if __name__ == "__main__":
    main()

"""The grammar of a whole output: reasoning, then calls or an answer that a constraint shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from server.chat.reasoning import Stage
from server.chat_tools import NO_PARAMETERS
from server.fields import invalid
from server.grammars import Grammar, json_part, quoted
from server.json_texts import closed

if TYPE_CHECKING:
    from server.chat.call_syntax import CallSyntax
    from server.chat.output_reader import OutputFormat
    from server.chat.reasoning import ReasoningFormat
    from server.chat_tools import Tool, ToolUse
    from server.generation_request import GenerationRequest
    from server.grammars import Part
    from server.served_model import ServedModel

_TEXT = r"TEXT: /(.|\n)*/"
_NO_CALL = r"NO_CALL: /[^{\[\s](.|\n)*/"
_GAP = r"GAP: /\n{0,2}/"
MAX_FORCED_CALLS = 32
"""A model that knows no end would call for ever."""


def output_grammar(request: GenerationRequest, model: ServedModel) -> Grammar | None:
    """Return what an output must look like. None: anything.

    Args:
        request: asks for a constraint, for calls, or for short reasoning. It knows the stage of reasoning.
        model: writes it.

    Raises:
        InvalidRequestError: a grammar is needed, and beams follow none.
    """
    output = request.output
    answer = _Answer(request.tools, output, model).grammar(request.constraint)
    max_tokens = request.reasoning.max_tokens if request.reasoning else None
    needs_grammar = answer is not None or max_tokens is not None
    if needs_grammar and request.length_penalty is not None:
        described = "not with forced calls, strict tools or a limit of reasoning"
        raise invalid("spec.sampling.beam_search", described)
    if output.reasoning is None or output.stage is Stage.AFTER or not needs_grammar:
        return answer
    return _after_reasoning(answer, output.reasoning, output.stage, max_tokens, model)


class _Answer:
    """Builds the grammar of what follows the reasoning."""

    def __init__(self, tools: ToolUse, output: OutputFormat, model: ServedModel) -> None:
        self._tools = tools
        self._output = output
        self._model = model
        self._parts: list[tuple[str, Part]] = []

    def grammar(self, constraint: Grammar | None) -> Grammar | None:
        """Return it; None where the answer is free."""
        tools = self._tools
        if self._output.tools is None:
            return constraint
        syntax = self._output.tools.syntax(lambda text: self._model.tokenizer.token_id(text) is not None)
        is_strict = any(tool.strict for tool in tools.callable)
        if tools.is_forced:
            rules = ["start: calls", *self._calls(syntax)]
        elif constraint is not None:
            self._parts += [*constraint.parts, ("output", {"lark_grammar": constraint.lark})]
            rules = ["start: @output | calls", *self._calls(syntax)]
        elif is_strict:
            rules = self._free(syntax)
        else:
            return None
        path = "spec.chat.tools" if constraint is None or tools.is_forced else constraint.path
        return Grammar(path, "\n".join(rules), tuple(self._parts))

    def _calls(self, syntax: CallSyntax) -> list[str]:
        """Rules for nothing but calls."""
        more = 0 if self._output.max_calls == 1 else MAX_FORCED_CALLS - 1
        return self._call_rules(syntax, more)

    def _free(self, syntax: CallSyntax) -> list[str]:
        """Rules for text in which a mark begins calls."""
        if not syntax.mark:
            return ["start: NO_CALL | calls |", _NO_CALL, *self._calls(syntax)]
        is_single = self._output.max_calls == 1
        # Calls of a list have no text between them; others are one by one, with text between.
        more = MAX_FORCED_CALLS - 1 if syntax.closing and not is_single else 0
        times = "?" if is_single else "*"
        if self._is_special(syntax.mark):
            return [f"start: (TEXT calls){times} TEXT", _TEXT, *self._call_rules(syntax, more)]
        # Text ends lazily with the mark, which therefore is no part of the call that follows.
        mark = f"mark[lazy]: TEXT {quoted(syntax.mark)}"
        rules = self._call_rules(syntax, more, without=syntax.mark)
        return [f"start: (mark calls){times} TEXT", mark, _TEXT, *rules]

    def _call_rules(self, syntax: CallSyntax, more: int, without: str = "") -> list[str]:
        """Rules for a first call, which may lack its mark, and this many more."""
        repeated = f"({self._terms(syntax.separator)} call){{0,{more}}}" if more else ""
        heads = [syntax.prefix + tool.name + syntax.middle for tool in self._tools.callable]
        first = [(syntax.opening + head).removeprefix(without) for head in heads]
        rules = [
            f"calls: first_call {repeated} {self._terms(syntax.closing)}",
            f"first_call: {self._any(syntax, first)}",
        ]
        if more:
            rules.append(f"call: {self._any(syntax, heads)}")
        return rules

    def _any(self, syntax: CallSyntax, heads: list[str]) -> str:
        """A call of any tool, given what stands before its arguments."""
        suffix = self._terms(syntax.suffix)
        calls = zip(heads, self._tools.callable, strict=True)
        return " | ".join(f"{self._terms(head)} {self._arguments(tool)} {suffix}" for head, tool in calls)

    def _arguments(self, tool: Tool) -> str:
        """A reference to the part that the arguments derive from."""
        name = f"tool_{self._tools.tools.index(tool)}"
        if name not in dict(self._parts):
            schema = {"type": "object"}
            if tool.strict or self._tools.is_forced:
                schema |= closed(NO_PARAMETERS if tool.parameters is None else tool.parameters)
            self._parts.append((name, json_part(schema)))
        return f"@{name}"

    def _terms(self, text: str) -> str:
        """A text in Lark's notation. Special tokens in it are named by their ids: they have no text."""
        assert self._output.tools is not None
        marks = sorted(filter(self._is_special, self._output.tools.marks), key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, marks))})", text) if marks else [text]
        terms = (self._special(piece) if piece in marks else quoted(piece) for piece in pieces if piece)
        return " ".join(terms)

    def _is_special(self, mark: str) -> bool:
        token_id = self._model.tokenizer.token_id(mark)
        return token_id is not None and self._model.tokenizer.is_special(token_id)

    def _special(self, mark: str) -> str:
        return f"<[{self._model.tokenizer.token_id(mark)}]>"


def _after_reasoning(
    answer: Grammar | None, form: ReasoningFormat, stage: Stage, max_tokens: int | None, model: ServedModel
) -> Grammar:
    """The answer's grammar, with reasoning before it that is free but for its length."""
    closing = model.tokenizer.token_id(form.closing)
    opening = model.tokenizer.token_id(form.opening)
    open_term = f"<[{opening}]>" if opening is not None else quoted(form.opening)
    if closing is None:
        assert max_tokens is None, "only reasoning that ends with a token can be measured"
        within = "thoughts"
        rules = [f"thoughts[lazy]: TEXT {quoted(form.closing)}", _TEXT]
    else:
        ends = ",".join(map(str, sorted({closing, *model.eos_token_ids})))
        times = "*" if max_tokens is None else f"{{0,{max_tokens}}}"
        within = f"<[^{ends}]>{times} <[{closing}]>" if max_tokens != 0 else f"<[{closing}]>"
        rules = []
    is_open = stage is Stage.WITHIN
    reasoning = f"{open_term}? {within}" if is_open and form.is_implied else within
    rest = "<[*]>*" if answer is None else "GAP @output"
    if is_open:
        start = f"start: {reasoning} {rest}"
    elif answer is None:
        # What does not begin with the mark is an answer.
        start = f"start: {open_term} {within} {rest} | <[^{opening}]> <[*]>* |"
    else:
        start = f"start: ({open_term} {within} GAP)? @output"
    if answer is None:
        return Grammar("spec.reasoning.max_tokens", "\n".join([start, *rules]))
    lark = "\n".join([start, *rules, _GAP])
    return Grammar(answer.path, lark, (*answer.parts, ("output", {"lark_grammar": answer.lark})))

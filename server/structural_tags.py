"""Structural tags: text in which marks, such as the beginning of a tool call, start something structured.

Two notations are taken: lists of structures and triggers, as vLLM had them first, and nested formats, of
which the types below are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.fields import shown
from server.grammars import Grammar, json_part, lark_part, quoted, regex_part
from server.json_texts import ConstraintError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from server.grammars import Part

    Format = Mapping[str, Any]

_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
_TEXT = r"TEXT: /(.|\n)*/"


def structural_tag(path: str, value: Any) -> Grammar:
    """Return the grammar of a parsed structural tag.

    Raises:
        ConstraintError: it is malformed, or of a type that is not known.
    """
    builder = _Builder()
    value = builder.object(value, "")
    if "structures" in value:
        expression = builder.structures(value)
    else:
        expression = builder.expression(builder.field(value, "format", dict, ""), "format", is_last=True)
    return Grammar(path, "\n".join([f"start: {expression}", _TEXT, *builder.rules]), tuple(builder.parts))


class _Builder:
    """Gathers rules and parts while formats become expressions of Lark's."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.parts: list[tuple[str, Part]] = []
        self._num_names = 0

    def structures(self, value: Format) -> str:
        """The older notation: {"structures": [{"begin", "schema", "end"}], "triggers": [...]}."""
        tags = [
            {
                "begin": self.field(each, "begin", str, f"structures[{index}]"),
                "content": {"type": "json_schema", "json_schema": each.get("schema", {})},
                "end": self.field(each, "end", str, f"structures[{index}]"),
            }
            for index, each in enumerate(self.field(value, "structures", list, ""))
        ]
        return self._triggered_tags({"triggers": value.get("triggers"), "tags": tags}, "", True)

    def expression(self, value: Any, at: str, is_last: bool) -> str:
        """The expression of a format; `is_last` says that nothing follows it."""
        value = self.object(value, at)
        kinds: dict[str, Callable[[Format, str, bool], str]] = {
            "const_string": self._const_string,
            "json_schema": self._json_schema,
            "regex": self._regex,
            "grammar": self._grammar,
            "any_text": self._any_text,
            "sequence": self._sequence,
            "or": self._or,
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._tags_with_separator,
        }
        kind = self.field(value, "type", str, at)
        if kind not in kinds:
            raise _error(f"{at}.type", f"{shown(kind)} is not known; expected one of {', '.join(kinds)}")
        return kinds[kind](value, at, is_last)

    def object(self, value: Any, at: str) -> Format:
        """Refuse what is not an object."""
        if not isinstance(value, dict):
            raise _error(at, "expected an object")
        return value

    def field(self, value: Any, name: str, kind: type, at: str) -> Any:
        """Return a field that must be there and have a type."""
        found = self.object(value, at).get(name)
        if not isinstance(found, kind):
            raise _error(f"{at}.{name}", f"expected {_KINDS[kind]}")
        return found

    def _name(self) -> str:
        self._num_names += 1
        return f"part_{self._num_names}"

    def _reference(self, part: Part) -> str:
        name = self._name()
        self.parts.append((name, part))
        return f"@{name}"

    def _rule(self, body: str, attributes: str = "") -> str:
        name = self._name()
        self.rules.append(f"{name}{attributes}: {body}")
        return name

    def _const_string(self, value: Format, at: str, is_last: bool) -> str:
        return quoted(self.field(value, "value", str, at))

    def _json_schema(self, value: Format, at: str, is_last: bool) -> str:
        schema = value.get("json_schema")
        if not isinstance(schema, dict | bool) or (isinstance(schema, dict) and "x-guidance" in schema):
            raise _error(f"{at}.json_schema", "expected a JSON Schema, an object without x-guidance")
        return self._reference(json_part(schema))

    def _regex(self, value: Format, at: str, is_last: bool) -> str:
        return self._reference(regex_part(self.field(value, "pattern", str, at)))

    def _grammar(self, value: Format, at: str, is_last: bool) -> str:
        return self._reference(lark_part(self.field(value, "grammar", str, at)))

    def _any_text(self, value: Format, at: str, is_last: bool) -> str:
        if not is_last:
            raise _error(at, "any_text must be the last element, or the content of a tag with an end")
        return "TEXT"

    def _sequence(self, value: Format, at: str, is_last: bool) -> str:
        elements = self.field(value, "elements", list, at)
        return self._rule(
            " ".join(
                self.expression(each, f"{at}.elements[{index}]", is_last and index == len(elements) - 1)
                for index, each in enumerate(elements)
            )
        )

    def _or(self, value: Format, at: str, is_last: bool) -> str:
        elements = self.field(value, "elements", list, at)
        if not elements:
            raise _error(f"{at}.elements", "must not be empty")
        return self._rule(
            " | ".join(
                self.expression(each, f"{at}.elements[{index}]", is_last)
                for index, each in enumerate(elements)
            )
        )

    def _tag(self, value: Format, at: str, is_last: bool) -> str:
        return self._rule(f"{quoted(self.field(value, 'begin', str, at))} {self._rest(value, at, is_last)}")

    def _rest(self, tag: Any, at: str, is_last: bool) -> str:
        """Content and end of a tag."""
        content = self.field(tag, "content", dict, at)
        ends = tag.get("end", "")
        ends = ends if isinstance(ends, list) else [ends]
        if not ends or not all(isinstance(end, str) for end in ends):
            raise _error(f"{at}.end", "expected a text")
        if content.get("type") == "any_text" and all(ends):
            return self._rule(" | ".join(f"TEXT {quoted(end)}" for end in ends), "[lazy]")
        inner = self.expression(content, f"{at}.content", is_last and ends == [""])
        return f"{inner} ({' | '.join(map(quoted, ends))})"

    def _triggered_tags(self, value: Format, at: str, is_last: bool) -> str:
        if not is_last:
            raise _error(at, "triggered_tags must be the last element")
        triggers = self.field(value, "triggers", list, at)
        tags = self.field(value, "tags", list, at)
        if not triggers or not all(isinstance(one, str) and one for one in triggers):
            raise _error(f"{at}.triggers", "expected texts, none of them empty")
        if not tags:
            raise _error(f"{at}.tags", "must not be empty")
        names = [self._triggered(tag, triggers, f"{at}.tags[{index}]") for index, tag in enumerate(tags)]
        tag = self._rule(" | ".join(names))
        if value.get("stop_after_first"):
            return tag if value.get("at_least_one") else f"({tag} | TEXT)"
        return f"{tag}{'+' if value.get('at_least_one') else '*'} TEXT"

    def _triggered(self, tag: Any, triggers: list[str], at: str) -> str:
        """Free text up to a trigger, and the tag that it begins."""
        begin = self.field(tag, "begin", str, at)
        trigger = next((one for one in triggers if begin.startswith(one)), None)
        if trigger is None:
            raise _error(f"{at}.begin", f"{shown(begin)} begins with none of the triggers")
        start = self._rule(f"TEXT {quoted(trigger)}", "[lazy]")
        begin_rest = quoted(begin[len(trigger) :])
        return self._rule(f"{start} {begin_rest} {self._rest(tag, at, is_last=False)}")

    def _tags_with_separator(self, value: Format, at: str, is_last: bool) -> str:
        tags = self.field(value, "tags", list, at)
        if not tags:
            raise _error(f"{at}.tags", "must not be empty")
        names = [
            self._tag(self.object(tag, f"{at}.tags[{index}]"), f"{at}.tags[{index}]", is_last=False)
            for index, tag in enumerate(tags)
        ]
        tag = self._rule(" | ".join(names))
        more = f" ({quoted(self.field(value, 'separator', str, at))} {tag})*"
        some = self._rule(tag + ("" if value.get("stop_after_first") else more))
        return some if value.get("at_least_one") else f"{some}?"


def _error(at: str, description: str) -> ConstraintError:
    return ConstraintError(f"{at.lstrip('.')}: {description}" if at else description)

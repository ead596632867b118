"""Flags: each has a help text, an environment variable of its own, and a parser that says what it expects.

Values stay text until `read`, so that one place refuses them, naming flag or variable, value and
expectation. A flag that is not given leaves its config field at the field's own default.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Given = str | list[str] | bool | None

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class UsageError(Exception):
    """What the user typed cannot be used; the text names flag, value and expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag of a command."""

    name: str
    """As typed, without the dashes."""
    field: str
    """Where its value goes, such as "port" or "engine.dtype"."""
    help: str
    parse: Callable[[str], object] = str
    """Turns text into the value. Raises ValueError saying what is expected."""
    metavar: str = "TEXT"
    default: str | None = None
    """Shown in the help."""
    many: bool = False
    """Takes several values. In the environment they are separated by commas."""
    switch: bool = False
    """Takes no value; --no-NAME turns it off."""
    positional: bool = False
    """May also be given without its name."""

    aliases: tuple[str, ...] = ()
    """Other names, as typed, with their dashes."""
    split: Callable[[list[str]], list[str]] = list
    """With `many`: makes single values of what is given."""
    more_variables: tuple[str, ...] = ()
    """Variables that stand in for it too, where its own is not set."""
    foreign_variables: tuple[tuple[str, Callable[[str], object]], ...] = ()
    """Other programs' variables that do so last, each with the parser of its whole text."""
    secret: bool = False
    """Its value is not shown in errors."""

    @property
    def variable(self) -> str:
        """The environment variable that stands in for the flag."""
        return f"PAGEWIRE_{self.key.upper()}"

    @property
    def key(self) -> str:
        """Name of the attribute that argparse sets."""
        return self.name.replace("-", "_")

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Declare the flag."""
        default = "" if self.default is None else f" Default: {self.default}."
        text = f"{self.help}{default} [{self.variable}]".replace("%", "%%")
        name = f"--{self.name}"
        if self.switch:
            parser.add_argument(name, help=text, action=argparse.BooleanOptionalAction, default=None)
        elif self.many:
            parser.add_argument(name, help=text, metavar=self.metavar, nargs="+")
        else:
            parser.add_argument(name, *self.aliases, help=text, metavar=self.metavar)
        if self.positional:
            parser.add_argument(
                f"{self.key}_positional", metavar=self.metavar, nargs="?", help=f"The same as {name}."
            )

    def given(self, arguments: argparse.Namespace) -> Given:
        """Return what the command line says, unparsed; None if nothing.

        Raises:
            UsageError: it is given in two ways that differ.
        """
        named: Given = getattr(arguments, self.key)
        bare: Given = getattr(arguments, f"{self.key}_positional", None)
        if named is not None and bare is not None and named != bare:
            raise UsageError(f'--{self.name}: "{named}" is given, and "{bare}" without the flag; give one')
        return named if bare is None else bare

    def read(self, arguments: argparse.Namespace, environ: Mapping[str, str]) -> object:
        """Return the value; None if it is given neither as a flag nor in the environment.

        Raises:
            UsageError: the text cannot be parsed.
        """
        given = self.given(arguments)
        if isinstance(given, bool):
            return given
        if given is not None:
            return self._checked(f"--{self.name}", given, self._value)
        for variable in (self.variable, *self.more_variables):
            if text := environ.get(variable):
                return self._checked(variable, text.split(",") if self.many else text, self._value)
        for variable, parse in self.foreign_variables:
            if text := environ.get(variable):
                return self._checked(variable, text, parse)
        return None

    def _value(self, given: str | list[str]) -> object:
        if isinstance(given, list):
            return tuple(self.parse(item) for item in self.split(given))
        return parse_switch(given) if self.switch else self.parse(given)

    def _checked(self, source: str, given: str | list[str], parse: Callable[[Any], object]) -> object:
        try:
            return parse(given)
        except ValueError as error:
            shown = " ".join(given) if isinstance(given, list) else given
            got = "" if self.secret else f', got "{shown}"'
            raise UsageError(f"{source}: expected {error}{got}") from (None if self.secret else error)

    def to_argv(self, given: Given) -> list[str]:
        """Return the words that give the flag this unparsed value again."""
        match given:
            case None:
                return []
            case bool():
                return [f"--{self.name}" if given else f"--no-{self.name}"]
            case list():
                return [f"--{self.name}", *given]
            case _:
                return [f"--{self.name}={given}"]


@dataclass(frozen=True, slots=True)
class Group:
    """Flags under one title of the help."""

    title: str
    flags: tuple[Flag, ...]


def add_groups(parser: argparse.ArgumentParser, groups: Iterable[Group]) -> None:
    """Declare all flags of these groups."""
    for group in groups:
        target = parser.add_argument_group(group.title)
        for flag in group.flags:
            flag.add_to(target)


def read_groups(
    groups: Iterable[Group], arguments: argparse.Namespace, environ: Mapping[str, str]
) -> dict[str, object]:
    """Return the values that are given, by config field.

    Raises:
        UsageError: a value cannot be parsed.
    """
    values = {flag.field: flag.read(arguments, environ) for group in groups for flag in group.flags}
    return {field: value for field, value in values.items() if value is not None}


def with_dashes(words: Sequence[str]) -> list[str]:
    """Spell the names of flags with dashes where they have underscores, as vLLM does. No value is touched."""
    end = words.index("--") if "--" in words else len(words)
    return [_with_dashes(word) for word in words[:end]] + list(words[end:])


def _with_dashes(word: str) -> str:
    name, separator, value = word.partition("=")
    return name.replace("_", "-") + separator + value if re.fullmatch(r"--[\w.-]+", name) else word


def give_again(flags: Iterable[Flag], arguments: argparse.Namespace) -> list[str]:
    """Return the words that give another command what this one was given of these flags."""
    return [word for flag in flags for word in flag.to_argv(flag.given(arguments))]


def parse_switch(text: str) -> bool:
    """Read a yes or no from the environment."""
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(f"one of {', '.join(_TRUE + _FALSE)}")
    return text.lower() in _TRUE

"""How calls are written in a format, for grammars that make a model write them so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """Texts around the parts of calls: opening (prefix NAME middle ARGUMENTS suffix)+ closing."""

    prefix: str
    middle: str
    suffix: str
    separator: str
    """Between two calls."""
    opening: str = ""
    closing: str = ""
    mark: str = ""
    """What the first call begins with in free text; empty where calls must be all of the answer."""

"""Values of the wrong type or range, as errors that name the field, the value and what was expected.

msgspec says what it expected and where; what stands there is read from the body. Of texts that may be a
prompt's nothing is shown, and of anything else a few characters.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from translator.errors import ApiError
from translator.fields import Support, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import msgspec

    from translator.fields import Endpoint

    Step = str | int
    """A member of an object, or an element of an array."""

_ANY_MEMBER = "..."
_MAX_VALUE_CHARACTERS = 64
_UNKNOWN = object()
_JSON_TYPES = {
    "array": list,
    "bool": bool,
    "float": float,
    "int": int,
    "null": type(None),
    "object": dict,
    "str": str,
}
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_TEXTS = ("chat", "text", "inputs", "constraint")
"""Where the contract has texts of the caller's."""


def type_error(
    error: msgspec.ValidationError, body: dict[str, Any], request_type: type, endpoint: Endpoint
) -> ApiError:
    """Turn msgspec's "Expected … - at `$.path`" into an error that names the parameter and its value."""
    reason, _, place = str(error).partition(" - at `")
    is_key, place = place.startswith("key"), place.partition("$")[2].rstrip("`")
    steps = [_step(*match.groups()) for match in _STEP.finditer(place)]
    param = place.removeprefix(".") or None
    missing = re.fullmatch(r"Object missing required field `(.+)`", reason)
    if missing:
        param = f"{param}.{missing[1]}" if param else missing[1]
        reason = "required"
    elif not is_key and (value := _value_at(body, steps, reason)) is not _UNKNOWN:
        reason = _with_value(reason, value, steps, request_type, body, endpoint)
    reason = reason[:1].lower() + reason[1:] if reason.startswith(("Expected", "Invalid")) else reason
    return ApiError(400, f"{param}: {reason}." if param else f"{reason}.", param=param, code="invalid_type")


def _step(name: str | None, index: str | None) -> Step:
    if name is not None:
        return name
    assert index is not None
    return index if index == _ANY_MEMBER else int(index)


def _value_at(body: dict[str, Any], steps: Sequence[Step], reason: str) -> Any:
    """What stands at a place. msgspec says of which type it is, but not which member of an object."""
    value: Any = body
    for step in steps:
        if step == _ANY_MEMBER:
            assert step is steps[-1], "no field is an object whose members have fields"
            return _member(value, reason)
        value = value[step]
    return value


def _member(members: dict[str, Any], reason: str) -> Any:
    told = re.search(r"got `(\w+)`", reason)
    found = (value for value in members.values() if told and type(value) is _JSON_TYPES[told[1]])
    return next(found, _UNKNOWN)


def _with_value(
    reason: str,
    value: Any,
    steps: Sequence[Step],
    request_type: type,
    body: dict[str, Any],
    endpoint: Endpoint,
) -> str:
    """What was expected, and what was there instead as far as that may be shown."""
    if reason.startswith("Invalid"):
        known = dict.fromkeys(_choices(inspect.type_info(request_type), body, steps))
        return f"{_shown(value)} is not known; expected one of {', '.join(map(json.dumps, known))}"
    is_told = ", got " in reason  # by its type
    match value:
        case None | list() | dict() if is_told:
            return reason
        case list():
            return f"{reason}, got {len(value)} elements"
        case str() if _is_text(steps[0], endpoint):
            return reason if is_told else f"{reason}, got {len(value)} characters"
    return f"{reason}{' ' if is_told else ', got '}{_shown(value)}"


def _is_text(name: Step, endpoint: Endpoint) -> bool:
    fields = [field for field in fields_of(endpoint, Support.HONOURED) if field.name == name]
    return not fields or any(field.contract.startswith(_TEXTS) for field in fields)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "…"


def _choices(kind: inspect.Type, value: Any, steps: Sequence[Step]) -> Iterator[object]:
    """Yield the values that may stand at a place within `value`, which is of this type but for that."""
    match kind:
        case inspect.UnionType(types):
            for each in types:
                yield from _choices(each, value, steps)
        case inspect.Metadata(inner):
            yield from _choices(inner, value, steps)
        case inspect.LiteralType(values) if not steps:
            yield from values
        case inspect.ListType(inner) if steps and isinstance(value, list):
            assert isinstance(steps[0], int)
            yield from _choices(inner, value[steps[0]], steps[1:])
        case inspect.StructType() if steps and isinstance(value, dict):
            yield from _choices_within(kind, value, steps)


def _choices_within(
    kind: inspect.StructType, value: dict[str, Any], steps: Sequence[Step]
) -> Iterator[object]:
    name, *rest = steps
    if kind.tag_field is not None:
        assert kind.tag is not None
        if name == kind.tag_field and not rest:
            yield kind.tag
        if value.get(kind.tag_field) != kind.tag:
            return
    for field in kind.fields:
        if field.encode_name == name:
            yield from _choices(field.type, value[name], rest)

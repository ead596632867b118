"""Whether a text is JSON that is valid for a schema, by the `jsonschema` package and the RFCs of formats."""

from __future__ import annotations

import calendar
import ipaddress
import json
import re
import urllib.parse
import uuid
from decimal import Decimal
from typing import Any

import jsonschema

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_TIME = re.compile(
    r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.IGNORECASE
)
_DURATION = re.compile(
    r"P(?=.)((\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?|\d+W)",
)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")

_formats = jsonschema.FormatChecker(formats=())


@_formats.checks("date")
def _is_date(text: Any) -> bool:
    found = _DATE.fullmatch(text)
    if not found:
        return False
    year, month, day = map(int, found.groups())
    # The calendar repeats after 400 years, and Python's begins with year 1.
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year + 400, month)[1]


@_formats.checks("time")
def _is_time(text: Any) -> bool:
    return bool(_TIME.fullmatch(text))


@_formats.checks("date-time")
def _is_date_time(text: Any) -> bool:
    return text[10:11] in ("T", "t") and _is_date(text[:10]) and _is_time(text[11:])


@_formats.checks("duration")
def _is_duration(text: Any) -> bool:
    return bool(_DURATION.fullmatch(text))


@_formats.checks("hostname")
def _is_hostname(text: Any) -> bool:
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


@_formats.checks("email")
def _is_email(text: Any) -> bool:
    name, _, domain = text.rpartition("@")
    return bool(name and domain)


@_formats.checks("uri")
def _is_uri(text: Any) -> bool:
    return bool(urllib.parse.urlsplit(text).scheme)


@_formats.checks("uuid", raises=ValueError)
def _is_uuid(text: Any) -> bool:
    return bool(str(uuid.UUID(text)) == text.lower())


@_formats.checks("ipv4", raises=ValueError)
def _is_ipv4(text: Any) -> bool:
    return bool(ipaddress.IPv4Address(text))


@_formats.checks("ipv6", raises=ValueError)
def _is_ipv6(text: Any) -> bool:
    return bool(ipaddress.IPv6Address(text))


def problem_of(schema: Any, text: str) -> str | None:
    """What is wrong with a text; None where it is valid. Numbers are compared as decimals."""
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as malformed:
        return f"{malformed}: {text!r}"
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    validator = jsonschema.Draft202012Validator(exact, format_checker=_formats)
    for error in validator.iter_errors(value):
        return f"{error.message}: {text!r}"
    return None

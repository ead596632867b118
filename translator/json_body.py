"""JSON as RFC 8259 has it, from bodies that may be hostile."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from typing import Any

from translator.errors import ApiError

MAX_DEPTH = 128
MAX_NODES = 100_000
_MAX_SHOWN_DIGITS = 40

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# The closing quote may be missing, so that no text is scanned twice.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_STRUCTURE = re.compile(r"[^\[\]{}:]+")


def parse_json(body: bytes) -> Any:
    """Decode JSON as RFC 8259 has it: UTF-8, unique keys, finite numbers, whole characters.

    Raises:
        ApiError: 400; it is not.
    """
    try:
        text = body.decode()
        if sum(map(text.count, "[{:")) > MAX_DEPTH:
            _check_structure(text)
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "The request body is not valid UTF-8.") from error
    except UnicodeEncodeError as error:
        raise ApiError(400, "The request body contains an unpaired surrogate.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(400, f"The request body is not valid JSON: {error.msg} at {where}.") from error
    except ValueError as error:  # an integer with more digits than Python converts
        most = sys.get_int_max_str_digits()
        message = f"The request body contains a number that is out of range; expected at most {most} digits."
        raise ApiError(400, message) from error
    return value


def _check_structure(text: str) -> None:
    """Refuse what would take long to decode, before it is decoded.

    The innermost brackets are stripped level by level: each pass is one scan, however hostile the text.
    """
    structure = _NO_STRUCTURE.sub("", _STRING.sub("", text))
    if sum(map(structure.count, "[{:")) > MAX_NODES:
        raise ApiError(400, f"The request body has more than {MAX_NODES} arrays, objects and members.")
    brackets = structure.replace(":", "")
    for _ in range(MAX_DEPTH):
        outer = brackets.replace("[]", "").replace("{}", "")
        if outer == brackets:
            break
        brackets = outer
    else:
        if brackets:
            raise _too_deep()
    if brackets.count("[") + brackets.count("{") > MAX_DEPTH:
        raise _too_deep()


def _too_deep() -> ApiError:
    return ApiError(400, f"The request body is nested more than {MAX_DEPTH} levels deep.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ApiError(400, f"The request body names {twice[:100]!a} twice in one object.")
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        shown = digits if len(digits) <= _MAX_SHOWN_DIGITS else digits[:_MAX_SHOWN_DIGITS] + "…"
        raise ApiError(400, f"The request body contains {shown}, which is out of range; expected a double.")
    return number


def _no_constant(name: str) -> float:
    raise ApiError(400, f"The request body is not valid JSON: {name} is not a number.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)

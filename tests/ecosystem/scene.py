"""What every Python program here asks for, and how it says what went well. Of the standard library alone:
the programs run in environments of their own.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
WEATHER_QUESTION = "How is the weather in Rome over the next 3 days?"
CITIES = ("Paris", "Rome")

WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": list(CITIES)},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER_FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": WEATHER_SCHEMA,
}


def base_url() -> str:
    """Return the translator's address, the program's only argument, without a path."""
    (url,) = sys.argv[1:]
    return url


def messages(text: str) -> list[Any]:
    """Return a chat of one user message."""
    return [{"role": "user", "content": text}]


def check_weather(value: Any) -> None:
    """Assert that a value, or its JSON text, is valid for WEATHER_SCHEMA."""
    weather = json.loads(value) if isinstance(value, str) else value
    assert set(weather) == {"city", "days"}, weather
    assert weather["city"] in CITIES, weather
    assert isinstance(weather["days"], int), weather
    assert 1 <= weather["days"] <= 9, weather


def refusal(
    expected: type[Exception], function: Callable[..., object], *arguments: Any, **options: Any
) -> Any:
    """Return the error of the expected class that a call raises."""
    try:
        function(*arguments, **options)
    except expected as error:
        return error
    raise AssertionError(f"{options or arguments} was accepted")


def run(*steps: Callable[[], None]) -> None:
    """Run all steps, and print the name of each that went well."""
    for step in steps:
        step()
        sys.stdout.write(f"{step.__name__}\n")
        sys.stdout.flush()

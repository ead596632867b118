"""pydantic-ai: agents over chat completions, over responses and over Anthropic's messages."""

from __future__ import annotations

from typing import Literal

import pydantic
import pydantic_ai
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from scene import MODEL, QUESTION, WEATHER_QUESTION, base_url, refusal, run

openai = OpenAIProvider(base_url=f"{base_url()}/v1", api_key="none")
anthropic = AnthropicProvider(base_url=base_url(), api_key="none")
MODELS = (
    OpenAIChatModel(MODEL, provider=openai),
    OpenAIResponsesModel(MODEL, provider=openai),
    AnthropicModel(MODEL, provider=anthropic),
)
SETTINGS = pydantic_ai.ModelSettings(temperature=0, max_tokens=48, parallel_tool_calls=False, timeout=120)


class Weather(pydantic.BaseModel):
    """What structured output parses into."""

    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def chat_and_stream() -> None:
    for model in MODELS:
        agent = pydantic_ai.Agent(model, model_settings=SETTINGS, instructions="Be short.")
        whole = agent.run_sync(QUESTION)
        assert "Paris" in whole.output
        assert whole.usage.output_tokens > 0
        stream = agent.run_stream_sync(QUESTION)
        assert "".join(stream.stream_text(delta=True, debounce_by=None)) == whole.output
        assert stream.usage.output_tokens == whole.usage.output_tokens


def output_tools() -> None:
    """Its own way to structured output: a tool that must be called."""
    for model in MODELS:
        agent = pydantic_ai.Agent(model, model_settings=SETTINGS, output_type=pydantic_ai.ToolOutput(Weather))
        assert isinstance(agent.run_sync(WEATHER_QUESTION).output, Weather)


def native_output() -> None:
    """Structured output by the schema of the answer; a stream yields it part by part."""
    for model in MODELS[:2]:
        agent = pydantic_ai.Agent(
            model, model_settings=SETTINGS, output_type=pydantic_ai.NativeOutput(Weather)
        )
        whole = agent.run_sync(WEATHER_QUESTION).output
        assert isinstance(whole, Weather)
        assert agent.run_stream_sync(WEATHER_QUESTION).get_output() == whole


def forced_at_first(context: pydantic_ai.RunContext[None]) -> pydantic_ai.ModelSettings:
    """Return settings that force a call in the first step of a run, and a short text later."""
    if context.run_step == 1:
        return {**SETTINGS, "tool_choice": "required"}
    return {**SETTINGS, "tool_choice": "none", "max_tokens": 8}


def function_tools() -> None:
    """A forced call, its result, and the answer after it."""
    for model in MODELS:
        calls = Calls()
        agent = pydantic_ai.Agent(model, model_settings=forced_at_first, tools=[calls.get_weather])
        assert agent.run_sync(WEATHER_QUESTION).output
        assert len(calls.cities) == 1


class Calls:
    """A tool that remembers its calls."""

    def __init__(self) -> None:
        self.cities: list[str] = []

    def get_weather(self, city: Literal["Paris", "Rome"], days: Literal[1, 2, 3]) -> str:
        """The weather of a city."""
        self.cities.append(city)
        return f"It will be sunny in {city} for {days} days."


def errors() -> None:
    agent = pydantic_ai.Agent(OpenAIChatModel("no-such-model", provider=openai))
    assert refusal(pydantic_ai.ModelHTTPError, agent.run_sync, QUESTION).status_code == 404
    agent = pydantic_ai.Agent(MODELS[0], model_settings={"temperature": 3})
    assert refusal(pydantic_ai.ModelHTTPError, agent.run_sync, QUESTION).status_code == 400


run(chat_and_stream, output_tools, native_output, function_tools, errors)

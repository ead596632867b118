"""The body of POST /v1/completions, and its translation into the contract."""

from __future__ import annotations

from pagewire.v1 import inference_pb2
from translator.constraints import ConstrainedOptions, apply_constraint
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.schema import UInt32, apply_options, parse_request

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 1024

Prompt = str | list[int]


class CompletionRequest(ConstrainedOptions, kw_only=True):
    """The fields of a completion request; `fields.py` says what each does."""

    prompt: str | list[UInt32 | str | list[UInt32]]
    logprobs: UInt32 | None = None
    echo: bool | None = None
    best_of: UInt32 | None = None

    def check_combinations(self) -> None:
        """Refuse fields that exclude each other."""
        super().check_combinations()
        if self.best_of is not None and self.best_of != self.num_choices:
            raise ApiError(
                400, "best_of: only as many as n is supported.", param="best_of", code="unsupported_parameter"
            )
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens: at least 1 is needed without echo.", param="max_tokens")

    @property
    def num_choices(self) -> int:
        """Choices for each prompt."""
        return 1 if self.n is None else self.n

    @property
    def prompt_only(self) -> bool:
        """Whether only the prompt is asked for, which is how evaluations score a text."""
        return self.max_tokens == 0

    def prompts(self) -> list[Prompt]:
        """Return the prompts, one entry for each generation.

        Raises:
            ApiError: 400; the list is empty, mixed or too long.
        """
        prompt = self.prompt
        if isinstance(prompt, str):
            return [_not_empty(prompt, "prompt")]
        if not prompt:
            raise ApiError(400, "prompt: must not be empty.", param="prompt")
        token_ids = [item for item in prompt if isinstance(item, int)]
        if len(token_ids) == len(prompt):
            return [token_ids]
        if len(prompt) > MAX_PROMPTS:
            raise ApiError(400, f"prompt: at most {MAX_PROMPTS} prompts, got {len(prompt)}.", param="prompt")
        prompts: list[Prompt] = [
            _not_empty(item, f"prompt[{index}]")
            for index, item in enumerate(prompt)
            if not isinstance(item, int)
        ]
        if len({type(item) for item in prompt}) > 1:
            raise ApiError(
                400, "prompt: expected texts, token ids or lists of token ids, not a mix.", param="prompt"
            )
        return prompts


def parse_completion(body: bytes) -> CompletionRequest:
    """Parse and check a request body.

    Raises:
        ApiError: 400; it names the field.
    """
    return parse_request(body, CompletionRequest, Endpoint.COMPLETIONS)


def completion_specs(request: CompletionRequest) -> list[inference_pb2.GenerationSpec]:
    """Translate a request into the contract: one generation for each prompt.

    Raises:
        ApiError: 400; it names the field.
    """
    prompts = request.prompts()
    shared = inference_pb2.GenerationSpec()
    apply_options(shared, request, Endpoint.COMPLETIONS)
    apply_constraint(shared, request)
    # The contract generates at least one token; `prompt_only` leaves it out of the answer.
    shared.stopping.max_tokens = 1 if request.prompt_only else request.max_tokens or DEFAULT_MAX_TOKENS
    if request.logprobs is not None:
        shared.output.logprobs = request.logprobs
    if request.echo:
        shared.output.prompt_text = True
        if request.logprobs is not None:
            # Enough for both forms, each of which has as many as its own field asks for.
            shared.output.prompt_logprobs = max(request.logprobs, request.prompt_logprobs or 0)
    return [_with_prompt(shared, prompt) for prompt in prompts]


def _with_prompt(shared: inference_pb2.GenerationSpec, prompt: Prompt) -> inference_pb2.GenerationSpec:
    spec = inference_pb2.GenerationSpec()
    spec.CopyFrom(shared)
    if isinstance(prompt, str):
        spec.text = prompt
    else:
        spec.token_ids.ids.extend(prompt)
    return spec


def _not_empty(prompt: Prompt, where: str) -> Prompt:
    if not prompt:
        raise ApiError(400, f"{where}: must not be empty.", param=where)
    return prompt

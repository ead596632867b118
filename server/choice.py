"""One choice of a running request: the engine's outputs go in, deltas and an end come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.messages import FinishReason, RequestOutput, TokenLogprobs
from pagewire.v1 import inference_pb2
from server.chat_tools import ToolChoice
from server.choice_message import ChoiceMessage
from server.detokenizer import Detokenizer
from server.errors import NumericalError, QueueTimeoutError, RequestLostError
from server.fields import invalid
from server.gathered import Gathered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.generation_request import GenerationRequest
    from server.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0
_FINISH_REASONS = {
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}


_CONSTRAINT_ERRORS = {
    "bad_grammar": "the output's grammar became too complex to follow",
    "no_token": "its constraints have no token in common that could come next",
}


class Choice:
    """What one choice has brought, and what of it has not been sent yet."""

    def __init__(
        self,
        index: int,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
    ) -> None:
        self.index = index
        self.end: inference_pb2.ChoiceEnd | None = None
        self.num_tokens = 0
        self.num_cached_tokens: int | None = None
        """None until the engine has admitted the sequence."""
        self.prompt_logprobs: list[TokenLogprobs] | None = None
        """Of choice 0, where they were asked for."""
        self._tokenizer = tokenizer
        self._returns_token_ids = request.returns_token_ids
        self._includes_stop = request.include_stop_text
        self._min_delta_tokens = request.min_delta_tokens
        self._detokenizer = Detokenizer(
            tokenizer,
            prompt_token_ids,
            request.stop,
            request.include_stop_text,
            request.skip_special_tokens,
            request.output.marks,
            request.sampling.min_tokens,
        )
        self._message = ChoiceMessage(
            request.output, bool(request.reasoning and request.reasoning.is_excluded)
        )
        self._is_named_call = request.tools.choice is ToolChoice.NAMED
        if request.output.reasoning is not None:
            self._detokenizer.token_starts = self._message.token_starts
        self._gathered = Gathered()

    @property
    def num_reasoning_tokens(self) -> int:
        """How many of the tokens were reasoning. The marks around it are none."""
        return self._message.num_reasoning_tokens

    def take(self, output: RequestOutput) -> None:
        """Take an output of the engine.

        Raises:
            ServiceError: the sequence failed.
        """
        assert self.end is None, "the choice has ended"
        _check(output)
        if output.num_cached_tokens is not None:
            self.num_cached_tokens = output.num_cached_tokens
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        reason, token_ids = output.finish_reason, output.token_ids
        hides_last = reason is FinishReason.STOP and not (
            self._includes_stop and output.stop_token_id is not None
        )
        if reason is FinishReason.COMPLETE:
            reason = FinishReason.STOP
        piece = self._detokenizer.push(token_ids[:-1] if hides_last else token_ids)
        text, num_tokens = piece.text, len(token_ids)
        if piece.stop_text is not None:
            num_tokens = piece.num_tokens
            reason = FinishReason.STOP
        elif reason is not None:
            text += self._detokenizer.flush()
        self._gather(text, token_ids[:num_tokens], output.logprobs[:num_tokens], is_last=reason is not None)
        if reason is not None:
            self.end = self._make_end(reason, piece.stop_text, output.stop_token_id)

    @property
    def num_gathered_bytes(self) -> int:
        """What is kept for the reader, about."""
        return self._gathered.num_bytes

    @property
    def is_done(self) -> bool:
        """Whether it has ended, and all that it brought was taken."""
        return self.end is not None and not self._gathered

    def pop_delta(self) -> inference_pb2.ChoiceDelta | None:
        """Return what was gathered since the last call, if it is enough for a delta or the last one."""
        gathered = self._gathered
        if not gathered or (self.end is None and gathered.num_tokens < self._min_delta_tokens):
            return None
        self._gathered = Gathered()
        return gathered.message(self.index)

    def _gather(self, text: str, token_ids: list[int], logprobs: list[TokenLogprobs], is_last: bool) -> None:
        gathered = self._gathered
        self._message.add(text, gathered, is_last)
        gathered.num_tokens += len(token_ids)
        if self._returns_token_ids:
            gathered.add_token_ids(token_ids)
        if logprobs:
            gathered.add_logprobs(token_logprob(one, self._tokenizer) for one in logprobs)
        self.num_tokens += len(token_ids)

    def _make_end(
        self, reason: FinishReason, stop_text: str | None, stop_token_id: int | None
    ) -> inference_pb2.ChoiceEnd:
        end = inference_pb2.ChoiceEnd(index=self.index, finish_reason=_FINISH_REASONS[reason])
        # A call that the caller named is no decision of the model's, so OpenAI reports a plain stop.
        # Nor is one that a stop text cut off to be answered.
        is_cut = stop_text is not None and self._message.is_within_call
        is_call = self._message.has_calls and not self._is_named_call and not is_cut
        if reason is FinishReason.STOP and is_call:
            end.finish_reason = inference_pb2.FINISH_REASON_TOOL_CALLS
        if stop_text is not None:
            end.stop_text = stop_text
        elif stop_token_id is not None:
            end.stop_token_id = stop_token_id
        return end


def _check(output: RequestOutput) -> None:
    if output.finish_reason is FinishReason.ABORTED:
        raise RequestLostError("the request was ended before it was complete")
    if output.finish_reason is FinishReason.EXPIRED:
        raise QueueTimeoutError("it was too late to begin")
    if output.finish_reason is FinishReason.FAILED:
        if output.error == "request_too_large":
            raise invalid("spec", "the request can never fit the server's cache; shorten the prompt")
        if output.error in _CONSTRAINT_ERRORS:
            raise invalid("spec", _CONSTRAINT_ERRORS[output.error])
        raise NumericalError(f"the model failed: {output.error}")


def token_logprob(logprobs: TokenLogprobs, tokenizer: Tokenizer) -> inference_pb2.TokenLogprob:
    """Log probabilities at one position as the contract has them."""
    return inference_pb2.TokenLogprob(
        token_id=logprobs.token_id,
        logprob=max(logprobs.logprob, LEAST_LOGPROB),
        rank=logprobs.rank,
        token_bytes=tokenizer.token_bytes(logprobs.token_id),
        top=[
            inference_pb2.Alternative(
                token_id=token_id,
                logprob=max(logprob, LEAST_LOGPROB),
                token_bytes=tokenizer.token_bytes(token_id),
            )
            for token_id, logprob in logprobs.top
        ],
    )

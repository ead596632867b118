"""A model runner without a model: each token is a hash of all that came before it.

It knows only what plans tell it, and keeps its KV cache as cells: the cell of a position is a hash of
its token and of the cell before it, read through the row's block table; that before the first is the id of
the adapter in the row's slot. A sampled token is a hash of all the row's cells. So a wrong block table, a
lost or a foreign write shows up as a wrong token, which `solo_output` finds by computing the same sequence
without any cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import AdapterError
from engine.messages import EngineInfo, FinishReason, TokenLogprobs
from engine.step import SampledToken, StepResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.messages import EngineRequest, SamplingParams
    from engine.step import Admission, Chunk, StepPlan

VOCAB_SIZE = 32
EOS = 0
STOP = 1
NUM_ENDING_TOKENS = 2
NEVER_WRITTEN = -1


def solo_output(request: EngineRequest, max_model_len: int) -> tuple[list[int], FinishReason]:
    """What the fake model generates for a request that is alone in the world, and how it ends."""
    cells: list[int] = []
    for token_id in request.prompt_token_ids:
        cells.append(_cell(cells[-1] if cells else request.adapter, token_id, len(cells)))
    output: list[int] = []
    sampling = request.sampling
    while True:
        is_early = len(output) < sampling.min_tokens
        token_id = _sample(cells, is_early)
        output.append(token_id)
        if not is_early and token_id in (*sampling.eos_token_ids, *sampling.stop_token_ids):
            return output, FinishReason.STOP
        if len(output) == sampling.max_tokens or len(cells) + 1 == max_model_len:
            return output, FinishReason.LENGTH
        cells.append(_cell(cells[-1], token_id, len(cells)))


def _cell(previous: int, token_id: int, position: int) -> int:
    return hash((previous, token_id, position))


def _sample(cells: Sequence[int], is_early: bool) -> int:
    num_forbidden = NUM_ENDING_TOKENS if is_early else 0
    return num_forbidden + hash(tuple(cells)) % (VOCAB_SIZE - num_forbidden)


@dataclass
class _Row:
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    adapter_slot: int
    block_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int | None = None  # the first chunk says how much the prefix cache gave


@dataclass(frozen=True)
class FakePendingStep:
    result: StepResult

    def collect(self) -> StepResult:
        return self.result


class FakeRunner:
    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 32,
        max_model_len: int = 128,
        max_steps_in_flight: int = 1,
    ) -> None:
        self.max_steps_in_flight = max_steps_in_flight
        self.info = EngineInfo(
            architecture="HashForCausalLM",
            dtype="float32",
            device="cpu",
            vocab_size=VOCAB_SIZE,
            max_model_len=max_model_len,
            block_size=block_size,
            num_blocks=num_blocks,
            load_seconds=0.0,
        )
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.failing_rows: set[int] = set()
        """Rows whose next logits are not numbers."""
        self.adapters: dict[int, str] = {}
        """Paths of the loaded adapters, by id."""
        self._slots: dict[int, int] = {0: 0}  # the adapter that lies there
        self._rows: dict[int, _Row] = {}
        self._cells = [[NEVER_WRITTEN] * block_size for _ in range(num_blocks)]

    def launch(self, plan: StepPlan) -> FakePendingStep:
        """Compute at once, in the order of launches as a device does."""
        return FakePendingStep(self._execute(plan))

    def load_adapter(self, adapter: int, path: str) -> int:
        if "broken" in path:
            raise AdapterError(f"{path}: not an adapter")
        self.adapters[adapter] = path
        return 8

    def unload_adapter(self, adapter: int) -> None:
        del self.adapters[adapter]

    def _execute(self, plan: StepPlan) -> StepResult:
        for row in plan.released_rows:
            del self._rows[row]
        for admission in plan.admissions:
            self._admit(admission)
        self._check(plan)
        for chunk in plan.chunks:
            self._compute(chunk)
        prompt_logprobs = {
            chunk.row: self._prompt_logprobs(chunk)
            for chunk in plan.chunks
            if self._rows[chunk.row].sampling.num_prompt_logprobs is not None
        }
        sampled = tuple(self._sample(chunk.row) for chunk in plan.chunks if chunk.samples)
        return StepResult(sampled, prompt_logprobs)

    def _admit(self, admission: Admission) -> None:
        assert 0 <= admission.row < self.max_num_seqs
        assert admission.row not in self._rows, "the row is taken"
        self._rows[admission.row] = _Row(
            list(admission.token_ids), admission.num_prompt_tokens, admission.sampling, admission.adapter_slot
        )
        if self._slots.get(admission.adapter_slot) != admission.adapter:
            users = [row for row in self._rows.values() if row.adapter_slot == admission.adapter_slot]
            assert len(users) == 1, "the slot is in use"
            self._slots[admission.adapter_slot] = admission.adapter

    def _check(self, plan: StepPlan) -> None:
        rows = [chunk.row for chunk in plan.chunks]
        assert len(set(rows)) == len(rows), "a row has two chunks"
        assert set(rows) >= {admission.row for admission in plan.admissions}, "admitted, but not run"
        lengths = [chunk.num_tokens for chunk in plan.chunks]
        assert min(lengths) > 0
        assert sum(lengths) <= self.max_num_batched_tokens
        num_singles = lengths.count(1)
        assert lengths[:num_singles] == [1] * num_singles, "single-token chunks come first"

    def _compute(self, chunk: Chunk) -> None:
        row = self._rows[chunk.row]
        row.block_ids += chunk.new_block_ids
        assert all(0 <= block_id < self.info.num_blocks for block_id in chunk.new_block_ids)
        assert row.num_computed_tokens in (None, chunk.start), "positions are skipped or repeated"
        end = chunk.start + chunk.num_tokens
        assert chunk.samples == (end == len(row.token_ids)), "samples in the wrong place"
        assert end <= len(row.token_ids), "beyond the known tokens"
        assert end <= len(row.block_ids) * self.info.block_size, "beyond the block table"
        for position in range(chunk.start, end):
            previous = self._read(row, position - 1) if position else self._slots[row.adapter_slot]
            block_id = row.block_ids[position // self.info.block_size]
            cell = _cell(previous, row.token_ids[position], position)
            self._cells[block_id][position % self.info.block_size] = cell
        row.num_computed_tokens = end

    def _read(self, row: _Row, position: int) -> int:
        return self._cells[row.block_ids[position // self.info.block_size]][position % self.info.block_size]

    def _sample(self, index: int) -> SampledToken:
        row = self._rows[index]
        if index in self.failing_rows:
            self.failing_rows.remove(index)
            row.token_ids.append(EOS)
            return SampledToken(index, -1)
        cells = [self._read(row, position) for position in range(len(row.token_ids))]
        token_id = _sample(cells, len(row.token_ids) - row.num_prompt_tokens < row.sampling.min_tokens)
        row.token_ids.append(token_id)
        has_logprobs = row.sampling.num_logprobs is not None
        return SampledToken(index, token_id, TokenLogprobs(token_id, -0.5, 1, []) if has_logprobs else None)

    def _prompt_logprobs(self, chunk: Chunk) -> list[TokenLogprobs]:
        row = self._rows[chunk.row]
        end = min(chunk.start + chunk.num_tokens + 1, row.num_prompt_tokens)
        return [TokenLogprobs(token_id, -1.5, 1, []) for token_id in row.token_ids[chunk.start + 1 : end]]

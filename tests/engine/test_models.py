from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from greedy import NUM_NEW_TOKENS, generate_with_scheduler, generate_with_transformers, random_prompt
from hand_plans import HandPlans, load_runner
from safetensors.torch import load_file, save_file
from tiny_model import FAMILIES, VOCAB_SIZE, make_tiny_model

from engine.limits import Limits
from engine.messages import SamplingParams
from engine.model_runner import _warm_up_beside_decodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


PROMPT_LENS = (1, 8, 13, 37, 70)


class Family:
    """One tiny model in both implementations, and what greedy decoding must give."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        auto: Any = transformers.AutoModelForCausalLM
        self.folder = folder
        self.model = auto.from_pretrained(folder, dtype=torch.float32)
        self.runner = load_runner(folder)
        self.prompts = [random_prompt(length) for length in PROMPT_LENS]
        self.expected = [
            generate_with_transformers(self.model, prompt, NUM_NEW_TOKENS) for prompt in self.prompts
        ]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(make_tiny_model(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture
def plans(family: Family) -> Iterator[HandPlans]:
    plans = HandPlans(family.runner)
    yield plans
    plans.finish()


def outputs_of(plans: HandPlans, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return [plans.tokens[row][len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def test_transformers_does_not_take_our_kernels_for_its_hub_client() -> None:
    spec = importlib.util.find_spec("kernels")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).samefile(Path(__file__).parents[2] / "kernels/__init__.py")
    utils: Any = transformers.utils
    assert not utils.is_kernels_available()


def test_alone_equals_transformers(family: Family, plans: HandPlans) -> None:
    for prompt, expected in zip(family.prompts, family.expected, strict=True):
        row = plans.admit(prompt)
        for _ in range(NUM_NEW_TOKENS):
            plans.step([row])
        assert outputs_of(plans, [row], [prompt]) == [expected]
        plans.release(row)


def test_batched_equals_transformers(family: Family, plans: HandPlans) -> None:
    rows = [plans.admit(prompt) for prompt in family.prompts]
    for _ in range(NUM_NEW_TOKENS):
        plans.step(rows)
    assert outputs_of(plans, rows, family.prompts) == family.expected


@pytest.mark.parametrize("chunk_size", [1, 7, 32])
def test_chunked_prefill_beside_decodes_equals_transformers(
    family: Family, plans: HandPlans, chunk_size: int
) -> None:
    rows = [plans.admit(prompt) for prompt in family.prompts]
    ends = {row: len(prompt) + NUM_NEW_TOKENS for row, prompt in zip(rows, family.prompts, strict=True)}
    while unfinished := [row for row in rows if len(plans.tokens[row]) < ends[row]]:
        plans.step({row: min(chunk_size, plans.remaining(row)) for row in unfinished})
    assert outputs_of(plans, rows, family.prompts) == family.expected


def test_cached_prefix_equals_transformers(family: Family, plans: HandPlans) -> None:
    prompt, expected = family.prompts[-1], family.expected[-1]
    first = plans.admit(prompt)
    plans.step([first])
    num_cached_blocks = (len(prompt) - 1) // family.runner.info.block_size
    second = plans.admit(prompt, cached_blocks=plans.blocks[first][:num_cached_blocks])
    for _ in range(NUM_NEW_TOKENS):
        plans.step([second])
    assert outputs_of(plans, [second], [prompt]) == [expected]


def test_preempted_equals_transformers(family: Family, plans: HandPlans) -> None:
    rows = [plans.admit(prompt) for prompt in family.prompts[2:4]]
    for _ in range(6):
        plans.step(rows)
    victim, known = rows[1], list(plans.tokens[rows[1]])
    plans.release(victim)
    plans.step(rows[:1])
    rows[1] = plans.admit(known, num_prompt_tokens=len(family.prompts[3]))
    while len(plans.tokens[rows[1]]) < len(family.prompts[3]) + NUM_NEW_TOKENS:
        plans.step(rows)
    outputs = outputs_of(plans, rows, family.prompts[2:4])
    assert outputs[0][:NUM_NEW_TOKENS] == family.expected[2]
    assert outputs[1] == family.expected[3]


@pytest.mark.parametrize(
    ("num_blocks", "max_num_batched_tokens", "preempts"), [(64, 256, False), (64, 24, False), (15, 40, True)]
)
def test_scheduled_equals_transformers(
    family: Family, num_blocks: int, max_num_batched_tokens: int, preempts: bool
) -> None:
    outputs, scheduler = generate_with_scheduler(
        load_runner(family.folder), family.prompts * 2, num_blocks, max_num_batched_tokens
    )
    assert outputs == family.expected * 2
    assert (scheduler.stats().num_preemptions > 0) == preempts


def test_warming_up_beside_decodes_leaves_all_rows_free(family: Family, plans: HandPlans) -> None:
    runner, info = family.runner, family.runner.info
    limits = Limits(info.block_size, runner.max_num_seqs, runner.max_num_batched_tokens, info.max_model_len)
    _warm_up_beside_decodes(runner._steps, limits)
    rows = [plans.admit(family.prompts[1]) for _ in range(runner.max_num_seqs)]
    for _ in range(NUM_NEW_TOKENS):
        plans.step(rows)
    assert outputs_of(plans, rows, [family.prompts[1]] * len(rows)) == [family.expected[1]] * len(rows)


def test_logprobs_equal_transformers(family: Family, plans: HandPlans) -> None:
    prompt = random_prompt(30, seed=1)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, num_prompt_logprobs=3, num_logprobs=2)
    row = plans.admit(prompt, sampling=sampling)
    entries = list(plans.step({row: 7}).prompt_logprobs[row])
    result = plans.step([row])
    entries += result.prompt_logprobs[row]
    sampled = result.sampled[0].logprobs
    assert sampled is not None
    entries.append(sampled)
    with torch.inference_mode():
        expected = family.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    tokens = plans.tokens[row][1:]
    assert [entry.token_id for entry in entries] == tokens
    assert [entry.logprob for entry in entries] == pytest.approx(
        [expected[position, token].item() for position, token in enumerate(tokens)], abs=1e-4
    )
    assert [len(entry.top) for entry in entries] == [3] * 29 + [2]
    assert [entry.top[0][0] for entry in entries] == expected.argmax(-1).tolist()
    assert entries[-1].rank == 1


@pytest.mark.check("R14")
def test_a_row_with_nan_yields_no_token_and_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama2")
    sound = random_prompt(9)
    (expected,) = HandPlans(load_runner(folder)).step_once(sound)
    weights = load_file(folder / "model.safetensors")
    poison = next(token for token in range(3, VOCAB_SIZE) if token not in sound)
    weights["model.embed_tokens.weight"][poison] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert HandPlans(load_runner(folder)).step_once(sound, [poison, 5], sound) == [expected, -1, expected]

"""How far is the engine from transformers in float32? JSON lines, one a model.

    python -m benchmarks.numerics [--dtype bfloat16] [--device auto] [--smollm2 FILE] [--answers FILE]
        [--quantization fp8] [--kv-cache-dtype fp8] [--commit HASH]

Small random models of each family, and SmolLM2 where its .gguf file is given. The reference generates
1,000 tokens greedily in float32; the engine then reads them in one pass. `agreement` is the share of
positions at which its most likely token is the reference's. `max_error` and `mean_error` are of the log
probabilities of each position's 20 most likely tokens; `spread` is the standard deviation of the reference's
logits, which says how much an error matters. With --answers, SmolLM2's own greedy answers to a few questions
are compared with those in that file, or written there if it does not exist.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from engine.config import EngineConfig
from engine.messages import EngineRequest, SamplingParams
from engine.model_runner import ModelRunner
from engine.scheduler import Scheduler
from engine.step import Admission, Chunk, StepPlan
from server.tokenizer import Tokenizer

NUM_TOKENS = 1000
NUM_TOP = 20
NUM_ANSWER_TOKENS = 64
NUM_BLOCKS = 512
FAMILIES = ("llama", "qwen2", "qwen3")
SIZES = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
QUESTIONS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue, in two sentences.",
    "List three uses of a paper clip.",
)


def make_model(family: str, folder: Path) -> Any:
    """Write a random model into `folder`, and return it in float32."""
    config = transformers.AutoConfig.for_model(family, **SIZES)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 1.0 if "embed" in name else parameter.shape[-1] ** -0.5
            parameter.copy_((1 + 0.1 * noise if "norm" in name else scale * noise).bfloat16())
    model.bfloat16().save_pretrained(folder)
    # Not model.float(): bfloat16() rounded the rotary frequencies too, which are no parameters.
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def generate(model: Any, prompt: list[int]) -> list[int]:
    """Return prompt and greedy continuation, NUM_TOKENS in all."""
    output = model.generate(
        torch.tensor([prompt], device=model.device),
        do_sample=False,
        max_length=NUM_TOKENS,
        min_length=NUM_TOKENS,
    )
    return [int(token) for token in output[0]]


@torch.inference_mode()
def reference_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    """Return float32 logits [num_tokens, vocab_size] on the CPU."""
    logits: torch.Tensor = model(torch.tensor([token_ids], device=model.device)).logits[0]
    return logits.float().cpu()


def describe(runner: ModelRunner, token_ids: list[int]) -> dict[int, dict[int, float]]:
    """Return the engine's most likely tokens at each position and their log probabilities."""
    sampling = SamplingParams(max_tokens=1, temperature=0.0, num_prompt_logprobs=NUM_TOP)
    num_blocks = -(-len(token_ids) // runner.info.block_size)
    plan = StepPlan(
        released_rows=(),
        admissions=(Admission(0, token_ids, len(token_ids), sampling),),
        chunks=(Chunk(0, 0, len(token_ids), tuple(range(num_blocks)), samples=True),),
    )
    logprobs = runner.execute(plan).prompt_logprobs[0]
    runner.execute(StepPlan(released_rows=(0,), admissions=(), chunks=()))
    return {position: dict(entry.top) for position, entry in enumerate(logprobs)}


def compare(name: str, model: Any, runner: ModelRunner, token_ids: list[int]) -> dict[str, Any]:
    """Measure one model."""
    logits = reference_logits(model, token_ids)
    expected = logits.log_softmax(-1)
    errors, num_agreeing = [], 0
    described = describe(runner, token_ids)
    for position, top in described.items():
        num_agreeing += next(iter(top)) == int(expected[position].argmax())
        errors += [abs(logprob - float(expected[position, token])) for token, logprob in top.items()]
    return {
        "model": name,
        "dtype": runner.info.dtype,
        "device": runner.info.device,
        "positions": len(described),
        "agreement": round(num_agreeing / len(described), 4),
        "max_error": round(max(errors), 6),
        "mean_error": round(sum(errors) / len(errors), 7),
        "spread": round(float(logits.std(-1).mean()), 3),
    }


def load(path: Path, arguments: argparse.Namespace) -> ModelRunner:
    """Load the engine with the command line's precision."""
    extra = {
        name: value
        for name in ("quantization", "kv_cache_dtype")
        if (value := getattr(arguments, name)) is not None
    }
    config = EngineConfig(
        model_path=str(path), dtype=arguments.dtype, device=arguments.device, max_model_len=2048,
        num_blocks=NUM_BLOCKS, max_num_batched_tokens=2048, max_num_seqs=8, **extra,
    )  # fmt: skip
    return ModelRunner.load(config, lambda *_: None)


def answer(runner: ModelRunner, tokenizer: Tokenizer) -> dict[str, str]:
    """Return greedy answers to the questions, all generated together."""
    info = runner.info
    scheduler = Scheduler(
        info.num_blocks,
        info.block_size,
        runner.max_num_seqs,
        runner.max_num_batched_tokens,
        info.max_model_len,
    )
    assert tokenizer.chat_template is not None
    for question in QUESTIONS:
        text = tokenizer.chat_template.render([{"role": "user", "content": question}])
        sampling = SamplingParams(
            max_tokens=NUM_ANSWER_TOKENS, temperature=0.0, eos_token_ids=tuple(tokenizer.eos_token_ids)
        )
        scheduler.add(EngineRequest(question, tokenizer.encode(text, False), sampling))
    token_ids: dict[str, list[int]] = {question: [] for question in QUESTIONS}
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.update(plan, runner.execute(plan)):
            token_ids[output.request_id] += output.token_ids
    return {question: tokenizer.decode(ids, skip_special_tokens=True) for question, ids in token_ids.items()}


def compare_answers(answers: dict[str, str], file: Path) -> dict[str, Any]:
    """Hold answers against those of another device, or keep them for it."""
    if not file.exists():
        file.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
        return {"answers": "written"}
    others: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    same = sum(answers[question] == others[question] for question in QUESTIONS)
    return {"answers": f"{same} of {len(QUESTIONS)} equal"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantization")
    parser.add_argument("--kv-cache-dtype")
    parser.add_argument("--smollm2", type=Path)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    facts = {
        "quantization": arguments.quantization,
        "kv_cache_dtype": arguments.kv_cache_dtype,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": arguments.commit,
    }
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    place = "cuda" if torch.cuda.is_available() and arguments.device != "cpu" else "cpu"
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            model = make_model(family, Path(folder)).to(place)
            token_ids = generate(model, [5, 17, 300, 42])
            runner = load(Path(folder), arguments)
            print(json.dumps(compare(family, model, runner, token_ids) | facts), flush=True)
    if arguments.smollm2 is None:
        return
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(
        arguments.smollm2.parent, gguf_file=arguments.smollm2.name, dtype=torch.float32
    ).to(place)
    runner = load(arguments.smollm2, arguments)
    tokenizer = Tokenizer.load(arguments.smollm2)
    prompt = tokenizer.encode("The history of the sea is long, and", False)
    line = compare("smollm2-135m-instruct", model, runner, generate(model.eval(), prompt)) | facts
    if arguments.answers is not None:
        line |= compare_answers(answer(runner, tokenizer), arguments.answers)
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

"""How fast does the encoder embed on this machine, beside transformers? JSON lines, one an engine.

    python -m benchmarks.embedding_speed FOLDER [--sentences 256] [--runs 3] [--threads N] [--commit HASH]

FOLDER holds a BERT with its tokenizer. Both get the same token ids in the same process, one after the other
in turns: transformers in batches of 32 that are sorted by length and padded. The median of the runs counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from engine.config import EngineConfig
from engine.encoder_config import EncoderConfig
from engine.encoder_runner import EncoderRunner
from engine.encoder_scheduler import EncoderScheduler
from engine.host import num_physical_cores
from engine.messages import EngineRequest, Pooling, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Vectors = np.ndarray[Any, Any]

BATCH_SIZE = 32
LENGTHS = (6, 9, 12, 16, 20, 24, 32, 48, 64, 128)


def make_inputs(count: int, vocab_size: int) -> list[list[int]]:
    """Return token ids of sentences and short paragraphs."""
    numbers = random.Random(0)
    return [
        [numbers.randrange(1000, vocab_size) for _ in range(numbers.choice(LENGTHS))] for _ in range(count)
    ]


def embed_here(runner: EncoderRunner, inputs: Sequence[list[int]]) -> Vectors:
    """Embed with the engine, as its process does."""
    info = runner.info
    scheduler = EncoderScheduler(runner.max_num_seqs, runner.max_num_batched_tokens, info.max_model_len)
    for index, token_ids in enumerate(inputs):
        scheduler.add(
            EngineRequest(str(index), token_ids, SamplingParams(max_tokens=1), pooling=Pooling.MEAN)
        )
    vectors = np.empty((len(inputs), info.embedding_dimensions), dtype="<f4")
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.update(plan, runner.launch(plan).collect()):
            assert output.embedding is not None
            vectors[int(output.request_id)] = np.frombuffer(output.embedding, "<f4")
    return vectors


def embed_there(model: Any, inputs: Sequence[list[int]]) -> Vectors:
    """Embed with transformers."""
    vectors = np.empty((len(inputs), model.config.hidden_size), dtype="<f4")
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    for first in range(0, len(order), BATCH_SIZE):
        batch = order[first : first + BATCH_SIZE]
        longest = len(inputs[batch[-1]])
        ids = torch.tensor([inputs[index] + [0] * (longest - len(inputs[index])) for index in batch])
        mask = torch.tensor(
            [[1] * len(inputs[index]) + [0] * (longest - len(inputs[index])) for index in batch]
        )
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].float()
        vectors[batch] = ((hidden * weights).sum(1) / weights.sum(1)).numpy()
    return vectors


def seconds_of(work: Callable[[], Vectors]) -> float:
    """Time one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure both, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=num_physical_cores())
    parser.add_argument("--commit", default="")
    options = parser.parse_args()
    encoder = EncoderConfig.find(options.folder)
    assert encoder is not None, "no encoder lies there"
    config = EngineConfig(model_path=str(options.folder), device="cpu", num_threads=options.threads)
    runner = EncoderRunner.load(config, encoder, lambda *_: None)
    auto: Any = transformers.AutoModel
    model = auto.from_pretrained(options.folder).eval()
    inputs = make_inputs(options.sentences, encoder.vocab_size)
    difference = float(np.abs(embed_here(runner, inputs) - embed_there(model, inputs)).max())
    assert difference < 1e-3, difference
    engines: dict[str, Callable[[], Vectors]] = {
        "pagewire": lambda: embed_here(runner, inputs),
        "transformers": lambda: embed_there(model, inputs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.runs):
        for name, work in engines.items():
            seconds[name].append(seconds_of(work))
    for name, times in seconds.items():
        print(
            json.dumps(
                {
                    "engine": name,
                    "model": options.folder.resolve().name,
                    "sentences": len(inputs),
                    "tokens": sum(map(len, inputs)),
                    "sentences_s": round(len(inputs) / statistics.median(times), 1),
                    "seconds_all": [round(each, 3) for each in times],
                    "max_difference": difference,
                    "num_threads": options.threads,
                    "load": round(os.getloadavg()[0], 1),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "python": platform.python_version(),
                    "date": time.strftime("%Y-%m-%d"),
                    "commit": options.commit,
                }
            )
        )


if __name__ == "__main__":
    main()

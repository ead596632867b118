"""How near each GPU kernel comes to what the card can do: JSON lines, one a case.

    python -m benchmarks.kernel_speed [--commit HASH] > benchmarks/results/kernels-h100.jsonl

Kernels that move data are held against a device-to-device copy of this run, and prefill against torch's
own attention on the same, unpaged, shapes. Times are medians: `us` of replays of a CUDA graph, which is what
the device needs, and `launched_us` of calls from Python with a cold L2 cache. Small inputs stay in that cache
between replays, so bandwidth is given only where the bytes are at least twice its size.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from typing import TYPE_CHECKING

import torch
import triton
from torch.nn import functional

from kernels.add_rms_norm import add_rms_norm
from kernels.describe_tokens import Descriptions, describe_tokens
from kernels.fp8_linear import Fp8Weight, fp8_linear
from kernels.fp8_quantize import fp8_quantize
from kernels.kv_write import kv_write
from kernels.linear import LinearWeight, linear, linear_silu_mul
from kernels.lora import LoraTokens, lora_add
from kernels.paged_attention import AttentionMetadata, paged_attention
from kernels.rms_norm import rms_norm
from kernels.rotary import rotary
from kernels.sample import sample
from kernels.sampling_state import FILTERED, MASKED, PENALISED, REPORTED, SamplingState
from kernels.shaped_sample import shaped_sample
from kernels.silu_mul import silu_mul
from kernels.token_bitmask import token_bitmask

if TYPE_CHECKING:
    from collections.abc import Callable

Figures = dict[str, float]

DEVICE = torch.device("cuda")
DTYPE = torch.bfloat16
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, HIDDEN, INTERMEDIATE = 32, 8, 128, 4096, 14336  # an 8B model
VOCAB = 151936
MAX_TOKENS = 8
TOKEN_COUNTS = (1, 32, 1024, 8192)
DECODES = ((1, 1024), (1, 32768), (8, 4096), (32, 4096), (128, 1024))  # sequences, context
PREFILLS = ((1, 512, 512), (1, 8192, 8192), (8, 1024, 1024), (4, 512, 8192))  # sequences, query, context


WEIGHTS = {
    "8B qkv": (6144, 4096),
    "8B o": (4096, 4096),
    "8B gate_up": (28672, 4096),
    "8B down": (4096, 14336),
    "8B head": (128256, 4096),
    "0.6B qkv": (4096, 1024),
    "0.6B o": (1024, 2048),
    "0.6B gate_up": (6144, 1024),
    "0.6B down": (1024, 3072),
    "0.6B head": (151936, 1024),
}


def median_us(call: Callable[[], object]) -> float:
    """Of replays of a CUDA graph."""
    milliseconds: float = triton.testing.do_bench_cudagraph(call, rep=30, return_mode="median")
    return 1e3 * milliseconds


def launched_us(call: Callable[[], object]) -> float:
    """Of calls from Python, the L2 cache emptied before each."""
    milliseconds: float = triton.testing.do_bench(call, warmup=10, rep=40, return_mode="median")
    return 1e3 * milliseconds


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=DTYPE, device=DEVICE)


def copy_bandwidth() -> float:
    """Bytes read and written per second; not of a graph, in which a copy runs a fifth slower."""
    source = torch.randn(1 << 29, dtype=DTYPE, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-6 * launched_us(lambda: target.copy_(source)))


def report(kernel: str, case: str, call: Callable[[], object], figures: Callable[[float], Figures]) -> None:
    """Print one line; `figures` makes speeds from seconds."""
    microseconds = median_us(call)
    times = {"us": microseconds, "launched_us": launched_us(call)}
    numbers = {name: round(value, 3) for name, value in (times | figures(microseconds / 1e6)).items()}
    print(json.dumps({"kernel": kernel, "case": case} | numbers), flush=True)


def measure_bytes(kernel: str, case: str, num_bytes: int, copy: float, call: Callable[[], object]) -> None:
    def figures(seconds: float) -> Figures:
        if num_bytes < 2 * torch.cuda.get_device_properties(DEVICE).L2_cache_size:
            return {}
        return {"gb_s": num_bytes / seconds / 1e9, "of_copy": num_bytes / seconds / copy}

    report(kernel, case, call, figures)


def measure_small_kernels(num_tokens: int, copy: float) -> None:
    case = f"{num_tokens} tokens"
    x, residual, weight = random(num_tokens, HIDDEN), random(num_tokens, HIDDEN), random(HIDDEN)
    measure_bytes("rms_norm", case, 2 * x.nbytes, copy, lambda: rms_norm(x, weight, 1e-5))
    measure_bytes("add_rms_norm", case, 4 * x.nbytes, copy, lambda: add_rms_norm(x, residual, weight, 1e-5))
    gate_up = random(num_tokens, 2 * INTERMEDIATE)
    measure_bytes("silu_mul", case, 3 * gate_up.nbytes // 2, copy, lambda: silu_mul(gate_up))

    merged = random(num_tokens, NUM_HEADS + 2 * NUM_KV_HEADS, HEAD_DIM)
    q, k, v = merged.split_with_sizes([NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS], 1)
    positions = torch.arange(num_tokens, device=DEVICE)
    cos_sin = torch.rand(num_tokens, HEAD_DIM, device=DEVICE)
    measure_bytes("rotary", case, 2 * (q.nbytes + k.nbytes), copy, lambda: rotary(q, k, positions, cos_sin))
    k_cache = random(num_tokens // 64 + 1, NUM_KV_HEADS, 64, HEAD_DIM)
    v_cache = torch.empty_like(k_cache)
    slots = torch.randperm(num_tokens, device=DEVICE)
    measure_bytes(
        "kv_write", case, 2 * (k.nbytes + v.nbytes), copy, lambda: kv_write(k, v, k_cache, v_cache, slots)
    )


def measure_token_bitmask(num_seqs: int, copy: float) -> None:
    """Masks that forbid every token, which writes the most."""
    logits = torch.zeros(num_seqs, VOCAB, device=DEVICE)
    masks = torch.zeros(num_seqs, VOCAB // 32, dtype=torch.int32, device=DEVICE)
    rows = torch.arange(num_seqs, device=DEVICE)
    num_bytes = logits.nbytes + masks.nbytes
    call = functools.partial(token_bitmask, logits, rows, masks)
    measure_bytes("token_bitmask", f"{num_seqs} x {VOCAB}", num_bytes, copy, call)


def sampling_tables(num_seqs: int, flags: int, filters: tuple[float, float, float]) -> SamplingState:
    """All rows ask for the same, at temperature 1."""

    def table(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((num_seqs,), value, dtype=dtype, device=DEVICE)

    tokens = torch.zeros(num_seqs, MAX_TOKENS, dtype=torch.int32, device=DEVICE)
    keys, lens = torch.arange(num_seqs, device=DEVICE), table(1, torch.int64)
    state = SamplingState.allocate(table(1.0, torch.float32), keys, lens, tokens, VOCAB)
    state.flags.fill_(flags)
    state.filters.copy_(torch.tensor(filters))
    state.penalties.copy_(torch.tensor((1.1, 0.5, 0.5)))
    state.masks.fill_(-1)
    state.num_top.fill_(20)
    state.listed.fill_(-1)
    return state


def measure_sampling(num_seqs: int, copy: float) -> None:
    """From flat logits, the worst case of a search, with a fill of the lengths; the floor is one read."""
    logits = random(num_seqs, VOCAB)
    rows = torch.arange(num_seqs, device=DEVICE)
    case = f"{num_seqs} x {VOCAB}"
    plain = sampling_tables(num_seqs, 0, (0, 1, 0))
    tables = (plain.temperatures, plain.keys, plain.num_tokens, plain.token_table)

    def measure(kernel: str, state: SamplingState, call: Callable[[], object]) -> None:
        def timed() -> None:
            call()
            state.num_tokens.fill_(1)  # or the tokens would outgrow their table

        measure_bytes(kernel, case, logits.nbytes, copy, timed)

    measure("sample", plain, lambda: sample(logits, rows, *tables))
    measure("shaped_sample, nothing asked", plain, lambda: shaped_sample(logits, rows, plain))
    for name, flags, filters in (
        ("min_p", FILTERED.value, (0, 1, 0.05)),
        ("top_k", FILTERED.value, (50, 1, 0)),
        ("top_p", FILTERED.value, (0, 0.9, 0)),
        ("top_k, top_p and min_p", FILTERED.value, (50, 0.9, 0.05)),
        ("penalties and mask", PENALISED.value | MASKED.value, (0, 1, 0)),
        ("penalties and top_p", PENALISED.value | FILTERED.value, (0, 0.9, 0)),
    ):
        state = sampling_tables(num_seqs, flags, filters)
        measure(f"shaped_sample, {name}", state, functools.partial(shaped_sample, logits, rows, state))
    asked, out = sampling_tables(num_seqs, REPORTED.value, (0, 1, 0)), Descriptions.allocate(num_seqs, DEVICE)
    describe = functools.partial(describe_tokens, logits, rows, rows, asked, out)
    measure("describe_tokens, top 20", asked, describe)


def measure_lora(num_tokens: int, rank: int, copy: float) -> None:
    """Four adapters on queries, keys and values, one token after another."""
    parts = [NUM_HEADS * HEAD_DIM, NUM_KV_HEADS * HEAD_DIM, NUM_KV_HEADS * HEAD_DIM]
    x, y = random(num_tokens, HIDDEN), random(num_tokens, sum(parts))
    a, b = random(4, 3 * rank, HIDDEN), random(4, sum(parts), rank)
    slots = torch.arange(num_tokens, dtype=torch.int32, device=DEVICE) % 4 + 1
    num_slots = min(num_tokens, 4)
    num_bytes = (a.nbytes + b.nbytes) * num_slots // 4 + x.nbytes + 2 * y.nbytes
    call = functools.partial(lora_add, x, y, a, b, parts, LoraTokens(slots))
    measure_bytes("lora_add", f"{num_tokens} tokens, rank {rank}", num_bytes, copy, call)


def measure_fp8(num_tokens: int, copy: float) -> None:
    """The product before the activation, beside the same of 16 bits; many rows are bound by operations."""
    x, wide = random(num_tokens, HIDDEN), random(2 * INTERMEDIATE, HIDDEN)
    weight = Fp8Weight.of(wide)
    case = f"{num_tokens} x {HIDDEN} x {len(wide)}"
    flop = 2 * num_tokens * wide.numel()
    wide_us = median_us(lambda: functional.linear(x, wide))

    def figures(seconds: float) -> Figures:
        num_bytes = weight.values.nbytes + num_tokens * len(wide) * DTYPE.itemsize
        return {
            "of_copy": num_bytes / seconds / copy,
            "tflop_s": flop / seconds / 1e12,
            "speed_up": wide_us / 1e6 / seconds,
        }

    report("fp8_linear", case, lambda: fp8_linear(x, weight), figures)
    measure_bytes("fp8_quantize", case, 3 * x.numel(), copy, lambda: fp8_quantize(x))


def measure_few_rows(num_tokens: int, name: str, copy: float) -> None:
    """Products of so few rows that the weight is all that counts, beside cuBLAS; gated where the model gates.

    So many weights take turns that the L2 cache holds none of them.
    """
    num_outputs, num_inputs = WEIGHTS[name]
    cache = torch.cuda.get_device_properties(DEVICE).L2_cache_size
    count = 1 + 4 * cache // (num_outputs * num_inputs * DTYPE.itemsize)
    weights = [random(num_outputs, num_inputs) for _ in range(count)]
    x = random(num_tokens, num_inputs)

    def turns_us(multiply: Callable[[torch.Tensor], object]) -> float:
        turns = itertools.cycle(weights)
        passes = -(-8 // count)

        def call() -> None:
            for weight in itertools.islice(turns, passes * count):
                multiply(weight)

        return median_us(call) / (passes * count)

    is_gated = name.endswith("gate_up")
    product = linear_silu_mul if is_gated else linear
    microseconds = turns_us(lambda weight: product(x, LinearWeight(plain=weight)))
    cublas = functools.partial(functional.linear, x)
    cublas_us = turns_us((lambda weight: silu_mul(cublas(weight))) if is_gated else cublas)
    numbers = {
        "us": microseconds,
        "cublas_us": cublas_us,
        "of_copy": weights[0].nbytes / (1e-6 * microseconds) / copy,
    }
    case = {"kernel": "linear_silu_mul" if is_gated else "linear", "case": f"{num_tokens} rows, {name}"}
    print(json.dumps(case | {key: round(value, 3) for key, value in numbers.items()}), flush=True)


def make_metadata(num_seqs: int, query: int, context: int, block_size: int) -> AttentionMetadata:
    blocks_each = -(-context // block_size)
    blocks = torch.randperm(num_seqs * blocks_each, dtype=torch.int32, device=DEVICE)
    return AttentionMetadata(
        query_start=torch.arange(0, num_seqs * query + 1, query, dtype=torch.int32, device=DEVICE),
        context_lens=torch.full((num_seqs,), context, dtype=torch.int32, device=DEVICE),
        block_tables=blocks.view(num_seqs, blocks_each),
        query_lens=[query] * num_seqs,
        context_lens_list=[context] * num_seqs,
        num_decodes=num_seqs if query == 1 else 0,
    )


def attention_call(num_seqs: int, query: int, context: int, block_size: int) -> Callable[[], object]:
    metadata = make_metadata(num_seqs, query, context, block_size)
    q = random(num_seqs * query, NUM_HEADS, HEAD_DIM)
    k_cache = random(metadata.block_tables.numel(), NUM_KV_HEADS, block_size, HEAD_DIM)
    v_cache = random(*k_cache.shape)
    return lambda: paged_attention(q, k_cache, v_cache, metadata, HEAD_DIM**-0.5)


def measure_decode(num_seqs: int, context: int, block_size: int, copy: float) -> None:
    num_bytes = num_seqs * context * NUM_KV_HEADS * HEAD_DIM * 2 * DTYPE.itemsize
    case = f"{num_seqs} x {context}, block {block_size}"
    call = attention_call(num_seqs, 1, context, block_size)
    measure_bytes("decode_attention", case, num_bytes, copy, call)


def measure_prefill(num_seqs: int, query: int, context: int, block_size: int) -> None:
    flop = 4 * num_seqs * NUM_HEADS * HEAD_DIM * query * (context - query / 2)

    def figures(seconds: float) -> Figures:
        speeds = {"tflop_s": flop / seconds / 1e12}
        if query == context:
            heads = (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS)
            q, k, v = (random(num_seqs, number, query, HEAD_DIM) for number in heads)
            attend = functools.partial(
                functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True
            )
            speeds["torch_tflop_s"] = flop / median_us(lambda: attend(q, k, v)) / 1e6
        return speeds

    call = attention_call(num_seqs, query, context, block_size)
    report("prefill_attention", f"{num_seqs} x {query} of {context}, block {block_size}", call, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--commit", default="unknown", help="the commit that is measured")
    commit = parser.parse_args().commit
    copy = copy_bandwidth()
    machine = {
        "device": torch.cuda.get_device_name(DEVICE),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": commit,
        "dtype": str(DTYPE).removeprefix("torch."),
        "copy_gb_s": round(copy / 1e9),
    }
    print(json.dumps(machine), flush=True)
    for num_tokens in TOKEN_COUNTS:
        measure_small_kernels(num_tokens, copy)
        for rank in (16, 64):
            measure_lora(num_tokens, rank, copy)
        measure_fp8(num_tokens, copy)
    for name, num_tokens in itertools.product(WEIGHTS, (1, 2, 4, 8, 16)):
        measure_few_rows(num_tokens, name, copy)
    for num_seqs in (1, 32, 256):
        measure_token_bitmask(num_seqs, copy)
    for num_seqs in (1, 32, 128, 256):
        measure_sampling(num_seqs, copy)
    for block_size in (16, 64):
        for num_seqs, context in DECODES:
            measure_decode(num_seqs, context, block_size, copy)
        for num_seqs, query, context in PREFILLS:
            measure_prefill(num_seqs, query, context, block_size)


if __name__ == "__main__":
    main()

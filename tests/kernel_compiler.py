"""Compiles the kernels for an H100, on any machine, and reports what the compiler made of them.

A program of its own, as kernels that were imported to be interpreted cannot be compiled. It prints one
JSON object: case name -> Report.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.add_rms_norm import add_rms_norm_kernel
from kernels.adjust_logits import adjust_logits_kernel, edit_logits_kernel
from kernels.decode_attention import decode_attention_kernel
from kernels.decode_inputs import decode_inputs_kernel
from kernels.describe_tokens import describe_tiles_kernel, merge_lists_kernel
from kernels.find_threshold import (
    CAPACITY,
    MAX_CANDIDATES,
    MAX_GROUPS,
    MAX_REGISTERS,
    NUM_PIVOTS,
    NUM_PIVOTS_AMONG_FEW,
    ROWS_AT_ONCE,
    begin_search_kernel,
    narrow_search_kernel,
    search_kernel,
)
from kernels.fp8_linear import fp8_vector_linear_kernel
from kernels.fp8_quantize import fp8_quantize_kernel
from kernels.kv_write import kv_write_kernel
from kernels.launch import decode_launch, lora_launch, prefill_launch, row_launch, skinny_launch
from kernels.lora import lora_expand_kernel, lora_shrink_kernel
from kernels.prefill_attention import prefill_attention_kernel
from kernels.rms_norm import rms_norm_kernel
from kernels.rotary import rotary_kernel
from kernels.rotary_write import rotary_write_kernel
from kernels.sample import choose_token_kernel, reduce_tiles_kernel
from kernels.sampling_state import GROUP, MAX_EDITS, MAX_LISTED, MAX_TOP
from kernels.shaped_sample import choose_shaped_kernel, reduce_logits_kernel, weigh_kept_kernel
from kernels.silu_mul import silu_mul_kernel
from kernels.skinny_linear import skinny_linear_kernel
from kernels.token_bitmask import token_bitmask_kernel
from kernels.vector_linear import vector_linear_kernel

TARGET = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {
    "query_start_ptr": "*i32",
    "context_lens_ptr": "*i32",
    "block_tables_ptr": "*i32",
    "block_table_ptr": "*i32",
    "token_table_ptr": "*i32",
    "token_ids_ptr": "*i32",
    "places_ptr": "*i32",
    "masks_ptr": "*i32",
    "counters_ptr": "*i32",
    "parts_ptr": "*fp32",
    "log_weights_ptr": "*fp32",
    "rows_ptr": "*i64",
    "num_tokens_ptr": "*i64",
    "keys_ptr": "*i64",
    "tokens_ptr": "*i64",
    "positions_ptr": "*i64",
    "slots_ptr": "*i64",
    "temperatures_ptr": "*fp32",
    "peaks_ptr": "*fp32",
    "weights_ptr": "*fp32",
    "inner_ptr": "*fp32",
    "flags_ptr": "*i32",
    "num_top_ptr": "*i32",
    "listed_ptr": "*i32",
    "ranks_ptr": "*i32",
    "top_ids_ptr": "*i32",
    "num_larger_ptr": "*i32",
    "thresholds_ptr": "*i32",
    "edit_tokens_ptr": "*i32",
    "groups_ptr": "*i32",
    "num_kept_ptr": "*i32",
    "counts_ptr": "*i16",
    "lists_ptr": "*i64",
    "restrained_until_ptr": "*i64",
    "filters_ptr": "*fp32",
    "penalties_ptr": "*fp32",
    "adjusted_ptr": "*fp32",
    "raw_peaks_ptr": "*fp32",
    "edit_values_ptr": "*fp32",
    "sums_ptr": "*fp32",
    "extremes_ptr": "*fp32",
    "group_peaks_ptr": "*fp32",
    "candidates_ptr": "*fp32",
    "kept_ptr": "*fp32",
    "logprobs_ptr": "*fp32",
    "top_logprobs_ptr": "*fp32",
    "listed_logprobs_ptr": "*fp32",
    "state_ptr": "*fp64",
    "token_slots_ptr": "*i32",
    "q_weight_ptr": "*fp8e4nv",
    "quantized_ptr": "*fp8e4nv",
    "row_scales_ptr": "*fp32",
    "cos_sin_ptr": "*fp32",
    "scale_log2": "fp32",
    "softcap_log2": "fp32",
    "epsilon": "fp32",
}


@dataclass(frozen=True)
class Report:
    registers: int
    """Of a thread."""
    stack_bytes: int
    """Of a thread; above 0, registers spill to memory."""
    num_wgmma: int
    """Tensor-core instructions of a whole warp group."""
    num_mma: int
    """Tensor-core instructions of one warp."""
    num_wide_copies: int
    """Asynchronous copies of 16 bytes."""


def compile_kernel(
    kernel: Any,
    constants: dict[str, int],
    num_warps: int,
    num_stages: int = 1,
    maxnreg: int | None = None,
) -> Report:
    """Compile for bfloat16 tensors whose addresses and strides are multiples of 16."""
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = TYPES.get(name, "*bf16" if name.endswith("_ptr") else "i32")
        if name.endswith(("_ptr", "_stride")) or name == "K":
            attributes[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=TARGET,
        options={"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg},
    )
    ptx = compiled.asm["ptx"]
    registers, stack_bytes = resource_usage(compiled.asm["cubin"])
    return Report(
        registers=registers,
        stack_bytes=stack_bytes,
        num_wgmma=ptx.count("wgmma.mma_async"),
        num_mma=ptx.count("mma.sync"),
        num_wide_copies=len(re.findall(r"cp\.async\.cg\S* .*0x10", ptx)),
    )


def resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def compile_attention(head_dim: int, block_size: int) -> dict[str, Report]:
    """Compile prefill for short and long queries, and decode, with the settings of the launch table."""
    shape = {
        "NUM_KV_HEADS": 8,
        "GROUP": 4,
        "BLOCK_SIZE": block_size,
        "HEAD_DIM": head_dim,
        "BLOCK_D": head_dim,
        "WINDOW": 0,
        "SOFTCAPPED": 0,
        "SINKS": 0,
    }
    reports = {}
    for name, rows, is_split in (("short", 64, 0), ("split", 64, 1), ("long", 1 << 16, 0)):
        launch = prefill_launch("sm90", head_dim, 2, rows)
        reports[f"prefill {name} d{head_dim} b{block_size}"] = compile_kernel(
            prefill_attention_kernel,
            {
                **shape,
                "BLOCK_M": launch.block_m,
                "BLOCK_N": launch.block_n,
                "IS_SPLIT": is_split,
                "IS_PACKED": name != "long",
            },
            launch.num_warps,
            launch.num_stages,
        )
    launch = decode_launch("sm90", head_dim, 2, shape["GROUP"], is_deep=True)
    reports[f"decode d{head_dim} b{block_size}"] = compile_kernel(
        decode_attention_kernel,
        {
            **shape,
            "BLOCK_M": launch.block_m,
            "BLOCK_N": launch.block_n,
            "BLOCK_R": 4,
            "BLOCK_P": 8,
            "IS_SPLIT": 1,
        },
        launch.num_warps,
        launch.num_stages,
    )
    return reports


def compile_others() -> dict[str, Report]:
    """Compile the kernels that only move data, in the shapes of an 8B model."""
    warps = row_launch(4096).num_warps
    heads = {"NUM_KV_HEADS": 8, "HEAD_DIM": 128, "BLOCK_D": 128}
    halves = {"NUM_HEADS": 32, "NUM_KV_HEADS": 8, "HALF": 64, "BLOCK_HEADS": 32, "BLOCK_HALF": 64}
    turned = halves | {"BLOCK_SIZE": 64, "BLOCK_KV_HEADS": 8, "NORMS": 1}
    tiles = {"VOCAB": 151936, "NUM_TILES": 38, "TILE": 4096}
    vector = {"GATED": 1, "BLOCK_N": 2, "BLOCK_K": 1024}
    eight_bits = {"GATED": 1, "BLOCK_N": 8, "BLOCK_K": 512}
    return {
        "fp8_vector_linear": compile_kernel(fp8_vector_linear_kernel, eight_bits, 4),
        "fp8_quantize": compile_kernel(fp8_quantize_kernel, {"GATED": 0, "K": 4096, "BLOCK_K": 2048}, 8),
        "vector_linear": compile_kernel(vector_linear_kernel, vector, 4),
        "rotary_write": compile_kernel(rotary_write_kernel, turned, 4),
        "inputs of decodes": compile_kernel(decode_inputs_kernel, {"BLOCK_SIZE": 64, "BLOCK": 256}, 2),
        "reduce_tiles": compile_kernel(reduce_tiles_kernel, tiles, 8),
        "token_bitmask": compile_kernel(token_bitmask_kernel, {"VOCAB": 151936, "BLOCK": 2048}, 4),
        "choose_token": compile_kernel(choose_token_kernel, {**tiles, "BLOCK_TILES": 64}, 8),
        "rms_norm": compile_kernel(rms_norm_kernel, {"INNER": 1, "D": 4096, "BLOCK_D": 4096}, warps),
        "add_rms_norm": compile_kernel(add_rms_norm_kernel, {"D": 4096, "BLOCK_D": 4096}, warps),
        "silu_mul": compile_kernel(silu_mul_kernel, {"D": 14336, "BLOCK_D": 1024}, 4),
        "rotary": compile_kernel(rotary_kernel, halves, 4),
        "kv_write": compile_kernel(kv_write_kernel, {**heads, "BLOCK_SIZE": 64, "BLOCK_HEADS": 8}, 4),
    }


def compile_sampling() -> dict[str, Report]:
    """Compile what samples by more than a temperature, for a vocabulary of 151,936 tokens."""
    vocab = {"VOCAB": 151936}
    tiles = {**vocab, "NUM_TILES": 38, "TILE": 4096}
    blocks = {**tiles, "BLOCK_TILES": 64}
    search = {**tiles, "CAPACITY": CAPACITY, "N": NUM_PIVOTS}
    one_program = {
        "BLOCK_TILES": 64,
        "FEW": NUM_PIVOTS_AMONG_FEW,
        "ROWS": ROWS_AT_ONCE,
        "MAX_CANDIDATES": MAX_CANDIDATES,
    }
    narrow = {**search, **one_program}
    groups = {"GROUPS": 4096 // GROUP, "GROUP": GROUP, "MAX_GROUPS": MAX_GROUPS}
    begin = {**vocab, "NUM_TILES": 38, **one_program, **groups}
    merge = {**vocab, "NUM_TILES": 38, "BLOCK_TILES": 64, "MAX_TOP": MAX_TOP, "MAX_LISTED": MAX_LISTED}
    return {
        "adjust_logits": compile_kernel(adjust_logits_kernel, {**tiles, "WORDS": 4748}, 8),
        "edit_logits": compile_kernel(edit_logits_kernel, {**vocab, "MAX_EDITS": MAX_EDITS}, 4),
        "begin_search": compile_kernel(begin_search_kernel, begin, 8),
        "search": compile_kernel(search_kernel, search, 8, maxnreg=MAX_REGISTERS),
        "narrow_search": compile_kernel(narrow_search_kernel, {**narrow, "IS_LAST": 0}, 8),
        "narrow_search last": compile_kernel(narrow_search_kernel, {**narrow, "IS_LAST": 1}, 8),
        "reduce_logits": compile_kernel(reduce_logits_kernel, {**tiles, "GROUP": GROUP}, 8),
        "weigh_kept": compile_kernel(weigh_kept_kernel, tiles, 8),
        "choose_shaped": compile_kernel(choose_shaped_kernel, blocks, 8),
        "describe_tiles": compile_kernel(describe_tiles_kernel, {**tiles, "MAX_TOP": MAX_TOP}, 8),
        "merge_lists": compile_kernel(merge_lists_kernel, merge, 2),
    }


def compile_lora(rank: int) -> dict[str, Report]:
    """Compile both kernels of `lora_add` for queries, keys and values."""
    launch = lora_launch(2)
    shared = {"WIDTH": 3 * rank, "NUM_SLOTS": 4, "SPLITS": launch.splits, "BLOCK_T": launch.block_t}
    shrink = {"BLOCK_R": 16, "BLOCK_K": launch.block_k}
    expand = {"RANK": rank, "BLOCK_N": launch.block_n, "BLOCK_R": min(rank, launch.max_block_r)}
    return {
        f"lora_{name} r{rank}": compile_kernel(
            kernel, {**shared, **constants}, launch.num_warps, launch.num_stages
        )
        for name, kernel, constants in (
            ("shrink", lora_shrink_kernel, shrink),
            ("expand", lora_expand_kernel, expand),
        )
    }


def compile_skinny(num_rows: int, num_outputs: int, num_inputs: int) -> dict[str, Report]:
    """Compile a few rows times a weight, plain and gated, with the settings of the launch table."""
    launch = skinny_launch("sm90", num_rows, num_outputs, num_inputs)
    if launch is None:
        return {}
    constants = {
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "SPLITS": launch.splits,
    }
    return {
        f"skinny_linear {name} {num_rows} x {num_outputs} x {num_inputs}": compile_kernel(
            skinny_linear_kernel, {**constants, "GATED": gated}, launch.num_warps, launch.num_stages
        )
        for name, gated in (("plain", 0), ("gated", 1))
    }


def main() -> None:
    reports = compile_others() | compile_sampling()
    for num_outputs, num_inputs in ((4096, 4096), (28672, 4096), (4096, 14336)):
        reports |= compile_skinny(4, num_outputs, num_inputs)
    for rank in (16, 64, 256):
        reports |= compile_lora(rank)
    for head_dim, block_size in ((64, 16), (128, 16), (128, 64), (256, 16)):
        reports |= compile_attention(head_dim, block_size)
    json.dump({name: asdict(report) for name, report in reports.items()}, sys.stdout)


if __name__ == "__main__":
    main()

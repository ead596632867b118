"""One tensor operation per file: formula, torch reference (the CPU path), Triton kernel (the GPU path)."""

"""The CPU path of steps with few tokens: one C file, compiled on first use."""

"""The paged-KV engine: schedules requests, runs the model, samples tokens. Knows no transport."""

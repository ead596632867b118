"""The figures of several processes as one text."""

from __future__ import annotations

from exposition import Scrape, problems
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from translator.process_metrics import decode, encode, exposition, families_of


def measured(tokens: int) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    Counter("vllm:generation_tokens", "Tokens.", ("model_name",), registry=registry).labels("m").inc(tokens)
    Gauge("running", "Now.", registry=registry).set(tokens / 2)
    Histogram("seconds", "Times.", buckets=(1.0,), registry=registry).observe(tokens)
    return registry


def test_each_sample_says_whose_it_is() -> None:
    families = {index: decode(encode(families_of(measured(10 * index)))) for index in (2, 1)}
    text = exposition(families).decode()
    assert problems(text) == []
    assert text.count("# TYPE vllm:generation_tokens_total counter") == 1
    scrape = Scrape(text)
    for process, tokens in (("1", 10), ("2", 20)):
        assert scrape.value("vllm:generation_tokens_total", model_name="m", process=process) == tokens
        assert scrape.value("running", process=process) == tokens / 2
        assert scrape.value("seconds_bucket", le="+Inf", process=process) == 1
        assert scrape.value("seconds_sum", process=process) == tokens

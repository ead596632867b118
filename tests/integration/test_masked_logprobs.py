"""Log probabilities where most of the vocabulary is masked: valid JSON, from the default model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from said import strict

if TYPE_CHECKING:
    from processes import House

MASKS: dict[str, dict[str, Any]] = {
    "one token": {"allowed_token_ids": [28]},
    "three tokens": {"allowed_token_ids": [28, 260, 282]},
    "a choice": {"guided_choice": ["yes", "no"]},
    "biases": {"logit_bias": {"28": -100, "30": 100}},
    "top_k": {"top_k": 1},
    "nothing": {},
}


@pytest.mark.check("R15")
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("name", MASKS)
def test_answers_are_json(house: House, name: str, temperature: float) -> None:
    body = {
        "max_tokens": 3,
        "temperature": temperature,
        "seed": 1,
        "model": "smollm2-135m-instruct",
        **MASKS[name],
    }
    said = [{"role": "user", "content": "Yes or no?"}]
    for path, fields in (
        ("/v1/completions", {"prompt": "Yes or no?", "logprobs": 20, "echo": True}),
        ("/v1/chat/completions", {"messages": said, "logprobs": True, "top_logprobs": 20}),
    ):
        response = httpx.post(house.base_url + path, json=body | fields, timeout=100)
        assert response.status_code == 200, response.text
        choice = strict(response.text)["choices"][0]
        if "content" in choice["logprobs"]:
            values = [
                one["logprob"]
                for each in choice["logprobs"]["content"]
                for one in (each, *each["top_logprobs"])
            ]
        else:
            assert choice["logprobs"]["token_logprobs"][0] is None
            values = [one for top in choice["logprobs"]["top_logprobs"][1:] for one in top.values()]
        assert values
        assert all(-9999 <= value <= 0 for value in values)

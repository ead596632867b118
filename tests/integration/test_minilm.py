"""A real sentence encoder by both doors, against transformers: the model that a wheel brings."""

from __future__ import annotations

import json
import random
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import openai
import pytest
import torch
import transformers
from processes import pagewire_up

from engine.config import EngineConfig
from pagewire import Client, InvalidRequestError
from server.config import ServerConfig
from server.model_store import resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from processes import House

NAME = "all-minilm-l6-v2"
MAX_TOKENS = 256
TEXT = (
    "the a cat dog sat ran over under Paris Berlin model tokens ENGINE quickly slow blue Red Ünïcode naïve"
    " 你好 it's don't e-mail 42 3.14 ! ? , . ; : — (x) @home #tag http://example.org/a?b=c 🙂 Straße résumé"
)

Vectors = np.ndarray[Any, np.dtype[np.float32]]


def varied_sentences() -> list[str]:
    """Return texts of 1 to 40 words, one that is too long, and some that are odd."""
    choose = random.Random(0)
    lengths = [300] + [choose.choice((1, 2, 3, 5, 8, 15, 40)) for _ in range(110)]
    odd = [
        "a",
        " two  spaces ",
        "line\nbreak\ttab",
        "ALL CAPITALS",
        "[MASK] and [SEP]",
        "x" * 400,
        "日本語のテキスト",
    ]
    return odd + [" ".join(choose.choices(TEXT.split(), k=length)) for length in lengths]


@pytest.fixture(scope="module")
def minilm_path() -> Path:
    """The model's folder, downloaded into the user's cache the first time."""
    return resolve_model(ServerConfig(model=NAME, engine=EngineConfig(model_path="")), lambda *_: None)


@pytest.fixture(scope="module")
def minilm(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pagewire_up(tmp_path_factory.mktemp("minilm") / "log", f"--model={NAME}") as house:
        house.wait_until_ready()
        yield house


class Reference:
    """What sentence-transformers does: cut at the model's length, mean over the tokens, length 1."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        auto: Any = transformers.AutoModel
        tokenizers: Any = transformers.AutoTokenizer
        self._model = auto.from_pretrained(folder).eval()
        self._tokenizer = tokenizers.from_pretrained(folder)

    def embed(self, sentences: Sequence[str]) -> Vectors:
        return np.stack([self._embed(sentence) for sentence in sentences])

    def _embed(self, sentence: str) -> Vectors:
        inputs = self._tokenizer(sentence, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.no_grad():
            vector = self._model(**inputs).last_hidden_state[0].mean(dim=0)
        return np.asarray(torch.nn.functional.normalize(vector, dim=0).numpy())


@pytest.fixture(scope="module")
def reference(minilm_path: Path) -> Reference:
    return Reference(minilm_path)


@pytest.fixture
def client(minilm: House) -> Iterator[Client]:
    with Client(minilm.grpc_target, timeout=100) as client:
        yield client


@pytest.fixture
def openai_client(minilm: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{minilm.base_url}/v1", api_key="none", timeout=100) as client:
        yield client


def test_vectors_are_those_of_the_reference(
    client: Client, openai_client: openai.OpenAI, reference: Reference
) -> None:
    sentences = varied_sentences()
    expected = reference.embed(sentences)
    response = client.embed(sentences, truncate_prompt_tokens=-1)
    found = np.array([one.values for one in response.embeddings])
    assert (found * expected).sum(axis=1).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert max(one.num_tokens for one in response.embeddings) == MAX_TOKENS
    assert response.num_prompt_tokens == sum(one.num_tokens for one in response.embeddings)
    answer = openai_client.embeddings.create(
        model=NAME, input=sentences, extra_body={"truncate_prompt_tokens": -1}
    )
    over_http = np.array([one.embedding for one in answer.data])
    assert (over_http * found).sum(axis=1).min() >= 0.9999
    assert answer.usage.total_tokens == response.num_prompt_tokens


def test_similar_sentences_are_near(openai_client: openai.OpenAI) -> None:
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply today."]
    vectors = [one.embedding for one in openai_client.embeddings.create(model=NAME, input=texts).data]
    near, far = np.dot(vectors[0], vectors[1]), np.dot(vectors[0], vectors[2])
    assert near > 0.6 > 0.2 > far


def test_letters_are_the_same_in_either_case(client: Client) -> None:
    upper, lower = (one.values for one in client.embed(["HELLO World", "hello world"]).embeddings)
    assert list(upper) == pytest.approx(list(lower), abs=1e-6)


def test_token_ids_are_what_the_tokenizer_makes(client: Client) -> None:
    token_ids = client.tokenize("hello world")
    assert token_ids == [101, 7592, 2088, 102]
    assert client.detokenize(token_ids, skip_special_tokens=True) == "hello world"
    text, ids = client.embed("hello world"), client.embed(token_ids)
    assert list(ids.embeddings[0].values) == pytest.approx(list(text.embeddings[0].values), abs=1e-6)


def test_dimensions_are_cut_before_vectors_are_scaled(client: Client) -> None:
    whole = np.array(client.embed("hello").embeddings[0].values)
    cut = np.array(client.embed("hello", dimensions=64).embeddings[0].values)
    np.testing.assert_allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-6)


def test_a_text_that_is_too_long_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"maximum context length is 256 tokens.*has 302 tokens"):
        client.embed("a " * 300)


def test_an_encoder_generates_nothing(minilm: House, client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=f"'{NAME}' makes embeddings") as caught:
        client.generate("hello")
    assert caught.value.reason == "UNSUPPORTED_BY_MODEL"
    body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}]}
    response = httpx.post(f"{minilm.base_url}/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "model", "unsupported_by_model")
    assert NAME in error["message"]


def test_the_model_says_what_it_can(minilm: House, client: Client) -> None:
    (model,) = client.models()
    assert (model.can_generate, model.embedding_dimensions, model.max_model_len) == (False, 384, MAX_TOKENS)
    card = httpx.get(f"{minilm.base_url}/v1/models").json()["data"][0]
    assert card["id"] == NAME


def test_the_last_line_of_up_embeds(minilm: House) -> None:
    assert minilm.process.stdout is not None
    command = minilm.process.stdout.readline().partition("Try: ")[2]
    done = subprocess.run(
        [*shlex.split(command), "--silent"], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 384

"""LoRA adapters through both doors of a real server, against peft."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import httpx
import pytest
from greedy import generate_with_transformers, random_prompt
from processes import House, pagewire_up, wait_until
from tiny_adapter import SETTINGS, make_tiny_adapter, with_adapter
from tiny_model import make_tiny_model, make_tiny_transformer

from pagewire import Client, NotFoundError
from pagewire.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUM_NEW_TOKENS = 12
PROMPT = random_prompt(30)


class Kin(NamedTuple):
    house: House
    folders: dict[str, Path]
    expected: dict[str, list[int]]
    """Greedy tokens of the base model, "", and of each adapter."""


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kin]:
    folder = tmp_path_factory.mktemp("kin")
    base = make_tiny_model(folder / "base")
    make_model = partial(make_tiny_transformer, "smollm2")
    models = {"": make_model()}
    folders = {}
    for name, settings in SETTINGS.items():
        folders[name] = make_tiny_adapter(folder / name, make_model, **settings)
        models[name] = with_adapter(make_model(), folders[name])
    expected = {
        name: generate_with_transformers(model, PROMPT, NUM_NEW_TOKENS) for name, model in models.items()
    }
    flags = [
        f"--model={base}",
        "--max-loras=2",
        "--num-threads=1",
        "--lora-modules",
        f"small={folders['small']}",
    ]
    flags.append(json.dumps({"name": "wide", "path": str(folders["wide"]), "base_model_name": "base"}))
    with pagewire_up(folder / "log", *flags, allows_admin_over_http=True) as house:
        house.wait_until_ready()
        yield Kin(house, folders, expected)


def over_http(house: House, model: str) -> httpx.Response:
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": NUM_NEW_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    return httpx.post(f"{house.base_url}/v1/completions", json=body, timeout=60)


def tokens_over_http(house: House, model: str) -> list[int]:
    response = over_http(house, model)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    token_ids: list[int] = response.json()["choices"][0]["token_ids"]
    return token_ids


def over_admin(house: House, method: str, request: Any) -> Any:
    with grpc.insecure_channel(house.admin_target) as channel:
        return getattr(admin_pb2_grpc.AdminServiceStub(channel), method)(request, timeout=60)


def test_adapters_of_the_start_answer_as_peft_does(kin: Kin) -> None:
    for name in ("base", "small", "wide"):
        assert tokens_over_http(kin.house, name) == kin.expected[name.replace("base", "")]
    with Client(kin.house.grpc_target, timeout=60) as client:
        for model, adapter in (("", "wide"), ("wide", ""), ("base", "wide")):
            response = client.generate(
                PROMPT,
                model=model,
                adapter=adapter,
                max_tokens=NUM_NEW_TOKENS,
                temperature=0,
                ignore_eos=True,
                token_ids=True,
            )
            assert response.started.model == "wide"
            assert list(response.choices[0].token_ids) == kin.expected["wide"]


def test_models_list_the_adapters(kin: Kin) -> None:
    cards = httpx.get(f"{kin.house.base_url}/v1/models", timeout=60).json()["data"]
    assert [(card["id"], card["root"], card["parent"]) for card in cards[:3]] == [
        ("base", "base", None),
        ("small", "small", "base"),
        ("wide", "wide", "base"),
    ]


def test_an_adapter_comes_goes_and_survives_a_crash(kin: Kin) -> None:
    house = kin.house
    assert over_http(house, "upper").status_code == 404
    body = {"lora_name": "upper", "lora_path": str(kin.folders["upper"])}
    response = httpx.post(f"{house.base_url}/v1/load_lora_adapter", json=body, timeout=60)
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'upper' added successfully.")
    assert tokens_over_http(house, "upper") == kin.expected["upper"]
    response = httpx.post(f"{house.base_url}/v1/load_lora_adapter", json=body, timeout=60)
    assert response.status_code == 400
    assert "'upper'" in response.json()["error"]["message"]

    os.kill(house.engine_pid(), signal.SIGKILL)
    wait_until(lambda: house.stats().num_engine_restarts == 1 and house.stats().ready, "the engine is back")
    assert tokens_over_http(house, "upper") == kin.expected["upper"]
    assert tokens_over_http(house, "small") == kin.expected["small"]

    replaced = admin_pb2.LoadAdapterRequest(name="upper", path=str(kin.folders["small"]), replace=True)
    assert over_admin(house, "LoadAdapter", replaced).adapter.rank == 4
    assert tokens_over_http(house, "upper") == kin.expected["small"]
    response = httpx.post(f"{house.base_url}/v1/unload_lora_adapter", json={"lora_name": "upper"}, timeout=60)
    assert response.status_code == 200
    refused = over_http(house, "upper")
    assert refused.status_code == 404
    assert "'upper'" in refused.json()["error"]["message"]
    with Client(house.grpc_target, timeout=60) as client, pytest.raises(NotFoundError, match="upper"):
        client.generate(PROMPT, adapter="upper")
    listed = over_admin(house, "ListAdapters", admin_pb2.ListAdaptersRequest()).adapters
    assert [adapter.name for adapter in listed] == ["small", "wide"]


def test_a_bad_adapter_is_refused_and_harms_nobody(kin: Kin) -> None:
    request = admin_pb2.LoadAdapterRequest(name="bad", path="/nowhere")
    with pytest.raises(grpc.RpcError) as caught:
        over_admin(kin.house, "LoadAdapter", request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "/nowhere" in error.details()
    assert tokens_over_http(kin.house, "wide") == kin.expected["wide"]

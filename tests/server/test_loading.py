"""What is said when a model is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from fakes import INFO
from tiny_model import make_tiny_model

from engine.config import EngineConfig
from server.config import ServerConfig
from server.loading import load

if TYPE_CHECKING:
    from pathlib import Path

    from server.engine_process import EngineProcess


class LoadedEngine:
    """An engine that is there at once."""

    async def loaded(self) -> Any:
        return msgspec.structs.replace(INFO, can_generate=False)


@pytest.mark.parametrize(("eos_token_id", "is_warned"), [(3, False), (INFO.vocab_size, True), (-1, True)])
async def test_an_ending_token_that_the_model_does_not_have_is_warned_of(
    eos_token_id: int, is_warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_token_id}))
    config = ServerConfig(engine=EngineConfig(model_path=str(tmp_path)))
    model = await load(config, tmp_path, cast("EngineProcess", LoadedEngine()))
    assert ("and has only 0 to" in caplog.text) is is_warned
    assert (eos_token_id in model.eos_token_ids) is not is_warned

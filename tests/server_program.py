"""A server process over the engine of `engine_program.py`: `python tests/server_program.py SETTINGS`.

SETTINGS is a JSON object with fields of ServerConfig; `engine` holds some of EngineConfig, `restarts` some of
RestartLimits, and `engine_program` the name of another program beside this one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cli.process import set_up_logging
from engine.config import EngineConfig
from server import app
from server.config import ServerConfig
from server.restart_policy import RestartLimits

if __name__ == "__main__":
    set_up_logging({})
    settings = json.loads(sys.argv[1])
    program = settings.pop("engine_program", "engine_program.py")
    engine_command = (sys.executable, str(Path(__file__).with_name(program)))
    limits = RestartLimits(**settings.pop("restarts", {}))
    engine = EngineConfig(model_path="", **settings.pop("engine", {}))
    sys.exit(app.run(ServerConfig(**settings, engine=engine), engine_command, limits))

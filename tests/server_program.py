"""A server process over the engine of `engine_program.py`: `python tests/server_program.py SETTINGS`.

SETTINGS is a JSON object with fields of ServerConfig.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from engine.config import EngineConfig
from server import app
from server.config import ServerConfig

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    engine_command = (sys.executable, str(Path(__file__).with_name("engine_program.py")))
    config = ServerConfig(**json.loads(sys.argv[1]), engine=EngineConfig(model_path=""))
    sys.exit(app.run(config, engine_command))

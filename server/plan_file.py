"""The plan of a run in its folder, config.json: written once, refused when it was changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import CheckpointError
from cardionets_core.run_config import RunConfig, run_config_from

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_FILE = "config.json"


def write_config(folder: Path, config: RunConfig) -> None:
    """Write the plan that the ServerApp will load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(to_mapping(config), indent=1))


def load_config(folder: Path, expected_hash: str = "") -> RunConfig:
    """Load the plan of a run folder.

    Raises:
        CheckpointError: there is none, it is torn, or it is not the one that was submitted.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG_FILE}; name a run folder, outputs/RUN.")
    try:
        values: Any = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is torn ({error}); start a new run.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no plan; start a new run.")
    config = run_config_from(values)
    if expected_hash and digest(config) != expected_hash:
        raise CheckpointError(f"{path} was changed after the run was submitted; start a new run.")
    return config

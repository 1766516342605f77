"""What a federation on one machine needs on disk and in the environment before it starts."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import sysconfig
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.flower_command import LOOPBACK
from client import warm

PACKAGES = Path(__file__).resolve().parents[1]
SERVER_APP_PROGRAM = "flwr-serverapp"
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check_sites(sites: Mapping[str, Path]) -> None:
    """Raise ConfigError unless every site has a usable name and an existing file."""
    if not sites:
        raise ConfigError("a federation needs at least one site; name site files to simulate")
    for name, path in sites.items():
        if not _SITE_NAME.fullmatch(name):
            raise ConfigError(
                f"site name {name!r}: use letters, digits, '.', '_' and '-' only, at most 63"
            )
        if not path.is_file():
            raise ConfigError(f"site {name}: its file {path} does not exist; correct the path")


def client_modules(bundle: Path) -> tuple[str, ...]:
    """Return the modules that the bundle's ClientApp needs; ours imports some of them late."""
    app = tomllib.loads((bundle / "pyproject.toml").read_text(encoding="utf-8"))
    module = str(app["tool"]["flwr"]["app"]["components"]["clientapp"]).partition(":")[0]
    return warm.APP_MODULES if module == warm.APP_MODULES[0] else (module,)


def healthy(port: int) -> bool:
    """Return whether a Flower process answers on its port."""
    try:
        with _no_proxy.open(f"http://{LOOPBACK}:{port}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def importable(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which the apps import the same packages as this process."""
    merged = {**os.environ, **env}
    known = merged.get("PYTHONPATH")
    merged["PYTHONPATH"] = f"{PACKAGES}{os.pathsep}{known}" if known else str(PACKAGES)
    return merged


def write_secret(path: Path) -> None:
    """Write a new secret that only this user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(48))


def lock_folder(path: Path) -> IO[str]:
    """Hold a run folder for one federation at a time; the lock dies with this process."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as held:
        file.close()
        raise EngineError(
            f"another federation runs in {path.parent.parent}; wait until it has ended or choose "
            "another output folder"
        ) from held
    return file


def write_logging_program(folder: Path, name: str, log: Path) -> Path:
    """Write a stand-in for a program of Flower that logs to a file, and return its folder.

    A SuperExec throws the output of a ServerApp away; Flower keeps a copy in the SuperLink, which
    is of no use for following a run, or after a crash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    original = Path(sysconfig.get_path("scripts")) / name
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(str(original))} "$@" >>{shlex.quote(str(log))} 2>&1\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return folder

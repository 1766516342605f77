"""The processes of a coordinator: which they are, what they read, and that they stay alive."""

from __future__ import annotations

import secrets
import socket
import time
import tomllib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cardionets_core import warm
from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.flower_command import LOOPBACK, Command, ServerTls
from cardionets_core.ports import held_by
from cardionets_core.supervision import TICK_S, Kept, Processes, Stopped, ended_by_signals
from server import launch
from server.flower_cli import FlowerCli, ask
from server.plan_file import load_config
from server.status import standing, words
from server.supervisor import Supervisor, queue_of

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = ".engine"
"""Below the folder of all runs: what the processes of its coordinator keep."""

SECRET = "superexec.secret"

STATUS_S = 10.0
"""Seconds that `status` waits for the SuperLink to say who is online."""


def server_tls(
    certificate: Path | None, key: Path | None, authority: Path | None
) -> ServerTls | None:
    """Return the certificate files of the SuperLink; None where it shall speak plain HTTP.

    Raises:
        ConfigError: one of the three is not named, or is no file.
    """
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None or authority is None:
        raise ConfigError("TLS needs all three of --certificate, --key and --authority.")
    for option, path in (
        ("--certificate", certificate),
        ("--key", key),
        ("--authority", authority),
    ):
        if not path.is_file():
            raise ConfigError(f"{option} {path} does not exist; correct the path.")
    # Flower wants whole paths in its own files
    return ServerTls(certificate.resolve(), key.resolve(), authority.resolve())


def require_free(port: int) -> None:
    """Refuse a port that cannot be taken.

    Raises:
        EngineError: it is in use, or no port.
    """
    if held_by(port):
        raise EngineError(
            f"port {port} cannot be taken: it is in use or not a port; "
            "stop the process that holds it, or choose another with --port."
        )


def commands(home: Path, output: Path, *, port: int, tls: ServerTls | None) -> dict[str, Command]:
    """Return the processes of a coordinator by name; nothing is written."""
    socket_path, secret = warm.socket_below(home), home / SECRET
    return {
        "warm starter": warm.starter(
            warm.SERVER_PROGRAM, socket_path, home=home / "warm", modules=launch.APP_MODULES
        ),
        "superlink": launch.superlink(
            port=port,
            home=home / "superlink",
            secret=secret,
            database=home / "superlink.db",
            tls=tls,
        ),
        "superexec": launch.superexec(
            port=port,
            home=home / "superexec",
            secret=secret,
            outputs=output,
            root_certificates=tls.authority if tls is not None else None,
            env={warm.SOCKET_ENV: str(socket_path)},
            programs=home / "programs",
        ),
    }


def lay_out(home: Path, port: int, trust: Path | None) -> None:
    """Write what the processes of a coordinator read."""
    _make_secret(home)
    launch.write_connection(home / "cli", port=port, root_certificates=trust)
    warm.install(warm.SERVER_PROGRAM, home / "programs")


def _make_secret(home: Path) -> None:
    """Write the secret that SuperLink and SuperExec share, once."""
    secret = home / SECRET
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_bytes(secrets.token_bytes(48))


def keep_running(
    processes: Mapping[str, Command],
    output: Path,
    *,
    port: int,
    resume: bool,
    claimed: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Keep the coordinator's processes and its runs alive until a signal ends it.

    Args:
        processes: their commands by name.
        output: folder of all runs.
        port: of the SuperLink.
        resume: start runs again whose server is gone.
        claimed: called once the folder is this coordinator's, before anything is started.
        say: prints a line.
    """
    home, started = output / ENGINE, Processes()
    kept = [Kept(name, command, started, say=say) for name, command in processes.items()]
    supervisor = Supervisor(
        output,
        home=home,
        kept=kept,
        engine=FlowerCli(home / "cli"),
        say=say,
        resume=resume,
        ready=lambda: _answers(port),
        ended=_tell_mlflow,
    )
    try:
        with ended_by_signals():
            supervisor.start()
            claimed()
            while True:
                supervisor.tick(time.monotonic())
                time.sleep(TICK_S)
    except Stopped:
        say("stopping; runs go on at the next start")
    finally:
        started.stop()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _tell_mlflow(folder: Path) -> None:
    from server.tracking import mark_state  # MLflow is slow to import and rarely needed here

    settings = load_config(folder).mlflow
    how = standing(folder, time.time())
    mark_state(
        folder,
        words(how),
        tracking_uri=settings.tracking_uri,
        experiment=settings.experiment,
    )


def coordinator_line(home: Path) -> str:
    """Return whether a coordinator looks after the runs, where, and who is online."""
    if not queue_of(home).alive:
        return "no coordinator is running for this folder (`cardionets-coordinator start`)"
    try:
        connection = tomllib.loads((home / "cli" / "config.toml").read_text())
        address = connection["superlink"][launch.CONNECTION]["address"]
        nodes = ask(launch.list_nodes(home=home / "cli"), within_s=STATUS_S).get("nodes", [])
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        return "the coordinator is running, and is just being started"
    except EngineError as error:
        return f"the coordinator is running on {address}; who is online is not known: {error}"
    online = sum(node["status"] == "online" for node in nodes)
    return f"the coordinator is running on {address}; sites online: {online}"

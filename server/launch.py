"""The exact command lines of the coordinator's side: SuperLink, SuperExec and the `flwr` CLI.

Pure functions: they start nothing. `Command.shell()` prints what they give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cardionets_core.errors import ConfigError
from cardionets_core.flower_command import (
    LOOPBACK,
    Command,
    ServerTls,
    client_tls,
    quiet_environment,
)
from cardionets_core.warm import LATE_MODULES

BUNDLE = Path(__file__).parent / "bundle"
"""The thin bundle: a pyproject.toml that names the installed apps, and nothing else."""

APP_MODULES = ("server.server_app", "server.tracking", "mlflow", *LATE_MODULES)
"""What the ServerApp needs before it can greet the sites."""

CONNECTION = "cardionets"
"""Name of the connection in FLWR_HOME/config.toml."""

REPORT_ENV = "CARDIONETS_REPORT"
"""The environment variable in which a simulator says `REPORT_LATER` to the ServerApp."""

REPORT_LATER = "later"
"""Whoever started it draws the run's report when the run has ended, and shows more in it."""

RunConfig = Mapping[str, str | int | float | bool]
"""Flower's run config: flat scalars; the bundle lists the allowed keys."""


def superlink(
    *,
    port: int,
    home: Path,
    secret: Path,
    database: Path | None = None,
    host: str = LOOPBACK,
    tls: ServerTls | None = None,
    require_node_keys: bool = False,
    simulation: bool = False,
) -> Command:
    """Return the command of the SuperLink.

    Process isolation with a secret is not optional here: in Flower's default mode anyone who
    reaches the port can take the server's task and see every site's update.

    Args:
        port: TCP port of the one HTTP server.
        home: its private FLWR_HOME.
        secret: file with the secret that only our SuperExec shares.
        database: SQLite file that lets a run survive a restart; None keeps all in memory.
        host: address to bind; stay on loopback and put a TLS proxy in front.
        tls: certificate files; None serves plain HTTP, for loopback only.
        require_node_keys: admit only registered node keys (needs `tls`).
        simulation: run the clients of virtual sites here (engine=ray).
    """
    if require_node_keys and tls is None:
        raise ConfigError(
            "node keys need TLS: Flower refuses to authenticate nodes over plain HTTP; "
            "give the certificate files or leave require_node_keys off"
        )
    argv = ["flower-superlink", "--host", host, "--port", str(port), "--isolation", "process"]
    argv += ["--superexec-auth-secret-file", str(secret)]
    argv += ["--disable-runtime-dependency-installation"]
    if database is not None:
        argv += ["--database", str(database)]
    if tls is None:
        argv += ["--insecure"]
    else:
        argv += ["--ssl-certfile", str(tls.certificate), "--ssl-keyfile", str(tls.key)]
        argv += ["--ssl-ca-certfile", str(tls.authority)]
    if require_node_keys:
        argv += ["--enable-supernode-auth"]
    if simulation:
        argv += ["--simulation"]
    return Command(tuple(argv), quiet_environment(home))


def superexec(
    *,
    port: int,
    home: Path,
    secret: Path,
    outputs: Path,
    host: str = LOOPBACK,
    root_certificates: Path | None = None,
    env: Mapping[str, str] | None = None,
    programs: Path | None = None,
) -> Command:
    """Return the command of the SuperExec that starts the ServerApp's process.

    Args:
        port: port of the SuperLink.
        home: its private FLWR_HOME; the ServerApp inherits it.
        secret: file with the secret that the SuperLink knows.
        outputs: folder of all runs; the ServerApp finds its run folder below it
            (`CARDIONETS_OUTPUTS` joined with the run config's `run`).
        host: address of the SuperLink.
        root_certificates: authority of the SuperLink's certificate; None is plain HTTP.
        env: further variables for the ServerApp (MLflow's address, threads, ...).
        programs: folder with an own `flwr-serverapp`, which the SuperExec then starts.
    """
    argv = ["flower-superexec", "--runtime-api-address", f"{host}:{port}"]
    argv += ["--superexec-auth-secret-file", str(secret), *client_tls(root_certificates)]
    settings = {**quiet_environment(home), "CARDIONETS_OUTPUTS": str(outputs), **(env or {})}
    return Command(tuple(argv), settings, first_on_path=programs)


def write_connection(
    home: Path, *, port: int, host: str = LOOPBACK, root_certificates: Path | None = None
) -> Path:
    """Write FLWR_HOME/config.toml, which tells `flwr` where our SuperLink is.

    Args:
        home: FLWR_HOME of the `flwr` commands; created if needed.
        port: port of the SuperLink.
        host: address of the SuperLink.
        root_certificates: authority of its certificate; None is plain HTTP.

    Returns:
        The file.
    """
    home.mkdir(parents=True, exist_ok=True)
    trust = "insecure = true"
    if root_certificates is not None:
        trust = f"root-certificates = {json.dumps(str(root_certificates))}"
    path = home / "config.toml"
    path.write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "{host}:{port}"\n{trust}\n',
        encoding="utf-8",
    )
    return path


def submit(
    run_config: RunConfig,
    *,
    home: Path,
    bundle: Path = BUNDLE,
    federation_config: RunConfig | None = None,
) -> Command:
    """Return `flwr run` for the bundle; its JSON answer names the run's id.

    Args:
        run_config: values for keys that the bundle's pyproject.toml declares.
        home: FLWR_HOME that holds the connection.
        bundle: folder with the bundle's pyproject.toml.
        federation_config: size and resources of a simulation (engine=ray only).
    """
    argv = ["flwr", "run", str(bundle), CONNECTION, "--format", "json"]
    if run_config:
        argv += ["--run-config", _toml_pairs(run_config)]
    if federation_config:
        argv += ["--federation-config", _toml_pairs(federation_config)]
    return Command(tuple(argv), quiet_environment(home))


def list_runs(*, home: Path, run_id: int | None = None) -> Command:
    """Return `flwr ls --format json`: the only place where a run's true state stands."""
    chosen = () if run_id is None else ("--run-id", str(run_id))
    argv = ("flwr", "ls", CONNECTION, "--format", "json", *chosen)
    return Command(argv, quiet_environment(home))


def list_nodes(*, home: Path) -> Command:
    """Return `flwr supernode ls --format json`: which sites are online."""
    argv = ("flwr", "supernode", "ls", CONNECTION, "--format", "json")
    return Command(argv, quiet_environment(home))


def stop(run_id: int, *, home: Path) -> Command:
    """Return `flwr stop`; sites still finish the task that they are working on."""
    argv = ("flwr", "stop", str(run_id), CONNECTION, "--format", "json")
    return Command(argv, quiet_environment(home))


def _toml_pairs(config: RunConfig) -> str:
    """Write `key=value key=value` as Flower's CLI parses it (values are TOML scalars)."""
    pairs = []
    for key, value in config.items():
        if isinstance(value, str) and ('"' in value or "\\" in value or "\n" in value):
            raise ConfigError(
                f"run config {key!r}: Flower's command line cannot carry quotes, backslashes or "
                "line breaks; put such values into the run folder's configuration"
            )
        pairs.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    return " ".join(pairs)

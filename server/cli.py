"""`cardionets-coordinator`: what the coordinator of a federation types."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from cardionets_core.cli import told_plainly
from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import ConfigError, EngineError, RunError
from cardionets_core.flower_command import LOOPBACK, Command, ServerTls
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.training.stages import check_plan
from server import launch
from server.progress import read_progress
from server.server_app import load_config, write_config

if TYPE_CHECKING:
    from cardionets_core.run_config import RunConfig

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The coordinator of a federation.",
)
console = Console()

Output = Annotated[Path, typer.Option(help="Folder of all runs.")]
ENGINE = ".engine"

LOOK_S = 30.0
"""Seconds between two questions to Flower whether the run still goes on."""


@app.command()
def start(
    output: Output = Path("outputs"),
    port: Annotated[int, typer.Option(help="Port of the SuperLink on loopback.")] = 8080,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    authority: Annotated[
        Path | None, typer.Option(help="The authority that signed it (PEM).")
    ] = None,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Only print them.")
    ] = False,
) -> None:
    """Start the SuperLink and its SuperExec; Ctrl-C ends both.

    Without certificates the SuperLink speaks plain HTTP: for one machine only.
    """
    with told_plainly():
        tls = _tls(certificate, key, authority)
        if not print_command:
            _require_free(port)
        home = (output / ENGINE).resolve()
        home.mkdir(parents=True, exist_ok=True)
        secret = home / "superexec.secret"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_bytes(secrets.token_bytes(48))
        trust = tls.authority if tls is not None else None
        launch.write_connection(home / "cli", port=port, root_certificates=trust)
        commands = (
            launch.superlink(
                port=port,
                home=home / "superlink",
                secret=secret,
                database=home / "superlink.db",
                tls=tls,
            ),
            launch.superexec(
                port=port,
                home=home / "superexec",
                secret=secret,
                outputs=output.resolve(),
                root_certificates=trust,
            ),
        )
        if print_command:
            for command in commands:
                typer.echo(command.shell())
            return
        _run_together(commands)


@app.command()
def run(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, e.g. model=small seed=3")
    ] = None,
    output: Output = Path("outputs"),
    resume: Annotated[str, typer.Option(help="Name of a run to go on with.")] = "",
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Only print the plan.")
    ] = False,
) -> None:
    """Submit a run to the coordinator that `start` brought up, and follow it to its end."""
    with told_plainly():
        if resume and overrides:
            raise ConfigError(f"{overrides[0]}: a resumed run keeps its plan; leave it out.")
        config = load_config(output.resolve() / resume) if resume else _plan(overrides or [])
        if print_config:
            typer.echo(json.dumps(to_mapping(config), indent=1))
            return
        folder = output.resolve() / config.name
        home = output.resolve() / ENGINE / "cli"
        if not home.exists():
            raise EngineError(
                f"no coordinator was started in {output}; `cardionets-coordinator start`."
            )
        if folder.exists() and not resume:
            raise ConfigError(f"{folder} exists; choose another name=, or --resume {config.name}.")
        before = len(read_progress(folder))
        write_config(folder, config)
        try:
            answer = _ask(
                launch.submit({"run": config.name, "config-hash": digest(config)}, home=home)
            )
        except EngineError:
            if not resume:
                shutil.rmtree(folder)  # nothing began, so the name stays free
            raise
        typer.echo(f"run {answer['run-id']} submitted; {folder}")
        _follow(folder, before, int(answer["run-id"]), home)


@app.command()
def status(output: Output = Path("outputs")) -> None:
    """Show the runs of the output folder and how each stands."""
    table = Table("run", "state", "stage", "round", "refused in it")
    for path in sorted(output.glob("*/config.json")):
        entries = read_progress(path.parent)
        rounds = [e for e in entries if e["event"] == "round"]
        last: dict[str, Any] = rounds[-1] if rounds else {"stage": "-", "round": "-"}
        refused: dict[str, str] = last.get("refused", {})
        state = entries[-1]["event"] if entries else "submitted"
        table.add_row(
            path.parent.name,
            "running" if state == "round" else state,
            last["stage"],
            str(last["round"]),
            ", ".join(f"{site}: {code}" for site, code in sorted(refused.items())) or "-",
        )
    console.print(table)


def _plan(overrides: list[str]) -> RunConfig:
    values = compose("run", overrides, package=CONF)
    values["name"] = values["name"] or time.strftime("run-%Y%m%d-%H%M%S")
    config = run_config_from(values)
    check_plan(config)
    return config


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> ServerTls | None:
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


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            raise EngineError(
                f"port {port} cannot be taken: it is in use or not a port; "
                "stop the process that holds it, or choose another with --port."
            ) from None


def _run_together(commands: tuple[Command, ...]) -> None:
    """Run the processes until one of them ends or the user stops them; then end the others."""
    # A service manager says SIGTERM where a person says Ctrl-C: neither may leave one behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    running = [
        subprocess.Popen(c.argv, env=c.environment(os.environ), start_new_session=True)
        for c in commands
    ]
    try:
        while all(p.poll() is None for p in running):
            time.sleep(0.5)
        raise EngineError("the SuperLink or its SuperExec ended; the lines above say why.")
    except KeyboardInterrupt:
        typer.echo("stopping")
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()


def _ask(command: Command) -> dict[str, Any]:
    done = subprocess.run(
        command.argv,
        env=command.environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    start = done.stdout.find("{")
    answer = json.loads(done.stdout[start:]) if start >= 0 else {}
    if not answer.get("success"):
        words = answer.get("error-message") or done.stderr.strip() or "it did not answer"
        raise EngineError(f"the SuperLink refused the run: {words}")
    return dict(answer)


def _follow(folder: Path, shown: int, run_id: int, home: Path) -> None:
    """Print one line per round until the run has ended, by its own word or by Flower's.

    Args:
        folder: the run's.
        shown: entries of its progress file that belong to an earlier try.
        run_id: Flower's number of the run.
        home: FLWR_HOME that holds the connection.

    Raises:
        RunError: it failed.
    """
    next_look = time.monotonic() + LOOK_S
    while True:
        ended = time.monotonic() > next_look and _ended(run_id, home)
        if time.monotonic() > next_look:
            next_look = time.monotonic() + LOOK_S
        # Read after the look: a run that has ended has written its last word before.
        entries = read_progress(folder)
        for entry in entries[shown:]:
            if entry["event"] == "round":
                sites = ", ".join(entry["accepted"])
                place = f"{entry['stage']} {entry['round']}/{entry['rounds']}"
                typer.echo(f"{place}  {entry['seconds']:.1f} s  {sites}")
            elif entry["event"] == "failed":
                raise RunError(f"the run failed: {entry['reason']}")
            elif entry["event"] == "completed":
                typer.echo(
                    f"summary    {folder / 'summary.json'}\ncheckpoint {folder / 'checkpoint'}"
                )
                return
        shown = len(entries)
        if ended:
            raise RunError(
                f"Flower says the run has ended ({ended}), but it wrote no result; look into the "
                f"coordinator's log and go on with --resume {folder.name}."
            )
        time.sleep(0.5)


def _ended(run_id: int, home: Path) -> str:
    """Return Flower's final state of a run, or an empty string while it goes on."""
    rows = cast("list[dict[str, str]]", _ask(launch.list_runs(home=home, run_id=run_id))["runs"])
    status = rows[0]["status"]
    return status if status.startswith("finished") else ""

"""`cardionets-coordinator`: what the coordinator of a federation types."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cardionets_core import warm
from cardionets_core.cli import told_plainly
from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import ConfigError, EngineError, RunError
from cardionets_core.flower_command import LOOPBACK, Command, ServerTls
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.supervision import TICK_S, Kept, Processes, Stopped, ended_by_signals
from server import launch
from server.flower_cli import FlowerCli
from server.plan_file import load_config, write_config
from server.progress import read_progress
from server.status import FAILURES, Queue, standing, words
from server.status_file import HEARTBEAT_S, Submission, read_submission, write_submission
from server.supervisor import Supervisor, queue_of, rounds_done

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

SILENT_S = 4 * HEARTBEAT_S
"""A server that lives and has given no sign of life for this long is pointed out."""


@app.command()
def start(
    output: Output = Path("outputs"),
    port: Annotated[int, typer.Option(help="Port of the SuperLink on loopback.")] = 8080,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    authority: Annotated[
        Path | None, typer.Option(help="The authority that signed it (PEM).")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with runs that have lost their server.")
    ] = True,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Only print them.")
    ] = False,
) -> None:
    """Start SuperLink, SuperExec and a warm starter and keep them alive, and with them every run.

    Runs that a crash left behind go on by themselves. Ctrl-C ends all; the runs go on at the next
    start. Without certificates the SuperLink speaks plain HTTP: for one machine only.
    """
    with told_plainly():
        tls = _tls(certificate, key, authority)
        if not print_command:
            _require_free(port)
        home = (output / ENGINE).resolve()
        secret = _secret(home)
        trust = tls.authority if tls is not None else None
        launch.write_connection(home / "cli", port=port, root_certificates=trust)
        socket_path = warm.socket_below(home)
        warm.install(warm.SERVER_PROGRAM, home / "programs")
        commands = {
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
                outputs=output.resolve(),
                root_certificates=trust,
                env={warm.SOCKET_ENV: str(socket_path)},
                programs=home / "programs",
            ),
        }
        if print_command:
            for command in commands.values():
                typer.echo(command.shell())
            return
        _keep_running(commands, output.resolve(), port=port, resume=resume)


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
    """Submit a run to the coordinator that `start` brought up, and follow it to its end.

    Ctrl-C ends the following, not the run.
    """
    with told_plainly():
        if resume and overrides:
            raise ConfigError(f"{overrides[0]}: a resumed run keeps its plan; leave it out.")
        config = load_config(output.resolve() / resume) if resume else _plan(overrides or [])
        if print_config:
            typer.echo(json.dumps(to_mapping(config), indent=1))
            return
        folder = output.resolve() / config.name
        home = output.resolve() / ENGINE
        if not (home / "cli").exists():
            raise EngineError(
                f"no coordinator was started in {output}; `cardionets-coordinator start`."
            )
        if folder.exists() and not resume:
            raise ConfigError(f"{folder} exists; choose another name=, or --resume {config.name}.")
        if resume and not standing(folder, time.time(), queue=queue_of(home)).final:
            raise ConfigError(f"{folder} is not at its end; `cardionets-coordinator status`.")
        if config.central_privacy.is_on:
            _tell_central_cost(config)
        before = len(read_progress(folder))
        write_config(folder, config)
        try:
            number = FlowerCli(home / "cli").submit(
                {"run": config.name, "config-hash": digest(config)}
            )
        except EngineError:
            if not resume:
                shutil.rmtree(folder)  # nothing began, so the name stays free
            raise
        done = rounds_done(folder)
        write_submission(folder, Submission(number, time=time.time(), rounds_done=done))
        typer.echo(f"run {number} submitted; {folder}")
        follow(folder, before, queue=lambda: queue_of(home))


@app.command()
def stop(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    output: Output = Path("outputs"),
) -> None:
    """Stop a run for good: FAILED(stopped), until somebody resumes it."""
    with told_plainly():
        folder, home = output.resolve() / name, output.resolve() / ENGINE
        submission = read_submission(folder)
        how = standing(folder, time.time(), queue=queue_of(home))
        if submission is None or how.final:
            raise ConfigError(f"{folder} is {words(how)}; there is nothing to stop.")
        write_submission(folder, replace(submission, stop=True))
        FlowerCli(home / "cli").stop(submission.flower_run)
        typer.echo(f"{name} is being stopped; `cardionets-coordinator status` shows when it is")


@app.command()
def status(output: Output = Path("outputs")) -> None:
    """Show the runs of the output folder and how each truly stands."""
    table = Table("run", "state", "stage", "round", "refused in it", "notes")
    for path in sorted(output.glob("*/config.json")):
        folder = path.parent
        how = standing(folder, time.time(), queue=queue_of(output / ENGINE, folder / "engine"))
        rounds = [e for e in read_progress(folder) if e["event"] == "round"]
        refused: dict[str, str] = rounds[-1].get("refused", {}) if rounds else {}
        notes = [how.tracking] if how.tracking else []
        if how.silent_s > SILENT_S:
            notes.append(f"no sign of life for {how.silent_s:.0f} s")
        table.add_row(
            folder.name,
            words(how),
            how.stage or "-",
            f"{how.round}/{how.rounds}" if how.stage else "-",
            ", ".join(f"{site}: {code}" for site, code in sorted(refused.items())) or "-",
            "; ".join(notes) or "-",
        )
    console.print(table)


def follow(folder: Path, shown: int, *, queue: Callable[[], Queue]) -> None:
    """Print one line per round and per change of state, until the run has ended.

    Args:
        folder: the run's.
        shown: entries of its progress file that belong to an earlier try.
        queue: who gives the run a server.

    Raises:
        RunError: it ended, and not with COMPLETED.
    """
    while True:
        how = standing(folder, time.time(), queue=queue())
        # Read after the look: a run that has ended has written its last word before.
        entries = read_progress(folder)
        for entry in entries[shown:]:
            if entry["event"] == "round":
                sites = ", ".join(entry["accepted"])
                place = f"{entry['stage']} {entry['round']}/{entry['rounds']}"
                typer.echo(f"{place}  {entry['seconds']:.1f} s  {sites}")
            elif entry["event"] == "waiting":
                typer.echo(f"waiting for {', '.join(entry['sites'])}")
        shown = len(entries)
        if how.state == "COMPLETED":
            typer.echo(f"summary    {folder / 'summary.json'}\ncheckpoint {folder / 'checkpoint'}")
            return
        if how.final:
            reason = entries[-1].get("reason", "") if entries else ""
            why = reason or FAILURES.get(how.code, "too few sites took part")
            again = f"Go on with it: cardionets-coordinator run --resume {folder.name}."
            if how.code == "server_gone":
                again = "It goes on by itself when the coordinator is started."
            raise RunError(f"the run is {words(how)}: {why}. {again}")
        time.sleep(0.5)


def _tell_central_cost(config: RunConfig) -> None:
    from server.central import planned_cost

    typer.echo(planned_cost(config, config.min_sites).sentence())


def _plan(overrides: list[str]) -> RunConfig:
    # They import torch, which the other commands need not wait for.
    from cardionets_core.local_parts import check_local_parts
    from cardionets_core.privacy.plan import check_private_plan
    from cardionets_core.training.stages import check_plan
    from server.central import check_central_plan

    values = compose("run", overrides, package=CONF)
    values["name"] = values["name"] or time.strftime("run-%Y%m%d-%H%M%S")
    config = run_config_from(values)
    check_plan(config)
    check_private_plan(config)
    check_central_plan(config)
    check_local_parts(config)
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


def _secret(home: Path) -> Path:
    """Return the file of the secret that SuperLink and SuperExec share; made once."""
    home.mkdir(parents=True, exist_ok=True)
    secret = home / "superexec.secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_bytes(secrets.token_bytes(48))
    return secret


def _keep_running(
    commands: Mapping[str, Command], output: Path, *, port: int, resume: bool
) -> None:
    """Keep the coordinator's processes and its runs alive until a signal ends it."""
    home, processes = output / ENGINE, Processes()
    kept = [Kept(name, command, processes, say=_say) for name, command in commands.items()]
    supervisor = Supervisor(
        output,
        home=home,
        kept=kept,
        engine=FlowerCli(home / "cli"),
        say=_say,
        resume=resume,
        ready=lambda: _answers(port),
        ended=_tell_mlflow,
    )
    try:
        with ended_by_signals():
            supervisor.start()
            while True:
                supervisor.tick(time.monotonic())
                time.sleep(TICK_S)
    except Stopped:
        _say("stopping; runs go on at the next start")
    finally:
        processes.stop()


def _say(line: str) -> None:
    typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", err=True)


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

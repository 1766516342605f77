"""`cardionets-coordinator`: what the coordinator of a federation types."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cardionets_core import warm
from cardionets_core.cli import told_plainly
from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.flower_command import LOOPBACK, Command, ServerTls
from cardionets_core.ports import held_by
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.supervision import TICK_S, Kept, Processes, Stopped, ended_by_signals
from server import launch
from server.flower_cli import FlowerCli, ask
from server.following import follow, require_run, row_of
from server.plan_file import load_config, write_config
from server.progress import read_progress
from server.status import standing, words
from server.status_file import Submission, read_submission, write_submission
from server.supervisor import Supervisor, queue_of, rounds_done

if TYPE_CHECKING:
    from cardionets_core.run_config import RunConfig
    from server.status import Queue

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The coordinator of a federation.",
)
console = Console()

Output = Annotated[Path, typer.Option(help="Folder of all runs.")]
ENGINE = ".engine"
SECRET = "superexec.secret"

STATUS_S = 10.0
"""Seconds that `status` waits for the SuperLink to say who is online."""


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
        commands = _commands(home, output.resolve(), port=port, tls=tls)
        if print_command:
            for command in commands.values():
                typer.echo(command.shell())
            return
        os.umask(0o077)  # plans and models are for this user only, as under the systemd unit
        trust = tls.authority if tls is not None else None
        _keep_running(
            commands,
            output.resolve(),
            port=port,
            resume=resume,
            claimed=lambda: _lay_out(home, port, trust),
        )


def _commands(home: Path, output: Path, *, port: int, tls: ServerTls | None) -> dict[str, Command]:
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


def _lay_out(home: Path, port: int, trust: Path | None) -> None:
    """Write what the processes of a coordinator read."""
    _make_secret(home)
    launch.write_connection(home / "cli", port=port, root_certificates=trust)
    warm.install(warm.SERVER_PROGRAM, home / "programs")


@app.command()
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of the plan, key=value (Hydra overrides): model=small seed=3",
            show_default=False,
        ),
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
        _refuse_options(overrides or [])
        config = load_config(require_run(output, resume)) if resume else _plan(overrides or [])
        if print_config:
            typer.echo(json.dumps(_that_runs(config), indent=1))
            return
        folder = output.resolve() / config.name
        home = output.resolve() / ENGINE
        if not (home / "cli").exists():
            raise EngineError(
                f"no coordinator was started in {output}; `cardionets-coordinator start`."
            )
        if folder.exists() and not resume:
            raise ConfigError(f"{folder} exists; choose another name=, or --resume {config.name}.")
        if resume:
            _require_unfinished(folder, queue_of(home))
        _tell_costs(config)
        before = len(read_progress(folder))
        os.umask(0o077)
        write_config(folder, config)
        try:
            number = FlowerCli(home / "cli").submit(
                {"run": config.name, "config-hash": digest(config)}
            )
        except EngineError as error:
            if not resume:
                shutil.rmtree(folder)  # nothing began, so the name stays free
            raise EngineError(
                f"{error}. Is the coordinator running (`cardionets-coordinator start`)?"
            ) from None
        done = rounds_done(folder)
        write_submission(folder, Submission(number, time=time.time(), rounds_done=done))
        typer.echo(f"run {number} submitted; {folder}")
        try:
            follow(folder, before, queue=lambda: queue_of(home), say=typer.echo)
        except KeyboardInterrupt:
            where = "" if output == Path("outputs") else f" --output {output}"
            typer.echo(
                f"{config.name} goes on and is only no longer shown: `cardionets-coordinator "
                f"status{where}` says how it stands, `cardionets-coordinator stop {config.name}"
                f"{where}` ends it",
                err=True,
            )
            raise typer.Exit(130) from None


@app.command()
def stop(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    output: Output = Path("outputs"),
) -> None:
    """Stop a run for good: FAILED(stopped), until somebody resumes it."""
    with told_plainly():
        folder, home = require_run(output, name), output.resolve() / ENGINE
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
    with told_plainly():
        if not output.is_dir():
            raise ConfigError(f"{output} is no folder; name the folder of the runs with --output.")
        typer.echo(_coordinator(output / ENGINE))
        table = Table("run", "state", "stage", "round", "refused in it", "notes")
        for path in sorted(output.glob("*/config.json")):
            folder = path.parent
            how = standing(folder, time.time(), queue=queue_of(output / ENGINE, folder / "engine"))
            table.add_row(*row_of(folder, how))
        console.print(table)


def _coordinator(home: Path) -> str:
    """Return one line: whether a coordinator looks after the runs, where, and who is online."""
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


def _require_unfinished(folder: Path, queue: Queue) -> None:
    """Refuse to go on with a run that has nothing left to do, or that is going on."""
    how = standing(folder, time.time(), queue=queue)
    if how.state == "COMPLETED":
        raise ConfigError(
            f"{folder.name} is COMPLETED: there is nothing to go on with. Its results are in "
            f"{folder / 'summary.json'}; for another run choose another name=."
        )
    if not how.final:
        raise ConfigError(f"{folder} is not at its end; `cardionets-coordinator status`.")


def _refuse_options(overrides: Sequence[str]) -> None:
    """Say of an option that was written as a setting how it is written."""
    for word in overrides:
        key, _, value = word.partition("=")
        if key in ("resume", "output"):
            raise ConfigError(f"{word}: use --{key} {value or 'NAME'}.")


def _that_runs(config: RunConfig) -> dict[str, Any]:
    """Return a plan without the stages that it has settings for and does not run."""
    values = to_mapping(config)
    values["stage"] = {name: s for name, s in values["stage"].items() if name in config.stages}
    return values


def _tell_costs(config: RunConfig) -> None:
    from server.central import planned_cost
    from server.schedule_table import schedule_table

    if config.privacy.is_on:
        console.print(schedule_table(config))
    if config.central_privacy.is_on:
        typer.echo(planned_cost(config, config.min_sites).sentence())


def _plan(overrides: list[str]) -> RunConfig:
    # They import torch, which the other commands need not wait for.
    from cardionets_core.local_parts import check_local_parts
    from cardionets_core.privacy.plan import check_private_plan
    from cardionets_core.training.stages import check_plan
    from server.central import check_central_plan
    from server.start import pinned

    values = compose("run", overrides, package=CONF)
    values["name"] = values["name"] or time.strftime("run-%Y%m%d-%H%M%S")
    config = run_config_from(values)
    check_plan(config)
    check_private_plan(config)
    check_central_plan(config)
    check_local_parts(config)
    return pinned(config)


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
    if held_by(port):
        raise EngineError(
            f"port {port} cannot be taken: it is in use or not a port; "
            "stop the process that holds it, or choose another with --port."
        )


def _make_secret(home: Path) -> None:
    """Write the secret that SuperLink and SuperExec share, once."""
    secret = home / SECRET
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_bytes(secrets.token_bytes(48))


def _keep_running(
    commands: Mapping[str, Command],
    output: Path,
    *,
    port: int,
    resume: bool,
    claimed: Callable[[], None],
) -> None:
    """Keep the coordinator's processes and its runs alive until a signal ends it.

    Args:
        commands: the processes by name.
        output: folder of all runs.
        port: of the SuperLink.
        resume: start runs again whose server is gone.
        claimed: called once the folder is this coordinator's, before anything is started.
    """
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
            claimed()
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

"""`cardionets-coordinator`: what the coordinator of a federation types."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cardionets_core.cli import told_plainly
from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.run_config import CONF, compose, run_config_from
from server.coordinator import (
    ENGINE,
    commands,
    coordinator_line,
    keep_running,
    lay_out,
    require_free,
    server_tls,
)
from server.flower_cli import FlowerCli
from server.following import follow, require_run, row_of
from server.plan_file import load_config, write_config
from server.progress import read_progress
from server.status import standing, words
from server.status_file import Submission, read_submission, write_submission
from server.supervisor import queue_of, rounds_done

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        tls = server_tls(certificate, key, authority)
        if not print_command:
            require_free(port)
        home = (output / ENGINE).resolve()
        processes = commands(home, output.resolve(), port=port, tls=tls)
        if print_command:
            for command in processes.values():
                typer.echo(command.shell())
            return
        os.umask(0o077)  # plans and models are for this user only, as under the systemd unit
        trust = tls.authority if tls is not None else None
        keep_running(
            processes,
            output.resolve(),
            port=port,
            resume=resume,
            claimed=lambda: lay_out(home, port, trust),
            say=_say,
        )


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
        number = _submit(config, folder, home, keep=bool(resume))
        typer.echo(f"run {number} submitted; {folder}")
        try:
            follow(folder, before, queue=lambda: queue_of(home), say=typer.echo)
        except KeyboardInterrupt:
            typer.echo(_goes_on(config.name, output), err=True)
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
        typer.echo(coordinator_line(output / ENGINE))
        table = Table()
        for head in ("run", "state", "stage", "round", "refused", "notes"):
            # Nothing is cut, on a narrow screen neither; who is missing is read first.
            table.add_column(head, no_wrap=head == "state", overflow="fold")
        for path in sorted(output.glob("*/config.json")):
            folder = path.parent
            how = standing(folder, time.time(), queue=queue_of(output / ENGINE, folder / "engine"))
            name, state, *more = row_of(folder, how)
            table.add_row(name, state.replace(", ", ",\n"), *more)
        console.print(table)


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


def _submit(config: RunConfig, folder: Path, home: Path, *, keep: bool) -> int:
    """Hand a run to Flower and note that in its folder; return Flower's number of it.

    Args:
        config: the run's plan.
        folder: the run's.
        home: of the coordinator's processes.
        keep: leave the folder where Flower does not take the run: it holds rounds.
    """
    try:
        number = FlowerCli(home / "cli").submit({"run": config.name, "config-hash": digest(config)})
    except EngineError as error:
        if not keep:
            shutil.rmtree(folder)  # nothing began, so the name stays free
        raise EngineError(
            f"{error}. Is the coordinator running (`cardionets-coordinator start`)?"
        ) from None
    done = rounds_done(folder)
    write_submission(folder, Submission(number, time=time.time(), rounds_done=done))
    return number


def _goes_on(name: str, output: Path) -> str:
    where = "" if output == Path("outputs") else f" --output {output}"
    return (
        f"{name} goes on and is only no longer shown: `cardionets-coordinator status{where}` says "
        f"how it stands, `cardionets-coordinator stop {name}{where}` ends it"
    )


def _say(line: str) -> None:
    typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", err=True)

"""`cardionets-site`: what a hospital's administrator types."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cardionets_core.cli import told_plainly
from cardionets_core.errors import ConfigError
from cardionets_core.site_config import load_site_config
from client import budget_cli

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from client.checks.findings import CheckResult, Finding

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="One hospital of a federation.",
)
app.add_typer(budget_cli.app, name="budget")
console = Console()

Config = Annotated[
    Path, typer.Option(help="The site's YAML; start from site_configs/template.yaml.")
]

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Hydra overrides, e.g. device=cpu", show_default=False)
]

Authority = Annotated[
    Path | None, typer.Option(help="Authority of the coordinator's certificate (PEM).")
]

NodeKey = Annotated[Path | None, typer.Option(help="This site's private key (OpenSSH).")]

HOME = Path(".cardionets-site")
"""Flower's own files and the log of `check`, below the folder that the command is typed in."""

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "bold red")}


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="The model that records are prepared for.")] = "tiny",
    superlink: Annotated[str, typer.Option(help="host:port of the coordinator.")] = "",
    root_certificates: Authority = None,
    node_key: NodeKey = None,
    trial_seconds: Annotated[
        float, typer.Option(min=0, help="How long to train for a measure of speed.")
    ] = 20.0,
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page.")] = None,
    log: Annotated[Path, typer.Option(help="Where failures of the check itself go.")] = HOME
    / "check.log",
) -> None:
    """Say whether this hospital can join, in which stages, and what to correct if not.

    Exit code 0: it can join at least one stage (warnings may stand). 2: it cannot.
    """
    from client.checks.connection import Connection
    from client.checks.page import write_log, write_page
    from client.checks.run import CheckRequest, run_checks

    request = CheckRequest(
        config=config,
        overrides=tuple(overrides or ()),
        plan=(f"model={preset}",),
        connection=Connection(superlink, root_certificates, node_key),
        trial_seconds=trial_seconds,
        log_file=str(log),
    )
    with told_plainly(), console.status("checking") as status:
        result = run_checks(request, progress=status.update)
        write_log(result, log)
        if page is not None:
            write_page(result, page)
    console.print(_screen(result))
    if page is not None:
        console.print(f"page       {page}", soft_wrap=True)
    if result.exit_code:
        errors = result.of_level("error")
        first = errors[0].sentence() if errors else result.verdict
        more = f" ({len(errors) - 1} more above)" if len(errors) > 1 else ""
        typer.echo(f"error: {first}{more}", err=True)
        raise typer.Exit(result.exit_code)


def _screen(result: CheckResult) -> RenderableType:
    """Return what fits on one screen: the verdict, every area, the stages, and what to do."""
    name = f"{result.site}: {result.title}" if result.title else result.site or result.config
    style = "green" if result.exit_code == 0 else "red"
    parts: list[RenderableType] = [
        Panel(Text(result.verdict, style="bold"), title=name, title_align="left", style=style),
        _area_table(result.findings),
    ]
    if result.stages:
        parts.append(_stage_table(result))
    return Group(*parts, *_steps(result))


def _area_table(findings: Sequence[Finding]) -> Table:
    table = Table("area", "", "found", box=None, pad_edge=False, header_style="dim")
    before = ""
    for finding in findings:
        word, style = MARKS[finding.level]
        area = finding.area if finding.area != before else ""
        table.add_row(area, Text(word, style=style), Text(finding.what))
        before = finding.area
    return table


def _stage_table(result: CheckResult) -> Table:
    table = Table("stage", "", "persons", "why", box=None, pad_edge=False, header_style="dim")
    table.columns[2].justify = "right"
    for stage in result.stages:
        mark = Text("takes part", style="green") if stage.takes_part else Text("sits out")
        why = "" if stage.takes_part else stage.why
        table.add_row(stage.name, mark, str(stage.patients), Text(why))
    return table


def _steps(result: CheckResult) -> list[RenderableType]:
    """Return cause and next step of everything that is not in order, errors first."""
    lines: list[RenderableType] = []
    for finding in (*result.of_level("error"), *result.of_level("warning")):
        word, style = MARKS[finding.level]
        lines.append(
            Text.assemble(
                ("\n" if not lines else ""),
                (f"{word} ", style),
                (f"{finding.code}: ", "bold"),
                f"{finding.what} {finding.cause} ",
                (f"-> {finding.next_step}", "bold"),
            )
        )
    return lines


@app.command()
def model(
    config: Config,
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint folder of a run.")],
    out: Annotated[Path, typer.Option(help="New folder for this hospital's whole model.")],
) -> None:
    """Make a run's model whole with what this hospital trained for itself (local_parts).

    `cardionets predict --checkpoint OUT` reads it. It is for this hospital only.
    """
    from client.own_model import write_own_model
    from client.site import Site

    with told_plainly():
        folder = write_own_model(Site(load_site_config(config)), checkpoint, out)
    typer.echo(f"model      {folder} (for this hospital only: it holds what no other site has)")


@app.command()
def start(
    config: Config,
    superlink: Annotated[str, typer.Option(help="host:port of the coordinator.")],
    home: Annotated[Path, typer.Option(help="Folder for Flower's own files.")] = HOME,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Loopback port of this node's own API.")
    ] = 9094,
    root_certificates: Authority = None,
    node_key: NodeKey = None,
    supervise: Annotated[bool, typer.Option(help="Start the node again when it ends.")] = True,
    print_command: Annotated[bool, typer.Option("--print-command", help="Only print it.")] = False,
) -> None:
    """Start this hospital's SuperNode and keep it alive. Ctrl-C ends it.

    It connects outwards and waits for tasks. A second site on one machine needs a --home and a
    --port of its own.
    """
    from client import alone
    from client.checks.connection import Connection, check_settings
    from client.keep_node import keep_node
    from client.start import commands, trouble

    connection = Connection(superlink, root_certificates, node_key)
    with told_plainly(), ExitStack() as undo:
        load_site_config(config)
        complaints = check_settings(connection)
        if complaints:
            raise ConfigError(complaints[0].sentence())
        if not print_command:
            undo.enter_context(alone.held(home, port))
        starter, command = commands(config, connection, home=home, port=port, supervise=supervise)
        if print_command:
            for line in (starter, command) if supervise else (command,):
                typer.echo(line.shell())
            return
        for words in trouble(connection):
            _say(words)
        if supervise:
            keep_node(command, starter, home.resolve(), say=_say)
        else:
            # Replaces this process: then a service manager sees the node itself.
            os.execvpe(command.argv[0], command.argv, command.environment(os.environ))


def _say(line: str) -> None:
    typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", err=True)

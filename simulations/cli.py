"""`cardionets-simulate`: a whole federation on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cardionets_core.errors import CardioNetsError
from simulations.process_group import signals_as_exceptions
from simulations.run import simulate
from simulations.settings import compose_simulation

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.run_config import RunConfig
    from simulations.settings import SimulationConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


class RichScreen:
    """Shows the simulation's progress as bars and one line per round."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rounds: TaskID | None = None
        self._shown = 0
        self.run = ""
        """Name of the run, once it is planned."""

    def note(self, text: str) -> None:
        """Show one line."""
        self._progress.console.print(text, soft_wrap=True, highlight=False)

    def hospital(self, title: str, patients: int) -> Callable[[int], None]:
        """Show a bar for a hospital that is written to disk; a file gets a line instead."""
        if not self._progress.console.is_terminal:
            self.note(f"writing {title}: {patients} patients")
        task = self._progress.add_task(f"writing {title}", total=patients)
        return lambda done: self._progress.update(task, completed=done)

    def plan(self, config: RunConfig) -> None:
        """Show what privacy will cost, if it is asked for, and a bar over all rounds of the run."""
        self.run = config.name
        if config.privacy.is_on:
            from server.schedule_table import schedule_table  # its accountant is slow to import

            self._progress.console.print(schedule_table(config))
        rounds = 1 + sum(config.stage[s].rounds for s in config.stages if s in config.stage)
        rounds += 2 if "evaluate" in config.stages else 0
        self._rounds = self._progress.add_task("starting", total=rounds)

    def follow(self, folder: Path) -> None:
        """Show the rounds that have finished since the last look."""
        from server.progress import read_progress

        entries = read_progress(folder)
        for entry in entries[self._shown :]:
            if entry["event"] == "round":
                self._round(entry)
            elif "state" in entry:
                sites = f" for {', '.join(entry['sites'])}" if entry.get("sites") else ""
                self.note(f"  {entry['state']}{sites}")
        self._shown = len(entries)

    def _round(self, entry: dict[str, Any]) -> None:
        from server.following import quote_lines

        metrics = entry["metrics"]
        shown = [f"{k} {metrics[k]:.4g}" for k in ("train_loss", "validation_loss") if k in metrics]
        count = len(entry["accepted"])
        sites = f"{count} site" if count == 1 else f"{count} sites"
        refused = ", ".join(f"{s}: {why}" for s, why in entry["refused"].items())
        line = f"  {entry['stage']:<12} round {entry['round']}/{entry['rounds']}  {sites}"
        line += f"  {entry['seconds']:5.1f} s  {'  '.join(shown)}"
        if entry.get("privacy"):
            line += f"  epsilon {max(r['epsilon'] for r in entry['privacy'].values()):.2f}"
        self.note(line + (f"  refused: {refused}" if refused else ""))
        for quote in quote_lines(entry):
            self.note(f"  {quote}")
        if self._rounds is not None:
            self._progress.update(self._rounds, advance=1, description=entry["stage"])


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Hydra overrides, e.g. scenario=demo engine=inprocess seed=3", show_default=False
        ),
    ] = None,
) -> None:
    """Run a federation of hospitals on this machine, from their files to a report.

    Success is what the run's own summary and Flower's run state say; then the exit code is 0.
    """
    words = overrides or []
    simulation: SimulationConfig | None = None
    screen: RichScreen | None = None
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        simulation, rest = compose_simulation(words)
        with Progress(*columns, console=console) as progress, signals_as_exceptions():
            screen = RichScreen(progress)
            results = simulate(simulation, rest, screen)
    except CardioNetsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _say_stopped(simulation, screen)
        raise typer.Exit(130) from None
    except SystemExit as ended:  # SIGTERM or SIGHUP
        _say_stopped(simulation, screen)
        raise typer.Exit(int(ended.code or 0)) from None
    for name, path in vars(results).items():
        typer.echo(f"{name:<11}{path}")


def _say_stopped(simulation: SimulationConfig | None, screen: RichScreen | None) -> None:
    """Say that a signal ended the run, and how to go on with it if it has a checkpoint."""
    again = ""
    if simulation is not None and screen is not None:
        run = simulation.resume or (screen.run and str(Path(simulation.output) / screen.run))
        if run and (Path(run) / "checkpoint").exists():
            again = f"; go on with: cardionets-simulate resume={run}"
    typer.echo(f"stopped; no process was left behind{again}", err=True)

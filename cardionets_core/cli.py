"""`cardionets`: files in, files out. Prepared sites, virtual hospitals, predictions, sizes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cardionets_core.errors import CardioNetsError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cardionets_core.preparation.request import PrepareRequest
    from cardionets_core.preparation.summary import PrepareSummary

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Prepared sites, virtual hospitals, predictions, models.",
)
console = Console()


def wide_console(columns: int) -> Console:
    """Return the terminal; for a log file, which has no edge, one with room for wide tables."""
    own = Console()
    return own if own.is_terminal else Console(width=columns)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn our errors into one line and exit code 2, and Ctrl-C into one line and 130."""
    try:
        yield
    except CardioNetsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept: start again to go on", err=True)
        raise typer.Exit(130) from None


@app.command()
def cohort(
    site: Annotated[str, typer.Option(help="Preset of the hospital: A, B, C or D.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 1,
    ecg_only: Annotated[bool, typer.Option("--ecg-only", help="Write no cines.")] = False,
    cmr_only: Annotated[bool, typer.Option("--cmr-only", help="Write no ECGs.")] = False,
    preview: Annotated[Path | None, typer.Option(help="Also draw a montage into this PNG.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.")] = 0,
) -> None:
    """Write a virtual hospital: WFDB records, NIfTI cines and a manifest."""
    from cardionets_core.cohort.preview import preview as draw
    from cardionets_core.cohort.write import write_site

    with told_plainly():
        if out.exists():
            raise ConfigError(f"{out} exists; choose a new folder, or remove it first.")
        with Progress(console=console) as progress:
            task = progress.add_task(f"writing {patients} patients", total=patients)
            write_site(
                site,
                patients=patients,
                seed=seed,
                out=out,
                ecg_only=ecg_only,
                cmr_only=cmr_only,
                workers=workers or os.cpu_count() or 1,
                progress=lambda done: progress.update(task, completed=done),
            )
        if preview is not None:
            draw(out, preview)
            typer.echo(f"preview    {preview}")
        typer.echo(f"manifest   {out / 'manifest.csv'}")


@app.command()
def prepare(
    out: Annotated[Path, typer.Option(help="The prepared folder: new, or of an earlier run.")],
    ecg: Annotated[Path | None, typer.Option(help="Folder of the hospital's ECGs.")] = None,
    cmr: Annotated[Path | None, typer.Option(help="Folder of the hospital's cardiac MRI.")] = None,
    table: Annotated[Path | None, typer.Option(help="Table (CSV) of patients or records.")] = None,
    site_salt: Annotated[
        Path | None, typer.Option(help="File with the site's secret; made in --out if not given.")
    ] = None,
    preset: Annotated[
        list[str],
        typer.Option(
            help="Model whose arrays are built, too (tiny, small, ..., none); repeatable."
        ),
    ] = ["tiny"],  # noqa: B006  # typer copies it
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.")] = 0,
    pair_days: Annotated[int, typer.Option(help="Most days between an ECG and its CMR.")] = 365,
    keep_source_names: Annotated[
        bool, typer.Option("--keep-source-names", help="Name the files in quarantine.csv.")
    ] = False,
    accept_losses: Annotated[
        bool, typer.Option("--accept-losses", help="Also where much of the archive is gone.")
    ] = False,
    find: Annotated[
        str, typer.Option(help="Only print where the item of quarantine.csv lies.")
    ] = "",
) -> None:
    """Turn a hospital's folders into a prepared site, de-identified; again: only what is new."""
    from cardionets_core.preparation.inventory import find as where
    from cardionets_core.preparation.request import PrepareRequest
    from cardionets_core.run_config import model_preset

    with told_plainly():
        request = PrepareRequest(
            out=out, ecg=ecg, cmr=cmr, table=table, salt_file=site_salt,
            presets=tuple(p for p in preset if p != "none"), workers=workers, pair_days=pair_days,
            keep_source_names=keep_source_names, accept_losses=accept_losses,
        )  # fmt: skip
        for name in request.presets:
            model_preset(name)  # a wrong name is told before a night of reading
        if find:
            typer.echo(where(request, find))
            return
        summary = _prepare_with_progress(request)
        _show_prepared(summary, out, ecg)
        if not summary.used:
            raise typer.Exit(1)


def _prepare_with_progress(request: PrepareRequest) -> PrepareSummary:
    from cardionets_core.preparation import run

    with Progress(console=console) as progress:
        tasks = {"scan": progress.add_task("looking for recordings", total=None)}

        def told(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total or None)

        return run.prepare(request, told)


def _show_prepared(summary: PrepareSummary, out: Path, ecg: Path | None) -> None:
    from cardionets_core.preparation import screen

    for title, header, rows in screen.tables(summary):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in screen.lines(summary, out, ecg):
        typer.echo(line)


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint folder of a run.")],
    ecg: Annotated[Path, typer.Option(help="Header (.hea) of a WFDB 12-lead record.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("prediction"),
    samples: Annotated[int, typer.Option(min=1, help="Cines to generate.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the generated cines.")] = 0,
) -> None:
    """Read one ECG; write phenotypes, disease probabilities and a synthetic cine."""
    from cardionets_core.predict_report import not_trained, predict_record

    with told_plainly():
        page = predict_record(checkpoint, ecg, out, samples=samples, seed=seed)
        if words := not_trained(checkpoint):
            typer.echo(f"note       {words}")
        typer.echo(f"page       {page}")


@app.command()
def models(
    preset: Annotated[
        str,
        typer.Argument(help="One preset; all of them take a minute or two.", show_default=False),
    ] = "",
) -> None:
    """Print parameters, FLOPs per sample and bytes per round of one preset or of all."""
    from cardionets_core.models.cost import cost_rows
    from cardionets_core.run_config import CONF, conf_files, model_preset

    with told_plainly():
        for name in [preset] if preset else conf_files(CONF, "model"):
            rows = cost_rows(model_preset(name))
            table = Table(title=f"preset {name}", title_justify="left")
            for i, column in enumerate(rows[0]):
                table.add_column(column, justify="left" if i == 0 else "right")
            for row in rows:
                table.add_row(*(str(v) for v in row.values()))
            console.print(table)

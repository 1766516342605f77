"""A federation on one machine, from nothing to a report."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cardionets_core.config_tree import digest
from cardionets_core.errors import ConfigError, EngineError, RunError
from cardionets_core.local_parts import check_local_parts
from cardionets_core.privacy.plan import check_private_plan
from cardionets_core.supervision import process_start
from cardionets_core.training.stages import check_plan
from server.progress import read_progress
from server.server_app import load_config, write_config
from server.start import pinned
from server.status import standing, words
from server.status_file import Submission, write_submission
from simulations.hospitals import (
    Hospital,
    forget_ledgers,
    make_hospitals,
    read_hospitals,
    write_site_files,
)
from simulations.settings import compose_run, run_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cardionets_core.run_config import RunConfig
    from simulations.settings import SimulationConfig


@dataclass(frozen=True)
class Results:
    """The three things that a finished run leaves for people."""

    summary: Path
    report: Path
    checkpoint: Path


class Screen(Protocol):
    """What the simulation tells while it works; simulations/cli.py shows it with rich."""

    def note(self, text: str) -> None:
        """Show one line."""

    def hospital(self, title: str, patients: int) -> Callable[[int], None]:
        """Show that a hospital is written; returns what to call with the patients done."""

    def plan(self, config: RunConfig) -> None:
        """Show the rounds to come."""

    def follow(self, folder: Path) -> None:
        """Look at the run's progress file and show what is new."""


def simulate(simulation: SimulationConfig, overrides: Sequence[str], screen: Screen) -> Results:
    """Run a whole federation and return where its results lie.

    Args:
        simulation: sites, engine, places.
        overrides: those of the run; none are allowed when a run is resumed.
        screen: where progress is shown.

    Raises:
        CardioNetsError: anything that a user can mend; nothing half-written is left behind.
    """
    output = Path(simulation.output).resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be the output folder ({error.strerror}); name another: output=OTHER."
        ) from None
    with lock(output):
        if simulation.resume:
            folder, config, hospitals = _resumed(simulation, overrides)
            screen.note(f"resuming {folder}")
        else:
            folder, config, hospitals = _fresh(simulation, overrides, screen, output)
        try:
            sites = write_site_files(hospitals, folder / "sites")
            if not _complete(folder):
                screen.plan(config)
                run_engine(simulation, config, folder, sites, screen)
        except BaseException:
            if not (folder / "checkpoint").exists() and not simulation.resume:
                # Nothing to go on from: keep only the logs, which say why.
                _leave_only_logs(folder)
            raise
        from simulations.report import write_report  # matplotlib: only when there is a result

        screen.note("drawing the report")
        report = write_report(folder, hospitals)
    return Results(folder / "summary.json", report, folder / "checkpoint")


def run_engine(
    simulation: SimulationConfig,
    config: RunConfig,
    folder: Path,
    sites: dict[str, Path],
    screen: Screen,
) -> None:
    """Run the two apps on the chosen engine until the run has ended.

    Raises:
        RunError: the run did not complete, by its own word or by Flower's.
    """
    before = len(read_progress(folder))
    submitted = {"run": config.name, "config-hash": digest(config)}
    if simulation.engine == "inprocess":
        from client.client_app import app as client_app
        from server.server_app import app as server_app
        from simulations.grid import run_in_process

        run_in_process(
            server_app, client_app, run_config=submitted, sites=sites, outputs=folder.parent
        )
        screen.follow(folder)
    elif simulation.engine == "ray":
        from simulations.ray_engine import run_with_ray

        run_with_ray(folder, sites, run_config=submitted, on_tick=lambda: screen.follow(folder))
    else:
        from simulations.processes import Federation

        threads = {"OMP_NUM_THREADS": str(config.threads), "MKL_NUM_THREADS": str(config.threads)}
        with Federation(folder, sites, port=simulation.port, env=threads) as federation:
            screen.note(f"SuperLink on 127.0.0.1:{federation.port}, {len(sites)} SuperNodes online")
            run_id = federation.submit(submitted)
            pid = os.getpid()
            write_submission(folder, Submission(run_id, time.time(), pid, process_start(pid) or 0))
            state = federation.wait(run_id, on_tick=lambda: screen.follow(folder))
            if not state.completed:
                _explain(folder, before, f"Flower says {state.status}")
    _explain(folder, before, "")


def _explain(folder: Path, before: int, flower: str) -> None:
    """Raise unless our own record of this run says completed and Flower agrees."""
    entries = read_progress(folder)[before:]
    last = entries[-1] if entries else {"event": "nothing"}
    if last["event"] == "completed" and not flower and _complete(folder):
        return
    reason = last.get("reason") or flower or f"its last word was {last['event']!r}"
    how = standing(folder, time.time())
    # Where to resume alone does not help, the reason says what does, and when to resume.
    words_to = "Resume it with" if how.resume_helps else "To resume it:"
    again = f" {words_to} resume={folder}." if (folder / "checkpoint").exists() else ""
    why = reason.removesuffix(".")
    raise RunError(f"the run is {words(how)}: {why}. Logs: {folder / 'logs'}.{again}")


def _complete(folder: Path) -> bool:
    """Return whether the run's summary says that it is complete."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("status") == "COMPLETED"


def _fresh(
    simulation: SimulationConfig, overrides: Sequence[str], screen: Screen, output: Path
) -> tuple[Path, RunConfig, list[Hospital]]:
    name = run_name(overrides) or time.strftime("run-%Y%m%d-%H%M%S")
    folder = output / name
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another name=, or go on with resume={folder}.")
    # Composed before anything is written, so that a wrong key costs no time.
    plan = pinned(compose_run(simulation, overrides, name=name, sites=1))
    check_plan(plan)
    check_private_plan(plan)
    check_local_parts(plan)
    _check_port(simulation)
    hospitals = make_hospitals(simulation, announce=screen.hospital)
    forget_ledgers(hospitals, output / "hospitals")
    config = compose_run(simulation, overrides, name=name, sites=len(hospitals))
    config = replace(config, start=plan.start, virtual=plan.virtual)
    write_config(folder, config)
    if simulation.ledger_epsilon > 0:
        from simulations.ledgers import with_ledgers  # its accountant takes a second to import

        made = output / "hospitals"
        epsilon = simulation.ledger_epsilon
        hospitals = with_ledgers(hospitals, folder, epsilon=epsilon, made=made)
    return folder, config, hospitals


def _resumed(
    simulation: SimulationConfig, overrides: Sequence[str]
) -> tuple[Path, RunConfig, list[Hospital]]:
    if overrides:
        raise ConfigError(
            f"{overrides[0]}: a resumed run keeps its plan; leave it out, or start a new run."
        )
    folder = Path(simulation.resume).resolve()
    config = load_config(folder)
    if _complete(folder) and (folder / "report.html").exists():
        raise ConfigError(
            f"{folder} is complete; open {folder / 'report.html'}, or start a new run."
        )
    _check_port(simulation)
    return folder, config, read_hospitals(folder / "sites")


def _check_port(simulation: SimulationConfig) -> None:
    if simulation.engine == "processes" and simulation.port:
        from simulations.process_group import check_port

        check_port(simulation.port)


def _leave_only_logs(folder: Path) -> None:
    for path in folder.iterdir() if folder.exists() else ():
        if path.name == "logs":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def lock(output: Path) -> Iterator[None]:
    """Hold the output folder for one simulation at a time; the lock dies with the process.

    Raises:
        EngineError: another simulation holds it.
    """
    with (output / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(
                f"another simulation is running in {output}; wait until it ends, "
                "or give this one its own folder: output=OTHER."
            ) from None
        yield

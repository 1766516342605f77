"""The ServerApp that Flower starts: loads the plan, begins or resumes it, says how it ended."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.serverapp import ServerApp

from cardionets_core.checkpoint import has_checkpoint
from cardionets_core.errors import CheckpointError, ConfigError, EngineError
from cardionets_core.faults import fault_point
from cardionets_core.runtime import return_freed_memory, set_up
from server.evaluation import run_evaluation
from server.exchange import Run, notices_of
from server.handshake import greet
from server.launch import REPORT_ENV, REPORT_LATER
from server.participation import require_participation
from server.plan_file import load_config, write_config
from server.privacy import earlier_ledgers, ledgers_of
from server.progress import Progress, interrupts
from server.state import RunState, fresh_state, load_state, save_state
from server.status import failure
from server.status_file import Status
from server.summary import write_summary
from server.training import train_stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.app import Context
    from flwr.serverapp import Grid

    from cardionets_core.run_config import RunConfig

__all__ = ["app", "begin", "execute", "last_saved", "load_config", "main", "write_config"]

OUTPUTS_ENV = "CARDIONETS_OUTPUTS"
"""The environment variable that names the folder of all runs to the ServerApp's process."""

LOCK_FILE = ".server.lock"

ALONE_S = 90.0
"""Seconds that a server waits for another one of its run to end; MLflow may keep that for 60."""

log = logging.getLogger("cardionets.server")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run folder's config.json plans; Flower calls this."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # Flower uploads this log by httpx, which would log each upload: five requests a second, always.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = run_folder(str(context.run_config["run"]))
    with alone(folder):
        progress = Progress(folder, context.run_id)
        try:
            serve(grid, folder, str(context.run_config["config-hash"]), progress)
        except BaseException as error:
            if interrupts(error):
                progress.interrupted()
            else:
                progress.end(failure(error))
            raise


def serve(grid: Grid, folder: Path, expected_hash: str, progress: Progress) -> None:
    """Bring a run to its end, and write what it was: complete, incomplete or failed."""
    started = time.time()
    config = load_config(folder, expected_hash)
    with progress.tracking(config):
        try:
            progress.require_tracking(config)
            set_up(config.threads)
            return_freed_memory()
            run = Run(grid, config, folder, progress.round, waiting=progress.waiting)
            state = execute(run, begin(config, folder))
            progress.results(state.metrics)
            require_participation(config, state.history, state.sites)
        except Exception as error:
            if not interrupts(error):
                log.exception("the run ended early")
                final = failure(error)
                state = last_saved(config, folder)
                seconds = time.time() - started
                write_summary(folder, config, state, final=final, seconds=seconds)
                progress.end(final)
            raise
        final = Status("COMPLETED")
        write_summary(folder, config, state, final=final, seconds=time.time() - started)
        if os.environ.get(REPORT_ENV) != REPORT_LATER:
            _report(folder)
        progress.end(final)


def _report(folder: Path) -> None:
    """Draw the report of a complete run; where that fails the run is complete all the same."""
    try:
        from server.report.draw import draw_report, read_facts  # matplotlib: only now

        draw_report(read_facts(folder))
    except Exception:
        log.exception(
            "the run is complete, but its report could not be drawn; try again: "
            "cardionets-coordinator report %s",
            folder,
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder for one server at a time; the lock dies with its process.

    A server that was replaced may need a moment to end.

    Raises:
        EngineError: another server still works on the run after `ALONE_S`.
    """
    deadline = time.monotonic() + ALONE_S
    with (folder / LOCK_FILE).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"another server works on the run {folder.name}; end it, or let it finish."
                    ) from None
                time.sleep(0.2)
        yield


def execute(run: Run, state: RunState) -> RunState:
    """Bring the run from `state` to its end, saving after every round.

    Raises:
        RunError: a stage has too few sites.
    """
    fault_point("plan_stored")
    request = run.config.privacy
    earlier = earlier_ledgers(run.folder) if request.is_on and request.earlier_runs else {}
    run.ledgers.update(ledgers_of(state.history, earlier))
    state = greet(run, state)
    run.notices.update(notices_of(state.history))
    for index, name in enumerate(run.config.stages):
        if index < state.stage:
            continue
        if name == "evaluate":
            state = run_evaluation(run, state)
        elif name != "handshake":
            # Handed over, not lent: the weights of before a stage are not kept while it runs.
            handed = [state]
            del state
            state = train_stage(run, handed.pop(), name)
        state = save_state(replace(state, stage=index + 1, round=0), run.config, run.checkpoint)
    return state


def begin(config: RunConfig, folder: Path) -> RunState:
    """Return the saved state of the run folder, or a fresh one."""
    checkpoint = folder / "checkpoint"
    if has_checkpoint(checkpoint):
        state = load_state(config, checkpoint)
        for note in state.notes:
            log.warning("%s", note)
        log.info("resuming after stage %d, round %d", state.stage, state.round)
        return state
    return fresh_state(config)


def last_saved(config: RunConfig, folder: Path) -> RunState:
    """Return the state that a run which ended early has saved; an empty one where it has none."""
    try:
        if has_checkpoint(folder / "checkpoint"):
            return load_state(config, folder / "checkpoint")
    except CheckpointError as error:
        log.warning("%s", error)
    return RunState(weights={})


def run_folder(name: str) -> Path:
    """Return the folder of a run by its name.

    Raises:
        ConfigError: the environment names no outputs folder, or the name is not a plain one.
    """
    outputs = os.environ.get(OUTPUTS_ENV)
    if not outputs:
        raise ConfigError(
            f"{OUTPUTS_ENV} is not set; start the SuperExec with `cardionets-coordinator`."
        )
    if not name or Path(name).name != name:
        raise ConfigError(f"run name {name!r} is not a plain folder name.")
    return Path(outputs) / name

"""What the supervisor and the commands ask of a SuperLink, through the `flwr` command."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import EngineError
from server import launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cardionets_core.flower_command import Command

ANSWER_S = 60.0
"""Seconds after which a `flwr` command that does not answer is given up."""

MOST_WORDS = 2000
"""Characters of a traceback that an error quotes; the last ones say the most."""


def ask(command: Command, *, within_s: float = ANSWER_S) -> dict[str, Any]:
    """Run a `flwr` command and return its JSON answer.

    Args:
        command: what to run.
        within_s: seconds after which it is given up.

    Raises:
        EngineError: the SuperLink refused, or did not answer in time.
    """
    try:
        done = subprocess.run(
            command.argv,
            env=command.environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C is for us: half an answer helps nobody
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"`{' '.join(command.argv[:2])}` had no answer within {within_s:.0f} s"
        ) from None
    return answer_of(command, done)


def answer_of(command: Command, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON answer of a `flwr` command that has ended; its exit code says nothing.

    Raises:
        EngineError: the SuperLink refused, or there is no answer.
    """
    start = done.stdout.find("{")
    try:
        answer = json.loads(done.stdout[start:]) if start >= 0 else {}
    except ValueError:
        answer = {}
    if not answer.get("success"):
        words = answer.get("error-message") or done.stderr.strip()[-MOST_WORDS:] or done.stdout
        raise EngineError(f"`{' '.join(command.argv[:2])}` failed: {words or 'it did not answer'}")
    return dict(answer)


class FlowerCli:
    """The three questions about runs that are put to a SuperLink.

    Args:
        home: FLWR_HOME that holds the connection.
        ask: runs a command and returns its JSON answer, or raises EngineError.
        bundle: folder of the app bundle.
    """

    def __init__(
        self,
        home: Path,
        *,
        ask: Callable[[Command], dict[str, Any]] = ask,
        bundle: Path = launch.BUNDLE,
    ) -> None:
        self._home, self._ask, self._bundle = home, ask, bundle

    def submit(self, run_config: launch.RunConfig) -> int:
        """Submit a run; return Flower's number of it."""
        command = launch.submit(run_config, home=self._home, bundle=self._bundle)
        return int(self._ask(command)["run-id"])

    def state(self, run_id: int) -> str:
        """Return Flower's word for a run: `pending`, `running`, `finished:failed` ..."""
        rows = self._ask(launch.list_runs(home=self._home, run_id=run_id))["runs"]
        return str(rows[0]["status"]) if rows else ""

    def stop(self, run_id: int) -> None:
        """Stop a run; sites still finish the task that they are working on."""
        self._ask(launch.stop(run_id, home=self._home))

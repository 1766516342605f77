"""A training that outlives its server: the task of the old Flower run and that of the new one.

A killed ServerApp comes back under another Flower run, which asks every site anew. Flower can call
no task back: a site that still trains for the old run finishes that first, as its SuperNode hands
it one message at a time, and gets the same task once more after it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.status_file import read_status, read_submission

if TYPE_CHECKING:
    from pathlib import Path

    from simulations.faults.plan import Slow


@dataclass
class Holding:
    """Holds one training until the next Flower run has its server, and for some time.

    Attributes:
        slow: which training; None holds nothing.
        plans: folder of the planned faults.
        run: the run's folder.
        outlived: whether the next server was at work while the training was held.
    """

    slow: Slow | None
    plans: Path
    run: Path
    outlived: bool = False

    def look(self) -> None:
        """Let the training go on when it was held for long enough."""
        began = self.slow.began(self.plans) if self.slow else None
        if self.slow is None or began is None:
            return
        held_s = time.time() - began
        self.outlived = self.outlived or self._served_again(began)
        if held_s >= (self.slow.seconds if self.outlived else self.slow.longest_s):
            self.slow.release(self.plans)

    def _served_again(self, began: float) -> bool:
        """Return whether a server has spoken whose Flower run is younger than the training."""
        submission, status = read_submission(self.run), read_status(self.run)
        if submission is None or status is None or submission.time <= began:
            return False
        return status.flower_run == submission.flower_run

"""What the `flwr` command answers, read into our own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunState:
    """What the SuperLink says about a run (`flwr ls --format json`).

    `completed` only means that the ServerApp returned; whether the run was any good stands in our
    own summary.

    Args:
        run_id: id that Flower gave to the run.
        status: `pending`, `starting`, `running` or `finished:<completed|failed|stopped>`.
        details: Flower's reason, holding the ServerApp's exception text after a failure.
        elapsed_s: seconds since the run began.
        bytes_in: bytes that the SuperLink received.
        bytes_out: bytes that the SuperLink sent.
        server_s: compute time of the ServerApp, seconds.
        client_s: compute time of all ClientApps together, seconds.
    """

    run_id: int
    status: str
    details: str = ""
    elapsed_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    server_s: float = 0.0
    client_s: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.status.startswith("finished")

    @property
    def completed(self) -> bool:
        """Whether the ServerApp returned without an exception."""
        return self.status == "finished:completed"


def run_state(row: Mapping[str, Any]) -> RunState:
    """Read one element of `runs` in the answer of `flwr ls --format json`."""
    traffic, compute = row["network-traffic"], row["compute-time"]
    return RunState(
        run_id=int(row["run-id"]),
        status=str(row["status"]),
        details=str(row["status-details"]),
        elapsed_s=float(row["elapsed"]),
        bytes_in=int(traffic["inbound-bytes"]),
        bytes_out=int(traffic["outbound-bytes"]),
        server_s=float(compute["serverapp-seconds"]),
        client_s=float(compute["clientapp-seconds"]),
    )

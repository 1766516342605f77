"""Named fault points: places where a test may kill or hold this process; otherwise they are empty.

A point does nothing unless the environment variable CARDIONETS_FAULTS names a folder. A file there
asks for one fault, once, whichever process reaches the point first, restarted ones included:

    mid_epoch@ecg_masked-3@north.kill     in round 3 of ecg_masked, at the site north
    mid_aggregation@ecg_masked-2.hold     at whatever site or server comes there
    received.kill                         in whatever round

`kill`: the process renames the file to `.done` and sends itself SIGKILL.
`hold`: it renames the file to `.reached` and waits until that is gone; meanwhile the harness
(simulations/faults/) kills somebody else.
Both write `PID TIME` into the renamed file: the process, and seconds since the epoch.

The same points say where the time of a round goes: where CARDIONETS_TRACE names a file, each point
appends a line of JSON to it when it is reached (benchmarks/rounds.py).
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

FAULTS_ENV = "CARDIONETS_FAULTS"
TRACE_ENV = "CARDIONETS_TRACE"
DONE, REACHED = ".done", ".reached"

_LOOK_S = 0.02
_place: dict[str, str] = {}


def fault_place(*, stage: str, number: int, site: str = "") -> None:
    """Say where this process is, for all points that it comes to from now on.

    Args:
        stage: name of the stage in hand.
        number: its round, 1-based.
        site: name of the site, in a site's process.
    """
    if FAULTS_ENV in os.environ or TRACE_ENV in os.environ:
        _place.update(round=f"{stage}-{number}", site=site)


def fault_point(name: str) -> None:
    """Let a test's fault happen here, if one is asked for at this point and place."""
    if TRACE_ENV in os.environ:
        _trace(Path(os.environ[TRACE_ENV]), name)
    folder = os.environ.get(FAULTS_ENV)
    if folder is None:
        return
    where, site = _place.get("round", ""), _place.get("site", "")
    for asked in (f"{name}@{where}@{site}", f"{name}@{where}", name):
        if _claim(Path(folder) / f"{asked}.kill", DONE) is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        held = _claim(Path(folder) / f"{asked}.hold", REACHED)
        while held is not None and held.exists():
            time.sleep(_LOOK_S)


def _trace(file: Path, name: str) -> None:
    clocks = {"time": time.time(), "cpu": time.process_time()}
    line = {**clocks, "pid": os.getpid(), "point": name, **_place}
    with file.open("a", encoding="utf-8") as trace:
        trace.write(json.dumps(line) + "\n")  # one write: lines of several processes stay whole


def _claim(plan: Path, suffix: str) -> Path | None:
    """Take a planned fault for this process; None where there is none, or somebody was faster."""
    claimed = plan.with_name(plan.name + suffix)
    try:
        os.rename(plan, claimed)
    except FileNotFoundError:
        return None
    claimed.write_text(f"{os.getpid()} {time.time():.3f}")
    return claimed

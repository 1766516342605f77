"""Named fault points: places where a test may kill or hold this process; otherwise they are empty.

A point does nothing unless the environment variable CARDIONETS_FAULTS names a folder. There,
`NAME.kill` or `NAME.hold` asks for a fault at the point NAME, once (simulations/faults/).
"""

from __future__ import annotations

import os

FAULTS_ENV = "CARDIONETS_FAULTS"


def fault_point(name: str) -> None:
    """Let a test's fault happen here."""
    if FAULTS_ENV not in os.environ:
        return

"""Over which sites the secure sum of each round was opened, in the run's folder.

Written before the sites are asked to open it. A server that is killed between that and the
checkpoint repeats the round over the same sites: two sums of one round over different sites would
give, by subtraction, the update of those in one of them only, and sites refuse it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cardionets_core.durable import move_into_place
from cardionets_core.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "secure_sums.json"


def opened_over(folder: Path, place: str) -> list[str]:
    """Return the sites over which the sum of a round was to be opened; [] where none was.

    Args:
        folder: of the run.
        place: `STAGE/ROUND`.

    Raises:
        RunError: the file cannot be read.
    """
    return _read(folder).get(place, [])


def write_opened(folder: Path, place: str, sites: Iterable[str]) -> None:
    """Keep that the sum of a round is to be opened over these sites.

    Raises:
        RunError: the file cannot be read or written.
    """
    known = _read(folder) | {place: sorted(sites)}
    path = folder / FILE
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w") as file:
            json.dump(known, file)
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error}. Make room, then resume.") from error


def _read(folder: Path) -> dict[str, list[str]]:
    path = folder / FILE
    try:
        known: dict[str, list[str]] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Sites open the sum of a round over one set of sites "
            "only; restore the file, or start a new run."
        ) from error
    return known

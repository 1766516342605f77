"""`python -m simulations.privacy.section MODULE:FUNCTION FOLDER`: one section, in this process.

Every row becomes a line of FOLDER/rows.jsonl as soon as it is measured; FOLDER/end.json says how
it ended. Without an end the process was killed, or ran out of its time.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.errors import CardioNetsError
from simulations.privacy.row import NotMeasuredError

if TYPE_CHECKING:
    from simulations.privacy.row import Measure

ROWS = "rows.jsonl"
END = "end.json"


def main(address: str, folder: Path) -> None:
    """Measure a section and write what it came to."""
    state, reason = "done", ""
    try:
        with (folder / ROWS).open("a", encoding="utf-8") as rows:
            for row in _section(address)(folder):
                rows.write(json.dumps(asdict(row)) + "\n")
                rows.flush()
    except NotMeasuredError as cannot:
        state, reason = "not measured", str(cannot)
    except CardioNetsError as error:
        state, reason = "failed", str(error)
    # The measurement of a fault may raise anything: that is its result, and goes into the table.
    except Exception as error:
        traceback.print_exc()
        state, reason = "failed", f"{type(error).__name__}: {error}"
    (folder / END).write_text(json.dumps({"state": state, "reason": reason}), encoding="utf-8")


def _section(address: str) -> Measure:
    module, _, name = address.partition(":")
    found: Measure = getattr(importlib.import_module(module), name)
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

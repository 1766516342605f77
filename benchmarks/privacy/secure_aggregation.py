"""Secure aggregation: exact with drop-outs at each phase, its bytes, its time, and what is refused.

python benchmarks/privacy/secure_aggregation.py      # about half a minute of one core

secure_play.py plays the sites and the server. Times are CPU times.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from secure_play import CLIP, PART, SITES, STAGE, THRESHOLD, NoSumError, Session

from cardionets_core.errors import SiteError, WireError
from cardionets_core.messages import Update, payload_bytes, update_to_records
from cardionets_core.privacy.secure_aggregation.quantiser import check_sum
from cardionets_core.privacy.secure_aggregation.signatures import SIGNATURE_BYTES
from cardionets_core.secure_config import AGREEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

PHASES = ("keys", "shares", "train", "agree", "unmask")
SMALL, LARGE = 20_000, 1_000_000
"""Numbers of an update: for the drop-outs, and for bytes and times."""


def rows() -> Iterator[dict[str, Any]]:
    """Measure everything; each row as the fields of simulations.privacy.row.Row."""
    logging.getLogger("cardionets.site").setLevel(logging.ERROR)  # each clipping is a line
    with tempfile.TemporaryDirectory() as folder:
        yield from _dropouts(Path(folder) / "drops")
        yield from _costs(Path(folder) / "costs")
        yield from _refusals(Path(folder) / "lies")


def _dropouts(folder: Path) -> Iterator[dict[str, Any]]:
    names = [f"site{i}" for i in range(SITES)]
    for phase in PHASES:
        differing, tried = 0, 0
        for count in range(SITES - THRESHOLD + 1):
            session = Session(folder / f"{phase}{count}", SMALL, {phase: names[:count]})
            got, expected = session.play(), session.plain()
            differing += int((got[PART]["w"] != expected[PART]["w"]).sum())
            tried += 1
        yield _row(
            f"secure sum with 0 to {SITES - THRESHOLD} of {SITES} sites gone at `{phase}`: "
            "numbers that differ from the sum without masks",
            "0",
            f"{differing} of {tried * SMALL}",
            differing == 0,
        )
    lost = Session(folder / "few", SMALL, {"train": names[: SITES - THRESHOLD + 1]})
    try:
        lost.play()
        outcome = "a sum was opened"
    except NoSumError as error:
        outcome = f"no sum: {error}"
    yield _row(
        f"one more site gone than {SITES} - {THRESHOLD}", "no sum", outcome, "no sum" in outcome
    )


def _costs(folder: Path) -> Iterator[dict[str, Any]]:
    gone = {"train": [f"site{i}" for i in range(SITES - THRESHOLD)]}
    session = Session(folder, LARGE, gone)
    mean = session.play()[PART]["w"]
    error = float(np.abs(mean - session.float_mean()).max())
    weight = sum(session.studies[s] for s in session.came)
    bound = session.quantiser().error(PART, "w", weight)
    yield _row(
        f"off from the float64 mean of the clipped updates, clip {CLIP:g}",
        f"<= {bound:.2g}",
        f"{error:.2g}",
        error <= bound * (1 + 1e-6),
        note=f"a float32 of 0.1 is off by {np.spacing(np.float32(0.1)) / 2:.2g}",
    )
    plain = Update("site0", "run", STAGE, 1, 20, delta=session.delta("site0"))
    ratio = max(session.bytes_up.values()) / payload_bytes(update_to_records(plain))
    yield _row(
        f"bytes of all answers of a site to those of a plain update, {LARGE:,} numbers",
        "<= 1.5",
        f"{ratio:.4f}",
        ratio <= 1.5,
    )
    million = LARGE / 1e6
    site, server = (
        np.mean(session.seconds["site"]) / million,
        session.seconds["server"][0] / million,
    )
    yield _row(
        f"CPU seconds for a million numbers among {SITES} sites",
        "",
        f"{site:.3f} at a site; {server:.3f} at the server, {SITES - THRESHOLD} sites gone",
        None,
    )


def _refusals(folder: Path) -> Iterator[dict[str, Any]]:
    session = Session(folder / "both", SMALL)
    session.play()
    sealed = {s: np.zeros((SITES, 94), np.uint8) for s in session.roster}
    lies = {
        "the other secret of a site, after the sum was opened": {
            "phase": "unmask",
            "arrays": session.opening_for("site0", sealed),
            "present": session.came[:THRESHOLD],
        },
        "masked residues again, for fewer sites": {
            "phase": "train",
            "arrays": {},
            "roster": session.roster,
            "present": session.came[:THRESHOLD],
        },
    }
    for what, question in lies.items():
        try:
            session.ask("site0", **question)
            code = "answered"
        except SiteError as error:
            code = error.code
        yield _lie(what, code)
    yield _unsigned(Session(folder / "unsigned", SMALL))
    yield _left_masked(session)


def _unsigned(session: Session) -> dict[str, Any]:
    """Hand each site one signature fewer than it needs: nobody opens the sum."""
    asked = session.opening_for

    def stripped(site: str, sealed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = dict(list(session.agreed.items())[: THRESHOLD - 1])
        kept.pop(site, None)
        rows = session.rows_of(kept, SIGNATURE_BYTES)
        return asked(site, sealed) | {AGREEMENTS: rows}

    session.opening_for = stripped  # type: ignore[method-assign]
    try:
        session.play()
        code = "answered"
    except SiteError as error:
        code = error.code
    what = "to open a sum of which too few have signed who is in it"
    return _lie(what, code)


def _left_masked(session: Session) -> dict[str, Any]:
    try:
        check_sum(session.masked, len(session.came))
        found = "taken for a mean"
    except WireError:
        found = "noticed"
    return _row("a sum with masks left in it", "noticed", found, found == "noticed", control=True)


def _lie(what: str, code: str) -> dict[str, Any]:
    return _row(
        f"a lying server asks: {what}",
        "secure_aggregation",
        code,
        code == "secure_aggregation",
        control=True,
    )


def _row(
    what: str,
    target: str,
    measured: str,
    met: bool | None,
    *,
    control: bool = False,
    note: str = "",
) -> dict[str, Any]:
    return {
        "what": what,
        "target": target,
        "measured": measured,
        "met": met,
        "control": control,
        "seeds": "updates 20-98; keys os",
        "note": note,
    }


def main() -> None:
    """Print every row as it is measured."""
    for row in rows():
        mark = {True: "met", False: "NOT MET", None: ""}[row["met"]]
        print(f"{row['what']}: {row['measured']}  (target: {row['target'] or 'told'}) {mark}")


if __name__ == "__main__":
    main()

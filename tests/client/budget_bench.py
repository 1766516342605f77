"""A hospital with a ledger, and the budget commands as they are typed."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.ledger_entries import charge_key
from cardionets_core.site_config import load_site_config, write_yaml
from client.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.privacy.accounting import Charge


def hospital(folder: Path, **privacy: Any) -> Path:
    """Write the YAML of a hospital with 30 patients, two ECGs each, and no ledger yet."""
    data = folder / "data"
    data.mkdir()
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient_id", "study_id", "ecg"))
        writer.writerows((f"p{n}", s, f"p{n}_{s}.hea") for n in range(30) for s in "ab")
    paths = {"root": data, "manifest": data / "manifest.csv", "cache": folder / "cache"}
    own = {"ledger": str(folder / "ledger.jsonl"), "patients": 30, "epsilon": 4.0, **privacy}
    values = {
        "site": "north",
        "data": {**{k: str(v) for k, v in paths.items()}, "salt": "secret"},
        "privacy": own,
    }
    write_yaml(folder / "north.yaml", values)
    return folder / "north.yaml"


def typed(*words: object, answers: str = "") -> tuple[int, str]:
    """Return exit code and all that was printed, in one line of words; `answers` are typed in."""
    result = CliRunner().invoke(
        app, ["budget", *map(str, words)], input=answers, env={"COLUMNS": "140"}
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def spend(site: Path, run: str, stage: str, number: int, charge: Charge) -> None:
    """Charge the hospital's ledger for a round."""
    config = load_site_config(site)
    patients = [f"p{n}" for n in range(30)]
    key = charge_key(run=run, stage=stage, number=number, what="train", weights="")
    with Ledger.opened(config.privacy, patients=patients, salt=config.data.salt) as ledger:
        ledger.reserve(key, charge)

"""The page of a check: the same as on the screen, with the tables in full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from cardionets_core.data.manifest import SPLITS
from cardionets_core.errors import ConfigError
from client.checks.device import in_words
from client.checks.findings import AREAS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from client.checks.findings import CheckResult, Level, Trial

GROUPS = {
    "patients": "persons",
    "studies": "studies",
    "ecg": "with an ECG",
    "cine": "with a cine",
    "pairs": "with both",
    "phenotypes": "with phenotypes",
    "diseases": "with disease labels",
}
"""Word of SiteDataset.counts() -> what the tables call it."""

WORDS: dict[Level, str] = {"ok": "in order", "warning": "warning", "error": "error"}


def write_page(result: CheckResult, path: Path) -> None:
    """Write the page; readable by its owner only, though it names no patient.

    Raises:
        ConfigError: the page cannot be written there.
    """
    _write("--page", path, render(result))


def write_log(result: CheckResult, path: Path) -> None:
    """Write the failures of the check itself, if there are any.

    Raises:
        ConfigError: the file cannot be written there.
    """
    if result.failures:
        head = f"cardionets-site check, {result.checked_at:%Y-%m-%d %H:%M} UTC"
        _write("--log", path, "\n\n".join([head, *result.failures, ""]))


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise ConfigError(
            f"{option} {path} cannot be written ({cause.strerror}); name another file."
        ) from None


def render(result: CheckResult) -> str:
    """Return the page as HTML that needs no other file."""
    loader = ChoiceLoader([PackageLoader("client"), PackageLoader("cardionets_core")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("check.html.jinja").render(
        result=result,
        words=WORDS,
        complaints=[*result.of_level("error"), *result.of_level("warning")],
        areas=[(area, [f for f in result.findings if f.area == area]) for area in AREAS],
        splits=SPLITS,
        counts=count_rows(result.counts),
        trial=trial_rows(result.trial) if result.trial else [],
    )


def count_rows(counts: Mapping[str, int]) -> list[tuple[str, list[int]]]:
    """Return (what, [number in each split, in all]) for the table of counts."""
    if not counts:
        return []
    rows = []
    for key, title in GROUPS.items():
        numbers = [counts[f"{split}_{key}"] for split in SPLITS]
        rows.append((title, [*numbers, sum(numbers)]))
    return rows


def trial_rows(trial: Trial) -> list[tuple[str, str]]:
    """Return name and value of what a trial measured."""
    times = [
        ("one epoch", in_words(trial.epoch_s)),
        ("one round of the default plan", f"{in_words(trial.round_s)}, without the transfer"),
    ]
    if trial.private_only:
        times = [("rounds of private tasks", "not timed; this trial was without privacy")]
    return [
        ("stage", trial.stage),
        ("device", f"{trial.device}, {trial.threads} thread{'s' if trial.threads > 1 else ''}"),
        ("training studies", str(trial.patients)),
        ("measured", f"{trial.steps} steps in {in_words(trial.seconds)}"),
        ("speed", f"{trial.records_per_s:.3g} records/s"),
        *times,
        ("transfer per round", f"{trial.transfer_bytes / 1e6:.1f} MB each way"),
        ("peak memory", f"{trial.peak_bytes / 1e9:.2f} GB"),
    ]

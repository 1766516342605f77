"""The privacy ledger of this hospital: whether a private task would find it as it must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from client.checks.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.site_config import SiteConfig

FAR = 1.5
"""Declared and real numbers of patients may differ by this factor before it is worth a word."""


def no_budget(config: SiteConfig | None) -> Finding:
    """Return what is said of a site without a ledger."""
    if config is not None and config.privacy.required:
        return error(
            "budget",
            "required",
            "privacy.required is set and privacy.ledger is not: every task would be refused.",
            cause="A private task is charged to a ledger before it begins.",
            next_step="Name a file as privacy.ledger, then run `cardionets-site budget init`.",
        )
    return ok(
        "budget",
        "No privacy budget is set: this site takes part only in runs without differential privacy, "
        "which say so (privacy.mode=none). Updates over few patients can tell about them.",
        "no_budget",
    )


def check_budget(config: SiteConfig, dataset: SiteDataset) -> list[Finding]:
    """Open the ledger as a task does, and hold what is declared against the records.

    What is found stays here: in a private run the coordinator is told what is declared.

    Raises:
        PrivacyError: the ledger cannot be used.
    """
    from cardionets_core.privacy.ledger import Ledger  # its accountant is slow to import

    privacy = config.privacy
    patients = dataset.manifest.table["patient_id"].unique()
    with Ledger.opened(
        privacy,
        patients=patients,
        salt=config.data.salt,
        claim_folder=Path(config.data.cache),
    ) as ledger:
        spent = ledger.epsilon()
    found = [
        ok("budget", f"Epsilon {spent:.2f} of {privacy.epsilon:g} is spent.", "spent"),
        *_declared(config, len(patients)),
    ]
    missing = sorted(set(privacy.modalities) - dataset.modalities)
    if missing:
        found.append(
            warning(
                "budget",
                "not_there",
                f"privacy.modalities declares {', '.join(missing)}, which no record has.",
                cause="Such a stage would be trained on noise alone, and paid for.",
                next_step="Take it out of privacy.modalities, or prepare the records.",
            )
        )
    return found


def _declared(config: SiteConfig, there: int) -> list[Finding]:
    privacy = config.privacy
    if not privacy.modalities:
        return [
            error(
                "budget",
                "undeclared",
                "privacy.modalities is empty.",
                cause="In a private run the coordinator is told nothing but what is declared.",
                next_step="Declare what this hospital offers, for instance [ecg, diseases].",
            )
        ]
    if max(there / privacy.patients, privacy.patients / max(there, 1)) <= FAR:
        return []
    return [
        warning(
            "budget",
            "far_off",
            f"privacy.patients declares {privacy.patients:,}, and the table holds {there:,}.",
            cause="Steps are divided and updates weighed by the declared number.",
            next_step="Declare the number of patients, rounded to two digits or so.",
        )
    ]

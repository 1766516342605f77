"""The privacy ledger of this hospital: whether a private task would find it as it must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy.population import found_mark, outgrown
from cardionets_core.privacy_config import LARGE_EPSILON
from client.checks.findings import Finding, error, ok, warning
from client.memory import answered_heads

if TYPE_CHECKING:
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.privacy.ledger import Ledger
    from cardionets_core.run_config import RunConfig
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
    mark = config and found_mark(Path(config.data.cache), Path(config.data.manifest))
    if config is not None and mark and config.privacy.required is None:
        return error(
            "budget",
            "unnamed",
            f"privacy.ledger is not set, and {mark} names a ledger that pays for the records here.",
            cause="Every task would be refused: private ones for want of a ledger, all others "
            "because these patients were promised privacy.",
            next_step="Set privacy.ledger to that one; privacy.required: false lets in tasks "
            "without privacy, which no ledger covers.",
        )
    return ok(
        "budget",
        "No privacy budget is set: this site takes part only in runs without differential privacy, "
        "which say so (privacy.mode=none). Updates over few patients can tell about them.",
        "no_budget",
    )


def check_budget(config: SiteConfig, dataset: SiteDataset, plan: RunConfig) -> list[Finding]:
    """Open the ledger as a task does, and hold what is declared against the records.

    What is found stays here: in a private run the coordinator is told what is declared.

    Args:
        config: of the site.
        dataset: its records.
        plan: a run's default plan.

    Raises:
        PrivacyError: the ledger cannot be used, or its delta is too large for the patients.
    """
    from cardionets_core.privacy.ledger import Ledger  # its accountant is slow to import

    privacy = config.privacy
    patients = dataset.manifest.table["patient_id"].unique()
    with Ledger.opened(
        privacy,
        patients=patients,
        salt=config.data.salt,
        answered=answered_heads(Path(config.data.cache) / "runs"),
        claim_folder=Path(config.data.cache),
        table=Path(config.data.manifest),
    ) as ledger:
        too_large = outgrown(ledger.path, ledger.delta)
        if too_large:
            raise PrivacyError("privacy_ledger", too_large)
        spent = ok("budget", _spent(ledger), "spent")
    found = [spent, *_declared(config, len(patients)), *_metrics(config, plan)]
    if privacy.is_large:
        found.append(
            warning(
                "budget",
                "large",
                f"privacy.epsilon is {privacy.epsilon:g}: from {LARGE_EPSILON:g} on epsilon says "
                "nothing of who took part.",
                cause="It lets in plans against the reconstruction of images and signals alone "
                "(plan=anti_reconstruction_only), which are not membership privacy.",
                next_step="Leave it so only if that is meant; 8 is the usual upper end.",
            )
        )
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


def _spent(ledger: Ledger) -> str:
    """Return what is counted, by the accountant that gates, and what may be quoted."""
    from cardionets_core.privacy.schedule import quoted

    spent = ledger.epsilon()
    unused = max(0.0, ledger.budget - spent)
    told = (
        f"Epsilon {spent:.2f} of {ledger.budget:g} is counted by RDP at order {ledger.order:g}, "
        f"{unused:.2f} is not yet used, at delta {ledger.delta:g}."
    )
    quote = quoted(ledger.charges, ledger.delta)
    if quote.prv is None:
        return told
    return f"{told} By PRV {quote.prv:.2f}, to be quoted only if all stood before round 1."


def _metrics(config: SiteConfig, plan: RunConfig) -> list[Finding]:
    """Return what the usual noise would leave of an evaluation of this site alone."""
    from cardionets_core.privacy.expected_errors import errors_of_site

    privacy, noise = config.privacy, plan.privacy.evaluation_noise
    if "ecg" not in privacy.modalities:
        return []
    errors = errors_of_site(
        noise=noise,
        declared=privacy.patients,
        phenotypes=len(plan.phenotypes),
        diseases=len(plan.diseases),
    )
    what = (
        f"A private evaluation with the usual noise {noise:g} of the {len(plan.phenotypes)} "
        f"phenotypes and {len(plan.diseases)} diseases of a run's default has {errors.words()}."
    )
    if not errors.unusable:
        return [ok("budget", what, "metrics")]
    return [
        warning(
            "budget",
            "metrics",
            what,
            cause=f"Of this hospital alone that leaves no usable {' or '.join(errors.unusable)}; K "
            "hospitals of its size together have 1 / sqrt(K) of it.",
            next_step="Agree with the coordinator on fewer phenotypes and diseases or on less "
            "noise, or judge the model on public patients.",
        )
    ]


def is_far_off(declared: int, there: int) -> bool:
    """Return whether a declared number of patients is worth a word beside the real one."""
    return max(there / declared, declared / max(there, 1)) > FAR


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
    if not is_far_off(privacy.patients, there):
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

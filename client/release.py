"""The whitelist of what a private site lets out; docs/privacy.md, "What leaves", says why.

Everything here is a declared constant, the output of a charged mechanism, or a function of the
task. Whatever else an update could hold stays at its empty default, and `released` is the one door:
an update with anything more in it is not sent at all.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import ConfigError
from cardionets_core.messages import Update
from cardionets_core.runtime import versions

if TYPE_CHECKING:
    from cardionets_core.evaluation.sums import Sums
    from cardionets_core.messages import TaskHeader
    from cardionets_core.packing import Groups
    from cardionets_core.privacy_config import PrivacyReport, SitePrivacy

NAMES = frozenset({"site", "run", "stage", "round"})

RELEASED: dict[str, frozenset[str]] = {
    "describe": NAMES | {"modalities", "counts", "versions", "sums", "privacy"},
    "train": NAMES | {"num_examples", "steps", "planned_steps", "delta", "privacy"},
    "fit": NAMES | {"sums", "privacy"},
    "score": NAMES | {"sums", "privacy"},
}
"""Action of a private task -> the fields of its answer that may hold anything."""


def require_declared(privacy: SitePrivacy) -> None:
    """Check, before anything is charged, that the hospital declares what it offers.

    Raises:
        ConfigError: it does not.
    """
    if not privacy.modalities:
        raise ConfigError(
            "privacy.modalities is empty; declare what this hospital offers (of ecg, cine, pairs, "
            "phenotypes, diseases): in a private run nobody is told what the records hold."
        )


def description(
    header: TaskHeader, site: str, privacy: SitePrivacy, *, sums: Sums, report: PrivacyReport
) -> Update:
    """Return what a private site says of itself: what its YAML declares, and noised sums.

    Args:
        header: of the task.
        site: the site's name.
        privacy: what the hospital declares.
        sums: of the phenotypes, noised.
        report: of the ledger that was charged for them.
    """
    update = Update(
        **_named(header, site),
        counts=declared_counts(privacy),
        versions=versions(),
        modalities=tuple(sorted(privacy.modalities)),
        sums=sums,
        privacy=report,
    )
    return released(update, header)


def declared_counts(privacy: SitePrivacy) -> dict[str, int]:
    """Return the declared number of patients in the words of a site's counts."""
    return dict.fromkeys(("patients", "train_studies"), privacy.patients)


def trained_update(
    header: TaskHeader, site: str, privacy: SitePrivacy, *, delta: Groups, report: PrivacyReport
) -> Update:
    """Return the update of a private round: weights that noisy steps made, weighed as declared.

    Args:
        header: of the task.
        site: the site's name.
        privacy: what the hospital declares.
        delta: new minus old weights, as they travel.
        report: of the ledger that was charged for them.
    """
    assert header.privacy is not None
    update = Update(
        **_named(header, site),
        num_examples=privacy.patients,
        steps=header.privacy.steps,
        planned_steps=header.privacy.steps,
        delta=delta,
        privacy=report,
    )
    return released(update, header)


def evaluated(header: TaskHeader, site: str, *, sums: Sums, report: PrivacyReport) -> Update:
    """Return the noised sums of an evaluation.

    Args:
        header: of the task.
        site: the site's name.
        sums: noised.
        report: of the ledger that was charged for them.
    """
    return released(Update(**_named(header, site), sums=sums, privacy=report), header)


def released(update: Update, header: TaskHeader) -> Update:
    """Return an update that holds nothing but what its kind of task may be answered with.

    Raises:
        RuntimeError: it holds more; our own mistake, and better found here than outside.
    """
    empty = Update("", "", "", 0)
    allowed = RELEASED[header.action]
    held = {f.name for f in fields(Update) if getattr(update, f.name) != getattr(empty, f.name)}
    if held - allowed:
        raise RuntimeError(f"{', '.join(sorted(held - allowed))} may not leave a private site")
    return update


def _named(header: TaskHeader, site: str) -> dict[str, Any]:
    return {"site": site, "run": header.run, "stage": header.stage, "round": header.round}

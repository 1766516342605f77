"""The whitelist of what a private site lets out; docs/privacy.md, "What leaves", says why.

Everything here is a declared constant, the output of a charged mechanism, a function of the task,
or chance (keys, shares and signatures of secure sums). Whatever else an update could hold stays at
its empty default, and `released` is the one door: an update with anything more is not sent at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.errors import ConfigError
from cardionets_core.messages import Update
from cardionets_core.runtime import versions
from cardionets_core.secure_config import AGREEMENTS, KEYS, RESIDUES, SECURE, SHARES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cardionets_core.evaluation.sums import Sums
    from cardionets_core.messages import TaskHeader
    from cardionets_core.packing import Groups
    from cardionets_core.privacy_config import PrivacyReport, SitePrivacy

    Bytes = NDArray[np.uint8]

NAMES = frozenset({"site", "run", "stage", "round"})
TRAINED = NAMES | {"num_examples", "steps", "planned_steps", "delta", "privacy"}

RELEASED: dict[str, frozenset[str]] = {
    "describe": NAMES | {"modalities", "counts", "versions", "sums", "privacy"},
    "train": TRAINED,
    "fit": NAMES | {"sums", "privacy"},
    "score": NAMES | {"sums", "privacy"},
    "secure keys": NAMES | {"delta"},
    "secure shares": NAMES | {"delta"},
    "secure train": TRAINED,
    "secure agree": NAMES | {"delta"},
    "secure unmask": NAMES | {"delta"},
}
"""Kind of a task (`kind_of`) -> the fields of its answer that may hold anything."""

HIDDEN = {
    "secure keys": KEYS,
    "secure shares": SHARES,
    "secure train": RESIDUES,
    "secure agree": AGREEMENTS,
    "secure unmask": SHARES,
}
"""Kind of a task of a secure sum -> the one array of bytes that `delta` then is."""


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


def in_session(header: TaskHeader, site: str, arrays: Mapping[str, Bytes]) -> Update:
    """Return an answer of a secure sum that holds no residues: chance, and nothing of a record.

    Args:
        header: of the task.
        site: the site's name.
        arrays: KEYS, SHARES or AGREEMENTS -> the bytes.
    """
    return released(Update(**_named(header, site), delta={SECURE: dict(arrays)}), header)


def hidden(update: Update, header: TaskHeader, residues: Bytes) -> Update:
    """Return an update with its weights under masks instead of in the open.

    A sum may also be asked for without privacy. The metrics stay here in any case; what else an
    answer may hold then, is no matter of this door.

    Args:
        update: as it would leave without a secure sum.
        header: of the task, in its session.
        residues: the masked whole numbers.
    """
    update = replace(update, metrics={}, delta={SECURE: {RESIDUES: residues}})
    return update if header.privacy is None else released(update, header)


def kind_of(header: TaskHeader) -> str:
    """Return the kind of a task: its action, or which question of a secure sum it is."""
    return header.action if header.secure is None else f"secure {header.secure.phase}"


def released(update: Update, header: TaskHeader) -> Update:
    """Return an update that holds nothing but what its kind of task may be answered with.

    Raises:
        RuntimeError: it holds more; our own mistake, and better found here than outside.
    """
    empty, kind = Update("", "", "", 0), kind_of(header)
    held = {f.name for f in fields(Update) if getattr(update, f.name) != getattr(empty, f.name)}
    surplus = held - RELEASED[kind] | _not_asked(update.delta, header, kind)
    if surplus:
        raise RuntimeError(f"{', '.join(sorted(surplus))} may not leave a private site")
    return update


def _not_asked(delta: Groups, header: TaskHeader, kind: str) -> set[str]:
    """Return what `delta` holds beside the parts that are trained, or the bytes of a secure sum."""
    if kind not in HIDDEN:
        return {f"delta.{part}" for part in delta if part not in header.trains}
    return {
        f"delta.{part}.{name}"
        for part, arrays in delta.items()
        for name, array in arrays.items()
        if (part, name) != (SECURE, HIDDEN[kind]) or array.dtype != np.uint8
    }


def _named(header: TaskHeader, site: str) -> dict[str, Any]:
    return {"site": site, "run": header.run, "stage": header.stage, "round": header.round}

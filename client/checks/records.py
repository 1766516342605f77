"""The records themselves: what was refused, and how the patients are split."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cardionets_core.data.manifest import SPLITS
from cardionets_core.data.refusal import REASONS
from client.checks.findings import Finding, RefusedFiles, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.site_config import SiteConfig

MOST = 0.5
"""Share of a site's files above which one cause probably stands behind all of them."""


def refused_files(dataset: SiteDataset) -> tuple[RefusedFiles, ...]:
    """Return the quarantine by reason, most frequent first."""
    counts = Counter(q.code for q in dataset.arrays.quarantine)
    return tuple(RefusedFiles(code, n, *REASONS[code]) for code, n in counts.most_common())


def check_records(dataset: SiteDataset, refused: tuple[RefusedFiles, ...]) -> list[Finding]:
    """Look at what became of the files, and at what is left of them."""
    counts = dataset.counts()
    table = dataset.manifest.table
    files = sum(
        int((table[c] != "").sum())
        for c in ("ecg", *(f"cine_{v}" for v in dataset.spec.cine.views))
    )
    found = [_summary(dataset, counts)]
    if not {"ecg", "cine"} & dataset.modalities:
        found.append(
            error(
                "data",
                "no_records",
                f"None of the {files} files can be used.",
                cause=_reasons(refused) or "The manifest names no file at all.",
                next_step="See the quarantine by reason below; one cause stands behind most.",
            )
        )
    return found + _quarantine(refused, files)


def _summary(dataset: SiteDataset, counts: Mapping[str, int]) -> Finding:
    offers = ", ".join(sorted(dataset.modalities)) or "nothing"
    return ok(
        "data",
        f"{counts['patients']} persons, {counts['studies']} studies; offers {offers}; "
        f"{counts['quarantined']} files in quarantine.",
    )


def _reasons(refused: tuple[RefusedFiles, ...]) -> str:
    return "; ".join(f"{r.files} x {r.cause}" for r in refused[:3])


def _quarantine(refused: tuple[RefusedFiles, ...], files: int) -> list[Finding]:
    others = tuple(r for r in refused if r.code != "missing_file")  # the table says these
    total = sum(r.files for r in others)
    if not total:
        return []
    is_most = total > MOST * files
    return [
        warning(
            "data",
            "quarantine_most" if is_most else "quarantine",
            f"{'Most' if is_most else 'Some'} files cannot be used: {total} of {files}.",
            cause=f"{_reasons(others)}.",
            next_step=f"For the most frequent reason: {others[0].next_step}.",
        )
    ]


def check_split(dataset: SiteDataset, config: SiteConfig) -> list[Finding]:
    """Look whether every split has enough persons to say something about."""
    counts = dataset.counts()
    if counts["patients"] < 2:
        return []  # the policy says it
    floor = max(config.policy.min_patients, 1)
    found = []
    for split in SPLITS[1:]:
        persons = counts[f"{split}_patients"]
        if persons <= 1:
            found.append(_lonely(split, persons))
        elif split == "test" and persons < floor:
            found.append(
                warning(
                    "data",
                    "test_small",
                    f"The test split holds {persons} persons, below the floor of {floor}.",
                    cause="No measure of quality over so few leaves the site, so the report will "
                    "have no results of this hospital.",
                    next_step="Add patients: every fifth goes to the test split.",
                )
            )
    return found


def _lonely(split: str, persons: int) -> Finding:
    held = "nobody" if persons == 0 else "one person"
    return warning(
        "data",
        "split_single",
        f"The {split} split holds {held}.",
        cause="Patients are drawn into the splits by a hash; with so few, chance decides.",
        next_step="Add patients; do not move one by hand, the split must stay what the hash says.",
    )

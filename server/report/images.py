"""The parts of a report about aligned and generated images: retrieval and generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cardionets_core.vocabulary import MAIN_PHENOTYPES, PHENOTYPE_BY_NAME
from server.report.facts import Facts
from server.report.page import (
    NONE,
    SPACE,
    Block,
    Group,
    Row,
    Section,
    Table,
    Text,
    interval,
    number,
    percent,
    stacked,
)
from server.report.results import missing

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = {
    "conditional": "From the patient's ECG",
    "conditional_mean": "From the ECG, mean of several",
    "unconditional": "Without the ECG",
    "mean_image": "The mean cine of all",
    "neighbour": "Real cine of the most similar ECG",
    "real": "The patient's own cine",
}
"""Rows of the generation table."""

DIRECTIONS = {"ecg_to_cmr": "ECG finds its CMR", "cmr_to_ecg": "CMR finds its ECG"}


# --------------------------------------------------------------------------------------- retrieval


def retrieval_section(facts: Facts) -> Section:
    """Return how often an ECG finds the CMR of the same patient, beside chance."""
    found = facts.pooled.get("retrieval", {})
    title = "Finding the matching patient"
    if not found:
        reason = missing(facts, "contrastive", "ECG-CMR pairs")
        return Section("retrieval", title, (reason,))
    rows: list[Row] = []
    for direction, words in DIRECTIONS.items():
        if direction in found:
            rows.append(Row(words, kind="group"))
            rows.append(_retrieval_row("All sites", found[direction]))
            rows += [
                _retrieval_row(facts.title(site), own[direction])
                for site in facts.sites
                if direction in (own := facts.at_site(site).get("retrieval", {}))
            ]
    columns = ("Held-out patients of", "Patients", "Top 1", "Top 5", "Top 10", "Median rank")
    caption = (
        "Share of patients whose own CMR (ECG) is among the k most alike of the same site's "
        "held-out patients (95 % interval), and what chance would give."
    )
    explanation = Text(
        "The aligned encoders place an ECG and a cine in one space. If they have understood the "
        "heart and not the hospital, an ECG lies nearest to the cine of the same patient.",
        tone="note",
    )
    return Section("retrieval", title, (explanation, Table(caption, columns, tuple(rows))))


def _retrieval_row(head: str, found: Mapping[str, Any]) -> Row:
    cells = (
        f"{stacked(scale(r, 100), 0, SPACE + '%')}\nchance {percent(r['chance'])}"
        for r in (found["recall"][f"r_at_{k}"] for k in (1, 5, 10))
    )
    median, chance = found["median_rank"], found["chance_median_rank"]
    rank = f"{number(median, 0)}\nchance {number(chance, 0)}"
    return Row(head, (f"{found['queries']:,}", *cells, rank))


def scale(estimate: Mapping[str, float | None], factor: float) -> dict[str, float | None]:
    """Return the value and interval of an estimate times a factor."""
    return {k: None if v is None else v * factor for k, v in estimate.items()}


# -------------------------------------------------------------------------------------- generation


def generation_section(facts: Facts) -> Section:
    """Return how close generated cines come to the real ones."""
    found = facts.pooled.get("generation", {})
    title = "Cines generated from the ECG"
    if not found:
        reason = missing(facts, "generative", "ECG-CMR pairs")
        return Section("generation", title, (reason,))
    blocks: list[Block] = [
        Text(
            "SSIM and PSNR favour blur: the mean cine of all patients can win both without showing "
            "anyone's heart, so read them beside the other columns.",
            tone="key",
        ),
        generation_table(found, "All sites pooled."),
        Text(_memory_sentence(found), tone="plain"),
    ]
    for site in facts.sites:
        own = facts.at_site(site).get("generation", {})
        if own:
            table = generation_table(own, "This site's held-out patients.")
            blocks.append(Group(facts.title(site), (table,), folded=True))
    blocks.append(_fidelity_group(found))
    return Section("generation", title, tuple(blocks))


def generation_table(found: Mapping[str, Any], where: str) -> Table:
    """Return one row per kind of cine."""
    fidelity = found["fidelity"].get("average", {})
    frechet = found["frechet"] | {"real": found["frechet"].get("real_train")}
    spread = found["diversity"]
    diversity = {
        "conditional": spread.get("samples"),
        "unconditional": spread.get("unconditional"),
        "real": spread.get("real"),
    }
    memory = {k: found["memory"].get(k) for k in ("conditional", "real")}
    rows = [
        Row(
            words,
            (
                significant(frechet.get(kind)),
                stacked(fidelity.get(kind, {}).get("r")),
                stacked(fidelity.get(kind, {}).get("r2")),
                stacked(found["ssim"].get(kind), 3),
                stacked(found["psnr"].get(kind), 1),
                stacked(diversity.get(kind), 3),
                stacked(memory.get(kind), 3),
            ),
        )
        for kind, words in KINDS.items()
        if kind in frechet or kind in fidelity
    ]
    columns = (
        "Cine", "Frechet distance", "Phenotype fidelity, r", "Phenotype fidelity, R²", "SSIM",
        "PSNR, dB", "Diversity", "Nearest training cine",
    )  # fmt: skip
    caption = (
        f"{where} {found['patients']:,} held-out patients. Frechet distance: how far the set of "
        "cines is from the set of real ones (lower is better; in the last row, real cines of other "
        "patients). Phenotype fidelity: phenotypes measured on the cine against the truth; the "
        "last row is the ceiling of that measurement. Diversity: grey difference between samples "
        "of one patient (without the ECG and in the last row: between patients). Nearest training "
        "cine: grey difference to it."
    )
    return Table(caption, columns, tuple(rows))


def _memory_sentence(found: Mapping[str, Any]) -> str:
    ratio = found["memory"].get("ratio")
    if not ratio or ratio.get("value") is None:
        return "Memorisation was not measured."
    return (
        f"Memorisation: generated cines lie {interval(ratio)} times as far from the nearest "
        "training cine as real held-out cines do; a value far below 1 would mean that training "
        "cines are repeated."
    )


def _fidelity_group(found: Mapping[str, Any]) -> Group:
    by_name = found["fidelity"].get("by_phenotype", {})
    kinds = [k for k in KINDS if any(k in row for row in by_name.values())]
    rows = [
        Row(
            PHENOTYPE_BY_NAME[n].title,
            tuple(stacked(by_name[n].get(k, {}).get("r")) for k in kinds),
        )
        for n in MAIN_PHENOTYPES
        if n in by_name
    ]
    caption = "Pearson's r (95 % interval) between the phenotype measured on a cine and the truth."
    table = Table(caption, ("Phenotype", *(KINDS[k] for k in kinds)), tuple(rows))
    return Group("Phenotype fidelity of the main phenotypes", (table,), folded=True)


def significant(value: float | None) -> str:
    """Return a number with three significant digits."""
    if value is None:
        return NONE
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return number(value, digits)

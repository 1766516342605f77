"""The parts of a report that tell how well the model does on held-out patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cardionets_core.vocabulary import DISEASES, MAIN_PHENOTYPES, PHENOTYPE_BY_NAME
from server.report.facts import STAGES, Facts, Scored
from server.report.figures import draw_calibration, draw_phenotypes, drawn_r2, left_edge
from server.report.noise import noise_texts, not_scored
from server.report.page import (
    NONE,
    SPACE,
    Block,
    Group,
    Picture,
    Row,
    Section,
    Table,
    Text,
    counted,
    interval,
    listed,
    number,
    percent,
    stacked,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PREDICTORS = {
    "mean": "Average patient",
    "covariates": "Age, sex, size only",
    "ecg": "ECG only",
    "ecg_covariates": "ECG + age, sex, size",
}
"""Columns of the phenotype table."""

_POOLED = ("ecg", "covariates")
"""Columns of the disease table, pooled."""


def missing(facts: Facts, stage: str, needs: str) -> Text:
    """Return the sentence that stands where a result is missing.

    Args:
        facts: the run.
        stage: the one that trains what would be scored.
        needs: what a site must have to score it.
    """
    if not facts.trained("evaluate"):
        return Text("This run has no evaluation stage, so nothing was scored.")
    if not facts.trained(stage):
        return Text(f"This run has no stage {STAGES[stage][0]!r}, so there is nothing to score.")
    reason = not_scored(facts, stage)
    return Text(reason or f"Nothing was scored: no site had enough held-out {needs}.")


def _nothing_to_show(facts: Facts, section: Scored, needs: str) -> tuple[Text, ...]:
    """Return why a section has no number: none was scored, or noise leaves none; else nothing."""
    if not facts.pooled.get(section):
        return (missing(facts, section, needs),)
    return noise_texts(facts, section) if facts.drowned(section) else ()


# -------------------------------------------------------------------------------------- phenotypes


def phenotype_section(facts: Facts) -> Section:
    """Return R2 of the phenotypes, pooled and per site; no number where noise leaves nothing."""
    title, noise = "CMR measurements from the ECG", noise_texts(facts, "phenotypes")
    found = facts.pooled.get("phenotypes", {})
    if nothing := _nothing_to_show(facts, "phenotypes", "patients with CMR measurements"):
        return Section("phenotypes", title, nothing)
    names = list(found["by_phenotype"])
    main = [n for n in MAIN_PHENOTYPES if n in found["by_phenotype"]]
    blocks: list[Block] = [
        *noise,
        Text(_phenotype_verdict(found, noised=bool(noise)), tone="key"),
        Text(
            "R² is the share of the differences between patients that is explained: 0 is no better "
            "than giving everyone the average, 1 is exact, below 0 is worse than the average."
            + (f" In brackets the 95 % interval {_cause(noise)}." if _has_intervals(found) else ""),
            tone="note",
        ),
        Picture(
            draw_phenotypes(found, main),
            kind="svg+xml",
            alt="R squared of the main phenotypes for three sets of predictors, as in the table",
            caption=_figure_caption(found, main),
        ),
        _phenotype_table(found, main, "All sites pooled.", facts),
    ]
    for site in facts.sites:
        own = facts.at_site(site).get("phenotypes", {})
        if own and not facts.drowned("phenotypes", site):
            table = _phenotype_table(own, main, "Scored against this site's own spread.", facts)
            mean = number(own["average"]["ecg"]["r2"]["value"])
            heading = f"{facts.title(site)}: mean R² {mean} from the ECG alone"
            blocks.append(Group(heading, (table,), folded=True))
    everything = _phenotype_table(found, names, "All sites pooled.", facts)
    blocks.append(Group(f"All {len(names)} phenotypes", (everything,), folded=True))
    return Section("phenotypes", title, tuple(blocks))


def _cause(noise: Sequence[Text]) -> str:
    """Return what an interval of R2 is over; of a private one see privacy/intervals.py."""
    return "of the noise alone, for these same patients" if noise else "over patients"


def _figure_caption(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return what is drawn: intervals and arrows are named where there are some."""
    marks = drawn_r2(found, names)
    left = left_edge(marks)
    caption = "R² on held-out patients of all sites"
    caption += ", with 95 % intervals." if any(_is_interval(r2) for r2 in marks) else "."
    if any(r2["value"] is not None and r2["value"] < left for r2 in marks):
        caption += (
            " A triangle at the left edge stands for a value below it; the table has the number."
        )
    return caption


def _is_interval(estimate: Mapping[str, float | None]) -> bool:
    return estimate.get("low") is not None and estimate.get("high") is not None


def _has_intervals(found: Mapping[str, Any]) -> bool:
    rows = [*found["by_phenotype"].values(), found["average"]]
    scores = [row[p] for row in rows for p in PREDICTORS if p in row]
    return any(_is_interval(score.get("r2", {})) for score in scores)


def _phenotype_verdict(found: Mapping[str, Any], *, noised: bool) -> str:
    if noised:  # references from age, sex and size are not available, and a sign proves nothing
        return (
            f"Averaged over {len(found['by_phenotype'])} phenotypes, the noised R² is "
            f"{_mean_r2(found, 'ecg')} from the ECG alone."
        )
    shown = {p: _mean_r2(found, p) for p in ("ecg", "covariates", "ecg_covariates")}
    text = (
        f"Averaged over {len(found['by_phenotype'])} phenotypes, R² is {shown['ecg']} from the ECG "
        f"alone, {shown['covariates']} from age, sex and body size alone, and "
        f"{shown['ecg_covariates']} from both."
    )
    value = found["average"]["ecg"]["r2"]["value"]
    if value is not None and value <= 0:
        text += " The ECG did no better than the average patient: this model is not useful yet."
    return text


def _mean_r2(found: Mapping[str, Any], predictor: str) -> str:
    return interval(found["average"].get(predictor, {}).get("r2"))


def _phenotype_table(
    found: Mapping[str, Any], names: Iterable[str], caption: str, facts: Facts
) -> Table:
    by_name = found["by_phenotype"]
    rows = [
        Row(
            PHENOTYPE_BY_NAME[name].title,
            (
                f"{by_name[name]['patients']:,}",
                *(stacked(by_name[name].get(p, {}).get("r2")) for p in PREDICTORS),
                _error(by_name[name], name, facts),
            ),
        )
        for name in names
        if name in by_name
    ]
    means = (stacked(found["average"].get(p, {}).get("r2")) for p in PREDICTORS)
    rows.append(Row(f"Mean of all {len(by_name)}", ("", *means, ""), kind="total"))
    noised = "" if facts.errors() is None else " (noised)"
    columns = ("Phenotype", f"Patients{noised}", *PREDICTORS.values(), "Typical error, ECG")
    caption += " R² with its 95 % interval" if _has_intervals(found) else " R²"
    caption += "; typical error is the mean absolute error of ECG only."
    return Table(caption, columns, tuple(rows))


def _error(row: Mapping[str, Any], name: str, facts: Facts) -> str:
    """Return the ECG's mean absolute error in the phenotype's unit."""
    in_sd = row.get("ecg", {}).get("mae_sd", {}).get("value")
    if in_sd is None or name not in facts.info.phenotypes:
        return NONE
    error = in_sd * facts.info.scaler_sd[facts.info.phenotypes.index(name)]
    return f"{number(error, 1 if error >= 1 else 2)}{SPACE}{PHENOTYPE_BY_NAME[name].unit}"


# ---------------------------------------------------------------------------------------- diseases


def disease_section(facts: Facts) -> Section:
    """Return AUROC of the diseases beside prevalence, and calibration; none that noise leaves."""
    title, noise = "Diseases from the ECG", noise_texts(facts, "diseases")
    found = facts.pooled.get("diseases", {})
    if nothing := _nothing_to_show(facts, "diseases", "patients with diagnoses"):
        return Section("diseases", title, nothing)
    known = {n: r for n, r in found["by_disease"].items() if 0 < r["present"] < r["patients"]}
    blocks: list[Block] = [
        *noise,
        Text(_disease_verdict(facts, found, list(known)), tone="key"),
        Text(
            "AUROC: 0.5 is chance, 1 is perfect. The pooled value also rewards telling hospitals "
            "apart where a disease is more frequent in one of them, so read it beside the values "
            f"of the sites. Prevalence is {'noised' if noise else 'the true one'}; no controls "
            "were sampled away.",
            tone="note",
        ),
        _disease_table(facts, found),
    ]
    curves = {name: row["ecg"]["calibration"] for name, row in known.items()}
    curves = {name: curve for name, curve in curves.items() if any(curve["patients"])}
    if curves:  # a private evaluation tells none
        blocks.append(
            Picture(
                draw_calibration(curves),
                kind="svg+xml",
                wide=True,
                alt="Predicted probability against observed frequency for every disease",
                caption="Calibration, all sites pooled: predicted probability against observed "
                "frequency in bins; larger dots hold more patients. On the diagonal a probability "
                "means what it says.",
            )
        )
    return Section("diseases", title, tuple(blocks))


def _disease_verdict(facts: Facts, found: Mapping[str, Any], scored: Sequence[str]) -> str:
    average = {p: found["average"].get(p, {}).get("auroc") for p in ("ecg", "covariates")}
    plain = {p: interval({"value": (a or {}).get("value")}) for p, a in average.items()}
    noised = facts.errors() is not None
    of = counted(len(scored), "disease")
    text = (
        f"Mean noised AUROC over {of} of whose sick and healthy the noise leaves some: "
        f"{plain['ecg']} from the ECG."
        if noised
        else f"Mean AUROC over {of} with both sick and healthy held-out patients: "
        f"{plain['ecg']} from the ECG, {plain['covariates']} from age, sex and body size."
    )
    shown = facts.known("diseases", facts.info.diseases)
    others = [DISEASES.get(n, n) for n in shown if n not in scored]
    if others:
        why = "no held-out patient has it, or all have"
        if noised:
            why = "of its noised counts of sick and healthy patients one is 0"
        text += (
            f" The model gives a probability of {listed(others)}, too, which cannot be scored: "
            f"{why}."
        )
    return text


def _disease_table(facts: Facts, found: Mapping[str, Any]) -> Table:
    own = {s: facts.at_site(s).get("diseases", {}).get("by_disease", {}) for s in facts.sites}
    own = {s: t for s, t in own.items() if t and not facts.drowned("diseases", s)}
    noised = "" if facts.errors() is None else " (noised)"
    nobody = "noised count 0" if noised else "not recorded"
    rows = [
        Row(
            DISEASES.get(name, name),
            (
                f"{row['present']:,} of {row['patients']:,}",
                percent(row["prevalence"], 1),
                _auroc(row, "ecg"),
                _auroc(row, "covariates"),
                *(_auroc(table.get(name, {}), "ecg", none=nobody) for table in own.values()),
                number(row["ecg"]["ece"], 3),
            ),
        )
        for name, row in found["by_disease"].items()
    ]
    columns = (
        "Disease", f"Present{noised}", f"Prevalence{noised}", "ECG, pooled",
        "Age, sex, size, pooled", *(f"ECG, {facts.title(s)}" for s in own), "Calibration error",
    )  # fmt: skip
    rows_of = found["by_disease"].values()
    pooled = [row.get(p, {}).get("auroc") or {} for row in rows_of for p in _POOLED]
    with_interval = " with its 95 % interval" if any(map(_is_interval, pooled)) else ""
    if with_interval and noised:
        with_interval += " (over patients and noise)"
    caption = (
        f"AUROC{with_interval} on held-out patients; at a site n counts those who have the "
        "disease. Calibration error: mean distance between probability and frequency."
    )
    return Table(caption, columns, tuple(rows))


def _auroc(row: Mapping[str, Any], predictor: str, *, none: str = "") -> str:
    """Return an AUROC for a cell; a site's with its counts, or `none` where it counted nobody."""
    if not row:
        return none or NONE
    shown = stacked(row.get(predictor, {}).get("auroc"))
    return f"{shown}\nn = {row['present']} of {row['patients']}" if none else shown

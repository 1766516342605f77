"""The part of a report that tells how training went: one chart per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.report.facts import STAGES, Facts
from server.report.figures import Curve, draw_training, site_colours
from server.report.page import Gallery, Picture, Section, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

LOSSES = ("train_loss", "validation_loss")


def training_section(facts: Facts) -> Section:
    """Return the loss curves of every training stage."""
    pictures = [
        _picture(facts, stage["name"])
        for stage in facts.summary["stages"]
        if _records(facts, stage["name"])
    ]
    if not pictures and facts.summary["privacy"]["mode"] != "none":
        words = "Sites tell no losses in a private run: a loss depends on the patients."
        return Section("training", "Training", (Text(words),))
    if not pictures:
        return Section("training", "Training", (Text("No stage of this run trained anything."),))
    explanation = Text(
        "Thin lines are sites, the thick line is the mean over sites, weighted by their training "
        "patients. The validation loss is of the shared model that a round begins with, on "
        "patients that no site trains on; the training loss is the mean while a site trains on. "
        "Losses of different stages are different things and do not compare.",
        tone="note",
    )
    return Section("training", "Training", (explanation, Gallery(tuple((p,) for p in pictures))))


def _records(facts: Facts, stage: str) -> list[dict[str, Any]]:
    """Return the rounds of a stage in which a loss was reported."""
    rounds = (r for r in facts.summary["rounds"] if r["stage"] == stage)
    return [r for r in rounds if any(key in r["metrics"] for key in LOSSES)]


def _picture(facts: Facts, stage: str) -> Picture:
    records = _records(facts, stage)
    names = sorted({site for r in records for site in r["site_metrics"]})
    sites = {facts.title(n): _curves(records, n) for n in names}
    mean = {k: {r["round"]: r["metrics"][k] for r in records if k in r["metrics"]} for k in LOSSES}
    title, learns = STAGES[stage]
    return Picture(
        draw_training(sites, mean, site_colours([facts.title(s) for s in facts.sites])),
        kind="svg+xml",
        alt=f"Loss over {len(records)} rounds of {title}",
        caption=f"{title}: the model learns {learns}.",
    )


def _curves(records: Sequence[dict[str, Any]], site: str) -> dict[str, Curve]:
    own = {r["round"]: r["site_metrics"].get(site, {}) for r in records}
    return {k: {n: m[k] for n, m in own.items() if k in m} for k in LOSSES}

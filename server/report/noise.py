"""What a report says of a private evaluation: its numbers are noised, by how much, or not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.evaluation.options import SECTION_STAGES
from cardionets_core.privacy.evaluation import UNAVAILABLE
from server.report.page import Text, listed

if TYPE_CHECKING:
    from server.report.facts import Facts, Scored

NOTHING_LEFT = (
    "Noise of this size leaves nothing of the scores: whether the model is any good cannot be told "
    "from them, and they are not shown (summary.json holds what was released). Judge on public "
    "patients, or score more patients, fewer outputs, or with less noise."
)


def noise_texts(facts: Facts, section: Scored) -> tuple[Text, ...]:
    """Return what a section of results begins with; nothing for a run without privacy."""
    errors = facts.errors()
    if errors is None:
        return ()
    numbers, metric, error, count, of = {
        "phenotypes": ("Counts and scores", "R²", errors.r2, errors.measured, "measured"),
        "diseases": (
            "Counts, prevalences and scores", "AUROC", errors.auroc, errors.diagnosed, "ill",
        ),
    }[section]  # fmt: skip
    text = (
        f"{numbers} of this section are noised at each hospital, to hide any one patient: expect "
        f"an error of about {error:.2g} in {metric} and of {count:,.0f} in a count of {of} "
        f"patients, over about {errors.patients:,} test patients of all hospitals, and a "
        "larger one in scores of what fewer of them have on record."
    )
    if facts.drowned(section):
        return (Text(f"{text} {NOTHING_LEFT}", tone="warning"),)
    lost = [facts.title(site) for site in facts.sites if facts.drowned(section, site)]
    if lost:
        text += f" Of one hospital alone it leaves too little to show: {listed(lost)}."
    return (Text(text, tone="warning"),)


def not_scored(facts: Facts, stage: str) -> str:
    """Return why a private evaluation has no results for what a stage trained; "" otherwise."""
    errors = facts.errors()
    if errors is None:
        return ""
    section = next(name for name, stages in SECTION_STAGES.items() if stage in stages)
    if section in UNAVAILABLE:
        return f"Not scored under privacy: {UNAVAILABLE[section]}."
    if section not in errors.asked:
        return "Nothing was scored: the plan leaves this section out of its evaluation."
    return "Nothing was scored: no noised count of patients is above 0."

"""What a report is drawn from, and its parts that tell of the run itself: who, what, how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cardionets_core.privacy.expected_errors import errors_of_plan
from cardionets_core.vocabulary import COHORT_DISCLAIMER
from server.report.page import (
    Block,
    Highlights,
    Text,
    counted,
    duration,
    interval,
    listed,
    megabytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cardionets_core.checkpoint import CheckpointInfo
    from cardionets_core.privacy.expected_errors import ExpectedErrors
    from cardionets_core.run_config import RunConfig

STAGES: dict[str, tuple[str, str]] = {
    "handshake": ("Handshake", "who is there, what each has, phenotype means and spreads"),
    "ecg_masked": ("ECG pretraining", "to fill in hidden pieces of an ECG"),
    "cmr_masked": ("CMR pretraining", "to fill in hidden pieces of a cine"),
    "masked": ("Pretraining", "to fill in hidden pieces of an ECG, of a cine, or of both"),
    "tokenizer": ("Cine compression", "to squeeze a cine into few numbers and back"),
    "contrastive": ("ECG-CMR alignment", "which ECG and which cine are of the same patient"),
    "distill": ("ECG-CMR distillation", "to tell from an ECG what the CMR encoder sees in a cine"),
    "generative": ("Cine generation", "to draw a cine from an ECG"),
    "phenotypes": ("Phenotypes", "to estimate CMR measurements from an ECG"),
    "diseases": ("Diseases", "to estimate disease probabilities from an ECG"),
    "evaluate": ("Evaluation", "nothing: held-out patients are scored at each site"),
}
"""Stage -> name for people, what the model learns in it."""

Scored = Literal["phenotypes", "diseases"]
"""Sections of the evaluation that score outputs by name, with privacy and without."""

METRICS: dict[Scored, str] = {"phenotypes": "R2", "diseases": "AUROC"}
"""Section -> its metric in `ExpectedErrors.unusable`."""

RESEARCH_ONLY = "Research use only; not a medical device."

_VIRTUAL_BY_PLAN = "By this run's plan such patients are at some of its hospitals"

NUMBER_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


@dataclass(frozen=True)
class Simulated:
    """What a simulator knows of its hospitals; of real ones the coordinator is not told it.

    Attributes:
        titles: site -> its name for people; empty where it has none.
        virtual: the sites whose patients are computed.
    """

    titles: Mapping[str, str]
    virtual: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """A finished run.

    Attributes:
        folder: of the run.
        summary: its summary.json (docs/summary.md).
        info: its checkpoint.json.
        config: its plan.
        simulated: what its simulator knows beside its folder; None of a run of real hospitals.
    """

    folder: Path
    summary: dict[str, Any]
    info: CheckpointInfo
    config: RunConfig
    simulated: Simulated | None = None

    @property
    def sites(self) -> list[str]:
        """Names of the sites that answered the handshake."""
        return sorted(self.summary["sites"])

    @property
    def pooled(self) -> dict[str, Any]:
        """Results over all sites; empty where the run was not evaluated."""
        return dict(self.summary["metrics"].get("pooled", {}))

    def at_site(self, site: str) -> dict[str, Any]:
        """Results of one site; empty where it was not evaluated."""
        return dict(self.summary["metrics"].get("sites", {}).get(site, {}))

    def known(self, section: Scored, names: Sequence[str]) -> list[str]:
        """Return those of the model's outputs that anybody could score; all before an evaluation.

        An output for which no site had a label has learned nothing and must not be shown. Noised
        counts do not tell which these are: all are returned then.
        """
        if self.errors() is not None:
            return list(names)
        found = self.pooled.get(section, {})
        scored = found.get("by_phenotype" if section == "phenotypes" else "by_disease")
        return [n for n in names if scored is None or n in scored]

    def errors(self, *sites: str) -> ExpectedErrors | None:
        """Return what noise is expected to do to a private evaluation; None where there is none.

        Args:
            sites: scored by themselves; none for all of them pooled.
        """
        told = [self.summary["sites"][name] for name in sites or self.sites]
        declared = [s["counts"].get("patients", 0) for s in told if "ecg" in s["modalities"]]
        if not declared:
            return None
        return errors_of_plan(self.config, sum(declared), sites=len(declared))

    def drowned(self, section: Scored, *sites: str) -> bool:
        """Return whether noise is expected to leave nothing of a section's scores.

        Args:
            section: of the evaluation.
            sites: scored by themselves; none for all of them pooled.
        """
        errors = self.errors(*sites)
        return errors is not None and METRICS[section] in errors.unusable

    def title(self, site: str) -> str:
        """Return a site's name for people."""
        titles = {} if self.simulated is None else self.simulated.titles
        return titles.get(site) or site

    def trained(self, stage: str) -> bool:
        """Whether at least one round of the stage was run."""
        return any(s["name"] == stage and s["rounds"] > 0 for s in self.summary["stages"])

    @property
    def bytes_moved(self) -> int:
        """Payload of the whole run, down and up."""
        return sum(s["bytes_down"] + s["bytes_up"] for s in self.summary["stages"])


# ------------------------------------------------------------------------------------ the headline


def headline(facts: Facts) -> str:
    """Return the title of the page."""
    count = len(facts.sites)
    word = NUMBER_WORDS[count] if count < len(NUMBER_WORDS) else str(count)
    if count == 1:
        return "One hospital trained a heart model; no record left it"
    return f"{word} hospitals trained one heart model; no record left any of them"


def lead(facts: Facts) -> tuple[Block, ...]:
    """Return what stands under the title."""
    names = listed([facts.title(s) for s in facts.sites])
    one = len(facts.sites) == 1
    blocks: list[Block] = [
        Text(
            f"{names} trained one CardioNets model{'' if one else ' together'}. "
            f"{_abilities(facts)} No ECG, image, table or identifier left a hospital: what "
            "travelled were model weights, counts and sums, "
            f"{megabytes(facts.bytes_moved)} in all.",
            tone="key",
        ),
        Text(_disclaimer(facts), tone="warning"),
        Highlights(tuple(_highlights(facts))),
        Text(f"Run {facts.summary['run']}. {_origin(facts)}", tone="note"),
    ]
    return tuple(blocks)


def _abilities(facts: Facts) -> str:
    phenotypes = len(facts.known("phenotypes", facts.info.phenotypes))
    diseases = len(facts.known("diseases", facts.info.diseases))
    can = []
    if facts.trained("phenotypes"):
        can.append(
            f"estimates {counted(phenotypes, 'measurement')} that otherwise need cardiac MRI"
        )
    if facts.trained("diseases"):
        can.append(f"gives the probability of {counted(diseases, 'diagnosis', 'diagnoses')}")
    if facts.trained("generative"):
        can.append("draws a synthetic cine of the beating heart")
    if not can:
        return "This run trained only parts of it, so it makes no prediction yet."
    return f"From a 12-lead ECG it {listed(can)}."


def _disclaimer(facts: Facts) -> str:
    computed = frozenset() if facts.simulated is None else facts.simulated.virtual
    virtual = [facts.title(site) for site in facts.sites if site in computed]
    if virtual:
        verb = "holds" if len(virtual) == 1 else "hold"
        return f"{COHORT_DISCLAIMER} {listed(virtual)} {verb} such patients. {RESEARCH_ONLY}"
    if facts.summary["virtual"]:
        begun = ", or trained the model that it began with" * bool(facts.summary["start"])
        return f"{COHORT_DISCLAIMER} {_VIRTUAL_BY_PLAN}{begun}. {RESEARCH_ONLY}"
    return RESEARCH_ONLY


def _origin(facts: Facts) -> str:
    if facts.simulated is not None:
        return (
            "A simulation: all hospitals ran on one machine and exchanged the messages that real "
            "hospitals would exchange."
        )
    return (
        "Drawn by the coordinator, who has no patient to show: every number here comes from what "
        "the hospitals sent, and stands in summary.json, too."
    )


def _highlights(facts: Facts) -> list[tuple[str, str]]:
    sites, rounds = facts.summary["sites"].values(), facts.summary["rounds"]
    patients = sum(s["counts"].get("patients", 0) for s in sites)
    items = [(f"{patients:,}", f"patients at {counted(len(facts.sites), 'hospital')}")]
    noised = "" if facts.errors() is None else " (noised)"
    average = _average(facts, "phenotypes")
    if "ecg" in average:
        count = len(facts.known("phenotypes", facts.info.phenotypes))
        words = f"mean R² of {count} phenotypes, ECG alone{noised}"
        items.append((_value(average["ecg"]["r2"]), words))
    if "ecg_covariates" in average:
        items.append((_value(average["ecg_covariates"]["r2"]), "the same, ECG + age, sex and size"))
    average = _average(facts, "diseases")
    if "ecg" in average:
        words = f"mean AUROC of the diseases, ECG alone{noised}"
        items.append((_value(average["ecg"]["auroc"]), words))
    items.append(
        (duration(facts.summary["seconds"]), f"for {counted(len(rounds), 'round')} of messages")
    )
    return items


def _average(facts: Facts, section: Scored) -> dict[str, Any]:
    """Return the mean scores of a section, none where noise leaves nothing of them."""
    if facts.drowned(section):
        return {}
    return dict(facts.pooled.get(section, {}).get("average", {}))


def _value(estimate: dict[str, float | None]) -> str:
    return interval({"value": estimate.get("value")})

"""The stages of a run: which parts each one trains, which it builds on, and who can serve it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.training.objectives import KINDS, make_objective

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.run_config import RunConfig


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        name: also the name of its objective (training/objectives.py), where it has no members.
        trains: parts of the model that it trains, the only ones that travel every round.
        uses: frozen parts that it builds on; a site is sent them once and keeps them.
        needs: what a patient must have to be trained on (words of SiteDataset.indices).
        modality: what a site must offer to be asked (words of SiteDataset.modalities).
        members: the stages that it is made of, which share no part. A site trains those that it has
            the records for, one after the other; empty: the stage is one of its own.
    """

    name: str
    trains: tuple[str, ...]
    needs: frozenset[str]
    modality: str
    uses: tuple[str, ...] = ()
    members: tuple[Stage, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part that a site needs for this stage."""
        return self.trains + self.uses

    def at(self, modalities: Collection[str]) -> tuple[Stage, ...]:
        """Return what a site that offers `modalities` trains: this stage or members; () is none."""
        if self.members:
            return tuple(m for m in self.members if m.at(modalities))
        return (self,) if {self.modality, *self.needs} <= set(modalities) else ()

    def training(self, parts: Collection[str]) -> tuple[Stage, ...]:
        """Return the stage, or the members of it, that train exactly `parts`; () is none."""
        found = tuple(m for m in self.members or (self,) if set(m.trains) <= set(parts))
        return found if {p for m in found for p in m.trains} == set(parts) else ()


def _stage(name: str, modality: str, *uses: str) -> Stage:
    kind = KINDS[name]
    return Stage(name, kind.parts, kind.needs, modality, uses)


_ECG_MASKED, _CMR_MASKED = _stage("ecg_masked", "ecg"), _stage("cmr_masked", "cine")

STAGES: dict[str, Stage] = {
    s.name: s
    for s in (
        _ECG_MASKED,
        _CMR_MASKED,
        Stage(
            "masked",
            trains=_ECG_MASKED.trains + _CMR_MASKED.trains,
            needs=frozenset(),
            modality="ecg or cine",
            members=(_ECG_MASKED, _CMR_MASKED),
        ),
        _stage("tokenizer", "cine"),
        _stage("contrastive", "pairs"),
        _stage("distill", "pairs", "cmr_encoder", "cmr_projector"),
        _stage("generative", "pairs", "ecg_encoder", "ecg_projector", "tokenizer"),
        _stage("phenotypes", "phenotypes"),
        _stage("diseases", "diseases"),
    )
}
"""The training stages by name; `handshake` and `evaluate` train nothing."""

HEADS = {"phenotypes": "phenotype_head", "diseases": "disease_head"}
"""Stages whose head starts from the aligned ECG encoder."""


def configured(name: str, options: Mapping[str, float], model: ModelConfig) -> Stage:
    """Return the stage as its options and the model shape it.

    With `freeze_cmr`, contrastive alignment trains the ECG side against a frozen CMR encoder (the
    paper). A head without an encoder of its own builds on the aligned one, frozen.
    """
    stage = STAGES[name]
    if name in HEADS and getattr(model, HEADS[name]).encoder != "own":
        return replace(stage, uses=(*stage.uses, "ecg_encoder"))
    if name == "contrastive" and options.get("freeze_cmr", 0.0) > 0:
        trains = tuple(p for p in stage.trains if p != "cmr_encoder")
        return replace(stage, trains=trains, uses=(*stage.uses, "cmr_encoder"))
    return stage


def check_plan(config: RunConfig) -> None:
    """Check what only stages and objectives know of a plan, before anything is started.

    Raises:
        ConfigError: an option that an objective does not have, or a part that its stage does not
            train, with the nearest right one; a strategy or a budget that counts steps, for a
            stage with members.
    """
    for name in config.stages:
        if name not in STAGES:
            continue
        settings = config.stage[name]
        stage = configured(name, settings.options, config.model)
        counts = "scaffold" if config.strategy.name == "scaffold" else settings.partial
        if stage.members and counts in ("scaffold", "fednova"):
            raise ConfigError(
                f"stage {name}: its members take different numbers of steps, and {counts} divides "
                f"by them. Plan {', '.join(m.name for m in stage.members)} instead."
            )
        if stage.members and settings.budget_s > 0:
            raise ConfigError(
                f"stage.{name}.budget_s: an update says one number of steps for all of its parts, "
                "and of the members one may be done and another not. Leave it at 0, or plan "
                f"{', '.join(m.name for m in stage.members)} instead, each with its own budget_s."
            )
        for member in stage.members or (stage,):
            make_objective(member.name, settings.options, 0.0)
        for part in settings.part_sites:
            if part not in stage.trains:
                raise ConfigError(
                    f"stage.{name}.part_sites: {part!r} is no part that {name} trains"
                    f"{nearest(part, stage.trains)}. It trains: {', '.join(stage.trains)}."
                )

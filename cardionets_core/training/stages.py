"""The stages of a run: which parts each one trains, which it builds on, and who can serve it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.model_config import ModelConfig


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        name: also the name of its objective (training/objectives.py).
        trains: parts of the model that it trains, the only ones that travel every round.
        uses: frozen parts that it builds on; a site is sent them once and keeps them.
        needs: what a patient must have to be trained on (words of SiteDataset.indices).
        modality: what a site must offer to be asked (words of SiteDataset.modalities).
        per_patient: the loss is a mean over patients, so federated and pooled steps agree.
    """

    name: str
    trains: tuple[str, ...]
    needs: frozenset[str]
    modality: str
    uses: tuple[str, ...] = ()
    per_patient: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part that a site needs for this stage."""
        return self.trains + self.uses


_ECG, _CINE = frozenset({"ecg"}), frozenset({"cine"})
_ALIGNED = ("ecg_encoder", "ecg_projector")

STAGES: dict[str, Stage] = {
    s.name: s
    for s in (
        Stage("ecg_masked", ("ecg_encoder", "ecg_decoder"), _ECG, "ecg"),
        Stage("cmr_masked", ("cmr_encoder", "cmr_decoder"), _CINE, "cine"),
        Stage("tokenizer", ("tokenizer",), _CINE, "cine"),
        Stage(
            "contrastive",
            (*_ALIGNED, "cmr_encoder", "cmr_projector"),
            _ECG | _CINE,
            "pairs",
            per_patient=False,
        ),
        Stage("generative", ("generator",), _ECG | _CINE, "pairs", (*_ALIGNED, "tokenizer")),
        Stage("phenotypes", ("phenotype_head",), _ECG | {"phenotypes"}, "phenotypes"),
        Stage("diseases", ("disease_head",), _ECG | {"diseases"}, "diseases"),
    )
}
"""The training stages by name; `handshake` and `evaluate` train nothing."""

HEADS = {"phenotypes": "phenotype_head", "diseases": "disease_head"}
"""Stages whose head starts from the aligned ECG encoder."""


def configured(name: str, options: Mapping[str, float], model: ModelConfig) -> Stage:
    """Return the stage as its options and the model shape it.

    `contrastive` with `phenotype_weight` also trains the phenotype head (the regression term); with
    `freeze_cmr` the CMR encoder is frozen while the ECG side aligns (the paper). A head without an
    encoder of its own builds on the aligned one, frozen.
    """
    stage = STAGES[name]
    trains, uses = stage.trains, stage.uses
    if name in HEADS and not owns_encoder(model, HEADS[name]):
        uses = (*uses, "ecg_encoder")
    if name == "contrastive" and options.get("phenotype_weight", 0.0) > 0:
        trains = (*trains, "phenotype_head")
    if name == "contrastive" and options.get("freeze_cmr", 0.0) > 0:
        trains = tuple(p for p in trains if p != "cmr_encoder")
        uses = (*uses, "cmr_encoder")
    return replace(stage, trains=trains, uses=uses)


def owns_encoder(model: ModelConfig, head: str) -> bool:
    """Return whether a head holds its own copy of the ECG encoder (fine-tuned with it)."""
    return bool(getattr(model, head).encoder == "own")

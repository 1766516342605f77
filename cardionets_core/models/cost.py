"""What a model costs: parameters and bytes of every part, bytes a round and FLOPs of every stage.

Nothing is computed: models and batches live on torch's `meta` device, which has shapes but no
memory, so the largest preset is counted on a laptop. FLOPs are those of matrix products, attention
and convolutions (torch's FlopCounterMode; one multiply-add = 2 FLOPs); Fourier transforms of `s4d`
are not in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from cardionets_core.batch import Batch
from cardionets_core.models.cardionet import PARTS, CardioNet, build_model
from cardionets_core.training.objectives import TRAINED_PARTS, make_objective
from cardionets_core.vocabulary import COVARIATES, LEADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.model_config import ModelConfig

PATIENTS = 2  # in the counted batch: contrastive losses need two


@dataclass(frozen=True)
class PartCost:
    """Size of one part.

    Attributes:
        part: its name.
        parameters: trained numbers.
        wire_bytes: of its whole state in fp32, one way.
    """

    part: str
    parameters: int
    wire_bytes: int


@dataclass(frozen=True)
class UseCost:
    """Cost of training a stage, or of using the model, for one patient.

    Attributes:
        name: the objective, or `predict` (all heads) or `generate` (one cine, sampling defaults).
        parts: the parts that are trained by default; empty for uses.
        flops: per patient: forward and backward in training, forward in use.
        wire_bytes: per site and round, one way: the trained parts in fp32.
    """

    name: str
    parts: tuple[str, ...]
    flops: int
    wire_bytes: int


def part_costs(config: ModelConfig) -> list[PartCost]:
    """Return the size of every part, in the order of PARTS."""
    return [_part_cost(build_model(config, device="meta"), part) for part in PARTS]


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Return how many parameters there are in all, and without the ECG encoders that heads own."""
    model = build_model(config, device="meta")
    whole = sum(p.numel() for p in model.parameters())
    encoder = sum(p.numel() for p in model.ecg_encoder.parameters())
    copies = sum(head.encoder == "own" for head in (config.phenotype_head, config.disease_head))
    return whole, whole - copies * encoder


def stage_costs(config: ModelConfig) -> list[UseCost]:
    """Return the cost of one training step per patient of every objective."""
    model = build_model(config, device="meta")
    size = {part: _part_cost(model, part).wire_bytes for part in PARTS}
    batch = _meta_batch(config)
    return [
        UseCost(name, parts, _training_flops(model, batch, name), sum(size[p] for p in parts))
        for name, parts in TRAINED_PARTS.items()
    ]


def use_costs(config: ModelConfig) -> list[UseCost]:
    """Return the cost of reading one ECG crop, and of generating one cine from it."""
    model, batch = build_model(config, device="meta").requires_grad_(False), _meta_batch(config)
    noise = torch.Generator().manual_seed(0)

    def predict() -> object:
        return model.phenotypes(batch.ecg, batch.lead_mask), model.diseases(
            batch.ecg, batch.lead_mask
        )

    def generate(head_steps: int) -> int:
        return _flops(
            lambda: model.generate(
                batch.ecg, batch.lead_mask, generator=noise, head_steps=head_steps
            )
        )

    one = generate(1)  # every further head step costs the same: counting 2 of them is enough
    generation = one + (config.generator.head_steps - 1) * (generate(2) - one)
    return [UseCost("predict", (), _flops(predict), 0), UseCost("generate", (), generation, 0)]


def cost_rows(config: ModelConfig) -> list[dict[str, str]]:
    """Return one table for people: parts, stages and uses, every row with the same columns."""
    rows = [
        _row(f"part {cost.part}", parameters=cost.parameters, wire_bytes=cost.wire_bytes)
        for cost in part_costs(config)
    ]
    whole, without_copies = count_parameters(config)
    rows.append(_row("all parts", parameters=whole))
    rows.append(_row("all parts without the heads' own ECG encoders", parameters=without_copies))
    for cost in stage_costs(config):
        rows.append(_row(f"train {cost.name}", wire_bytes=cost.wire_bytes, flops=cost.flops))
    return rows + [_row(cost.name, flops=cost.flops) for cost in use_costs(config)]


def _row(
    what: str,
    *,
    parameters: int | None = None,
    wire_bytes: int | None = None,
    flops: int | None = None,
) -> dict[str, str]:
    return {
        "what": what,
        "parameters (M)": "" if parameters is None else f"{parameters / 1e6:.3f}",
        "MB per round, one way": "" if wire_bytes is None else f"{wire_bytes / 1e6:.2f}",
        "GFLOP per patient": "" if flops is None else f"{flops / 1e9:.3f}",
    }


def _part_cost(model: CardioNet, part: str) -> PartCost:
    child = model.get_submodule(part)
    return PartCost(
        part,
        sum(p.numel() for p in child.parameters()),
        sum(t.numel() * t.element_size() for t in child.state_dict().values()),
    )


def _training_flops(model: CardioNet, batch: Batch, name: str) -> int:
    for part, child in model.named_children():
        child.requires_grad_(part in TRAINED_PARTS[name])
    objective = make_objective(name, {}, progress=0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))

    def step() -> None:
        loss = objective.loss(model, batch, noise).per_patient.mean()
        if loss.requires_grad:  # a `pixel` tokenizer has nothing to train
            loss.backward()  # type: ignore[no-untyped-call]

    return _flops(step)


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // PATIENTS


def _meta_batch(config: ModelConfig) -> Batch:
    cine = config.cine
    shapes = {
        "ecg": (len(LEADS), config.ecg.crop_samples),
        "cine": (len(cine.views), cine.phases, cine.size_px, cine.size_px),
        "covariates": (len(COVARIATES),),
        "phenotypes": (config.num_phenotypes,),
        "diseases": (config.num_diseases,),
    }
    masks = {
        "lead_mask": (len(LEADS),),
        "view_mask": (len(cine.views),),
        "covariate_mask": (len(COVARIATES),),
        "phenotype_mask": (config.num_phenotypes,),
        "disease_mask": (config.num_diseases,),
    }
    empty = {k: torch.empty(PATIENTS, *s, device="meta") for k, s in shapes.items()}
    known = {k: torch.ones(PATIENTS, *s, device="meta") > 0 for k, s in masks.items()}
    return Batch(**empty, **known)

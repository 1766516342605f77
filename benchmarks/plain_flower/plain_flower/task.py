"""What both apps know: the plan, the model, its state dict, and local training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cardionets_core.models.cardionet import CardioNet, build_model
from cardionets_core.run_config import RunConfig, run_config_from
from cardionets_core.runtime import derive_seed, set_up
from cardionets_core.training.loop import measure, train_locally
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES, Stage, configured
from client.site import open_dataset, open_site
from server.training import train_plan

if TYPE_CHECKING:
    from cardionets_core.data.dataset import SiteDataset


def load_plan(path: str) -> RunConfig:
    """Read a run's config.json."""
    return run_config_from(json.loads(Path(path).read_text()))


def stage_of(config: RunConfig, name: str) -> Stage:
    """Return the stage that is trained."""
    return configured(name, config.stage[name].options, config.model)


def state_dict(model: CardioNet, stage: str) -> dict[str, torch.Tensor]:
    """Return the tensors that this stage trains, as Flower's examples send a whole model."""
    parts = tuple(f"{part}." for part in STAGES[stage].trains)
    return {k: v for k, v in model.state_dict().items() if k.startswith(parts)}


def new_model(config: RunConfig) -> CardioNet:
    """Build the model with the run's initial weights."""
    return build_model(config.sized_model(), seed=config.seed)


class Training:
    """One site's local training: the same data, steps and validation as CardioNets'."""

    def __init__(self, config: RunConfig, stage: str) -> None:
        set_up(config.threads)
        self.config, self.stage = config, stage_of(config, stage)
        self.site = open_site()
        self.data: SiteDataset = open_dataset(
            self.site.config,
            config.sized_model(),
            phenotypes=config.phenotypes,
            diseases=config.diseases,
            scaler=None,
        )
        self.model = new_model(config)

    def train(self, number: int) -> tuple[int, float]:
        """Train a round and return studies and mean loss."""
        settings = self.config.stage[self.stage.name]
        plan = train_plan(self.config, settings, number - 1)
        result = train_locally(
            self.model,
            self.data,
            make_objective(self.stage.name, plan.options, plan.progress),
            trains=self.stage.trains,
            indices=self.data.indices("train", self.stage.needs),
            plan=plan,
            seed=derive_seed(self.config.seed, self.stage.name, number, self.site.name),
            device=torch.device("cpu"),
        )
        return result.num_examples, result.means["loss"]

    def evaluate(self) -> tuple[int, float]:
        """Return validation studies and mean loss."""
        settings = self.config.stage[self.stage.name]
        held_out = self.data.indices("validation", self.stage.needs)
        means = measure(
            self.model,
            self.data,
            make_objective(self.stage.name, settings.options, 0.0),
            indices=held_out,
            batch_size=settings.batch_size,
            seed=derive_seed("validation", self.stage.name, self.site.name),
            device=torch.device("cpu"),
        )
        return len(held_out), float(np.float64(means.get("loss", 0.0)))


def note(path: str, step: str, **facts: Any) -> None:
    """Append one line to the record, with the time (all processes share one machine)."""
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "step": step, **facts}) + "\n")

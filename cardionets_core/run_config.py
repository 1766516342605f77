"""RunConfig: all that the coordinator decides about a run, composed by Hydra."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cardionets_core.config_tree import build
from cardionets_core.errors import ConfigError, nearest
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.model_config import ModelConfig
from cardionets_core.privacy_config import CentralPrivacy, PrivacyRequest
from cardionets_core.screening_config import ScreeningConfig
from cardionets_core.secure_config import SecureAggregationConfig
from cardionets_core.start_config import StartConfig
from cardionets_core.strategy_config import StrategyConfig
from cardionets_core.vocabulary import DISEASES, PHENOTYPE_NAMES, StageName
from cardionets_core.wire_config import WireConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONF = "cardionets_core.conf"
"""The package of YAML files that a run is composed from."""


@dataclass(frozen=True)
class StageConfig:
    """How one training stage runs.

    Attributes:
        rounds: FedAvg rounds.
        local_epochs: passes over the site's training patients per round.
        batch_size: patients per step.
        lr: peak learning rate of AdamW; linear warm-up, then half-cosine to `lr_floor` x lr.
        warmup_rounds: rounds of linear warm-up.
        lr_floor: final learning rate as a share of the peak.
        weight_decay: AdamW's.
        clip_norm: gradient norm that is clipped to; 0 is off.
        max_steps: cap on local steps per round; 0 is none.
        min_sites: replies that a round needs; fewer repeats the round once, then ends the run. 0:
            the run's own `min_sites`, or all sites that can serve the stage where those are fewer.
        deadline_s: seconds that the server waits for the sites of one round, at most.
        patience: the deadline is this many times what the slowest site took in the last rounds,
            and a minute (docs/rounds.md); 0: always `deadline_s`.
        budget_s: seconds that a site may train in one round; a slower one sends what it has done
            by then (`partial`). 0: no limit but the deadline.
        partial: how unfinished work counts: by its share of the planned steps (`weight`), or
            normalised by its steps (`fednova`).
        part_sites: part -> sites that must have trained it in a round, 0 where it may stay as it
            is; others: `min_sites`, or all that can train it where those are fewer than the run's.
        ema_half_life: patients after which the server's moving average forgets half; 0 is off.
        options: numbers for the objective (temperature, sigma, phenotype_weight ...).
    """

    rounds: int = 1
    local_epochs: int = 1
    batch_size: int = 32
    lr: float = 1e-3
    warmup_rounds: int = 0
    lr_floor: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 3.0
    max_steps: int = 0
    min_sites: int = 0
    deadline_s: float = 1800.0
    patience: float = 5.0
    budget_s: float = 0.0
    partial: Literal["weight", "fednova"] = "weight"
    part_sites: dict[str, int] = field(default_factory=dict)
    ema_half_life: float = 0.0
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot run."""
        for name in ("rounds", "local_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "deadline_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("min_sites", "patience", "budget_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for part, sites in self.part_sites.items():
            if sites < 0:
                raise ValueError(f"part_sites.{part} is {sites}; it must be at least 0")

    def sites_for(self, part: str) -> int:
        """Return how many sites must have trained a part in a round."""
        return self.part_sites.get(part, max(1, self.min_sites))

    def lr_at(self, round_index: int) -> float:
        """Return the learning rate of a round (0-based): linear warm-up, then half-cosine."""
        if round_index < self.warmup_rounds:
            return self.lr * (round_index + 1) / (self.warmup_rounds + 1)
        span = max(1, self.rounds - self.warmup_rounds)
        share = (round_index - self.warmup_rounds) / span
        return self.lr * (
            self.lr_floor + (1 - self.lr_floor) * 0.5 * (1 + math.cos(math.pi * share))
        )


@dataclass(frozen=True)
class TrackingConfig:
    """MLflow. An empty `tracking_uri` is the embedded default: SQLite in the output folder."""

    tracking_uri: str = ""
    experiment: str = "cardionets"


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        name: the run's name, also its folder's.
        seed: every random number of the run follows from it.
        threads: CPU threads per process; it changes the order of sums, so it is part of the run.
        stages: which stages run, in order.
        stage: settings of each stage, by name.
        phenotypes: names of the phenotypes that the model predicts.
        diseases: names of the diseases that the model predicts.
        min_patients: a site with fewer training patients than this for a stage sits it out.
        min_sites: sites that must answer the handshake, every round of training that says nothing
            else (`stage.NAME.min_sites`), and the evaluation.
        wait_s: seconds that the server waits for them.
        rejoin_s: seconds that a round, or a restarted server, waits for a site that was lost.
        local_parts: parts, or `part.name` patterns, that stay at each site (docs/strategies.md).
        wire: how updates travel.
        start: weights that the run begins with, of an earlier run.
        virtual: some hospitals hold computed patients; every page about the model then says so.
    """

    name: str
    seed: int
    model: ModelConfig
    stages: tuple[StageName, ...]
    stage: dict[str, StageConfig]
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    screening: ScreeningConfig = field(default_factory=ScreeningConfig)
    privacy: PrivacyRequest = field(default_factory=PrivacyRequest)
    central_privacy: CentralPrivacy = field(default_factory=CentralPrivacy)
    secure_aggregation: SecureAggregationConfig = field(default_factory=SecureAggregationConfig)
    mlflow: TrackingConfig = field(default_factory=TrackingConfig)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    threads: int = 1
    phenotypes: tuple[str, ...] = PHENOTYPE_NAMES
    diseases: tuple[str, ...] = ()
    min_patients: int = 5
    min_sites: int = 1
    wait_s: float = 300.0
    rejoin_s: float = 120.0
    local_parts: tuple[str, ...] = ()
    wire: WireConfig = field(default_factory=WireConfig)
    start: StartConfig = field(default_factory=StartConfig)
    virtual: bool = False

    def __post_init__(self) -> None:
        """Refuse names that do not exist and stages out of order."""
        # The name becomes a folder's, and travels on Flower's command line.
        if self.name.startswith(".") or not all(c.isalnum() or c in "-_." for c in self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, '-', '_' or '.'")
        _known("phenotypes", self.phenotypes, PHENOTYPE_NAMES)
        _known("diseases", self.diseases, DISEASES)
        if not self.stages or self.stages[0] != "handshake":
            raise ValueError("stages must begin with 'handshake'")
        _known("stage", tuple(self.stage), get_args(StageName))
        if self.min_sites < 1:
            raise ValueError(f"min_sites is {self.min_sites}; it must be at least 1")
        needed, why = self.strategy.sites_needed()
        if self.min_sites < needed:
            raise ValueError(
                f"strategy {self.strategy.name} needs {needed} sites ({why}) and min_sites is "
                f"{self.min_sites}; set min_sites={needed} or more, or choose another strategy"
            )
        for name in self.stages:
            if name not in ("handshake", "evaluate") and name not in self.stage:
                raise ValueError(f"stage.{name} is missing: the settings of stage {name!r}")
        unfit = self.strategy.robust or self.strategy.name == "scaffold"
        for stage, settings in self.stage.items():
            if settings.partial == "fednova" and unfit:
                raise ValueError(
                    f"stage.{stage}.partial=fednova divides updates by their steps, which strategy "
                    f"{self.strategy.name} does not take; set partial=weight"
                )

    def sized_model(self) -> ModelConfig:
        """Return the model config with the run's numbers of phenotypes and diseases."""
        return replace(
            self.model, num_phenotypes=len(self.phenotypes), num_diseases=len(self.diseases)
        )


def _known(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: {name!r} is not in the vocabulary{nearest(name, known)}")
    if len(set(names)) != len(names):
        raise ValueError(f"{what}: a name stands twice")


def run_config_from(values: dict[str, Any]) -> RunConfig:
    """Build a RunConfig from a plain mapping, refusing unknown keys."""
    return build(RunConfig, values, "run")


def model_preset(name: str) -> ModelConfig:
    """Return the model of a preset, a file of `cardionets_core/conf/model`.

    Raises:
        ConfigError: there is no such preset.
    """
    return build(ModelConfig, compose("run", [f"model={name}"], package=CONF)["model"], "model")


def compose(config_name: str, overrides: Sequence[str], *, package: str) -> dict[str, Any]:
    """Compose `config_name` of the YAML package with Hydra and return it as plain values.

    An override may name a key that the YAML leaves at its default; whether the key exists at all is
    for the dataclass to say, which knows the nearest right one.

    Args:
        config_name: a file of the package, without `.yaml`.
        overrides: Hydra overrides, `key=value`.
        package: an importable package that holds YAML, for instance `cardionets_core.conf`.

    Raises:
        ConfigError: an override that Hydra cannot read, or a choice that does not exist.
    """
    words = tuple(_forced(word, package) for word in overrides)
    return deepcopy(_composed(config_name, words, package))


@lru_cache(maxsize=64)  # what a package holds does not change, and Hydra takes a tenth of a second
def _composed(config_name: str, words: tuple[str, ...], package: str) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module(package, version_base="1.3"):
            config = hydra_compose(config_name, overrides=list(words))
            values = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"{first}. Overrides are written key=value (Hydra).") from None
    return {str(k): v for k, v in values.items()}


def _forced(word: str, package: str) -> str:
    """Return an override that sets a key whether or not the YAML names it."""
    key, equals, value = word.partition("=")
    if not equals:
        raise ConfigError(f"{word!r} is not an override; write key=value, for instance seed=3.")
    folder = resources.files(package) / key
    if key[:1] in "+~" or not key:
        return word
    if not folder.is_dir():
        return f"++{word}"
    choices = conf_files(package, key)
    if value not in choices:
        known = f"Known: {', '.join(choices)}."
        raise ConfigError(
            f"{key}={value}: there is no such {key}{nearest(value, choices)}. {known}"
        )
    return word


def conf_files(package: str, group: str) -> list[str]:
    """Return the names of the YAML files of a config group, for help texts and presets."""
    folder = resources.files(package) / group
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))

"""A plan that hides every update refuses what needs one, with the cause and the way out."""

from __future__ import annotations

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.model_config import ModelConfig
from cardionets_core.privacy.plan import check_private_plan
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.screening_config import ScreeningConfig
from cardionets_core.secure_config import SecureAggregationConfig
from cardionets_core.strategy_config import StrategyConfig
from cardionets_core.wire_config import WireConfig

QUIET = ScreeningConfig(norm_factor=0)


def plan(stage="ecg_masked", settings=None, secure=None, **fields):
    return RunConfig(
        name="run",
        seed=1,
        model=ModelConfig(),
        stages=("handshake", stage),
        stage={stage: settings or StageConfig()},
        secure_aggregation=secure or SecureAggregationConfig(enabled=True),
        min_sites=5,
        **({"screening": QUIET} | fields),
    )


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_what_needs_the_mean_alone_is_let_in(strategy):
    check_private_plan(plan(strategy=StrategyConfig(strategy)))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        *(
            ({"strategy": StrategyConfig(s)}, f"strategy.name={s} .* Choose fedavg")
            for s in ("median", "trimmed_mean", "krum", "multi_krum", "scaffold")
        ),
        ({"screening": ScreeningConfig()}, "Set screening.norm_factor=0"),
        ({"screening": ScreeningConfig(2.0, norm_factor=0)}, "Set screening.max_norm=0"),
        ({"wire": WireConfig("int8")}, "Set wire.codec=float32"),
        ({"stage": "masked"}, "Plan ecg_masked, cmr_masked instead"),
        ({"settings": StageConfig(budget_s=5.0)}, "Set stage.ecg_masked.budget_s=0"),
        ({"settings": StageConfig(partial="fednova")}, "partial=weight"),
        (
            {"secure": SecureAggregationConfig(True, clips={"ecg_encodr": 1.0})},
            "no part 'ecg_encodr'.*ecg_encoder",
        ),
    ],
)
def test_what_needs_single_updates_is_refused(change, cause):
    with pytest.raises(ConfigError, match=cause):
        check_private_plan(plan(**change))


def test_a_plan_without_it_is_not_looked_at():
    off = SecureAggregationConfig(clips={"nothing": 1.0})
    check_private_plan(plan(secure=off, screening=ScreeningConfig()))


@pytest.mark.parametrize(
    "numbers", [{"threshold": 1}, {"threshold": -2}, {"clip": 0.0}, {"clips": {"p": float("nan")}}]
)
def test_numbers_that_no_session_has_are_refused(numbers):
    with pytest.raises(ValueError, match=r"threshold is|the clip of"):
        SecureAggregationConfig(**numbers)

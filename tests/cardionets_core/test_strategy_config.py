"""The strategy of a plan: its options, and the sites that it needs."""

from __future__ import annotations

import pytest

from cardionets_core.config_tree import build, digest, to_mapping
from cardionets_core.errors import ConfigError
from cardionets_core.run_config import compose, run_config_from
from cardionets_core.strategy_config import STRATEGIES, StrategyConfig


def composed(*overrides):
    return run_config_from(compose("run", ["name=r", *overrides], package="cardionets_core.conf"))


def test_options_come_from_the_command_line_and_the_rest_from_the_table():
    config = composed("strategy.name=fedadam", "strategy.options.lr=0.1")
    assert config.strategy.options == {"lr": 0.1}
    assert config.strategy.numbers() == {"lr": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    assert digest(run_config_from(to_mapping(config))) == digest(config)


def test_the_default_is_fedavg_without_options():
    assert composed().strategy == StrategyConfig("fedavg", {})


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_composes_with_enough_sites(name):
    assert composed(f"strategy.name={name}", "min_sites=9").strategy.name == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy.name=krumm"], "krum"),
        (["strategy.options.mu=0.1"], "fedavg has no option 'mu'.*none"),
        (
            ["strategy.name=fedprox", "strategy.options.mue=1"],
            "has no option 'mue'.*Its options: mu",
        ),
        (["strategy.name=fedprox", "strategy.options.mu=-1"], "mu is -1.0; it must be at least 0"),
        (["strategy.name=fedprox", "strategy.options.mu=inf"], "mu is inf"),
        (["strategy.name=fedprox", "strategy.options.mu=nan"], "mu is nan"),
        (["strategy.name=fedavgm", "strategy.options.momentum=1"], "momentum is 1.0"),
        (["strategy.name=fedadam", "strategy.options.lr=0"], "lr is 0.0; it must be above 0"),
        (["strategy.name=fedadam", "strategy.options.tau=0"], "tau is 0.0"),
        (["strategy.name=trimmed_mean", "strategy.options.trim=0.5"], "below 0.5"),
        (["strategy.name=trimmed_mean", "strategy.options.trim=0"], "above 0"),
        (["strategy.name=krum", "strategy.options.malicious=1.5"], "whole number"),
        (["strategy.name=krum", "strategy.options.keep=2"], "krum has no option 'keep'"),
    ],
)
def test_wrong_options_are_refused_by_name(words, message):
    with pytest.raises(ConfigError, match=message):
        composed("min_sites=20", *words)


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("fedavg", {}, 1),
        ("fedyogi", {}, 1),
        ("median", {}, 3),
        ("trimmed_mean", {"trim": 0.2}, 5),
        ("trimmed_mean", {"trim": 0.4}, 3),
        ("trimmed_mean", {"trim": 0.1}, 10),
        ("krum", {"malicious": 0}, 3),
        ("krum", {"malicious": 1}, 5),
        ("krum", {"malicious": 4}, 11),
        ("multi_krum", {"malicious": 1}, 5),
        ("multi_krum", {"malicious": 1, "keep": 4}, 7),
    ],
)
def test_the_sites_that_a_rule_needs(name, options, needed):
    strategy = StrategyConfig(name, options)
    assert strategy.sites_needed()[0] == needed


@pytest.mark.parametrize("trim", [i / 1000 for i in range(1, 500)])
def test_a_trim_that_is_allowed_cuts_somebody_and_leaves_somebody(trim):
    sites, _ = StrategyConfig("trimmed_mean", {"trim": trim}).sites_needed()
    assert int(trim * sites) >= 1 and sites - 2 * int(trim * sites) >= 1
    assert sites == 3 or int(trim * (sites - 1)) == 0


def test_a_plan_that_would_start_with_too_few_sites_is_refused_with_the_way_out():
    with pytest.raises(ConfigError) as caught:
        composed("strategy.name=krum", "min_sites=4")
    text = str(caught.value)
    assert "krum needs 5 sites (2 x malicious + 3 with malicious=1) and min_sites is 4" in text
    assert "set min_sites=5 or more, or choose another strategy" in text
    assert composed("strategy.name=krum", "min_sites=5").strategy.robust


def test_a_strategy_is_a_name_and_options_and_nothing_else():
    with pytest.raises(ConfigError, match="mu"):
        build(StrategyConfig, {"name": "fedprox", "mu": 0.1}, "strategy")

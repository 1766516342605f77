"""The words that `budget plan` hands over are a run that costs at most what was asked."""

from __future__ import annotations

import re
import shlex

import pytest

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy import schedule
from cardionets_core.privacy.accounting import Charge, epsilon_rdp
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.plan import EVERYTHING, check_private_plan, planned_charges
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.site_config import load_site_config
from cardionets_core.training.stages import check_plan
from tests.client.budget_bench import hospital, typed

BOTH = ("ecg_masked=10,batch=64", "diseases=20,batch=64")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(schedule, "epsilon_prv", epsilon_rdp)


def handed(run, stages):
    """Return the run that the printed words are, as the coordinator reads them."""
    words = [w for r in run for w in ("--run", r)] + [w for s in stages for w in ("--stage", s)]
    code, said = typed("plan", *words, "--patients", 2000, "--epsilon", 8, "--no-plot")
    assert code == 0, said
    text = re.search(r"hand over cardionets-coordinator run (.*?)( \(rounds and|$)", said)[1]
    config = run_config_from(compose("run", ["name=x", *shlex.split(text)], package=CONF))
    check_plan(config)
    check_private_plan(config)
    return config


@pytest.mark.parametrize(
    ("run", "stages"),
    [
        ((), ("masked=10,batch=64", "contrastive=5,batch=100")),
        (("privacy.sums_noise=40",), BOTH[:1]),
        (("privacy.latent_noise=60",), ("tokenizer=10,batch=64",)),
        (("privacy.stages.ecg_masked.noise=1.5", "stages=[handshake,ecg_masked]"), BOTH),
        (("stage.diseases.rounds=50", "privacy.rate=0.3"), BOTH[1:]),
        (("privacy.evaluation_noise=20",), ("contrastive=10.4,batch=77,bucket=8",)),
    ],
)
def test_the_run_costs_at_most_what_was_asked(run, stages):
    config = handed(run, stages)
    assert 0.9 * 8 < epsilon_rdp(planned_charges(config, EVERYTHING), 1e-5) <= 8
    names = tuple(stage.split("=")[0] for stage in stages)
    assert config.stages == ("handshake", *names, "evaluate")


def test_what_was_typed_is_in_the_run():
    run = ("seed=5", "privacy.sums_noise=40", "privacy.stages.ecg_masked.noise=1.5")
    config = handed(run, (*BOTH, "contrastive=5,batch=100,bucket=8"))
    assert (config.seed, config.privacy.sums_noise, config.privacy.bucket_size) == (5, 40.0, 8)
    assert config.privacy.contrastive == "bucket"
    assert config.privacy.stages["ecg_masked"] == {"noise": 1.5, "rate": 0.032}
    assert (config.stage["ecg_masked"].rounds, config.stage["ecg_masked"].max_steps) == (10, 31)
    assert (config.stage["contrastive"].rounds, config.stage["contrastive"].max_steps) == (5, 20)


@pytest.mark.parametrize(
    "words", [("--run", "plan=private"), ("--stage", BOTH[0], "--stage", BOTH[1])], ids=str
)
@pytest.mark.parametrize("first", ["plan", "init", "init without the run"])
def test_a_ledgers_gate_lets_in_what_was_planned_and_hardly_more(tmp_path, words, first):
    """Planned before there is a ledger, or with it: all of it fits, to about the last step."""
    modalities = ["ecg", "pairs", "phenotypes", "diseases"]
    site = hospital(tmp_path, patients=2000, epsilon=8.0, modalities=modalities)
    planned = ("plan", "--config", site, *words, "--no-plot")
    said = typed(*planned)[1]
    init = re.search(r"`cardionets-site budget (init.*?)` fixes", said)[1]
    typed(*shlex.split(init if first != "init without the run" else "init"), "--config", site)
    if first != "plan":
        said = typed(*planned)[1]
        assert "is the ledger's, and stays" in said
    last = r".*(?:hand over|all of it) cardionets-coordinator run (.*?)( \(rounds and|$)"
    text = re.search(last, said)[1]
    config = run_config_from(compose("run", ["name=x", *shlex.split(text)], package=CONF))
    own = load_site_config(site)
    patients = [f"p{n}" for n in range(30)]
    with Ledger.opened(own.privacy, patients=patients, salt=own.data.salt) as ledger:
        for row in planned_charges(config, modalities):
            ledger.reserve("planned", row)
        assert 0.96 * 8 < ledger.epsilon() <= 8 * (1 + 1e-9)
        with pytest.raises(PrivacyError, match="is spent"):
            ledger.reserve("one more", Charge(config.privacy.noise, 0.3, 20))


def test_without_the_sums_the_words_say_that_a_run_costs_more():
    words = ("--stage", BOTH[0], "--patients", 2000, "--no-plot", "--no-releases")
    code, said = typed("plan", *words)
    assert code == 0 and said.endswith("(with the sums it costs more than epsilon 8)")

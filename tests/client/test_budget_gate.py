"""`budget plan --config` refuses what the site's own policy would refuse of the run's tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.planning import run_to_plan, with_noise, with_stages
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.site_config import SiteConfig, SiteData, SitePolicy
from client.budget_gate import require_admitted
from tests.client.budget_bench import hospital, typed

OWN = SitePrivacy(ledger="/srv/ledger.jsonl", patients=2000, min_noise=0.8)
DATA = SiteData(root="/srv/d", manifest="/srv/d/m.csv", cache="/srv/c", salt="secret")
SITE = SiteConfig("north", DATA, privacy=OWN)
BANK = "privacy.contrastive=public_negatives"
CLIP = "privacy.stages.diseases.clip=1e7"
LIVED = ("handshake", "ecg_masked", "contrastive", "phenotypes", "diseases", "evaluate")


def run(*words, noise=2.0):
    return with_noise(run_to_plan(words), noise)


def own(**changes):
    return replace(SITE, privacy=replace(OWN, **changes))


def policy(**changes):
    return replace(SITE, policy=SitePolicy(**changes))


@pytest.mark.parametrize(
    ("words", "site"),
    [
        ((), SITE),
        ((), policy(stages=LIVED)),
        ((BANK,), own(bank="/srv/public")),
        (("plan=anti_reconstruction_only",), own(epsilon=30.0)),
        ((CLIP,), own(modalities=("ecg",))),
        (("min_patients=2000",), SITE),
    ],
)
def test_what_the_site_lets_in_is_planned(words, site):
    require_admitted(run(*words), site)


@pytest.mark.parametrize(
    ("words", "site", "says"),
    [
        (("plan=anti_reconstruction_only",), SITE, r"handshake: .*privacy.epsilon is 8"),
        ((BANK,), SITE, r"contrastive: .*privacy.bank is not set"),
        ((), policy(stages=LIVED[:4] + LIVED[5:]), "diseases: .*policy.stages lets in handshake"),
        ((), policy(stages=LIVED[:-1]), "evaluate: .*policy.stages"),
        ((), policy(min_patients=2001), r"2,000 patients are declared .*min_patients is 2001"),
        (("min_patients=2001",), SITE, "min_patients of the run 2001"),
        ((CLIP,), SITE, "diseases: .*clip 1e.07 is not between"),
        (("stage.diseases.local_epochs=300",), SITE, "diseases: .*max_local_epochs is 200"),
        (("privacy.rate=0.6",), SITE, r"ecg_masked: .*privacy.max_rate 0.5"),
        (("privacy.evaluation_noise=0.5",), SITE, "evaluate: .*privacy.min_noise 0.8"),
        ((), own(ledger=""), "privacy.ledger is not set"),
    ],
)
def test_what_the_site_would_refuse_is_named(words, site, says):
    with pytest.raises(ConfigError, match=says):
        require_admitted(run(*words), site)


def test_latents_of_the_last_round_and_members_of_a_stage_are_asked():
    config = with_stages(
        run_to_plan(("privacy.latent_noise=0.5",)), ("tokenizer=2",), patients=2000, batch=64
    )
    with pytest.raises(ConfigError, match=r"tokenizer: .*latent_noise 0.5 is below"):
        require_admitted(with_noise(config, 2.0), SITE)
    masked = with_stages(run_to_plan(()), ("masked=2",), patients=2000, batch=64)
    listed = ("handshake", "evaluate", "ecg_masked")
    both = replace(policy(stages=listed), privacy=replace(OWN, modalities=("ecg", "cine")))
    with pytest.raises(ConfigError, match=r"masked: .*policy.stages"):
        require_admitted(masked, both)
    require_admitted(masked, replace(both, privacy=replace(OWN, modalities=("ecg",))))


def test_without_releases_only_training_is_asked():
    require_admitted(run(), policy(stages=LIVED[1:-1]), releases=False)


def test_the_command_asks_the_site(tmp_path):
    site = hospital(tmp_path, epsilon=8.0)
    words = ("plan", "--config", site, "--no-plot", "--run")
    code, said = typed(*words, "plan=anti_reconstruction_only")
    assert code == 2 and "the site would refuse it: the plan is anti_reconstruction_only" in said
    many = ("--patients", 10**6, "--delta", 1e-8)  # the site's own delta is too large for them
    assert typed(*words, "plan=private", *many)[0] == 0
    code, said = typed(*words, "plan=private", "--patients", 4)
    assert code == 2 and "4 patients are declared (privacy.patients), and policy.min_" in said

"""`cardionets-site budget`: what an administrator sees of a ledger, and plans with."""

from __future__ import annotations

import csv

import pytest
from PIL import Image
from typer.testing import CliRunner

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger, charge_key
from cardionets_core.privacy.noise_plan import NoisePlan, StageNeed, stage_needs, usual_delta
from cardionets_core.site_config import load_site_config, write_yaml
from client import budget_picture
from client.cli import app

FEW = ("--patients", "400", "--batch", "40", "--epsilon", "8")


@pytest.fixture
def site(tmp_path):
    """YAML of a hospital with 30 patients, two ECGs each, and a ledger that is not made yet."""
    data = tmp_path / "data"
    data.mkdir()
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient_id", "study_id", "ecg"))
        writer.writerows((f"p{n}", s, f"p{n}_{s}.hea") for n in range(30) for s in "ab")
    paths = {"root": data, "manifest": data / "manifest.csv", "cache": tmp_path / "cache"}
    privacy = {"ledger": str(tmp_path / "ledger.jsonl"), "patients": 30, "epsilon": 4.0}
    values = {
        "site": "north",
        "data": {**{k: str(v) for k, v in paths.items()}, "salt": "secret"},
        "privacy": privacy,
    }
    write_yaml(tmp_path / "north.yaml", values)
    return tmp_path / "north.yaml"


def typed(*words):
    """Return exit code and all that was printed, in one line of words."""
    result = CliRunner().invoke(app, ["budget", *map(str, words)], env={"COLUMNS": "140"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def spend(site, run, stage, number, charge):
    config = load_site_config(site)
    patients = [f"p{n}" for n in range(30)]
    with Ledger.opened(config.privacy, patients=patients, salt=config.data.salt) as ledger:
        ledger.reserve(
            charge_key(run=run, stage=stage, number=number, what="train", weights=""), charge
        )


def test_init_makes_the_ledger_of_the_tables_patients(site):
    code, said = typed("init", "--config", site)
    assert code == 0
    assert "30 in the table; 30 declared" in said and "epsilon 4 at delta 1e-05" in said
    assert (site.parent / "cache" / "privacy_ledger.json").exists()
    code, said = typed("init", "--config", site)
    assert code == 2 and "what was spent must not be forgotten" in said


def test_show_tells_spent_and_left_by_run_and_stage(site):
    typed("init", "--config", site)
    for number in (1, 2):
        spend(site, "spring", "ecg_masked", number, Charge(2.0, 0.1, 20))
    spend(site, "summer", "contrastive", 1, Charge(3.0, 0.2, 5))
    code, said = typed("show", "--config", site)
    assert code == 0
    assert "spring ecg_masked train 2 40 2 0.1" in said
    assert "summer contrastive train 1 5 3 0.2" in said
    with Ledger.read(load_site_config(site).privacy) as ledger:
        spent = ledger.epsilon()
    assert f"spent {spent:.3f} of epsilon 4 at delta 1e-05; left {4 - spent:.3f}" in said
    assert "4 entries" in said


def test_an_untouched_ledger_shows_that_nothing_is_spent(site):
    typed("init", "--config", site)
    assert "nothing is spent yet" in typed("show", "--config", site)[1]


def test_show_without_a_ledger_says_what_to_do(site):
    code, said = typed("show", "--config", site)
    assert code == 2 and "budget init" in said


def test_raise_is_recorded_and_the_yaml_still_rules(site):
    typed("init", "--config", site)
    code, said = typed("show", "--config", site, "privacy.epsilon=6")
    assert "privacy.epsilon is 6, but the ledger records 4" in said
    code, said = typed("raise", "--config", site, "--epsilon", 6)
    assert code == 0 and "epsilon 6 (before: 4)" in said and "in force epsilon 4" in said
    code, said = typed("raise", "--config", site, "--epsilon", 5)
    assert code == 2 and "records epsilon 6 already" in said


def test_a_budget_that_hides_nobody_says_so(site):
    said = typed("init", "--config", site)[1]
    assert "WARNING" not in said
    said = typed("raise", "--config", site, "--epsilon", 50)[1]
    assert "epsilon 50 says nothing of who took part" in said
    shown = typed("show", "--config", site, "privacy.epsilon=50")[1]
    assert "From epsilon 30 on nothing is said of who took part" in shown


def test_show_says_why_there_is_no_prv(site):
    typed("init", "--config", site)
    assert typed("raise", "--config", site, "--epsilon", 90)[0] == 0
    config = load_site_config(site, ["privacy.epsilon=90"])
    patients = [f"p{n}" for n in range(30)]
    with Ledger.opened(config.privacy, patients=patients, salt=config.data.salt) as ledger:
        ledger.reserve("a", Charge(0.35, 0.1, 60))
    shown = typed("show", "--config", site, "privacy.epsilon=90")[1]
    assert "No figure by PRV: epsilon is 50 or more" in shown


def test_accept_clock_is_an_entry(site):
    typed("init", "--config", site)
    code, said = typed("accept-clock", "--config", site)
    assert code == 0 and "2 entries" in said


def test_plan_prints_noise_and_draws_it(tmp_path, monkeypatch):
    for name, value in (("POINTS_GATE", 4), ("POINTS_QUOTE", 2), ("BATCHES", {1.0: "blue"})):
        monkeypatch.setattr(budget_picture, name, value)
    monkeypatch.setattr(budget_picture, "EPSILONS", (8.0,))
    plot = tmp_path / "plan.png"
    code, said = typed(
        "plan", *FEW, "--stage", "ecg_masked=2", "--stage", "contrastive=1,batch=80,bucket=4",
        "--releases", 1, "--weights", 5e4, "--plot", plot,
    )  # fmt: skip
    assert code == 0
    stages = (StageNeed("ecg_masked", 2, 40), StageNeed("contrastive", 1, 80, 4))
    plan = NoisePlan(400, 8.0, 1e-5, stages, (Charge(3.0, 1.0, 1),))
    noise = plan.noise()
    assert f"ecg_masked 2 40 0.1 20 patient {noise:g} {noise:.4g} C" in said
    assert f"contrastive 1 80 0.2 5 bucket of 4 {noise:g} {2 * noise:.4g} C" in said
    assert "of it 1.386 is spent, or kept for releases" in said
    with Image.open(plot) as picture:
        assert picture.size[0] > 1000 and len(picture.getcolors(10**6)) > 20


def test_plan_takes_patients_and_what_is_spent_from_the_site(site, tmp_path, monkeypatch):
    monkeypatch.setattr(budget_picture, "plan_picture", lambda *_, **__: b"")
    words = ("plan", "--config", site, "--batch", 3, "--epochs", 1, "--plot", tmp_path / "x.png")
    _, before = typed(*words)
    typed("init", "--config", site)
    spend(site, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
    _, after = typed(*words)
    assert "30 patients, budget epsilon 4" in before and "is spent" not in before
    assert "is spent, or kept for releases" in after


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "needs --patients, or --config"),
        (("--patients", "100"), "training: a batch of 256 of 100 patients is not possible"),
        ((*FEW, "--delta", "0.01"), "at most 1 / patients (0.0025)"),
        ((*FEW, "--stage", "contrastive"), "cannot be read; write NAME=EPOCHS"),
        ((*FEW, "--stage", "contrastive=5,buckets=4"), "cannot be read"),
        ((*FEW, "--stage", "contrastive=5,bucket=1"), "a bucket at least 2"),
        ((*FEW, "--stage", "contrastive=-5"), "epochs must be above 0"),
        ((*FEW, "--releases", "900"), "is spent; plan for a larger epsilon"),
    ],
)
def test_a_plan_that_cannot_be_is_told(words, said, tmp_path):
    code, printed = typed("plan", *words, "--plot", tmp_path / "x.png")
    assert code == 2 and said in printed
    assert not (tmp_path / "x.png").exists()


# ------------------------------------------------------------------------------------- by hand


def test_steps_rate_and_signal_are_those_of_the_table():
    """5,000 patients, batch 256, 50 epochs, noise 1.20, 5 M weights: 0.34, and 2.7 by fours."""
    need = StageNeed("x", 50, 256)
    assert (need.rate(5000), need.steps(5000), need.sensitivity) == (0.0512, 977, 1)
    assert need.noise_to_signal(1.20, 5000, 5_000_000) == pytest.approx(0.34, abs=0.006)
    bucket = StageNeed("x", 50, 256, bucket=4)
    assert bucket.sensitivity == 2
    assert bucket.noise_to_signal(1.20, 5000, 5_000_000) == pytest.approx(2.7, abs=0.06)


def test_delta_is_never_above_a_tenth_of_one_in_n():
    assert usual_delta(500) == 1e-5
    assert usual_delta(40_000) == pytest.approx(2.5e-6)


def test_words_of_stages():
    assert stage_needs((), epochs=5, batch=8) == (StageNeed("training", 5, 8),)
    assert stage_needs(("a=2.5,batch=16,bucket=4",), epochs=5, batch=8) == (
        StageNeed("a", 2.5, 16, 4),
    )


def test_a_plan_without_a_budget_is_refused():
    with pytest.raises(ConfigError, match="epsilon is 0"):
        NoisePlan(100, 0.0, 1e-5, (StageNeed("x", 1, 10),))
    with pytest.raises(ConfigError, match="needs patients and a stage"):
        NoisePlan(100, 1.0, 1e-5, ())

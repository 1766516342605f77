"""`cardionets-site budget plan`: the noise for a run's plan, and what is not planned."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from cardionets_core.privacy import schedule
from cardionets_core.privacy.accounting import Charge, epsilon_at, epsilon_rdp
from cardionets_core.privacy.order import added, usual_order
from cardionets_core.privacy.plan import EVERYTHING, check_private_plan, planned_charges
from cardionets_core.run_config import CONF, compose, run_config_from
from client import budget_picture
from tests.client.budget_bench import hospital, spend, typed

FEW = ("--patients", "400", "--batch", "40", "--epsilon", "8")


@pytest.fixture
def plain(monkeypatch, tmp_path):
    """Words for a plan whose picture and tighter accountant take no time."""
    monkeypatch.setattr(schedule, "epsilon_prv", epsilon_rdp)
    monkeypatch.setattr(budget_picture, "plan_picture", lambda *_, **__: b"picture")
    return ("--plot", tmp_path / "plan.png")


@pytest.fixture
def site(tmp_path):
    return hospital(tmp_path, modalities=["ecg", "diseases"], epsilon=6.0)


def test_the_words_to_hand_over_are_a_run_that_costs_what_was_asked(plain):
    """As the coordinator reads them: planned charges of at most epsilon, and hardly less."""
    run = ("--run", "plan=private", "--run", "stage.diseases.rounds=6")
    code, said = typed("plan", *run, "--epsilon", 5, "--patients", 2000, *plain)
    assert code == 0
    handed = re.search(r"hand over cardionets-coordinator run (.*) plot", said)[1].split()
    assert handed[:3] == ["plan=private", "stage.diseases.rounds=6", "privacy.mode=patient"]
    config = run_config_from(compose("run", ["name=x", *handed], package=CONF))
    check_private_plan(config)
    assert 0.97 * 5 < epsilon_rdp(planned_charges(config, EVERYTHING), 1e-5) <= 5
    assert "handshake 1 1 sums 5 evaluate 1 2 sums 3" in said


def test_stages_by_hand_are_charged_as_a_run_charges_and_drawn(tmp_path, monkeypatch):
    for name, value in (("POINTS_GATE", 4), ("POINTS_QUOTE", 2), ("BATCHES", {1.0: "blue"})):
        monkeypatch.setattr(budget_picture, name, value)
    monkeypatch.setattr(budget_picture, "EPSILONS", (0.5, 8.0))  # sums alone cost more than 0.5
    plot = tmp_path / "plan.png"
    code, said = typed(
        "plan", *FEW, "--stage", "masked=2", "--stage", "contrastive=1,batch=80",
        "--weights", 5e4, "--plot", plot,
    )  # fmt: skip
    assert code == 0
    assert re.search(r"masked 2 40 0.1 40 \(2 x 20\) patient ([\d.]+) \1", said)
    noise = float(re.search(r"contrastive 1 80 0.2 5 bucket of 4 ([\d.]+) ", said)[1])
    assert f"{2 * noise:.4g} C" in said
    charges = [Charge(noise, 0.1, 40), Charge(noise, 0.2, 5), Charge(5, 1, 1), Charge(3, 1, 2)]
    assert 0.97 * 8 < epsilon_rdp(charges, 1e-5) <= 8
    assert "an error of about" in said and "over 80 test patients" in said
    assert f"privacy.noise={noise:g}" in said and "privacy.stages.masked.rate=0.1" in said
    assert "rounds x max_steps: masked 20, contrastive 5" in said
    with Image.open(plot) as picture:
        assert picture.size[0] > 1000 and len(picture.getcolors(10**6)) > 20


def test_one_stage_alone_is_the_table_of_the_page(plain):
    """docs/privacy.md: 500 patients, batch 64, 10 epochs, epsilon 8: 1.07, without any sums."""
    words = ("--patients", 500, "--batch", 64, "--epochs", 10, "--epsilon", 8, *plain)
    code, said = typed("plan", *words, "--no-releases")
    assert code == 0 and "training 9.98 64 0.128 78 patient 1.069" in said
    assert "order 3.1 is what `cardionets-site budget init` fixes for this budget" in said
    assert "without the sums of handshake and evaluation" in said
    noise = float(re.search(r"privacy.noise=([\d.]+)", typed("plan", *words)[1])[1])
    assert noise > 1.1


def test_a_site_gives_patients_budget_and_what_is_counted(site, plain):
    words = ("plan", "--config", site, "--batch", 3, "--epochs", 1, *plain)
    before = typed(*words)[1]
    typed("init", "--config", site)
    spend(site, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
    after = typed(*words)[1]
    assert "30 patients, budget epsilon 6" in before
    assert "handshake" not in before  # it declares no phenotypes
    noises = [float(re.search(r"privacy.noise=([\d.]+)", said)[1]) for said in (before, after)]
    assert noises[0] < noises[1]


def test_a_site_plans_only_what_it_would_let_in(site, plain):
    def said(*words):
        code, text = typed("plan", "--config", site, "--batch", 3, "--epochs", 1, *words, *plain)
        assert code == 2
        return text

    assert "rate 0.9 is above the site's privacy.max_rate 0.5" in said("--batch", 27)
    assert "--epsilon 7 is above the site's privacy.epsilon 6" in said("--epsilon", 7)
    assert "--delta 0.001 is above the site's privacy.delta 1e-05" in said("--delta", 0.001)
    assert "evaluate: noise 3 is below the site's privacy.min_noise 4" in said(
        "privacy.min_noise=4"
    )
    typed("init", "--config", site)
    assert "refused: privacy.epsilon is 9, but " in said("privacy.epsilon=9")
    assert "refused: privacy.delta is 0.0001, but " in said("privacy.delta=1e-4")


def test_a_run_that_starts_from_a_checkpoint_is_planned_without_it(plain):
    words = ("--run", "plan=private_from_public", "--patients", 600, *plain)
    code, said = typed("plan", *words, "--no-plot")
    assert (
        code == 0
        and not plain[1].exists()
        and "hand over cardionets-coordinator run plan=private_from_public start.check" in said
    )
    assert "fill in start.checkpoint: of the run whose parts" in said
    assert said.count("run plan=private_from_public start.checkpoint=outputs/PUBLIC/checkpoi") == 2
    assert re.search(r"phenotypes [\d.]+ 76.8 0.128 96 ", said)


def test_a_run_that_fits_as_it_stands_is_handed_over_unchanged(plain):
    """Of the newcomer: 4.91 by itself, as the coordinator says of plan=private."""
    words = ("--run", "plan=private", "--patients", 2000, *plain)
    code, said = typed("plan", *words, "--no-plot")
    assert code == 0 and said.startswith("as the plan stands: noise 1: epsilon 6.07 of 8, as a ")
    assert "at order 3 counts: fits, 1.93 would be left. By itself, at its best order, it " in said
    assert "it costs epsilon 4.91 by RDP" in said
    first, second = said.split("noise 0.7776 for every stage takes the whole budget")
    assert "hand over cardionets-coordinator run plan=private stage " in first
    assert second.startswith(", with less privacy than the plan's noise 1: epsilon 8.00 by RDP")
    last = "all of it cardionets-coordinator run plan=private privacy.mode=patient privacy.noise="
    assert last in second and "hand over" not in second


def test_a_run_that_does_not_fit_as_it_stands_is_planned_with_more_noise(plain):
    words = ("--run", "plan=private", "--run", "stage.diseases.rounds=40", "--patients", 2000)
    said = typed("plan", *words, "--epsilon", 5, *plain)[1]
    first, second = said.split("for every stage takes the whole budget")
    assert "of 5, as a ledger at order 4.9 counts: does not fit" in first
    assert "hand over" not in first and "all of it cardionets" not in second
    assert second.startswith(", with more privacy than the plan's noise 1: ")
    assert "hand over cardionets-coordinator run plan=private stage.diseases.rounds=40" in second
    code, said = typed("plan", *words, "--epsilon", 1, *plain)
    assert code == 2 and "As the plan stands (noise 1) it costs epsilon 8.56, and does not" in said


def test_a_plan_that_asks_for_no_privacy_is_handed_over_with_it(plain):
    words = ("--run", "plan=paper", "--run", "stages=[handshake,diseases]", "--patients", 2000)
    said = typed("plan", *words, "--run", "stage.diseases.max_steps=1", *plain)[1]
    handed = re.search(r"hand over cardionets-coordinator run (.*?) stage +epochs", said)[1]
    assert handed.endswith("stage.diseases.max_steps=1 privacy.mode=patient")


def test_a_run_as_it_stands_that_the_site_would_refuse_is_not_handed_over(site, plain):
    words = ("plan", "--config", site, "--run", "plan=private", "privacy.min_noise=1.5", *plain)
    said = typed(*words)[1]
    assert said.startswith("as the plan stands: noise 1: refused. ecg_masked: the site would")
    assert said.count("hand over") == 1 and "privacy.noise=1.5" in said


def test_a_plan_that_hides_nobody_needs_hospitals_that_allow_it(plain):
    words = ("plan", "--run", "plan=anti_reconstruction_only", "--patients", 2000, *plain)
    code, said = typed(*words)
    assert code == 2 and "whose privacy.epsilon is below 30 refuse such a plan" in said
    assert "--epsilon 45" in said
    code, said = typed(*words, "--epsilon", 45)
    assert code == 0 and "fits" in said


def test_what_a_site_takes_no_part_in_and_what_is_counted_are_said(site, plain):
    words = ("plan", "--config", site, "--run", "plan=private", *plain)
    said = typed(*words)[1]
    left = "left out: contrastive, phenotypes, for which this site declares no records"
    assert left in said and "counted already" not in said and "leave room" in said
    assert re.search(r"of it [\d.]+ is counted with the first charge, whatever it is", said)
    typed("init", "--config", site)
    charge = Charge(2.0, 0.1, 20)
    spend(site, "spring", "ecg_masked", 1, charge)
    said = typed(*words)[1]
    counted = epsilon_at([charge], 1e-5, usual_order(6.0, 1e-5))
    assert f"of it {counted:.3f} is counted already" in said
    sums = added([Charge(3.0, 1.0, 2)], usual_order(6.0, 1e-5))
    assert f"of it {sums:.3f} goes to sums and stages with a noise of their own" in said
    assert "with the first charge" not in said  # it is in what is counted
    assert f"counts, with {counted:.2f} that is there already: " in said
    assert "is to be quoted" not in said and "which is the ledger's gate" in said


def test_noise_of_at_least_what_the_site_lets_in(site, plain):
    words = ("--config", site, "--batch", 3, "--epochs", 1, "privacy.min_noise=2.5", *plain)
    code, said = typed("plan", *words)
    assert code == 0 and "privacy.noise=2.5" in said and "the budget would do with less" in said


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "needs --patients, or --config"),
        (("--patients", "0"), "--patients is 0; patients must be at least 1"),
        (("--patients", "100"), "training: a batch of 256 of 100 patients is not possible"),
        ((*FEW, "--delta", "0.01"), "at most 1 / patients (0.0025)"),
        ((*FEW, "--delta", "nan"), "delta is nan"),
        ((*FEW, "--delta", "0"), "delta is 0"),
        ((*FEW, "--epsilon", "inf"), "epsilon is inf"),
        ((*FEW, "--epsilon", "nan"), "epsilon is nan"),
        ((*FEW, "--epsilon", "0"), "epsilon is 0"),
        ((*FEW, "--epsilon", "1"), "is spent already or goes to sums"),
        ((*FEW, "--epochs", "0"), "epochs is 0; it must be above 0"),
        ((*FEW, "--epochs", "nan"), "epochs is nan"),
        ((*FEW, "--epochs", "inf"), "epochs is inf"),
        ((*FEW, "--epochs", "1e300"), "fewer epochs, or a larger batch"),
        ((*FEW, "--weights", "nan"), "--weights is nan"),
        ((*FEW, "--weights", "inf"), "--weights is inf"),
        ((*FEW, "--stage", "constrastive=10"), "did you mean 'contrastive'"),
        ((*FEW, "--stage", "diseases=10", "--epochs", "3"), "--epochs is of one stage without"),
        ((*FEW, "--run", "plan=private"), "--batch is of --stage"),
        ((*FEW[:2], "--run", "privacy.evaluation_noise=nan"), "evaluation_noise is nan"),
        ((*FEW[:2], "--run", "privacy.sums_noise=-1"), "sums_noise is -1"),
        ((*FEW[:2], "--run", "plan=secret"), "there is no such plan"),
        (("--config", "nowhere.yaml"), "does not exist"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_told(words, said, plain):
    code, printed = typed("plan", *words, *plain)
    assert code == 2 and said in printed and "Traceback" not in printed
    assert not plain[1].exists()


def test_a_picture_that_cannot_be_written_is_named(plain, tmp_path):
    words = ("plan", *FEW, "--epochs", 1, "--no-releases")
    for wrong, why in ((tmp_path / "no" / "p.png", "No such file"), (tmp_path, "directory")):
        code, said = typed(*words, "--plot", wrong)
        assert code == 2 and f"{wrong} ({why}" in said.replace("Is a d", "d")
        assert "name another file with --plot" in said and "privacy.noise=" in said

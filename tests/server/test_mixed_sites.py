"""Sites of different kinds in one round: who is asked for what, who is believed, what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import server.gathering
import server.training
from cardionets_core.errors import ConfigError, IncompleteError, RunError
from cardionets_core.messages import Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.strategy_config import StrategyConfig
from cardionets_core.training.stages import STAGES
from server.evaluation import evaluated_parts
from server.exchange import Run
from server.owners import declared, require_sites, shares_of, with_quorum
from server.screening import Asked, Firewall
from server.state import RunState, SiteRecord
from tests.server.played_round import answering

ECG, CMR = ("ecg_encoder", "ecg_decoder"), ("cmr_encoder", "cmr_decoder")
PARTS = (*ECG, *CMR)
RECORDS = {
    "clinic": SiteRecord(("ecg",), {"train_studies": 30, "train_ecg": 30, "train_cine": 0}, {}),
    "imaging": SiteRecord(("cine",), {"train_studies": 20, "train_ecg": 0, "train_cine": 20}, {}),
    "north": SiteRecord(
        ("cine", "ecg", "pairs"), {"train_studies": 50, "train_ecg": 45, "train_cine": 40}, {}
    ),
}
"""An ECG-only, a CMR-only and a paired site."""


# -------------------------------------------------------------------------- who is asked for what


def config(**stage):
    return RunConfig(
        name="run-1",
        seed=3,
        model=ModelConfig(),
        stages=("handshake", "masked"),
        stage={"masked": StageConfig(**{"rounds": 1, **stage})},
        phenotypes=("lv_ef",),
        diseases=(),
    )


def test_each_site_is_asked_for_its_own_parts_with_the_studies_that_it_declared():
    shares = shares_of(config(), STAGES["masked"], RECORDS)
    assert shares["clinic"] == dict.fromkeys(ECG, 30)
    assert shares["imaging"] == dict.fromkeys(CMR, 20)
    assert shares["north"] == dict.fromkeys(ECG, 45) | dict.fromkeys(CMR, 40)


def test_a_member_with_too_few_studies_is_left_out_and_the_other_goes_on():
    few = replace(RECORDS["north"], counts={"train_studies": 45, "train_ecg": 45, "train_cine": 4})
    shares = shares_of(config(), STAGES["masked"], {"north": few})
    assert shares == {"north": dict.fromkeys(ECG, 45)}


def test_a_site_that_names_no_number_for_a_modality_is_held_to_all_its_studies():
    assert declared(SiteRecord(("ecg",), {"train_studies": 9}, {}), STAGES["ecg_masked"]) == 9
    assert declared(SiteRecord(("ecg",), {}, {}), STAGES["ecg_masked"]) == 0


def test_pairs_are_counted_as_pairs():
    counts = {"train_studies": 50, "train_ecg": 45, "train_cine": 40, "train_pairs": 38}
    record = replace(RECORDS["north"], counts=counts)
    assert declared(record, STAGES["contrastive"]) == 38


def test_a_site_without_ecgs_gets_of_an_evaluation_only_what_it_can_serve():
    every = ("phenotypes", "diseases", "retrieval", "generation")
    assert evaluated_parts(("cine", "phenotypes"), every) == ("cmr_encoder",)
    assert evaluated_parts(("cine", "phenotypes"), ("phenotypes",)) == ()
    assert evaluated_parts(("ecg", "cine"), every) == (
        "ecg_encoder", "phenotype_head", "disease_head", "cmr_encoder"
    )  # fmt: skip
    assert "generator" in evaluated_parts(("ecg", "cine", "pairs"), every)


# ------------------------------------------------------------------------------- who is believed


def wall(**more):
    expected = {p: {"w": np.ones(2, dtype=np.float32)} for p in PARTS}
    shares = shares_of(config(), STAGES["masked"], RECORDS)
    asked = Asked("run-1", "masked", 1, expected, 3, shares=shares, together=(ECG, CMR))
    plan = config()
    return Firewall(
        asked, config=plan.screening, settings=plan.stage["masked"], records=more.get("records", ())
    )


def answer(site, parts, examples=None, *, num_examples=0, value=0.5):
    delta = {p: {"w": np.full(2, value, dtype=np.float32)} for p in parts}
    examples = {} if examples is None else examples
    most = num_examples or max(examples.values(), default=10)
    return Update(site, "run-1", "masked", 1, most, delta=delta, examples=examples)


def judged(update, **more):
    studies = RECORDS[update.site].counts["train_studies"]
    return wall(**more).judge(update.site, update, max_examples=studies)


@pytest.mark.parametrize(
    "update",
    [
        answer("clinic", ECG, dict.fromkeys(ECG, 30)),
        answer("clinic", ECG, num_examples=30),
        answer("imaging", CMR, dict.fromkeys(CMR, 20)),
        answer("north", PARTS, dict.fromkeys(ECG, 45) | dict.fromkeys(CMR, 40), num_examples=50),
        answer("north", ECG, dict.fromkeys(ECG, 45)),  # too few patients with a cine, it says
    ],
)
def test_each_kind_of_site_is_believed_within_what_it_declared(update):
    assert judged(update) is None


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (answer("clinic", PARTS, dict.fromkeys(PARTS, 10)), "parts"),  # it was asked for ECG only
        (answer("imaging", ECG, dict.fromkeys(ECG, 10)), "parts"),
        (answer("north", ("ecg_encoder",), {"ecg_encoder": 10}), "parts"),  # half of a member
        (answer("north", (*ECG, "cmr_encoder"), num_examples=10), "parts"),
        (answer("north", ()), "parts"),
        (answer("north", (*PARTS, "generator"), num_examples=10), "parts"),
        (answer("clinic", ECG, dict.fromkeys(ECG, 31)), "num_examples"),
        (answer("imaging", CMR, dict.fromkeys(CMR, 21)), "num_examples"),
        (answer("north", CMR, dict.fromkeys(CMR, 41)), "num_examples"),  # more than its cines
        (answer("north", CMR, num_examples=41), "num_examples"),
        (answer("north", CMR, dict.fromkeys(CMR, 0), num_examples=10), "num_examples"),
        (answer("north", CMR, {"cmr_encoder": 10}), "num_examples"),  # which decoder?
        (answer("north", CMR, dict.fromkeys(PARTS, 10)), "num_examples"),
        (answer("north", CMR, dict.fromkeys(CMR, 10), num_examples=9), "num_examples"),
        (answer("north", CMR, dict.fromkeys(CMR, 10), num_examples=21), "num_examples"),
    ],
)
def test_what_a_site_cannot_have_trained_is_refused(update, reason):
    assert judged(update) == reason


def test_a_part_is_judged_by_the_studies_behind_it():
    """4 x the steps go 2 x as far: what is usual for many ECGs is too much for few cines."""
    norms = {"north": dict.fromkeys(ECG, 2.0) | dict.fromkeys(CMR, 1.0)}
    record = {
        "stage": "masked", "round": 1, "accepted": ["north"] * 4, "refused": {},
        "num_examples": {"north": 4000},
        "examples": {"north": dict.fromkeys(ECG, 4000) | dict.fromkeys(CMR, 1000)},
        "screening": {"lifted": False, "norms": norms, "sha256": {}},
    }  # fmt: skip
    firewall = wall(records=[record] * 4)
    far = firewall.bound("ecg_encoder", 4000)
    assert far == pytest.approx(10.0, rel=0.05)  # norm_factor 5 x the norm that was usual
    assert firewall.bound("cmr_encoder", 1000) == pytest.approx(far / 2, rel=0.05)


# ------------------------------------------------------------------------------------- the round


def played(monkeypatch, tmp_path, answers, run_sites=1, **stage):
    """Run one round of `masked` with sites that are functions; return the state and the heads."""
    plan = replace(config(**stage), min_sites=run_sites)
    run = Run(None, plan, tmp_path, lambda record: None, nodes=dict.fromkeys(RECORDS, 1))
    weights = {p: {"w": np.ones(2, dtype=np.float32)} for p in (*PARTS, "generator")}
    state = RunState(weights=weights, sites=RECORDS, stage=1)
    rounds = []

    def updates(state, heads):
        rounds.append(heads)
        return {site: answers.get(site) or "late" for site in heads}

    monkeypatch.setattr(server.gathering, "send_round", answering(updates))
    monkeypatch.setattr(server.training, "learned_names", lambda model, parts: {})
    try:
        after = server.training.train_round(
            run, state, STAGES["masked"], plan.stage["masked"], sites=list(RECORDS), round_index=0
        )
    except RunError as error:
        return error, rounds
    return after, rounds


ALL = {
    "clinic": answer("clinic", ECG, dict.fromkeys(ECG, 30), value=1.0),
    "imaging": answer("imaging", CMR, dict.fromkeys(CMR, 20), value=-2.0),
    "north": answer(
        "north", PARTS, dict.fromkeys(ECG, 10) | dict.fromkeys(CMR, 5), num_examples=10, value=3.0
    ),
}


def test_a_round_moves_each_part_by_the_average_of_its_owners(monkeypatch, tmp_path):
    after, rounds = played(monkeypatch, tmp_path, ALL)
    ecg = np.float32(1 + (30 * 1 + 10 * 3) / 40)  # clinic and north
    cmr = np.float32(1 + (20 * -2 + 5 * 3) / 25)  # imaging and north
    assert all(after.weights[p]["w"].tolist() == [ecg, ecg] for p in ECG)
    assert all(after.weights[p]["w"].tolist() == [cmr, cmr] for p in CMR)
    assert after.weights["generator"]["w"].tolist() == [1, 1]
    record = after.history[-1]
    assert record["accepted"] == ["clinic", "imaging", "north"] and len(rounds) == 1
    assert record["examples"]["clinic"] == dict.fromkeys(ECG, 30)
    assert record["examples"]["north"] == dict.fromkeys(ECG, 10) | dict.fromkeys(CMR, 5)


def test_only_its_own_parts_travel_to_a_site(monkeypatch, tmp_path):
    _, (heads,) = played(monkeypatch, tmp_path, ALL)
    assert set(heads["clinic"].trains) == set(heads["clinic"].parts) == set(ECG)
    assert set(heads["imaging"].trains) == set(heads["imaging"].parts) == set(CMR)
    assert set(heads["north"].trains) == set(heads["north"].parts) == set(PARTS)
    assert len({h.seed for h in heads.values()}) == 1


def test_a_part_with_too_few_owners_repeats_the_round_and_then_ends_the_run(monkeypatch, tmp_path):
    answers = ALL | {"north": None}
    error, rounds = played(monkeypatch, tmp_path, answers, part_sites={"cmr_encoder": 2})
    assert isinstance(error, RunError) and len(rounds) == server.gathering.TRIES
    assert "cmr_encoder came back from 1 of 2 sites" in str(error)
    assert "ecg_encoder" not in str(error)


def test_a_part_that_nobody_brought_back_counts_as_too_few(monkeypatch, tmp_path):
    error, _ = played(monkeypatch, tmp_path, {"clinic": ALL["clinic"]})
    assert isinstance(error, RunError) and "cmr_decoder came back from 0 of 1" in str(error)


def test_a_quorum_of_each_part_that_is_met_is_no_hindrance(monkeypatch, tmp_path):
    after, rounds = played(
        monkeypatch, tmp_path, ALL, min_sites=3, part_sites=dict.fromkeys(PARTS, 2)
    )
    assert after.history[-1]["accepted"] == ["clinic", "imaging", "north"] and len(rounds) == 1


def test_a_round_without_a_number_of_its_own_needs_the_sites_of_the_run(monkeypatch, tmp_path):
    error, rounds = played(monkeypatch, tmp_path, ALL | {"clinic": None}, run_sites=3)
    assert isinstance(error, IncompleteError) and error.sites == ("clinic",)
    assert "2 of 3 sites needed" in str(error) and len(rounds) == server.gathering.TRIES
    assert "ecg_encoder came back from 1 of 2 sites" in str(error)  # clinic and north have ECGs
    after, _ = played(monkeypatch, tmp_path, ALL, run_sites=3)
    assert after.history[-1]["sites_needed"] == 3


def test_a_number_of_the_stage_itself_holds(monkeypatch, tmp_path):
    after, _ = played(
        monkeypatch, tmp_path, ALL | {"clinic": None}, run_sites=3, min_sites=2,
        part_sites=dict.fromkeys(PARTS, 1),
    )  # fmt: skip
    assert after.history[-1]["accepted"] == ["imaging", "north"]
    assert after.history[-1]["sites_needed"] == 2


@pytest.mark.parametrize(
    ("stage", "sites", "parts"),
    [
        ("masked", 3, dict.fromkeys(PARTS, 2)),
        ("ecg_masked", 2, dict.fromkeys(ECG, 2)),
        ("contrastive", 1, {}),  # one has pairs
    ],
)
def test_no_more_sites_are_needed_than_can_serve_the_stage(stage, sites, parts):
    stages = {"stages": ("handshake", stage), "stage": {stage: StageConfig()}}
    plan = replace(config(), min_sites=3, **stages)
    quorum = with_quorum(plan, stage, RECORDS)
    assert quorum.min_sites == sites
    assert {p: quorum.sites_for(p) for p in parts} == parts
    few = replace(RECORDS["clinic"], counts={"train_studies": 4})  # below min_patients
    assert with_quorum(plan, stage, RECORDS | {"clinic": few}).min_sites == max(1, sites - 1)


def test_the_moving_average_of_a_part_goes_by_the_studies_behind_it(monkeypatch, tmp_path):
    after, _ = played(monkeypatch, tmp_path, ALL, ema_half_life=20.0)
    for part, studies in (("ecg_encoder", 40), ("cmr_encoder", 25)):
        assert after.average[part]["w"][0] == after.weights[part]["w"][0]  # begins at the weights
        again = replace(after, weights={p: {"w": a["w"] + 1} for p, a in after.weights.items()})
        updates = {"s": replace(ALL["north"], examples=dict.fromkeys(PARTS, studies))}
        moved = server.training._averaged(
            again, STAGES["masked"], config(ema_half_life=20.0).stage["masked"], updates, 1.0
        )
        step = moved.average[part]["w"][0] - after.average[part]["w"][0]
        assert step == pytest.approx(1 - 0.5 ** (studies / 20.0), rel=1e-5)


# --------------------------------------------------------------------- plans that cannot be served


def start(plan, records, tmp_path):
    run = Run(None, plan, tmp_path, lambda record: None, nodes=dict.fromkeys(records, 1))
    return run, RunState(weights={}, sites=records, stage=1)


def test_a_quorum_that_too_few_sites_can_serve_is_refused_before_the_first_round(tmp_path):
    plan = config(part_sites={"cmr_encoder": 3})
    with pytest.raises(ConfigError, match=r"2 of 3 sites needed can train cmr_encoder \(imaging"):
        require_sites(*start(plan, RECORDS, tmp_path))
    require_sites(*start(config(part_sites={"cmr_encoder": 2}), RECORDS, tmp_path))


def test_a_part_without_owners_may_stay_as_it_is_where_the_plan_says_so(monkeypatch, tmp_path):
    only = {"clinic": RECORDS["clinic"]}
    with pytest.raises(ConfigError, match="0 of 1 sites needed can train cmr_encoder"):
        require_sites(*start(config(), only, tmp_path))
    require_sites(*start(config(part_sites=dict.fromkeys(CMR, 0)), only, tmp_path))
    after, _ = played(
        monkeypatch, tmp_path, {"clinic": ALL["clinic"]}, part_sites=dict.fromkeys(CMR, 0)
    )
    assert all(after.weights[p]["w"].tolist() == [1, 1] for p in CMR)
    assert all(after.weights[p]["w"].tolist() == [2, 2] for p in ECG)


def test_a_stage_to_come_that_nobody_serves_is_told_before_the_first_round(tmp_path):
    stages = ("handshake", "masked", "contrastive")
    settings_ = {"masked": StageConfig(), "contrastive": StageConfig()}
    plan = replace(config(), stages=stages, stage=settings_)
    unpaired = {n: RECORDS[n] for n in ("clinic", "imaging")}
    with pytest.raises(RunError, match="stage contrastive: 0 sites offer 'pairs'"):
        require_sites(*start(plan, unpaired, tmp_path))
    require_sites(*start(plan, RECORDS, tmp_path))


def test_a_site_that_is_away_just_now_counts(tmp_path):
    run, state = start(config(part_sites={"cmr_encoder": 2}), RECORDS, tmp_path)
    del run.nodes["north"]
    require_sites(run, state)


def test_a_robust_strategy_needs_enough_owners_of_every_part(tmp_path):
    plan = replace(config(), strategy=StrategyConfig("median"), min_sites=3)
    with pytest.raises(ConfigError, match=r"2 of 3 sites needed can train ecg_encoder.*strategy"):
        require_sites(*start(plan, RECORDS, tmp_path))

"""A private site: charged before, and told nothing of."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import client.private_training
from cardionets_core.checkpoint import part_arrays
from cardionets_core.errors import PrivacyError, WireError
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.local_parts import split
from cardionets_core.messages import Task, Update
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from client.local_training import serve
from client.memory import LOCAL, RESIDUAL, RunMemory
from client.release import RELEASED, released
from tests.client.private_bench import (
    DECLARED,
    PLAN,
    PRIVATE,
    TRAINS,
    charges,
    code_of,
    describing,
    evaluation,
    private_header,
    same,
    started,
    training,
)

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture
def site(private_site_of):
    return private_site_of()


@pytest.fixture
def header(nano_model):
    return private_header(nano_model)


def take_one_out(site):
    """Take the first patient out of a site's table."""
    table = Path(site.config.data.manifest)
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:1] + lines[2:]))


def test_a_round_is_charged_before_its_first_batch(site, header, monkeypatch):
    seen = []

    def trained(*args, **more):
        seen.append(charges(site))
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(client.private_training, "train_privately", trained)
    with pytest.raises(RuntimeError):
        serve(training(header), site)
    (charge,) = seen[0]
    assert (charge.noise, charge.rate, charge.steps) == (2.0, 0.2, 2)
    assert charges(site) == seen[0]  # and nothing is given back


def test_an_engine_that_clips_otherwise_is_found_before_anything_is_charged(
    site, header, monkeypatch
):
    def differ(*_):
        raise PrivacyError("privacy_plan", "ghost and one patient at a time differ")

    monkeypatch.setattr(client.private_training, "pick_engine", lambda *_: "ghost")
    monkeypatch.setattr("cardionets_core.privacy.ghost.require_agreement", differ)
    with pytest.raises(PrivacyError, match="ghost and one patient at a time differ"):
        serve(training(header), site)
    assert charges(site) == ()


def test_an_update_says_what_is_declared_and_no_more(site, header):
    update = serve(training(header), site)
    assert update.num_examples == DECLARED and update.steps == update.planned_steps == 2
    assert not (update.metrics or update.counts or update.examples or update.sums)
    assert update.seconds_before == 0
    assert set(update.delta) == set(TRAINS)
    assert update.privacy.entries == 2 and 0 < update.privacy.epsilon < 50


def test_the_same_task_is_answered_with_the_same_bytes_for_no_charge(site, header):
    first = serve(training(header), site)
    later = replace(PRIVATE, head=first.privacy.head)  # all that the coordinator knows by now
    again = serve(training(header, privacy=later), site)
    assert same(first, again) and len(charges(site)) == 1


def test_a_repeated_question_does_not_tell_that_the_table_has_changed(site, header):
    first = serve(training(header), site)
    take_one_out(site)
    assert same(first, serve(training(header), site)) and len(charges(site)) == 1


def test_other_weights_for_the_same_round_cost_again(site, header):
    first = serve(training(header), site)
    other = serve(training(header, value=1e-3), site)
    assert len(charges(site)) == 2 and not same(first, other)
    assert other.privacy.epsilon > first.privacy.epsilon


def test_a_task_without_a_stored_answer_is_charged_again_with_other_noise(site, header):
    first = serve(training(header), site)
    for answer in site.runs.rglob("*answer.sealed"):
        answer.unlink()
    again = serve(training(header), site)
    assert len(charges(site)) == 2
    marks = [{p: fingerprint(a) for p, a in u.delta.items()} for u in (first, again)]
    assert marks[0]["ecg_encoder"] != marks[1]["ecg_encoder"]


def test_a_task_that_the_budget_does_not_cover_is_refused_and_nothing_is_charged(
    private_site_of, header
):
    site = private_site_of(epsilon=0.01)
    assert code_of(training(header), site) == "privacy_spent"
    assert charges(site) == ()


def test_a_few_records_do_not_show_in_what_is_refused(site, header):
    """The floors are met by the declared number; that 17 patients are there is nobody's matter."""
    assert serve(training(header, min_patients=DECLARED), site).num_examples == DECLARED
    assert code_of(training(header, min_patients=DECLARED + 1), site) == "refused_cohort"
    assert len(charges(site)) == 1


def test_a_site_describes_itself_by_its_own_declaration(site, header):
    update = serve(describing(header), site)
    assert update.modalities == ("ecg", "phenotypes")  # though its table holds diseases
    assert set(update.counts.values()) == {DECLARED}
    assert {k: v.shape for k, v in update.sums.items()} == {
        k: (2,) for k in ("phenotype_n", "phenotype_sum", "phenotype_square")
    }
    true = site.dataset(header).statistics()
    assert all((update.sums[k] != true[k]).all() for k in update.sums)


def test_the_sums_of_the_handshake_are_released_once_in_a_run(site, header):
    first = serve(describing(header), site)
    serve(training(header), site)
    known = {"scaler_mean": (120.0, 60.0), "scaler_sd": (30.0, 8.0)}  # a restarted server's
    again = serve(describing(replace(header, **known)), site)
    assert same(first, again) and len(charges(site)) == 2
    serve(describing(replace(header, run="run-2")), site)
    assert len(charges(site)) == 3


def test_without_declared_phenotypes_nothing_is_looked_at_or_charged(private_site_of, header):
    site = private_site_of(modalities=["ecg"])
    update = serve(describing(header), site)
    assert not any(v.any() for v in update.sums.values()) and charges(site) == ()


def test_a_stage_of_two_members_is_charged_for_both(site, header):
    trains = (*TRAINS, "cmr_encoder", "cmr_decoder")
    weights, marks = started(header.model, *trains)
    asked = replace(header, stage="masked", trains=trains, parts=marks)
    update = serve(Task(asked, weights), site)  # there is no cine: those steps are all noise
    assert set(update.delta) == set(trains) and update.steps == 2
    assert [c.steps for c in charges(site)] == [4]
    assert all(np.abs(a).max() > 0 for a in update.delta["cmr_decoder"].values())


@pytest.mark.parametrize("codec", ["int8", "bfloat16"])
def test_what_a_codec_leaves_out_is_kept_for_the_next_round(site, header, codec):
    """It is a function of what the noisy steps gave: no other charge, and no other rule."""
    plan = replace(PLAN, codec=codec)
    update = serve(training(header, train=plan), site)
    kept = RunMemory(site.runs, header).read("ecg_masked/1").groups[RESIDUAL]
    assert kept["ecg_encoder"] and update.num_examples == DECLARED
    serve(training(header, train=plan, round=2, memory="ecg_masked/1"), site)
    assert len(charges(site)) == 2


def test_personal_tensors_are_trained_by_the_same_noisy_steps_and_stay(site, header):
    local = ("ecg_decoder.*norm*",)
    model = build_model(header.model, seed=3)
    weights, _ = split({p: part_arrays(model, p) for p in TRAINS}, local)
    marks = {p: fingerprint(a) for p, a in weights.items()}
    asked = replace(header, local=local, model_seed=3, parts=marks)
    update = serve(Task(asked, weights), site)
    assert set(update.delta["ecg_decoder"]) == set(weights["ecg_decoder"])
    own = RunMemory(site.runs, asked).read("ecg_masked/1").groups[LOCAL]["ecg_decoder"]
    start = part_arrays(model, "ecg_decoder")
    assert own and all("norm" in n and not np.array_equal(a, start[n]) for n, a in own.items())


def test_a_private_task_does_not_go_on_from_a_task_that_was_not(private_site_of, header):
    """Residual and personal tensors of training without noise would travel with its update."""
    site = private_site_of(required=False)
    plan = replace(PLAN, codec="int8")
    serve(training(header, train=plan, privacy=None), site)
    task = training(header, train=plan, round=2, memory="ecg_masked/1")
    assert code_of(task, site) == "missing_memory" and charges(site) == ()


def test_each_round_of_the_evaluation_is_one_release(site, header):
    fitted = serve(evaluation(header, "fit"), site)
    serve(evaluation(header, "score"), site)
    assert [(c.noise, c.rate, c.steps) for c in charges(site)] == 2 * [(10.0, 1.0, 1)]
    assert same(fitted, serve(evaluation(header, "fit"), site))  # a resumed run asks again
    assert len(charges(site)) == 2


def test_a_section_that_cannot_be_private_is_refused_before_it_is_charged(site, header):
    task = evaluation(header, "fit")
    options = EvaluationOptions(sections=("retrieval",))
    with pytest.raises(Exception, match="retrieval is not available"):
        serve(replace(task, header=replace(task.header, evaluation=options)), site)
    assert charges(site) == ()


@pytest.mark.parametrize("value", [np.zeros((4, 1)), np.array([np.nan]), np.zeros(1, np.int64)])
def test_probes_that_would_fit_a_number_of_patients_are_refused_uncharged(site, header, value):
    """Of shape [n, D] they fit where n patients are tested: success would tell the number."""
    task = evaluation(header, "score")
    head = replace(task.header, evaluation=EvaluationOptions(sections=("diseases",)))
    task = Task(head, {**task.weights, "probes": {"ecg_location": value}})
    with pytest.raises(WireError, match="ecg_location"):
        serve(task, site)
    assert charges(site) == ()


def test_nothing_of_an_answer_but_arrays_changes_when_a_patient_is_taken_out(
    private_site_of, header, tmp_path
):
    """All answers of a site and of the same site less one patient: only noised arrays differ."""
    answers = []
    for name in ("whole", "less"):
        (tmp_path / name).mkdir()
        site = private_site_of(tmp_path / name)
        if name == "less":
            take_one_out(site)
        tasks = (describing(header), training(header), evaluation(header, "fit"))
        updates = [replace(serve(task, site), delta={}, sums={}) for task in tasks]
        # The chain begins with a random name and the time.
        answers.append([replace(u, privacy=replace(u.privacy, head="")) for u in updates])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "more", [{"metrics": {"train_loss": 0.5}}, {"examples": {"a": 3}}, {"seconds_before": 1.0}]
)
def test_an_answer_with_more_in_it_does_not_leave(header, more):
    with pytest.raises(RuntimeError, match=next(iter(more))):
        released(Update("west", "run-1", "ecg_masked", 1, num_examples=100, **more), header)


def test_every_field_of_an_update_is_judged():
    """A field that is added to the wire is held back until somebody has thought about it."""
    held_back = {f.name for f in fields(Update)} - set().union(*RELEASED.values())
    assert held_back == {"metrics", "examples", "seconds_before"}

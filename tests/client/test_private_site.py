"""A private site: charged before, told nothing of, and the last word of its YAML."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import client.private_training
from cardionets_core.checkpoint import part_arrays
from cardionets_core.errors import PrivacyError, SiteError, WireError
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.local_parts import split
from cardionets_core.messages import Task, Update, update_to_records
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.population import found_mark
from cardionets_core.privacy_config import PrivateTask, SitePrivacy, head_key
from cardionets_core.site_config import load_site_config
from client.local_training import serve
from client.memory import LOCAL, RESIDUAL, RunMemory
from client.release import RELEASED, released
from client.site import Site
from tests.narrow_hospital import DISEASES, PHENOTYPES
from tests.private_site import copy_with_ledger
from tests.task_header import brief_plan, task_header

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

TRAINS = ("ecg_encoder", "ecg_decoder")
DECLARED = 100
PRIVATE = PrivateTask(noise=2.0, rate=0.2, clip=1.0, steps=2)
RELEASE = PrivateTask(noise=10.0, rate=1.0, clip=1.0, steps=1)
PLAN = brief_plan(max_steps=2, budget_s=600.0)


@pytest.fixture(scope="module")
def prepared(prepare_hospital):
    """A hospital with ECGs of 24 patients, prepared; not to be changed."""
    return load_site_config(prepare_hospital(patients=24, ecg_only=True))


@pytest.fixture
def site_of(prepared, tmp_path):
    """Return (folder, **privacy) -> the same hospital with table, cache and ledger of its own."""

    def make(folder=tmp_path, **privacy):
        offers = {"modalities": ["ecg", "phenotypes"], **privacy}
        return Site(copy_with_ledger(prepared, folder, **offers))

    return make


def take_one_out(site):
    """Take the first patient out of a site's table."""
    table = Path(site.config.data.manifest)
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:1] + lines[2:]))


@pytest.fixture
def site(site_of):
    return site_of()


@pytest.fixture
def header(nano_model):
    return task_header(
        stage="ecg_masked",
        seed=7,
        model=nano_model,
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        trains=TRAINS,
        train=PLAN,
        min_patients=5,
        privacy=PRIVATE,
    )


@cache
def started(model, *parts):
    """Return parts of the model at its start, and their marks; they are not to be changed."""
    built = build_model(model, seed=1)
    weights = {part: part_arrays(built, part) for part in parts}
    return weights, {part: fingerprint(arrays) for part, arrays in weights.items()}


def training(header, *, value=0.0, **changes):
    """Return a training task; `value` is added to the weights of one part."""
    weights, marks = started(header.model, *TRAINS)
    if value:
        moved = {k: v + value for k, v in weights["ecg_encoder"].items()}
        weights = weights | {"ecg_encoder": moved}
        marks = marks | {"ecg_encoder": fingerprint(moved)}
    return Task(replace(header, parts=marks, **changes), weights)


def describing(header):
    asked = {"stage": "handshake", "action": "describe", "trains": (), "train": None}
    return Task(replace(header, privacy=RELEASE, **asked))


def charges(site):
    with Ledger.read(site.config.privacy) as ledger:
        return ledger.charges


def code_of(task, site):
    with pytest.raises((SiteError, PrivacyError)) as caught:
        serve(task, site)
    return caught.value.code


def same(a, b):
    return update_to_records(a)["arrays"] == update_to_records(b)["arrays"] and replace(
        a, delta={}, sums={}
    ) == replace(b, delta={}, sums={})


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


def test_a_task_that_the_budget_does_not_cover_is_refused_and_nothing_is_charged(site_of, header):
    site = site_of(epsilon=0.01)
    assert code_of(training(header), site) == "privacy_spent"
    assert charges(site) == ()


@pytest.fixture
def set_back(site, header):
    """Return (forget=False) -> head: run 1 is charged, and an older backup of the ledger put back.

    With `forget`, the answers that the site has kept are gone, too.
    """
    path = Path(site.config.privacy.ledger)

    def play(*, forget=False):
        serve(describing(header), site)
        backup = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
        head = serve(training(header), site).privacy.head
        for file, data in backup.items():
            file.write_bytes(data)
        assert len(backup) == 3 and len(charges(site)) == 1
        if forget:
            shutil.rmtree(site.runs)
        return head

    return play


def with_heads(task, **heads):
    """Return a task of the handshake with the heads of some sites."""
    run = task.header.run
    keyed = {head_key(run=run, site=name): head for name, head in heads.items()}
    asked = replace(task.header.privacy, heads=keyed)
    return replace(task, header=replace(task.header, privacy=asked))


def test_a_ledger_that_was_set_back_is_refused(site, header, set_back):
    head = set_back(forget=True)
    task = training(header, round=2, privacy=replace(PRIVATE, head=head))
    assert code_of(task, site) == "privacy_ledger" and len(charges(site)) == 1


def test_a_ledger_that_was_set_back_is_refused_before_the_handshake_of_another_run(
    site, header, set_back
):
    """Its sums are a release, too: what is told of the heads comes with the first question."""
    head = set_back(forget=True)
    asked = with_heads(describing(replace(header, run="run-2")), east="0" * 64, west=head)
    assert code_of(asked, site) == "privacy_ledger" and len(charges(site)) == 1
    assert not list(site.runs.rglob("*answer.sealed"))
    # The head of somebody else is no reason, and there the ledger is as it was.
    assert serve(with_heads(asked, east=head), site) and len(charges(site)) == 2


def test_a_ledger_that_was_set_back_is_found_by_the_answers_that_the_site_has_kept(
    site, header, set_back
):
    """Also by a coordinator that has never seen it."""
    set_back()
    for run in ("run-2", header.run):
        task = training(replace(header, run=run), round=2)
        assert code_of(task, site) == "privacy_ledger" and len(charges(site)) == 1
    # A line that is torn says nothing, and a task without a charge asks nothing of the ledger.
    (kept,) = (p for p in site.runs.rglob("answer.sealed") if not p.name.startswith("describe"))
    kept.write_bytes(kept.read_bytes()[:80])
    assert serve(training(header, round=2), site) and len(charges(site)) == 2


def test_the_heads_that_a_coordinator_knows_make_no_other_question(site, header):
    first = serve(describing(header), site)
    known = with_heads(describing(header), west=first.privacy.head, east="0" * 64)
    assert same(first, serve(known, site)) and len(charges(site)) == 1


def test_a_missing_ledger_is_refused(site, header):
    Path(site.config.privacy.ledger).unlink()
    assert code_of(training(header), site) == "privacy_ledger"


@pytest.mark.parametrize("where", ["cache", "table"])
def test_records_that_a_ledger_pays_for_are_not_trained_on_without_it(site, header, where):
    """Another YAML, or the same one without its ledger, over the same cache or the same table."""
    data = site.config.data
    mark = found_mark(Path(data.cache), Path(data.manifest))
    if where == "table":
        mark.unlink()
    own = Site(replace(site.config, privacy=SitePrivacy()))
    task = training(header, privacy=None)
    assert code_of(task, own) == "privacy_plan" and code_of(training(header), own) == "privacy_plan"
    told = Site(replace(site.config, privacy=SitePrivacy(required=False)))
    assert serve(task, told).num_examples < DECLARED


@pytest.mark.parametrize("action", ["describe", "train", "fit", "score"])
def test_a_site_that_demands_privacy_refuses_every_task_without(site, header, action):
    stage = {"describe": "handshake", "train": "ecg_masked"}.get(action, "evaluate")
    changes = {"train": PLAN} if action == "train" else {"train": None, "trains": ()}
    task = Task(replace(header, action=action, stage=stage, privacy=None, **changes))
    assert code_of(task, site) == "privacy_plan"
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


def test_without_declared_phenotypes_nothing_is_looked_at_or_charged(site_of, header):
    site = site_of(modalities=["ecg"])
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


def test_a_private_task_does_not_go_on_from_a_task_that_was_not(site_of, header):
    """Residual and personal tensors of training without noise would travel with its update."""
    site = site_of(required=False)
    plan = replace(PLAN, codec="int8")
    serve(training(header, train=plan, privacy=None), site)
    task = training(header, train=plan, round=2, memory="ecg_masked/1")
    assert code_of(task, site) == "missing_memory" and charges(site) == ()


def evaluation(header, action):
    weights, marks = started(header.model, "ecg_encoder", "phenotype_head", "disease_head")
    changed = {"stage": "evaluate", "action": action, "trains": (), "train": None}
    head = replace(
        header,
        privacy=RELEASE,
        evaluation=EvaluationOptions(sections=("phenotypes",)),
        parts=marks,
        scaler_mean=(120.0, 60.0),
        scaler_sd=(30.0, 8.0),
        **changed,
    )
    return Task(head, weights)


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
    site_of, header, tmp_path
):
    """All answers of a site and of the same site less one patient: only noised arrays differ."""
    answers = []
    for name in ("whole", "less"):
        (tmp_path / name).mkdir()
        site = site_of(tmp_path / name)
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

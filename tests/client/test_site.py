"""This hospital: its records, the frozen parts that it keeps, and whom it counts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb

import client.local_training
import client.memory
from cardionets_core.checkpoint import part_arrays
from cardionets_core.errors import ConfigError, DataError, SiteError, WireError
from cardionets_core.messages import Task
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.site_config import (
    SITE_CONFIG_ENV,
    SiteConfig,
    SiteData,
    SitePolicy,
    write_yaml,
)
from cardionets_core.vocabulary import LEADS
from client.local_training import gather_weights, serve
from client.site import Site, open_site
from tests.task_header import brief_plan, task_header

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

PATIENTS, STUDIES_EACH = 24, 3
TRAINS = ("ecg_encoder", "ecg_decoder")
PLAN = brief_plan()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A folder of noise ECGs: 24 patients with three studies each."""
    root = tmp_path_factory.mktemp("hospital")
    rng = np.random.default_rng(5)
    rows = ["patient_id,study_id,ecg,age,sex,atrial_fibrillation"]
    for patient in range(PATIENTS):
        for study in range(STUDIES_EACH):
            name = f"p{patient:02d}_{study}"
            wfdb.wrsamp(
                name,
                fs=100,
                units=["mV"] * 12,
                sig_name=list(LEADS),
                p_signal=rng.normal(0, 0.3, (1000, 12)),
                fmt=["16"] * 12,
                write_dir=str(root),
            )
            rows.append(f"P{patient:02d},{study},{name}.hea,60,{patient % 2},{patient % 3 == 0:d}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def site(hospital, tmp_path):
    return make_site(hospital, tmp_path / "cache")


def make_site(root, cache, **policy):
    data = SiteData(str(root), str(root / "manifest.csv"), str(cache), salt="s")
    return Site(SiteConfig("hillcrest", data, policy=SitePolicy(**policy)))


def a_header(**changes):
    header = task_header(
        stage="handshake",
        action="describe",
        seed=7,
        model=replace(ModelConfig(), num_phenotypes=1, num_diseases=1),
        phenotypes=("lv_ef",),
        diseases=("atrial_fibrillation",),
    )
    return replace(header, **changes)


def a_training_task(**changes):
    header = a_header(stage="ecg_masked", action="train", trains=TRAINS, train=PLAN, **changes)
    model = build_model(header.model, seed=1)
    weights = {p: part_arrays(model, p) for p in TRAINS}
    return Task(replace(header, parts={p: fingerprint(a) for p, a in weights.items()}), weights)


def arrays():
    return {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scale": np.array(0.5, dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }


def test_a_kept_part_comes_back_to_the_bit(site):
    site.keep_part("tokenizer", arrays())
    mark = fingerprint(arrays())
    back = site.kept_part("tokenizer", mark)
    assert back is not None and fingerprint(back) == mark
    assert back["scale"].shape == ()


def test_another_fingerprint_or_part_is_not_kept(site):
    site.keep_part("tokenizer", arrays())
    assert site.kept_part("tokenizer", "0" * 64) is None
    assert site.kept_part("generator", fingerprint(arrays())) is None


def test_keeping_a_part_replaces_the_one_before(site):
    site.keep_part("tokenizer", arrays())
    newer = arrays() | {"scale": np.array(0.75, dtype=np.float32)}
    site.keep_part("tokenizer", newer)
    assert site.kept_part("tokenizer", fingerprint(arrays())) is None
    assert site.kept_part("tokenizer", fingerprint(newer)) is not None
    assert len(list(Path(site.config.data.cache).rglob("*.*"))) == 1


def test_two_processes_may_keep_the_same_part_at_once(site, monkeypatch):
    """Those of two runs: what one is writing, the other one must not move away."""
    mine = os.getpid()
    write = Path.write_bytes

    def the_other_one_comes_between(path, data):
        written = write(path, data)
        if os.getpid() == mine:
            monkeypatch.setattr(os, "getpid", lambda: mine + 1)
            site.keep_part("tokenizer", arrays())
        return written

    monkeypatch.setattr(Path, "write_bytes", the_other_one_comes_between)
    site.keep_part("tokenizer", arrays())
    assert site.kept_part("tokenizer", fingerprint(arrays())) is not None
    assert len(list(Path(site.config.data.cache).rglob("*.*"))) == 1


@pytest.mark.parametrize("keep", [0, 7, 100])
def test_a_torn_file_is_as_good_as_none(site, keep):
    site.keep_part("tokenizer", arrays())
    (path,) = Path(site.config.data.cache).rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    assert site.kept_part("tokenizer", fingerprint(arrays())) is None


@pytest.mark.parametrize("part", ["../../etc/cron.d/x", "/etc/x", "a/b", "", "a\x00b", "x" * 5000])
def test_the_name_of_a_part_does_not_choose_the_path(site, part):
    site.keep_part(part, arrays())
    written = [p for p in Path(site.config.data.cache).parent.rglob("*") if p.is_file()]
    assert [p.parent for p in written] == [Path(site.config.data.cache) / "parts"]


def frozen_task(site_holds=False):
    mark = fingerprint(arrays())
    header = a_header(stage="generative", parts={"tokenizer": mark})
    return Task(header, {} if site_holds else {"tokenizer": arrays()})


def test_a_frozen_part_travels_once(site):
    with pytest.raises(SiteError) as caught:
        gather_weights(frozen_task(site_holds=True), site)
    assert caught.value.code == "missing_parts"
    gather_weights(frozen_task(), site)
    got = gather_weights(frozen_task(site_holds=True), site)
    assert fingerprint(got["tokenizer"]) == fingerprint(arrays())


def test_a_part_that_trains_is_not_kept(site):
    task = frozen_task()
    task = replace(task, header=replace(task.header, trains=("tokenizer",)))
    gather_weights(task, site)
    assert site.kept_part("tokenizer", fingerprint(arrays())) is None


def test_weights_under_a_wrong_fingerprint_are_refused_and_not_kept(site):
    task = frozen_task()
    task.weights["tokenizer"]["scale"] = np.array(9.0, dtype=np.float32)
    with pytest.raises(WireError, match="fingerprint"):
        gather_weights(task, site)
    assert not Path(site.config.data.cache).exists()


def test_a_site_describes_itself_in_persons(site):
    update = serve(Task(a_header()), site)
    assert (update.site, update.run, update.num_examples) == ("hillcrest", "run-1", 0)
    assert update.counts["patients"] == PATIENTS
    assert update.counts["studies"] == PATIENTS * STUDIES_EACH
    assert update.modalities == ("diseases", "ecg")
    assert update.delta == {} and update.metrics == {}
    text = repr(update)
    assert "P01" not in text and str(site.config.data.root) not in text


def test_a_site_trains_what_the_stage_trains(site):
    task = a_training_task()
    update = serve(task, site)
    dataset = site.dataset(task.header)
    assert update.num_examples == len(dataset.indices("train", {"ecg"})) > PATIENTS
    assert set(update.delta) == set(TRAINS)
    moved = [np.abs(a).max() for arrays in update.delta.values() for a in arrays.values() if a.size]
    assert max(moved) > 0
    assert all(k.startswith(("train_", "validation_")) for k in update.metrics)


def test_the_same_task_gives_the_same_bits(site, hospital, tmp_path):
    again = make_site(hospital, tmp_path / "other_cache")
    one, two = (serve(a_training_task(), s) for s in (site, again))
    assert {p: fingerprint(a) for p, a in one.delta.items()} == {
        p: fingerprint(a) for p, a in two.delta.items()
    }


def test_the_same_task_again_says_what_its_training_took_before(site):
    first, again = (serve(a_training_task(), site) for _ in range(2))
    assert first.seconds_before == 0 < again.seconds_before
    assert replace(again, seconds_before=0.0, delta={}) == replace(first, delta={})


ORPHAN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.client import test_site
import client.local_training as module
train = module.train_locally

def held(*args, **more):
    print("at work", flush=True)
    sys.stdin.readline()
    return train(*args, **more)

module.train_locally = held
task = test_site.a_training_task()
update = module.serve(task, test_site.make_site(Path(sys.argv[2]), Path(sys.argv[3])))
print(test_site.marks(update), flush=True)
"""


def marks(update):
    return " ".join(fingerprint(a) for _, a in sorted(update.delta.items()))


def test_a_task_that_another_process_works_on_is_not_trained_twice(hospital, tmp_path, monkeypatch):
    """The orphan of a stopped run and the same task of the new run: two real processes."""
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", ORPHAN, root, hospital, tmp_path / "cache"]
    lock = client.memory._lock
    with subprocess.Popen(
        list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as orphan:
        assert orphan.stdout.readline() == "at work\n"

        def look(descriptor):
            free = lock(descriptor)
            if not free and not orphan.stdin.closed:
                orphan.stdin.close()  # it goes on when we wait for it
            return free

        def trained(*args, **more):
            raise AssertionError("the same task was trained twice")

        monkeypatch.setattr(client.memory, "_lock", look)
        monkeypatch.setattr(client.local_training, "train_locally", trained)
        update = serve(a_training_task(), make_site(hospital, tmp_path / "cache"))
        assert marks(update) == orphan.stdout.read().strip()


def test_the_floor_counts_persons_and_not_studies(hospital, tmp_path):
    """17 or so persons train with three studies each: a floor of 40 is not met by 51 studies."""
    site = make_site(hospital, tmp_path / "cache", min_patients=40)
    with pytest.raises(SiteError) as caught:
        serve(a_training_task(), site)
    assert caught.value.code == "refused_cohort"


def test_a_server_cannot_widen_what_a_stage_trains(site):
    task = a_training_task()
    header = replace(task.header, trains=(*TRAINS, "tokenizer"))
    with pytest.raises(SiteError) as caught:
        serve(replace(task, header=header), site)
    assert caught.value.code == "refused_task"


@pytest.mark.parametrize("changes", [{"stage": "handshake"}, {"stage": "evaluate"}])
def test_an_action_cannot_hide_under_another_stage(site, changes):
    task = a_training_task()
    with pytest.raises(SiteError) as caught:
        serve(replace(task, header=replace(task.header, **changes)), site)
    assert caught.value.code == "refused_task"
    for action in ("describe", "fit", "score"):
        with pytest.raises(SiteError) as caught:
            serve(replace(task, header=replace(task.header, action=action)), site)
        assert caught.value.code == "refused_task"


def test_a_plan_of_a_few_steps_may_not_single_out_patients(site):
    task = a_training_task()
    plan = replace(task.header.train, max_steps=1, batch_size=1)
    with pytest.raises(SiteError) as caught:
        serve(replace(task, header=replace(task.header, train=plan)), site)
    assert caught.value.code == "refused_cohort"


@pytest.mark.parametrize("changes", [{"train": None}, {"stage": "backdoor"}])
def test_a_training_task_that_is_none_is_a_wire_error(site, changes):
    task = a_training_task()
    with pytest.raises(WireError):
        serve(replace(task, header=replace(task.header, **changes)), site)


def test_a_broken_manifest_is_a_data_error(hospital, tmp_path):
    site = make_site(hospital, tmp_path / "cache")
    bad = tmp_path / "manifest.csv"
    bad.write_text("patient_id,ecg,colour\nP01,p00_0.hea,red\n")
    site = Site(replace(site.config, data=replace(site.config.data, manifest=str(bad))))
    with pytest.raises(DataError, match="colour"):
        site.dataset(a_header())


def test_the_site_of_this_process_is_the_one_its_environment_names(monkeypatch, hospital, tmp_path):
    path = tmp_path / "site.yaml"
    data = {
        "root": str(hospital),
        "manifest": str(hospital / "manifest.csv"),
        "cache": str(tmp_path),
    }
    write_yaml(path, {"site": "hillcrest", "data": data})
    monkeypatch.setenv(SITE_CONFIG_ENV, str(path))
    assert open_site().name == "hillcrest"
    monkeypatch.delenv(SITE_CONFIG_ENV)
    with pytest.raises(ConfigError, match="cardionets-site start"):
        open_site()

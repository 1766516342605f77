"""One record in, a folder out: numbers by hand, crops as in evaluation, errors leave nothing."""

import json
import os
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from cardionets_core import inference
from cardionets_core.checkpoint import CheckpointInfo, part_arrays, to_tensors, write_checkpoint
from cardionets_core.data.cache import CachedArrays
from cardionets_core.data.cmr import read_nifti
from cardionets_core.data.dataset import SiteDataset
from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.data.manifest import Manifest
from cardionets_core.data.transforms import prepare_ecg, prepared_samples
from cardionets_core.ecg_checks import heart_rate_bpm, remarks
from cardionets_core.errors import CheckpointError, ConfigError, DataError
from cardionets_core.evaluation.forward import EcgOutputs
from cardionets_core.model_config import EcgSpec, ModelConfig
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.predict_report import not_trained, predict_record
from cardionets_core.vocabulary import COHORT_DISCLAIMER, LEADS

SHARED = Path(os.environ.get("CARDIONETS_SHARED_DATA", "../shared/data"))
NAMES = ("lv_edv", "lv_ef", "ecc_global")
DISEASES = ("heart_failure", "normal_ecg")
DONE = ["handshake", "generative", "phenotypes", "diseases", "evaluate"]
METRICS = {
    "pooled": {
        "phenotypes": {"by_phenotype": {n: {"ecg": {"r2": {"value": 0.4}}} for n in NAMES}},
        "diseases": {
            "by_disease": {
                n: {"prevalence": 0.25, "ecg": {"auroc": {"value": 0.8}}} for n in DISEASES
            }
        },
    }
}


def _ecg(bpm=72.0, rate=250.0, seconds=10.0, scale=1.0):
    """Return twelve leads with P, QRS and T per beat, in mV; III and so on follow I and II."""
    time = np.arange(round(seconds * rate)) / rate
    period = 60 / bpm
    after_r = (time + 0.3 * period) % period - 0.4 * period
    waves = (
        (0.12, -0.15, 0.02),
        (1.0, 0.0, 0.011),
        (-0.2, 0.025, 0.01),
        (0.25, 0.45 * period, 0.04),
    )
    beat = sum(h * np.exp(-0.5 * ((after_r - at) / width) ** 2) for h, at, width in waves)
    one, two = 0.7 * beat, 1.0 * beat
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    chest = [gain * beat for gain in (-0.6, -0.3, 0.5, 1.2, 1.3, 1.0)]
    noise = np.random.default_rng(0).normal(scale=0.002, size=(len(time), 12))
    return scale * (np.stack([*limbs, *chest], axis=1) + noise)


def _write(folder, signal, name="record", rate=250.0, leads=LEADS):
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        p_signal=signal,
        fmt=["16"] * len(leads),
        write_dir=str(folder),
    )
    return folder / f"{name}.hea"


def _info(**changes):
    model = ModelConfig(num_phenotypes=len(NAMES), num_diseases=len(DISEASES))
    info = CheckpointInfo(
        model=model,
        phenotypes=NAMES,
        diseases=DISEASES,
        scaler_mean=(150.0, 60.0, -18.0),
        scaler_sd=(30.0, 8.0, 3.0),
        residual_sd=(0.8, 0.9, 0.0),
        provenance={"run": "test", "stages_done": DONE, "sites": {"north": {}}},
        metrics=METRICS,
    )
    return replace(info, **changes)


def _checkpoint(folder, info):
    model = build_model(info.model, seed=3)
    tensors = to_tensors({part: part_arrays(model, part) for part in PARTS})
    write_checkpoint(folder, info, tensors, number=1)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    return _checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", _info())


@pytest.fixture
def record(tmp_path):
    return _write(tmp_path, _ecg())


class _Page(HTMLParser):
    """Collects text and every address of a page, and checks that tags close."""

    def __init__(self):
        super().__init__()
        self.text, self.addresses, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_folder_with_everything(checkpoint, record, tmp_path):
    page = predict_record(checkpoint, record, tmp_path / "out", samples=2, seed=5)
    names = {p.name for p in page.parent.iterdir()}
    cines = {"cine.gif", "cine.nii.gz", "cine_2.nii.gz"}
    assert names == {"prediction.html", "prediction.json", *cines}
    facts = json.loads((page.parent / "prediction.json").read_text())
    first = facts["phenotypes"][0]
    assert (first["name"], first["unit"]) == ("lv_edv", "mL")
    assert first["low"] < first["value"] < first["high"]
    assert facts["phenotypes"][2]["low"] is None  # residual sd not known
    assert all(0 <= d["probability"] <= 1 for d in facts["diseases"])
    assert facts["record"]["heart_rate_bpm"] == pytest.approx(72, abs=2)
    assert facts["record"]["remarks"] == []
    assert COHORT_DISCLAIMER in " ".join(facts["notice"])
    volume = read_nifti(page.parent / "cine.nii.gz")
    spec = _info().model.cine
    assert volume.frames.shape == (spec.phases, spec.size_px, spec.size_px)
    assert volume.pixel_mm == pytest.approx((spec.pixel_mm, spec.pixel_mm))
    assert volume.cycle_s == pytest.approx(60 / 72, abs=0.03)


def test_the_page_is_whole_and_says_what_it_must(checkpoint, record, tmp_path):
    html = predict_record(checkpoint, record, tmp_path / "out", samples=1).read_text()
    page = _Page()
    page.feed(html)
    text = " ".join(" ".join(page.text).split())
    assert page.open == []
    assert page.addresses
    assert all(a.startswith("data:") for a in page.addresses)
    for words in (
        "not a medical device",
        COHORT_DISCLAIMER,
        "Left ventricular end-diastolic volume",
        "90 % interval",
        "Heart failure",
        "not an image of this patient",
        "Circumferential strain, global",
    ):
        assert words in text


def test_the_same_seed_gives_the_same_files(checkpoint, record, tmp_path):
    one, two, other = (
        predict_record(checkpoint, record, tmp_path / name, samples=1, seed=seed).parent
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in ("prediction.json", "prediction.html", "cine.gif"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    frames = [read_nifti(f / "cine.nii.gz").frames for f in (one, two, other)]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_interval_by_hand():
    said = EcgOutputs(
        phenotypes=np.array([[1.0, -0.5, 0.0]]),
        crop_spread=np.array([[0.6, 0.0, 0.1]]),
        probability=np.array([[0.2, 0.9]]),
        embedding=np.zeros((1, 4)),
    )
    volume, fraction, strain = inference.phenotype_estimates(said, _info())
    assert volume.value == pytest.approx(180.0)
    half = 1.6449 * 30 * np.sqrt(0.8**2 + 0.6**2 / 3)
    assert (volume.low, volume.high) == pytest.approx((180 - half, 180 + half))
    assert fraction.high == pytest.approx(56 + 1.6449 * 8 * 0.9)
    assert (strain.value, strain.low, strain.high) == (pytest.approx(-18.0), None, None)
    assert volume.r2 == 0.4


def test_impossible_values_are_cut():
    wild, none = np.array([[-6.0, 9.0, -9.0]]), np.zeros((1, 3))
    said = EcgOutputs(wild, none, np.zeros((1, 2)), np.zeros((1, 4)))
    volume, fraction, strain = inference.phenotype_estimates(said, _info())
    assert (volume.value, volume.low, fraction.high) == (0.0, 0.0, 100.0)
    assert strain.value == pytest.approx(-45.0)


def test_what_was_not_learnt_is_not_answered(record, tmp_path):
    info = _info(
        provenance={"stages_done": ["handshake", "phenotypes"]},
        scaler_mean=(150.0, 60.0, 0.0),
        scaler_sd=(30.0, 8.0, 1.0),
        metrics={},
        residual_sd=(),
    )
    folder = _checkpoint(tmp_path / "checkpoint", info)
    page = predict_record(folder, record, tmp_path / "out", samples=2)
    facts = json.loads((page.parent / "prediction.json").read_text())
    assert facts["not_estimated"] == ["ecc_global", *DISEASES, "cine"]
    assert [p["name"] for p in facts["phenotypes"]] == ["lv_edv", "lv_ef"]
    assert not list(page.parent.glob("cine*"))
    assert "Synthetic cine" not in page.read_text()
    assert not_trained(folder) == "left out: stages diseases, generative not trained"


def test_a_run_of_masked_ecgs_alone_is_said_to_estimate_nothing(tmp_path):
    done = {"stages_done": ["handshake", "ecg_masked"]}
    folder = _checkpoint(tmp_path / "checkpoint", _info(provenance=done))
    assert not_trained(folder).startswith("this checkpoint estimates nothing: stages phenotypes, ")


def test_a_whole_run_leaves_nothing_out(checkpoint):
    assert not_trained(checkpoint) == ""


def test_crops_are_those_of_the_data_set():
    """Evaluation and prediction must see the same numbers, short recordings included."""
    for seconds in (10.0, 6.4):
        spec = _info().model
        signal = _ecg(rate=250.0, seconds=seconds).T.astype(np.float32)
        record = EcgRecord(signal, np.ones(12, bool), 250.0)
        arrays = CachedArrays(
            ecg=prepare_ecg(record, spec.ecg).astype(np.float16)[None],
            ecg_samples=np.array([prepared_samples(record, spec.ecg)], np.int32),
            lead_mask=record.lead_mask[None],
            cine=None,
            view_mask=np.zeros((1, len(spec.cine.views)), bool),
            quarantine=(),
            key="",
        )
        manifest = Manifest(pd.DataFrame({"patient_id": ["p"]}), Path(), (), (), "0")
        dataset = SiteDataset(
            manifest, arrays, spec=spec, phenotypes=(), diseases=(), scaler=None, salt="s"
        )
        crops = inference.cut_crops(record, spec.ecg)
        assert len(crops) == spec.ecg.test_crops
        for k, crop in enumerate(crops):
            expected = dataset.batch(np.array([0]), rng=None, crop=k).ecg
            torch.testing.assert_close(crop, expected, rtol=0, atol=0)


def test_errors_name_the_next_step_and_leave_nothing(checkpoint, record, tmp_path):
    out = tmp_path / "results" / "out"
    with pytest.raises(DataError, match="is not there"):
        predict_record(checkpoint, tmp_path / "none.hea", out)
    tall = _write(tmp_path, _ecg(scale=60.0), name="tall")
    with pytest.raises(DataError, match=r"tall\.hea.*gain"):
        predict_record(checkpoint, tall, out)
    short = _write(tmp_path, _ecg(seconds=1.0), name="short")
    with pytest.raises(DataError, match="too short"):
        predict_record(checkpoint, short, out)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        predict_record(tmp_path, record, out)
    assert not out.exists()
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        predict_record(checkpoint, record, out)
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_failure_while_writing_leaves_nothing(checkpoint, record, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("cardionets_core.predict_report.render", fail)
    with pytest.raises(OSError, match="disk full"):
        predict_record(checkpoint, record, tmp_path / "results" / "out", samples=1)
    assert list((tmp_path / "results").iterdir()) == []


def test_remarks_on_an_unusual_record():
    spec = EcgSpec()
    usual = EcgRecord(_ecg().T.astype(np.float32), np.ones(12, bool), 250.0)
    assert remarks(usual, spec) == ()
    missing = usual.lead_mask.copy()
    missing[[7, 9]] = False
    found = remarks(EcgRecord(usual.signal * missing[:, None], missing, 250.0), spec)
    assert found[0].startswith("Leads V2 and V4 were not recorded")
    low = remarks(EcgRecord(usual.signal * 0.15, usual.lead_mask, 250.0), spec)
    assert "unusually low" in low[0]
    swapped = usual.signal.copy()
    swapped[[1, 8]] = swapped[[6, 1]]
    assert any("limb leads" in r for r in remarks(EcgRecord(swapped, usual.lead_mask, 250.0), spec))
    long = EcgRecord(_ecg(seconds=30.0).T.astype(np.float32), usual.lead_mask, 250.0)
    assert remarks(long, spec) == ("Only the first 10 s of 30 s were used.",)


@pytest.mark.parametrize("bpm", [38.0, 72.0, 131.0, 180.0])
@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_heart_rate_of_known_beats(bpm, rate):
    record = EcgRecord(_ecg(bpm, rate).T.astype(np.float32), np.ones(12, bool), rate)
    assert heart_rate_bpm(record) == pytest.approx(bpm, rel=0.03)


def test_no_heart_rate_without_beats():
    flat = np.zeros((12, 2500), np.float32)
    flat[:, 1200:1210] = 1.0
    assert heart_rate_bpm(EcgRecord(flat, np.ones(12, bool), 250.0)) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    "pattern", ["ptbxl/records100/*/*.hea", "ptbxl/records500/*/*.hea", "cinc2021/*/JS20004.hea"]
)
def test_real_records_are_predicted(checkpoint, tmp_path, pattern):
    hea = sorted(SHARED.glob(pattern))[0]
    page = predict_record(checkpoint, hea, tmp_path / "out", samples=1)
    facts = json.loads((page.parent / "prediction.json").read_text())
    assert 35 < facts["record"]["heart_rate_bpm"] < 160
    record = read_wfdb(hea)
    assert facts["record"]["leads_missing"] == [
        n for n, m in zip(LEADS, record.lead_mask, strict=True) if not m
    ]

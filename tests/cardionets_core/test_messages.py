"""Tasks and updates survive the wire; anything else is a WireError or a coded refusal."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.data.dataset import NEEDS
from cardionets_core.errors import SITE_ERROR_CODES, SiteError, WireError
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.messages import (
    ARRAYS,
    CONFIG,
    REFUSAL,
    Task,
    TrainPlan,
    Update,
    payload_bytes,
    refusal,
    task_from_records,
    task_to_records,
    update_from_records,
    update_to_records,
)
from cardionets_core.packing import fingerprint
from cardionets_core.runtime import versions
from cardionets_core.wire_limits import LARGEST_COUNT, LARGEST_METRIC, MODALITIES
from tests.task_header import task_header

PLAN = TrainPlan(
    local_epochs=2,
    batch_size=16,
    lr=1e-3,
    weight_decay=0.05,
    clip_norm=3.0,
    max_steps=0,
    progress=0.25,
    options={"temperature": 0.07},
)


def a_task():
    arrays = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    header = task_header(
        config_hash="ab" * 32,
        stage="contrastive",
        round=2,
        seed=2**62 + 1,
        phenotypes=("lv_edv", "lv_ef"),
        diseases=("heart_failure",),
        scaler_mean=(150.123456789, 60.0),
        scaler_sd=(0.1 + 0.2, 1.0),
        trains=("ecg_encoder",),
        parts={"ecg_encoder": fingerprint(arrays)},
        train=PLAN,
    )
    return Task(header, {"ecg_encoder": arrays})


def an_update():
    return Update(
        site="northgate",
        run="run-1",
        stage="contrastive",
        round=2,
        num_examples=280,
        metrics={"train_loss": 0.1 + 0.2},
        counts={"patients": 400},
        versions={"torch": "2.13.0"},
        modalities=("ecg", "pairs"),
        delta={"ecg_encoder": {"weight": np.full((2, 3), 1e-7, dtype=np.float32)}},
        sums={"phenotypes/n": np.array([[1.0, 2.0]])},
    )


def with_header(content, **changes):
    header = json.loads(str(content[CONFIG]["header"])) | changes
    config = ConfigRecord({**content[CONFIG], "header": json.dumps(header)})
    return RecordDict({ARRAYS: content[ARRAYS], CONFIG: config})


def test_a_task_arrives_as_it_was_sent():
    task = a_task()
    got = task_from_records(task_to_records(task))
    assert got.header == task.header
    assert fingerprint(got.weights["ecg_encoder"]) == task.header.parts["ecg_encoder"]


def test_an_evaluate_task_brings_its_options():
    options = EvaluationOptions(sections=("phenotypes",), replicates=20)
    task = replace(
        a_task(), header=replace(a_task().header, action="fit", train=None, evaluation=options)
    )
    assert task_from_records(task_to_records(task)).header == task.header


def test_an_update_arrives_as_it_was_sent():
    update = an_update()
    got = update_from_records(update_to_records(update))
    assert replace(got, delta={}, sums={}) == replace(update, delta={}, sums={})
    assert fingerprint(got.delta["ecg_encoder"]) == fingerprint(update.delta["ecg_encoder"])
    assert got.sums["phenotypes/n"].tolist() == [[1.0, 2.0]]


def test_a_message_is_two_records_whatever_it_holds():
    content = update_to_records(an_update())
    assert set(content) == {ARRAYS, CONFIG}
    assert len(content[ARRAYS]) == 2  # float32 deltas, float64 sums


@given(
    num_examples=st.integers(0, 2**40),
    metrics=st.dictionaries(
        st.text("az_-./0", max_size=8).map("train_".__add__),
        st.floats(-LARGEST_METRIC, LARGEST_METRIC),
        max_size=4,
    ),
    modalities=st.lists(st.sampled_from(sorted(MODALITIES)), unique=True).map(tuple),
)
@settings(max_examples=100, deadline=None)
def test_every_number_survives_to_the_bit(num_examples, metrics, modalities):
    update = Update(
        "s", "r", "t", 1, num_examples=num_examples, metrics=metrics, modalities=modalities
    )
    assert update_from_records(update_to_records(update)) == update


@pytest.mark.parametrize("code", sorted(SITE_ERROR_CODES))
def test_a_refusal_is_its_code_and_nothing_else(code):
    content = refusal(code)
    assert {k: dict(v) for k, v in content.items()} == {REFUSAL: {"code": code}}
    with pytest.raises(SiteError) as caught:
        update_from_records(content)
    assert caught.value.code == code


def test_a_refusal_cannot_be_made_of_free_text():
    with pytest.raises(ValueError, match="unknown site error code"):
        refusal("/data/smith_john.hea is missing")


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"code": "/data/smith_john.hea"}),
        ConfigRecord({}),
        ConfigRecord({"code": 7}),
        MetricRecord({"code": 1.0}),
    ],
)
def test_a_refusal_with_anything_else_reads_as_internal(record):
    with pytest.raises(SiteError) as caught:
        update_from_records(RecordDict({REFUSAL: record}))
    assert caught.value.code == "internal"


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"num_examples": "9"},
        {"num_examples": True},
        {"num_examples": 1.5},
        {"num_examples": -9},
        {"num_examples": 10**400},
        {"counts": {"patients": 10**400}},
        {"counts": {"patients": -1}},
        {"metrics": {"train_loss": "low"}},
        {"metrics": {"train_loss": float("nan")}},
        {"metrics": {"train_loss": float("-inf")}},
        {"metrics": {"train_loss": 10**400}},
        {"metrics": [1.0]},
        {"metrics": {"train_loss": 1.7e308}},
        {"metrics": {"train_loss": -1.01e30}},
        {"metrics": {"patients": 1.0}},
        {"metrics": {"train_loss of John Smith": 1.0}},
        {"metrics": {"train_\ud800": 1.0}},
        {"metrics": {"train_" + "x" * 59: 1.0}},
        {"metrics": {f"train_{i}": 1.0 for i in range(1001)}},
        {"counts": {f"n{i}": 1 for i in range(1001)}},
        {"counts": {"a b": 1}},
        {"counts": {"": 1}},
        {"examples": {f"n{i}": 1 for i in range(1001)}},
        {"versions": {"torch": "2\n13"}},
        {"versions": {"torch": "ü"}},
        {"versions": {"torch": "2" * 101}},
        {"versions": {"a\nb": "2"}},
        {"modalities": ["ecg", "genome"]},
        {"modalities": ["ecg", "ecg"]},
        {"site": "../../x\n"},
        {"site": "\ud800"},
        {"site": ""},
        {"site": "x" * 65},
        {"site": None},
        {"modalities": "ecg"},
    ],
)
def test_an_update_with_a_wrong_header_is_refused(changes):
    with pytest.raises(WireError):
        update_from_records(with_header(update_to_records(an_update()), **changes))


def test_what_an_honest_site_says_of_itself_passes_at_its_bounds():
    changes = {
        "site": "St-Barts_" + "9" * 55,
        "metrics": {"steps": 0.0, "validation_x": -LARGEST_METRIC, "train_" + "x" * 58: 1e-300},
        "counts": {f"n{i}": LARGEST_COUNT for i in range(1000)},
        "versions": versions() | {"mlflow": "not installed", "long": "2" * 100},
        "modalities": sorted(MODALITIES),
    }
    got = update_from_records(with_header(update_to_records(an_update()), **changes))
    assert got.site == changes["site"] and got.metrics == changes["metrics"]


def test_a_site_offers_no_word_that_the_server_does_not_know():
    assert MODALITIES == NEEDS | {"pairs"}


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": 3},
        {"action": "explode"},
        {"round": None},
        {"model": {"preset": "tiny", "backdoor": 1}},
        {"model": {"_target_": "os.system"}},
        {"train": {"local_epochs": 1}},
        {"seed": 0.5},
        {"parts": ["ecg_encoder"]},
    ],
)
def test_a_task_with_a_wrong_header_is_refused(changes):
    with pytest.raises(WireError):
        task_from_records(with_header(task_to_records(a_task()), **changes))


@pytest.mark.parametrize(
    "header", ["", "{", "[]", "null", "7", '"x"', "[" * 100_000, '{"site": NaN}', "1" * 5000]
)
@pytest.mark.parametrize("read", [task_from_records, update_from_records])
def test_a_header_that_is_no_object_is_refused(header, read):
    content = update_to_records(an_update())
    config = ConfigRecord({**content[CONFIG], "header": header})
    with pytest.raises(WireError):
        read(RecordDict({ARRAYS: content[ARRAYS], CONFIG: config}))


def raw_array(data, stype="numpy.ndarray"):
    return Array(dtype="float32", shape=(2,), stype=stype, data=data)


def npz():
    import io

    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2, dtype=np.float32))
    return buffer.getvalue()


def pickled():
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        raw_array(b""),
        raw_array(b"\x93NUMPY"),
        raw_array(b"\x93NUMPY\x01\x00\x02\x00{("),
        raw_array(
            b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }"
        ),
        raw_array(b"PK\x03\x04 no archive"),
        raw_array(npz()),
        raw_array(pickled()),
        raw_array(b"cos\nsystem\n(S'true'\ntR."),
        raw_array(b"x" * 100, stype="torch.tensor"),
    ],
    ids=["empty", "cut", "header", "short", "zip", "npz", "object", "pickle", "stype"],
)
def test_bytes_that_are_no_plain_array_are_refused(array):
    content = update_to_records(an_update())
    arrays = ArrayRecord({k: array for k in content[ARRAYS]})
    with pytest.raises(WireError):
        update_from_records(RecordDict({ARRAYS: arrays, CONFIG: content[CONFIG]}))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_byte_in_the_arrays_is_refused(data):
    content = update_to_records(an_update())
    arrays = dict(content[ARRAYS])
    key = data.draw(st.sampled_from(sorted(arrays)))
    raw = bytearray(arrays[key].data)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    arrays[key] = Array(arrays[key].dtype, arrays[key].shape, arrays[key].stype, bytes(raw))
    try:
        got = update_from_records(
            RecordDict({ARRAYS: ArrayRecord(arrays), CONFIG: content[CONFIG]})
        )
    except WireError:
        return
    # A bit of the npy header's padding says nothing: then the arrays are those that were sent.
    assert fingerprint(got.delta["ecg_encoder"]) == fingerprint(an_update().delta["ecg_encoder"])
    assert fingerprint(got.sums) == fingerprint(an_update().sums)


def test_records_that_lack_or_mistake_a_kind_are_refused():
    content = update_to_records(an_update())
    for wrong in (
        RecordDict({}),
        RecordDict({ARRAYS: content[ARRAYS]}),
        RecordDict({CONFIG: content[CONFIG]}),
        RecordDict({ARRAYS: content[CONFIG], CONFIG: content[CONFIG]}),
        RecordDict({ARRAYS: content[ARRAYS], CONFIG: MetricRecord({"header": 1})}),
        RecordDict({ARRAYS: content[ARRAYS], CONFIG: ConfigRecord({"manifest": "{}"})}),
    ):
        with pytest.raises(WireError):
            update_from_records(wrong)
        with pytest.raises(WireError):
            task_from_records(wrong)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e9, "9", True, 10**18])
def test_a_training_that_took_no_real_time_is_refused(seconds):
    content = update_to_records(an_update())
    content[CONFIG]["seconds_before"] = seconds
    with pytest.raises(WireError):
        update_from_records(content)


def test_the_time_of_a_training_before_arrives_as_it_was_sent():
    update = replace(an_update(), seconds_before=400.25)
    assert update_from_records(update_to_records(update)).seconds_before == 400.25


def test_payload_bytes_counts_arrays_texts_and_doubles():
    content = update_to_records(Update("s", "r", "t", 1))
    empty = payload_bytes(content)
    assert empty == 8 + sum(len(v) for v in content[CONFIG].values() if isinstance(v, str))
    delta = {"p": {"w": np.zeros(1000, dtype=np.float32)}}
    full = payload_bytes(update_to_records(Update("s", "r", "t", 1, delta=delta)))
    assert 4000 <= full - empty < 4500

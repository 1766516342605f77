"""The checkpoint: both halves or neither, and nothing that was touched."""

from __future__ import annotations

import errno
import json
import pickle
import random

import numpy as np
import pytest

from cardionets_core import checkpoint as module
from cardionets_core.checkpoint import (
    CheckpointInfo,
    load_parts,
    part_arrays,
    read_checkpoint,
    read_info,
    read_newest,
    read_tensors,
    seal,
    to_groups,
    to_tensors,
    write_checkpoint,
)
from cardionets_core.errors import CheckpointError
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.packing import fingerprint

CONFIG = ModelConfig(num_phenotypes=2, num_diseases=1)
INFO = CheckpointInfo(
    model=CONFIG,
    phenotypes=("lv_edv", "lv_ef"),
    diseases=("heart_failure",),
    scaler_mean=(150.123456789, 0.1 + 0.2),
    scaler_sd=(30.0, 8.0),
    provenance={"run": "run-1"},
)


def small(value=1.0):
    return {
        "model.p.w": np.full((3, 4), value, dtype=np.float32).T,
        "model.p.scale": np.array(value, dtype=np.float32),
        "raw.p.steps": np.array([7], dtype=np.int64),
    }


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG, seed=4)


def test_tensors_and_info_come_back_to_the_bit(tmp_path):
    write_checkpoint(tmp_path, INFO, small(), number=1)
    info = read_info(tmp_path)
    assert fingerprint(read_tensors(tmp_path, info)) == fingerprint(small())
    assert info.scaler_mean == INFO.scaler_mean and info.model == CONFIG
    assert info.weights == "weights-000001.safetensors" and len(info.sha256) == 64


def test_a_model_comes_back_with_its_weights(tmp_path, model):
    groups = {p: part_arrays(model, p) for p in PARTS}
    write_checkpoint(tmp_path, INFO, to_tensors(groups), number=1)
    back = read_checkpoint(tmp_path)
    assert not back.model.training
    for part in PARTS:
        assert fingerprint(part_arrays(back.model, part)) == fingerprint(groups[part])


def test_groups_and_tensors_are_inverse():
    groups = {"p": {"a.b.c": np.ones(2)}, "q": {"w": np.zeros(1)}}
    tensors = to_tensors(groups) | to_tensors({"p": {"w": np.ones(3)}}, "raw")
    assert set(tensors) == {"model.p.a.b.c", "model.q.w", "raw.p.w"}
    assert to_groups(tensors).keys() == groups.keys() and set(to_groups(tensors)["p"]) == {"a.b.c"}
    assert set(to_groups(tensors, "raw")) == {"p"}


def test_part_arrays_are_copies(model):
    before = part_arrays(model, "tokenizer")
    for array in before.values():
        array[...] = 9
    assert all(not np.all(a == 9) for a in part_arrays(model, "tokenizer").values())


def test_the_last_two_generations_stay(tmp_path):
    for number in (1, 2, 3):
        write_checkpoint(tmp_path, INFO, small(number), number=number)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.json",
        "previous.json",
        "weights-000002.safetensors",
        "weights-000003.safetensors",
    ]
    assert read_tensors(tmp_path, read_info(tmp_path))["model.p.scale"] == 3


def test_a_crash_at_any_write_leaves_the_former_pair_in_force(tmp_path, monkeypatch):
    """Every file is written under another name first; here each rename in turn never happens."""
    real = module.os.replace
    for crash_at in range(3):
        folder = tmp_path / str(crash_at)
        write_checkpoint(folder, INFO, small(1), number=1)
        calls = []

        def replace(source, target, calls=calls, crash_at=crash_at):
            if len(calls) == crash_at:
                raise KeyboardInterrupt
            calls.append(target)
            real(source, target)

        monkeypatch.setattr(module.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(folder, INFO, small(2), number=2)
        monkeypatch.setattr(module.os, "replace", real)
        assert read_tensors(folder, read_info(folder))["model.p.scale"] == 1
        write_checkpoint(folder, INFO, small(2), number=2)
        assert read_tensors(folder, read_info(folder))["model.p.scale"] == 2


def test_100_flipped_bytes_and_cuts_are_all_noticed(tmp_path):
    write_checkpoint(tmp_path, INFO, small(), number=1)
    info = read_info(tmp_path)
    path = tmp_path / info.weights
    whole, draw = path.read_bytes(), random.Random(0)
    for i in range(100):
        raw = bytearray(whole)
        place = draw.randrange(len(raw))
        if i % 2:
            raw[place] ^= 1 << draw.randrange(8)
        else:
            del raw[place:]
        path.write_bytes(bytes(raw))
        with pytest.raises(CheckpointError, match="torn or changed"):
            read_tensors(tmp_path, info)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"x"',
        "{}",
        '{"format": 1}',
        "\ud800".encode("utf-8", "replace").decode(),
    ],
)
def test_an_info_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_info(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "checkpoint.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError):
        read_info(tmp_path)


def changed_info(folder, **changes):
    """Change an info as somebody would who knows its seal."""
    path = folder / "checkpoint.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k != "seal"} | changes
    path.write_text(json.dumps(values | {"seal": seal(values)}))


def spoil(path, place=-30):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(bytes(raw))


def test_200_flipped_bytes_of_the_info_are_noticed_or_change_nothing(tmp_path):
    write_checkpoint(tmp_path, INFO, small(), number=1)
    path, draw = tmp_path / "checkpoint.json", random.Random(1)
    whole, info, refused = path.read_bytes(), read_info(tmp_path), 0
    for _ in range(200):
        raw = bytearray(whole)
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(raw))
        try:
            assert read_info(tmp_path) == info  # a changed blank between two values
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_an_info_of_the_format_before_is_read_and_one_that_lost_its_seal_is_not(tmp_path):
    write_checkpoint(tmp_path, INFO, small(), number=1)
    path = tmp_path / "checkpoint.json"
    values = json.loads(path.read_text())
    del values["seal"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="torn or changed"):
        read_info(tmp_path)
    path.write_text(json.dumps(values | {"format": 1}))
    assert read_info(tmp_path).scaler_mean == INFO.scaler_mean


@pytest.mark.parametrize("torn", ["checkpoint.json", "weights-000002.safetensors"])
def test_where_a_generation_is_torn_the_one_before_is_put_in_force(tmp_path, torn):
    for number in (1, 2):
        write_checkpoint(tmp_path, INFO, small(number), number=number)
    assert read_newest(tmp_path)[2] == ""
    spoil(tmp_path / torn)
    _, tensors, why = read_newest(tmp_path)
    assert tensors["model.p.scale"] == 1 and torn in why and "torn or changed" in why
    # Whatever happens to the next save, a whole generation stays.
    write_checkpoint(tmp_path, INFO, small(5), number=2)
    spoil(tmp_path / "checkpoint.json")
    assert read_newest(tmp_path)[1]["model.p.scale"] == 1


def test_where_both_generations_are_torn_the_newest_is_named(tmp_path):
    for number in (1, 2):
        write_checkpoint(tmp_path, INFO, small(number), number=number)
    for name in ("weights-000001.safetensors", "weights-000002.safetensors"):
        spoil(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"weights-000002\.safetensors is torn"):
        read_newest(tmp_path)


def test_a_torn_previous_info_does_no_harm_to_a_save(tmp_path):
    for number in (1, 2):
        write_checkpoint(tmp_path, INFO, small(number), number=number)
    (tmp_path / "previous.json").write_text("{")
    write_checkpoint(tmp_path, INFO, small(3), number=3)
    assert read_newest(tmp_path)[1]["model.p.scale"] == 3
    assert read_info(tmp_path, "previous.json").weights == "weights-000002.safetensors"


def test_a_disk_that_is_full_is_named_and_the_generation_before_stays(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, INFO, small(1), number=1)

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*is whole.*Make room"):
        write_checkpoint(tmp_path, INFO, small(2), number=2)
    assert read_newest(tmp_path)[1]["model.p.scale"] == 1


def test_another_format_is_refused(tmp_path):
    write_checkpoint(tmp_path, INFO, small(), number=1)
    changed_info(tmp_path, format=3)
    with pytest.raises(CheckpointError, match="format"):
        read_info(tmp_path)


def test_an_unknown_key_is_refused(tmp_path):
    write_checkpoint(tmp_path, INFO, small(), number=1)
    changed_info(tmp_path, more=1)
    with pytest.raises(CheckpointError, match="more"):
        read_info(tmp_path)


def test_the_info_cannot_name_a_file_elsewhere(tmp_path):
    folder, secret = tmp_path / "checkpoint", tmp_path / "secret.safetensors"
    write_checkpoint(folder, INFO, small(), number=1)
    secret.write_bytes((folder / "weights-000001.safetensors").read_bytes())
    changed_info(folder, weights="../secret.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        read_tensors(folder, read_info(folder))


def test_a_pickle_is_not_opened(tmp_path):
    import hashlib

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    write_checkpoint(tmp_path, INFO, small(), number=1)
    data = pickle.dumps(Trap())
    (tmp_path / "weights-000001.safetensors").write_bytes(data)
    changed_info(tmp_path, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(CheckpointError, match="safetensors"):
        read_tensors(tmp_path, read_info(tmp_path))


def test_a_folder_without_a_checkpoint_names_the_right_one(tmp_path):
    with pytest.raises(CheckpointError, match="outputs/RUN/checkpoint"):
        read_checkpoint(tmp_path)


def test_weights_that_do_not_fit_the_model_are_refused(model):
    right = part_arrays(model, "tokenizer")
    name = next(iter(right))
    for wrong in (
        {k: v for k, v in right.items() if k != name},
        right | {"more": np.ones(1, dtype=np.float32)},
        right | {name: np.ones((1, 1), dtype=np.float32)},
    ):
        with pytest.raises(CheckpointError, match="'tokenizer' do not fit"):
            load_parts(model, {"tokenizer": wrong})
    with pytest.raises(CheckpointError, match="'tokeniser'"):
        load_parts(model, {"tokeniser": right})


def test_a_number_that_json_does_not_know_is_not_written(tmp_path):
    write_checkpoint(tmp_path, INFO, small(1), number=1)
    bad = CheckpointInfo(CONFIG, (), (), metrics={"r2": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path, bad, small(2), number=2)
    assert read_tensors(tmp_path, read_info(tmp_path))["model.p.scale"] == 1

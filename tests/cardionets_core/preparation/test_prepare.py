"""A hospital's folder through the whole of `prepare`, again, and with what changed since."""

import csv
import shutil
import stat
from collections import Counter

import numpy as np
import pytest

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.manifest import read_manifest, split_of
from cardionets_core.data.prepare import StudyFiles, prepare_study
from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.errors import DataError
from cardionets_core.preparation.inventory import find
from cardionets_core.preparation.request import PrepareRequest
from cardionets_core.run_config import model_preset
from cardionets_core.site_config import load_site_config, write_yaml
from client.site import open_dataset


def table_of(out):
    return read_manifest(out / "manifest.parquet", out).table


def quarantine_of(out):
    with (out / "quarantine.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_hospital_is_prepared(hospital, run, tmp_path):
    summary = run(hospital)
    out = tmp_path / "prepared"
    assert summary.items == {"ecg used": 7, "ecg refused": 3}
    assert (summary.patients, summary.studies, summary.pairs) == (6, 7, 0)
    assert summary.others == {"docx": 1, "other": 1}
    table = table_of(out)
    per_patient = Counter(table["patient_id"])
    assert sorted(per_patient.values()) == [1, 1, 1, 1, 1, 2]
    assert sorted(table["age"]) == [50, 51, 52, 53, 54, 55, 57]
    assert sorted(table["sex"]) == [0, 0, 0, 0, 1, 1, 1]
    assert table["atrial_fibrillation"].sum() == 1  # 164889003 stands in one header
    assert summary.unmapped == {"snomed:73211009": 1}
    assert read_manifest(out / "manifest.csv", out).table.equals(table)


def test_every_refusal_has_a_cause_and_a_next_step(hospital, run, tmp_path):
    run(hospital)
    rows = quarantine_of(tmp_path / "prepared")
    assert sorted(row["code"] for row in rows) == ["header", "no_usable_lead", "truncated"]
    assert all(row["cause"] and row["next_step"] and "path" not in row for row in rows)
    request = PrepareRequest(out=tmp_path / "prepared", ecg=hospital)
    places = {row["code"]: find(request, row["item"]) for row in rows}
    assert places["truncated"] == str(hospital / "pa" / "rec6.hea")
    with pytest.raises(DataError, match="No recording"):
        find(request, "0" * 20)


def test_source_names_are_kept_only_when_asked_for(hospital, run, tmp_path):
    run(hospital, keep_source_names=True)
    paths = {row["code"]: row["path"] for row in quarantine_of(tmp_path / "prepared")}
    assert paths["truncated"] == "pa/rec6.hea"


def test_nothing_that_names_a_patient_is_written(hospital, run, tmp_path, contents):
    run(hospital, presets=("tiny",), with_report=True)
    for name, (_, data) in contents(tmp_path / "prepared").items():
        for word in (b"MRN", b"rec1", b"Smith", str(hospital).encode()):
            assert word not in data, name
    assert not [n for n in contents(tmp_path / "prepared") if "rec" in n.rpartition("/")[2][:3]]


def test_all_of_it_is_for_the_owner_alone(hospital, run, tmp_path):
    run(hospital)
    for path in [tmp_path / "prepared", *(tmp_path / "prepared").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name


def test_neutral_records_give_the_tensors_of_the_sources(hospital, run, tmp_path):
    run(hospital)
    out, spec = tmp_path / "prepared", model_preset("tiny").ecg
    sources = [read_wfdb(hospital / f"p{'abcdef'[k % 6]}" / f"rec{k}.hea") for k in (0, 1, 7)]
    wanted = [prepare_ecg(record, spec) for record in sources]
    files = [out / name for name in table_of(out)["ecg"]]
    found = [prepare_ecg(read_wfdb(file), spec) for file in files]
    for tensor in wanted:
        # 0.5 uV of rounding in the file, 1/scale_mv in the tensor
        distance = min(float(np.abs(tensor - other).max()) for other in found)
        assert distance * spec.scale_mv < 1e-3


def test_a_prepared_site_opens_as_any_other(hospital, run, tmp_path):
    run(hospital, presets=("tiny",))
    out = tmp_path / "prepared"
    write_yaml(tmp_path / "site.yaml", {"site": "s", "data": {"prepared": str(out)}})
    config = load_site_config(tmp_path / "site.yaml")
    built = sorted(p.name for p in (out / "cache").iterdir())
    model = model_preset("tiny")
    data = open_dataset(config, model, phenotypes=(), diseases=(), scaler=None)
    assert sorted(p.name for p in (out / "cache").iterdir()) == built  # nothing is built again
    table = table_of(out)
    salt = (out / "site_salt").read_text().strip()
    train = [k for k, p in enumerate(table["patient_id"]) if split_of(p, salt=salt) == "train"]
    assert len(data.indices("train")) == len(train)
    direct = prepare_study(
        StudyFiles(0, str(table["ecg"][0]), ("", "")), out, model.ecg, model.cine
    )
    cached = np.load(next((out / "cache").glob("*/ecg.npy")), mmap_mode="r")
    np.testing.assert_array_equal(cached[0], direct.ecg)


def test_a_second_run_has_no_work(hospital, run, tmp_path, contents):
    run(hospital, presets=("tiny",))
    before = contents(tmp_path / "prepared")
    again = run(hospital, presets=("tiny",))
    assert (again.new, again.unchanged, again.gone) == (0, 10, 0)
    assert not again.manifest_changed
    after = contents(tmp_path / "prepared")
    # SQLite stamps its own file at every opening; its rows are the same
    assert before.keys() == after.keys()
    changed = [name for name in before if before[name] != after[name]]
    assert set(changed) <= {"journal.sqlite"}


def test_additions_cost_themselves_and_move_nobody(hospital, run, tmp_path, write_record):
    run(hospital)
    out = tmp_path / "prepared"
    salt = (out / "site_salt").read_text().strip()
    before = {p: split_of(p, salt=salt) for p in table_of(out)["patient_id"]}
    files = set(table_of(out)["ecg"])
    for k in range(20, 23):
        write_record(hospital / "new", f"r{k}", seed=k, comments=[f"<subject_id>: MRN-{k}"])
    summary = run(hospital)
    assert (summary.new, summary.unchanged, summary.studies) == (3, 10, 10)
    table = table_of(out)
    assert files < set(table["ecg"])
    assert before == {p: split_of(p, salt=salt) for p in table["patient_id"] if p in before}


def test_what_disappears_or_changes_is_followed(hospital, run, tmp_path, write_record):
    run(hospital)
    out = tmp_path / "prepared"
    shutil.rmtree(hospital / "pc")
    mended = write_record(hospital / "pa", "rec6", seed=6, comments=["<subject_id>: MRN-a-007"])
    assert mended.exists()
    summary = run(hospital)
    assert (summary.new, summary.unchanged, summary.gone) == (1, 8, 1)
    assert summary.items == {"ecg used": 7, "ecg refused": 2}
    assert summary.patients == 5
    named = {n for name in table_of(out)["ecg"] for n in (name, name.replace(".hea", ".dat"))}
    assert {p.relative_to(out).as_posix() for p in (out / "ecg").rglob("*.*")} == named


def test_copies_are_counted_and_one_patient_has_one(hospital, run, tmp_path, write_record, leads):
    words = ["<subject_id>: MRN-{}-007", "Dx: 426783006"]
    for name, patient in (("again", "b"), ("other", "z")):
        comments = [words[0].format(patient), words[1]]
        # another gain in the header, the same volts: a copy in another form
        write_record(
            hospital / name, name, values=leads(1).round(3), comments=comments, gain=2000.0
        )
    summary = run(hospital)
    assert summary.copies.extra == 2 and summary.copies.across_patients == 1
    assert summary.same_again == 1
    assert Counter(table_of(tmp_path / "prepared")["ecg"]).most_common(1)[0][1] == 2


def test_a_table_names_patients_and_diagnoses(hospital, run, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("ecg,patient_id,age,heart_failure\npa/rec0,X1,61,1\npb/rec1,X1,62,0\n")
    summary = run(hospital, table=table)
    assert summary.table["rows"] == 2
    assert summary.patients == 6 and summary.present["heart_failure"] == 1
    known = table_of(tmp_path / "prepared").query("heart_failure == heart_failure")
    assert len(known) == 2 and len(set(known["patient_id"])) == 1
    assert sorted(known["age"]) == [50, 51]  # of the header, which knows the recording
    assert run(hospital, table=table).new == 0
    assert run(hospital).new == 2  # what it spoke of; the others are as they were


def test_a_changed_table_costs_what_it_changed(hospital, run, tmp_path):
    """By a path, and by the patient id that only the recording's own header holds."""
    table, rows = tmp_path / "table.csv", ["ecg,patient_id,height_cm", ",MRN-b-007,170"]
    rows += ["pc/rec2,X1,171", "pd/rec3,X3,172", ",MRN-e-007,173"]

    def prepared(*more):
        table.write_text("\n".join([*rows, *more]) + "\n")
        return run(hospital, table=table).new

    assert prepared() == 10 and prepared() == 0
    assert prepared(",SOMEBODY-ELSE,180", "not/there,X9,181") == 0
    rows[1] = ",MRN-b-007,175"
    assert prepared() == 2  # rec1 and rec7
    out = tmp_path / "prepared"
    assert sorted(table_of(out)["height_cm"].dropna()) == [171, 172, 173, 175, 175]
    rows[2], rows[3] = "pc/rec2,X2,171", "pd/rec3,X3,162"
    assert prepared() == 2
    assert prepared(",MRN-f-007,160") == 1 and prepared() == 1
    assert run(hospital).new == 5 and run(hospital).new == 0
    assert table_of(out)["height_cm"].isna().all()


def test_a_changed_table_of_a_run_that_was_stopped(hospital, run, tmp_path):
    table = tmp_path / "table.csv"
    words = ["patient_id,height_cm\nMRN-b-007,170\nMRN-d-007,171\n"]
    words.append(words[0].replace("17", "16"))
    table.write_text(words[0])
    run(hospital, table=table)

    def stopped(act, works, workers):
        yield act(works[0])
        raise KeyboardInterrupt

    table.write_text(words[1])
    with pytest.raises(KeyboardInterrupt):
        run(hospital, table=table, run_all=stopped)
    table.write_text(words[0])
    assert run(hospital, table=table).new == 1  # the one that was told by the other table

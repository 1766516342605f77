"""What a person can get wrong, each with a cause and a next step; nothing is lost by it."""

import csv
import json
import os
import shutil
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from cardionets_core.cli import app
from cardionets_core.data.manifest import read_manifest
from cardionets_core.errors import ConfigError, DataError
from cardionets_core.preparation import assemble
from cardionets_core.preparation.lock import held
from cardionets_core.preparation.screen import lines


def test_no_folder_at_all(run):
    with pytest.raises(ConfigError, match="--ecg DIR"):
        run()


def test_a_folder_that_is_missing_empty_or_a_file(run, tmp_path):
    with pytest.raises(ConfigError, match="is not a folder; correct the path or mount it"):
        run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is empty; correct the path or mount it"):
        run(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        run(tmp_path / "file")
    assert not (tmp_path / "prepared").exists()


def test_a_folder_without_recordings_says_what_it_holds(run, tmp_path):
    folder = tmp_path / "letters"
    (folder / "deep").mkdir(parents=True)
    for name in ("Mrs Smith.docx", "deep/b.docx", "deep/c.jpg"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 x docx, 1 x jpg.*WFDB") as error:
        run(folder)
    assert "Smith" not in str(error.value)
    with pytest.raises(DataError, match="docx"):
        run(cmr=folder)


@pytest.mark.parametrize("below", ["", "out", "../"])
def test_out_inside_the_source_or_around_it(run, hospital, below):
    with pytest.raises(ConfigError, match="lie in each other"):
        run(hospital, out=hospital / below)


def test_out_with_something_else_in_it(run, hospital, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x")
    with pytest.raises(ConfigError, match="not made by `cardionets prepare`"):
        run(hospital, out=tmp_path / "thesis")
    with pytest.raises(ConfigError, match="is a file"):
        run(hospital, out=tmp_path / "thesis" / "chapter.txt")


def test_another_salt_or_none(run, hospital, tmp_path):
    run(hospital)
    salt = tmp_path / "salt"
    salt.write_text("another secret, long enough")
    with pytest.raises(ConfigError, match="another salt"):
        run(hospital, salt_file=salt)
    (tmp_path / "prepared" / "site_salt").write_text("another secret, long enough")
    with pytest.raises(ConfigError, match="another salt"):
        run(hospital)
    (tmp_path / "prepared" / "site_salt").unlink()
    with pytest.raises(ConfigError, match="has lost its site_salt"):
        run(hospital)


@pytest.mark.parametrize("left", [["prepared_site"], [".lock"], ["prepared_site", "site_salt"]])
def test_killed_before_the_salt_was_written(run, hospital, tmp_path, left):
    out = tmp_path / "prepared"
    out.mkdir()
    for name in left:
        (out / name).touch()
    assert run(hospital).items["ecg used"] == 7
    assert len((out / "site_salt").read_text().strip()) == 64
    (out / "site_salt").write_text("")
    with pytest.raises(ConfigError, match="has lost its site_salt"):
        run(hospital)


def test_two_first_runs_at_once(run, hospital, tmp_path):
    out = tmp_path / "prepared"
    out.mkdir()
    with held(out), pytest.raises(ConfigError, match=r"Another .* is at work"):
        run(hospital)
    assert not (out / "site_salt").exists()
    assert run(hospital).items["ecg used"] == 7


def test_find_reads_only(hospital, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "mistyped", tmp_path / "empty"):
        options = ["--ecg", str(hospital), "--out", str(out), "--find", "0" * 20]
        result = CliRunner().invoke(app, ["prepare", *options])
        assert result.exit_code == 2 and "was not made by" in result.stderr
    assert not (tmp_path / "mistyped").exists() and not list((tmp_path / "empty").iterdir())


def test_a_table_that_is_none(run, hospital, tmp_path):
    with pytest.raises(ConfigError, match="is not a file"):
        run(hospital, table=tmp_path / "absent.csv")
    (tmp_path / "table.csv").write_text("name,colour\nx,blue\n")
    with pytest.raises(DataError, match="patient"):
        run(hospital, table=tmp_path / "table.csv")


def test_too_little_room_is_known_before_the_work(run, hospital, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(assemble.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match="make room"):
        run(hospital)


def test_a_disk_that_fills_up_loses_nothing(run, hospital, tmp_path, monkeypatch):
    count = [0]
    replace = os.replace

    def until_full(source, target):
        count[0] += str(target).endswith(".hea")
        if count[0] > 3:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("cardionets_core.data.ecg_write.os.replace", until_full)
    with pytest.raises(DataError, match=r"is full\. Nothing that was prepared is lost"):
        run(hospital)
    monkeypatch.undo()
    summary = run(hospital)
    assert summary.items["ecg used"] == 7 and summary.unchanged >= 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_folder_that_is_closed(run, hospital):
    (hospital / "pa").chmod(0)
    try:
        assert run(hospital).closed_folders == 1
    finally:
        (hospital / "pa").chmod(0o700)


def test_what_lies_in_a_closed_folder_is_not_gone(run, hospital, monkeypatch):
    run(hospital)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/pc"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    again = run(hospital)
    assert (again.closed_folders, again.gone, again.studies) == (1, 0, 7)
    monkeypatch.setattr(os, "scandir", real)
    assert run(hospital).new == 0


def test_a_file_that_cannot_be_read_now_is_tried_again(run, hospital, monkeypatch):
    from cardionets_core.preparation import convert

    read = convert.read_ecg

    def no_network(kind, path, part, *, root):
        if path.name == "rec1.hea":
            raise PermissionError(13, "Permission denied", str(path))
        return read(kind, path, part, root=root)

    monkeypatch.setattr(convert, "read_ecg", no_network)
    assert run(hospital).refused["ecg io_error"] == 1
    monkeypatch.setattr(convert, "read_ecg", read)
    again = run(hospital)
    assert again.new == 1 and again.items == {"ecg used": 7, "ecg refused": 3}


def test_a_record_that_takes_for_ever_is_given_up(run, hospital, monkeypatch):
    from cardionets_core.preparation import convert

    read = convert.read_ecg

    def endless(kind, path, part, *, root):
        if path.name == "rec1.hea":
            time.sleep(60)
        return read(kind, path, part, root=root)

    def run_all(act, works, workers):
        for work in works:  # a busy machine may take a second for any other record, too
            seconds = 1 if work.source.path.endswith("rec1.hea") else 300
            monkeypatch.setattr("cardionets_core.preparation.worker.ITEM_SECONDS", seconds)
            yield act(work)

    monkeypatch.setattr(convert, "read_ecg", endless)
    summary = run(hospital, run_all=run_all)
    assert summary.refused["ecg too_slow"] == 1 and summary.items["ecg used"] == 6
    monkeypatch.setattr(convert, "read_ecg", read)
    assert run(hospital).items["ecg used"] == 7


def test_a_mistake_of_a_reader_costs_one_record_and_shows_no_words(run, hospital, monkeypatch):
    from cardionets_core.preparation import convert

    read = convert.read_ecg

    def mistaken(kind, path, part, *, root):
        if path.name == "rec1.hea":
            raise KeyError("Mrs Smith")
        return read(kind, path, part, root=root)

    monkeypatch.setattr(convert, "read_ecg", mistaken)
    summary = run(hospital)
    assert summary.refused["ecg reader_failed"] == 1 and summary.items["ecg used"] == 6


def test_the_command_refuses_in_one_line(tmp_path):
    result = CliRunner().invoke(
        app, ["prepare", "--ecg", str(tmp_path / "no"), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2 and result.stderr.startswith("error: --ecg")
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def arrays(tmp_path, leads):
    """Six recordings in one file, and ten in files of their own."""
    import h5py

    root = tmp_path / "arrays"
    root.mkdir()
    with h5py.File(root / "ecgs.h5", "w") as file:
        file["tracings"] = np.stack([leads(k, 500).T for k in range(6)]).astype("f4")
    schema = {
        "sampling_rate_hz": 500, "unit": "mV", "layout": "leads, samples", "signal": "tracings",
        "leads": ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"],
    }  # fmt: skip
    (root / "ecgs.h5.schema.json").write_text(json.dumps(schema))
    return root


@pytest.mark.parametrize("kept", [5000, 0])
def test_a_copy_that_is_under_way_loses_nothing(run, arrays, tmp_path, kept):
    assert run(arrays).items == {"ecg used": 6}
    files = sorted((tmp_path / "prepared" / "ecg").rglob("*.hea"))
    whole = (arrays / "ecgs.h5").read_bytes()
    (arrays / "ecgs.h5").write_bytes(whole[:kept])
    again = run(arrays)
    assert (again.gone, again.unread, again.items) == (0, 1, {"ecg used": 6})
    assert sorted((tmp_path / "prepared" / "ecg").rglob("*.hea")) == files
    assert "1 files cannot be read now" in "\n".join(lines(again, tmp_path))
    (arrays / "ecgs.h5").write_bytes(whole)
    assert (run(arrays).unread, run(arrays).items) == (0, {"ecg used": 6})


def test_a_file_that_cannot_be_opened_now_stays_as_it_was(run, hospital, monkeypatch):
    run(hospital)
    (hospital / "pc" / "rec2.hea").touch()
    monkeypatch.setattr("cardionets_core.preparation.scan._head", lambda path: None)
    again = run(hospital)
    assert (again.gone, again.unread, again.items["ecg used"]) == (0, 1, 7)
    monkeypatch.undo()
    assert run(hospital).new == 1


def test_what_was_prepared_outlives_an_error_of_the_disk(run, hospital, monkeypatch):
    from cardionets_core.preparation import convert

    run(hospital)
    (hospital / "pc" / "rec2.hea").touch()

    def broken(kind, path, part, *, root):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(convert, "read_ecg", broken)
    again = run(hospital)
    assert (again.new, again.unread, again.items["ecg used"]) == (1, 1, 7)
    monkeypatch.undo()
    assert (run(hospital).new, run(hospital).new) == (1, 0)


def test_a_share_that_is_not_mounted_takes_nothing_away(run, tmp_path, hospital, write_record):
    for k in range(10):
        write_record(hospital / "share", f"more{k}", seed=20 + k)
    run(hospital)
    before = read_manifest(tmp_path / "prepared" / "manifest.parquet", tmp_path / "prepared")
    (hospital / "share").rename(tmp_path / "share")
    write_record(hospital / "pa", "new", seed=40)
    with pytest.raises(DataError, match=r"^10 of the 17 .* not mounted.*--accept-losses"):
        run(hospital)
    after = read_manifest(tmp_path / "prepared" / "manifest.parquet", tmp_path / "prepared")
    assert after.table.equals(before.table)
    (tmp_path / "share").rename(hospital / "share")
    (hospital / "share" / "more0.hea").unlink()  # one is no reason to stop
    assert (run(hospital).gone, len(list((tmp_path / "prepared").rglob("*.hea")))) == (1, 17)
    shutil.rmtree(hospital / "share")
    assert run(hospital).gone == 9  # fewer than ten
    out = ["--out", str(tmp_path / "prepared"), "--ecg", str(hospital), "--accept-losses"]
    for k in range(12):
        write_record(hospital / "share", f"more{k}", seed=20 + k)
    run(hospital)
    shutil.rmtree(hospital / "share")
    result = CliRunner().invoke(app, ["prepare", *out, "--workers", "1", "--preset", "none"])
    assert result.exit_code == 0 and "12 no longer there" in result.stdout


@pytest.mark.parametrize("damage", ["folder", "signal", "empty"])
def test_neutral_files_that_are_lost_are_made_again(run, hospital, tmp_path, contents, damage):
    run(hospital)
    ecgs = tmp_path / "prepared" / "ecg"
    before = {name: data for name, (_, data) in contents(ecgs).items()}
    folder = next(p for p in sorted(ecgs.iterdir()))
    if damage == "folder":
        shutil.rmtree(folder)
    elif damage == "signal":
        next(folder.glob("*.dat")).unlink()
    else:
        next(folder.glob("*.dat")).write_bytes(b"")
    again = run(hospital)
    assert again.new == 1 and again.items["ecg used"] == 7
    assert {name: data for name, (_, data) in contents(ecgs).items()} == before


def test_files_of_no_bytes_are_refused(run, hospital, tmp_path):
    names = ("a.hea", "b.DCM", "c.xml", "d.h5", "e.parquet", "pe/f.hdf5")
    for name in names:
        (hospital / name).touch()
    (hospital / "notes.txt").touch()
    (tmp_path / "cmr" / "p").mkdir(parents=True)
    for name in ("g.dcm", "p/x_sax.nii.gz", "h.nii"):
        (tmp_path / "cmr" / name).touch()
    summary = run(hospital, cmr=tmp_path / "cmr")
    assert summary.items == {"cmr refused": 3, "ecg used": 7, "ecg refused": 9}
    assert summary.refused["ecg truncated"] == 7 and summary.refused["study truncated"] == 3
    assert summary.others == {"docx": 1, "other": 1, "txt": 1}
    assert run(hospital, cmr=tmp_path / "cmr").new == 0


def test_names_that_are_not_utf8(run, hospital, tmp_path):
    """Latin-1, as old file servers have it; Python shows such bytes as lone surrogates."""
    place = os.fsencode(hospital) + b"/M\xfcller"
    os.mkdir(place)
    for name in ("rec0.hea", "rec0.dat"):
        shutil.copy(hospital / "pa" / name, os.path.join(place, name.encode()))
    with open(place + b"/J\xe4ger.hea", "wb") as file:
        file.write(b":::\n")
    summary = run(hospital, keep_source_names=True)
    assert summary.items == {"ecg used": 8, "ecg refused": 4}
    out = tmp_path / "prepared"
    with (out / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        item = {row["path"]: row["item"] for row in csv.DictReader(file)}[
            r"M\udcfcller/J\udce4ger.hea"
        ]
    options = ["--ecg", str(hospital), "--out", str(out), "--find", item]
    result = CliRunner().invoke(app, ["prepare", *options])
    assert result.exit_code == 0 and result.stdout.endswith("ller/J\\udce4ger.hea\n")
    assert run(hospital).new == 0


def test_a_study_in_a_folder_that_is_not_utf8(run, hospital, tmp_path):
    place = os.fsencode(tmp_path / "cmr") + b"/M\xfcller"
    os.makedirs(place)
    for view in (b"sax", b"4ch"):
        with open(place + b"/M\xfcller_" + view + b".nii.gz", "wb") as file:
            file.write(b"no image")
    summary = run(hospital, cmr=tmp_path / "cmr")
    assert summary.items["cmr refused"] == 1 and summary.items["ecg used"] == 7


def test_nothing_usable_is_no_success(hospital, tmp_path):
    for file in hospital.rglob("*.dat"):
        file.write_bytes(b"")
    result = CliRunner().invoke(
        app, ["prepare", "--ecg", str(hospital), "--out", str(tmp_path / "out"), "--workers", "1"]
    )
    assert result.exit_code == 1, result.output
    assert "Nothing can be used yet" in result.output

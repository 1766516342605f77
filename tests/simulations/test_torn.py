"""Torn files of a run that was really killed: each is found, and none is found by a crash."""

from __future__ import annotations

from collections import Counter

import pytest

from cardionets_core.errors import ConfigError
from simulations.faults import torn
from simulations.faults.full_disk import full_disk
from simulations.faults.torn import Damage, Kept, damage_all, interrupted_run, kept_files


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return interrupted_run(tmp_path_factory.mktemp("torn"))


def test_no_place_of_any_file_goes_unnoticed(base):
    names = {kept.path.name.split("-")[0] for kept in kept_files(base)}
    assert names == {
        "weights",
        "checkpoint.json",
        "previous.json",
        "config.json",
        "progress.jsonl",
        "status.json",
        "submission.json",
        "memory",
        "answer.sealed",
    }
    before = [kept.path.read_bytes() for kept in kept_files(base)]
    ends = damage_all(base, places=len(before) * 6)
    assert sum(sum(counted.values()) for counted in ends.values()) == len(before) * 6
    assert all("MISSED" not in counted for counted in ends.values()), ends
    assert ends["weights"] == Counter({"the one before": 6})
    assert ends["previous.json"] == Counter({"harmless": 6})
    assert set(ends["memory"]) == {"as none"}
    # Every damage was mended again, so that none comes on top of another.
    assert [kept.path.read_bytes() for kept in kept_files(base)] == before


def test_a_full_disk_is_told_at_every_write_and_the_old_generation_stays(base):
    assert full_disk(base) == []


def test_a_write_that_takes_no_notice_of_a_full_disk_is_found(base, monkeypatch):
    monkeypatch.setattr("client.memory.RunMemory.write", lambda *words: None)
    monkeypatch.setattr("client.memory.RunMemory.keep_answer", lambda *words: None)
    found = [f"{what} of {site}" for site in ("north", "river") for what in ("memory", "answer")]
    assert full_disk(base) == [f"{name}: the full disk was not noticed" for name in found]


def test_a_torn_line_of_the_progress_costs_itself_only(base, monkeypatch):
    progress = next(kept for kept in kept_files(base) if kept.path.name == "progress.jsonl")
    assert progress.whole == torn.ROUNDS - 1
    raw = progress.path.read_bytes()
    rounds = [raw.index(b'"round", "stage": "ecg_masked"'), raw.rindex(b'"ecg_masked"')]
    assert [progress.judge(Damage(place + 1, 0)) for place in rounds] == ["as none", "harmless"]
    assert progress.judge(Damage(rounds[1], None)) == "as none"
    for number in (0, torn.ROUNDS):  # a reader that loses whole lines, or makes rounds up
        monkeypatch.setattr(torn, "rounds_done", lambda run, number=number: number)
        assert progress.judge(Damage(rounds[1], None)) == "MISSED"


def judged(path, read, bit=0):
    path.write_bytes(b"0123")
    found = Kept(path, read, b"0123", ((None, "as none"),)).judge(Damage(1, bit))
    assert path.read_bytes() == b"0123"
    return found


def test_what_a_reader_does_decides(tmp_path):
    path = tmp_path / "file"

    def refuses():
        raise ConfigError("it is torn")

    def crashes():
        raise KeyError("stage")

    assert judged(path, path.read_bytes) == "MISSED"  # takes anything
    assert judged(path, lambda: b"0123") == "harmless"
    assert judged(path, lambda: None) == "as none"
    assert judged(path, refuses) == "refused"
    assert judged(path, crashes) == "MISSED"


def test_a_damage_is_a_cut_or_one_bit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x00\x00\x00")
    Damage(1, 3).do(path)
    assert path.read_bytes() == b"\x00\x08\x00"
    Damage(1, None).do(path)
    assert path.read_bytes() == b"\x00"


def test_places_are_spread_over_all_files_and_drawn_the_same_every_time(base):
    files = kept_files(base)
    drawn = torn.draw_damages(files, places=4 * len(files))
    assert Counter(kept.path for kept, _ in drawn) == {kept.path: 4 for kept in files}
    assert sum(damage.bit is None for _, damage in drawn) == 2 * len(files)
    again = torn.draw_damages(files, places=4 * len(files))
    assert [damage for _, damage in drawn] == [damage for _, damage in again]


def test_the_same_file_of_two_sites_is_resumed_over_twice(tmp_path, monkeypatch):
    for name in ("hospitals", "own_caches"):
        monkeypatch.setattr(torn, name, lambda *arguments: {})
    monkeypatch.setattr(torn, "run_to_the_end", lambda folder: folder.name)
    base = tmp_path / "base"
    paths = [base / "sites" / site / "runs" / "r" / "answer.sealed" for site in ("n", "s")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"whole")
    resumed = {torn.resumed_over(base, path, bit) for path in paths for bit in (None, 3)}
    assert len(resumed) == 4 and all(path.read_bytes() == b"whole" for path in paths)

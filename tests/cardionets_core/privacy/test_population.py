"""A ledger is of its own patients, and a patient is of one ledger."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy import population
from cardionets_core.privacy.new_ledger import init_ledger
from tests.cardionets_core.privacy.ledgers import hospital


@pytest.fixture
def north(tmp_path):
    made = replace(hospital(tmp_path / "ledgers"), cache=tmp_path / "cache")
    made.init()
    return made


def refused(match):
    return pytest.raises(
        PrivacyError, match=match, check=lambda error: error.code == "privacy_ledger"
    )


def patients(first, last):
    return tuple(f"p{n}" for n in range(first, last))


def test_a_second_ledger_over_overlapping_patients_is_refused(north):
    second = replace(
        north.having(ledger=str(north.path.with_name("second.jsonl"))),
        patients=patients(39, 80),
        cache=None,
    )
    with refused(r"1 of this site's patients are in ledger.jsonl already.*tell half"):
        second.init()
    assert not second.path.exists()
    replace(second, patients=patients(40, 80)).init()  # others' ledger may lie beside it


def test_a_second_ledger_in_another_folder_is_found_by_its_mark(north, tmp_path):
    second = replace(hospital(tmp_path / "elsewhere"), cache=north.cache)
    with refused(r"privacy_ledger.json: the records here are charged to another ledger, .*ledgers"):
        second.init()
    assert not list(second.path.parent.iterdir())


def lost(made):
    """Lose a ledger's three files."""
    for path in made.path.parent.glob(f"{made.path.name}*"):
        path.unlink()


def test_a_mark_of_a_lost_ledger_says_so_and_what_is_left_to_do(north, tmp_path):
    lost(north)
    said = (
        rf"charged to the ledger {north.path}, which cannot be found.*not mounted.*was moved.*"
        r"newest backup of its three files.*whole budget.*as spent.*no further private run"
    )
    with refused(said):
        north.init()
    with refused(said):
        replace(hospital(tmp_path / "elsewhere"), cache=north.cache).init()


def test_a_ledger_that_was_made_in_the_place_of_another_is_told_apart(north):
    lost(north)
    replace(north, cache=None).init()
    with refused(rf"charged to an earlier ledger, in whose place {north.path} was made.*backup"):
        north.charged(1)


def test_a_ledger_that_was_moved_goes_on(north, tmp_path):
    moved = north.copied(tmp_path / "new-disk")
    lost(north)
    assert moved.charged(1)


def test_a_copy_in_another_folder_is_refused_while_the_ledger_is_where_its_mark_says(
    north, tmp_path
):
    copy = north.copied(tmp_path / "copy")
    with refused(rf"this ledger is {north.path}, which is still there, and {copy.path} is a copy"):
        copy.charged(1)
    assert north.charged(1)


def test_the_mark_follows_a_ledger_that_was_moved(north, tmp_path):
    """So that a copy that is put back at its old place is found, too."""
    moved = north.copied(tmp_path / "new-disk")
    lost(north)
    moved.charged(1)
    shutil.copytree(moved.path.parent, north.path.parent, dirs_exist_ok=True)
    with refused(rf"this ledger is {moved.path}, which is still there, and {north.path}"):
        north.charged(2)
    assert moved.charged(2)


def test_another_name_of_the_same_file_is_no_copy(north, tmp_path):
    (tmp_path / "link").symlink_to(north.path.parent)
    linked = north.having(ledger=str(tmp_path / "link" / north.path.name))
    assert linked.charged(1) and north.charged(2)


def test_another_populations_ledger_at_the_old_place_is_no_copy(north, tmp_path):
    moved = north.copied(tmp_path / "new-disk")
    lost(north)
    replace(north, patients=patients(50, 90), cache=None).init()
    assert moved.charged(1)


@pytest.fixture
def east(tmp_path):
    """A hospital whose table lies in a folder of its own, and that has a ledger."""
    (tmp_path / "data").mkdir()
    table = tmp_path / "data" / "manifest.csv"
    table.write_text("patient_id\n")
    made = replace(hospital(tmp_path / "of-east"), cache=tmp_path / "cache-east", table=table)
    made.init()
    return made


def test_the_same_table_with_another_cache_and_another_folder_of_ledgers_is_found(east, tmp_path):
    second = replace(hospital(tmp_path / "elsewhere"), cache=tmp_path / "other", table=east.table)
    said = r".manifest.csv.privacy_ledger.json: the records here are charged to another ledger"
    with refused(said):
        second.init()
    assert not list(second.path.parent.iterdir())
    replace(second, table=None).init()  # made by a version that left no mark there
    with refused(said):
        second.charged(1)
    table = east.table.with_name("of_children.csv")
    third = replace(hospital(tmp_path / "third"), cache=tmp_path / "third-cache", table=table)
    third.init()  # another table of that folder
    assert third.charged(1) and east.charged(1)


def test_a_mark_beside_the_table_is_left_as_far_as_that_can_be(east, monkeypatch):
    """A folder for reading only, or a full disk of the records, stops no task."""
    mark = population.table_mark(east.table)
    mark.unlink()
    put = population._put

    def none_beside_the_table(path, data):
        if path == mark:
            raise PermissionError("read-only file system")
        put(path, data)

    monkeypatch.setattr(population, "_put", none_beside_the_table)
    east.charged(1)
    assert not mark.exists()
    monkeypatch.setattr(population, "_put", put)
    east.charged(2)
    assert mark.exists() and population.found_mark(east.cache, east.table)


def test_a_mark_that_is_another_accounts_stops_no_task(east, monkeypatch):
    mark = population.table_mark(east.table)
    mark.write_text("{")  # which nobody here may read
    monkeypatch.setattr(population.os, "access", lambda path, mode: path != mark)
    assert east.charged(1)


def test_a_site_finds_a_mark_in_either_place(east):
    cache = east.cache / population.MARK
    assert population.found_mark(east.cache, east.table) == cache
    cache.unlink()
    assert population.found_mark(east.cache, east.table) == population.table_mark(east.table)
    population.table_mark(east.table).unlink()
    assert population.found_mark(east.cache, east.table) is None


def test_the_same_records_with_another_ledger_are_refused(north, tmp_path):
    other = hospital(tmp_path / "elsewhere")
    other.init()
    with refused("charged to another ledger"):
        replace(other, cache=north.cache).charged(1)


def test_patients_who_came_to_two_ledgers_later_are_found(north):
    second = replace(
        north.having(ledger=str(north.path.with_name("second.jsonl"))),
        patients=patients(40, 80),
        cache=None,
    )
    second.init()
    with refused("5 of this site's patients are in second.jsonl already"):
        replace(north, patients=patients(0, 45)).charged(1)


def test_patients_who_join_are_added_and_leave_no_entry(north):
    grown = replace(north, patients=patients(0, 50))
    with north.opened() as ledger:
        head = ledger.head
    with grown.opened() as ledger:
        assert (ledger.head, ledger.entries) == (head, 1)
    kept = population.read(north.path.with_name("ledger.jsonl.patients"))
    assert len(kept.digests) == 50
    assert replace(north, patients=patients(30, 50)).charged(1)  # and others have left


def test_a_ledger_of_another_population_is_refused(north):
    with refused("knows fewer than half of the patients.*another population"):
        replace(north, patients=(*patients(0, 10), *patients(100, 111)), cache=None).charged(1)
    with refused("was made with another data.salt: a ledger of another population"):
        replace(north, salt="another secret").charged(1)


def test_the_patients_of_another_ledger_are_no_replacement(north, tmp_path):
    other = hospital(tmp_path / "other")
    other.init()
    name = "ledger.jsonl.patients"
    (north.path.parent / name).write_bytes((other.path.parent / name).read_bytes())
    with refused("was made with another ledger"):
        north.charged(1)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data: None, "patients is missing: whose privacy the ledger pays for"),
        (lambda data: data[:-33], "patients was changed; put back its newest backup"),
        (lambda data: data.replace(b"a", b"b"), "patients was changed"),
        (lambda data: b"", "patients was changed"),
    ],
)
def test_a_file_of_patients_that_was_changed_is_refused(north, change, said):
    file = north.path.with_name("ledger.jsonl.patients")
    data = change(file.read_bytes())
    file.write_bytes(data) if data is not None else file.unlink()
    with refused(said):
        north.charged(1)


def test_an_older_copy_of_the_patients_is_completed(north):
    file = north.path.with_name("ledger.jsonl.patients")
    older = file.read_bytes()
    grown = replace(north, patients=patients(0, 50))
    grown.charged(1)
    newest = file.read_bytes()
    file.write_bytes(older)
    grown.charged(2)
    assert file.read_bytes() == newest


def test_no_patient_id_is_in_any_file(north):
    north.charged(1)
    for path in [*north.path.parent.iterdir(), *north.cache.iterdir()]:
        assert b"p39" not in path.read_bytes()


def test_digests_need_the_secret(north):
    with refused("data.salt is empty: without a secret the digests .* could be guessed"):
        replace(north, salt="").charged(1)
    own = population.Population.of("x", ["p1"], "one secret")
    assert not own.digests & population.Population.of("x", ["p1"], "two secrets").digests


def test_ledgers_that_cannot_be_compared_do_not_share_a_folder(north):
    other = replace(
        north.having(ledger=str(north.path.with_name("b.jsonl"))), salt="another", cache=None
    )
    with refused("cannot be compared with this site's.*folders of their own"):
        other.init()


def test_a_mark_that_is_gone_is_left_again_and_a_broken_one_is_told(north):
    mark = north.cache / population.MARK
    mark.unlink()
    north.charged(1)
    mark.write_text("{")
    with refused("privacy_ledger.json cannot be read"):
        north.charged(2)


def test_delta_above_one_in_n_is_refused(tmp_path):
    made = hospital(tmp_path, patients=10, delta=0.05)
    with refused(r"privacy.delta is 0.05, above 1 / patients: .*A tenth of .*\(0.0025\) or less"):
        made.init()


def test_a_hospital_without_patients_has_no_ledger(tmp_path):
    made = hospital(tmp_path)
    with refused("holds no patient"):
        init_ledger(made.settings, patients=(), salt="s")

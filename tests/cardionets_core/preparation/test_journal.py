"""The journal: what is kept, what is refused, and that a killed process loses little."""

import math
import sqlite3
import stat
import subprocess
import sys

import pytest

from cardionets_core.errors import ConfigError, DataError
from cardionets_core.preparation.journal import Journal, Kept, Trace
from cardionets_core.preparation.outcome import Outcome

FULL = Outcome(
    "item", "cmr", "cmr_acdc", "partly", refused=(("cine_4ch", "no_cine"),), patient="p", day=7,
    moment="m", age=61.0, sex=1.0, height_cm=180.0, files={"cine_sax": "cmr/ab/x.nii.gz"},
    content="c", values={"lv_edv": 150.5}, quality={"overall": "good", "phases_sax": 25.0},
    unmapped={"icd10:Z99": 2},
)  # fmt: skip


def test_an_outcome_comes_back_as_it_was(tmp_path):
    with Journal(tmp_path, mark="salt") as journal:
        journal.put(FULL, "state")
        bare = Outcome("bare", "ecg", "wfdb", "refused", refused=(("ecg", "header"),))
        journal.put(bare, "s2")
    with Journal(tmp_path, mark="salt") as journal:
        kept = journal.get("item", "state")
        assert math.isnan(kept.weight_kg) and repr(kept) == repr(FULL)
        assert repr(journal.get("bare", "s2")) == repr(bare)
        assert journal.get("item", "other state") is None and not journal.holds("item", "x")
        assert [o.item for o in journal.rows()] == ["bare", "item"]
        assert list(journal.keys("ecg")) == ["bare"]
        assert [o.item for o in journal.of_items(("item", "bare"))] == ["item", "bare"]
        journal.forget("item")
        assert [o.item for o in journal.rows()] == ["bare"]
    assert stat.S_IMODE((tmp_path / "journal.sqlite").stat().st_mode) == 0o600


def test_values_that_are_no_numbers_are_not_kept(tmp_path):
    odd = Outcome("i", "ecg", "wfdb", "used", quality={"qtc_ms": math.nan, "overall": "poor"})
    with Journal(tmp_path, mark="salt") as journal:
        journal.put(odd, "s")
        assert dict(journal.get("i", "s").quality) == {"overall": "poor"}


def test_files_that_are_no_recordings(tmp_path):
    with Journal(tmp_path, mark="salt") as journal:
        journal.put_other("file", "state", "txt")
        assert journal.label_of_other("file", "state") == "txt"
        assert journal.label_of_other("file", "changed") is None


def test_where_an_outcome_came_from(tmp_path):
    with Journal(tmp_path, mark="salt") as journal:
        journal.put(FULL, "state", Trace("file", "named", "listed"))
        refused = Outcome("other", "cmr", "cmr_acdc", "refused", refused=(("study", "no_cine"),))
        journal.put(refused, "state", Trace("file"))
        kept = journal.kept("item")
        assert kept == Kept("state", Trace("file", "named", "listed"), ("cmr/ab/x.nii.gz",))
        assert journal.kept("absent") is None
        assert journal.used_of_file("file") == ["item"] == list(journal.used("cmr"))
        journal.try_again("item")
        assert journal.kept("item").state == "" and not journal.holds("item", "state")


def test_a_journal_of_the_format_before(tmp_path):
    """Its rows are kept, although nothing is known of where they came from."""
    file = sqlite3.connect(tmp_path / "journal.sqlite")
    file.executescript(
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE outcomes (item TEXT PRIMARY KEY, state TEXT NOT NULL, modality TEXT NOT NULL,"
        " outcome TEXT NOT NULL) WITHOUT ROWID;"
        "INSERT INTO facts VALUES ('format', '1'), ('salt', 'salt');"
        'INSERT INTO outcomes VALUES (\'i\', \'s\', \'ecg\', \'{"item":"i","modality":"ecg",'
        '"kind":"wfdb","status":"used","refused":[],"files":{}}\');'
    )
    file.close()
    for _ in range(2):
        with Journal(tmp_path, mark="salt") as journal:
            assert journal.kept("i") == Kept("s", Trace(), ())
            journal.put(FULL, "state", Trace("file"))


def test_another_salt_is_refused(tmp_path):
    with Journal(tmp_path, mark="salt"):
        pass
    with pytest.raises(ConfigError, match="another salt"):
        Journal(tmp_path, mark="other")


def test_one_preparation_at_a_time(tmp_path):
    with (
        Journal(tmp_path, mark="salt"),
        pytest.raises(ConfigError, match=r"Another .* is at work"),
    ):
        Journal(tmp_path, mark="salt")


def test_nobody_gets_in_at_a_commit(tmp_path, monkeypatch):
    others = []

    class Between:
        """Another process that tries at every end of a transaction."""

        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def commit(self):
            self.real.commit()
            other = sqlite3.connect(tmp_path / "journal.sqlite", timeout=0)
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("SELECT * FROM facts")
            other.close()
            others.append(other)

    with Journal(tmp_path, mark="salt") as journal:
        journal._file = Between(journal._file)
        journal.put(FULL, "state")
        journal.commit()
        assert others


def test_a_damaged_journal_says_what_to_do(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"no database" * 200)
    with pytest.raises(DataError, match="Remove it"):
        Journal(tmp_path, mark="salt")


def test_a_full_disk_loses_nothing(tmp_path):
    with Journal(tmp_path, mark="salt") as journal:
        journal.put(FULL, "state")
        journal.commit()
        journal._file.execute("PRAGMA max_page_count = 1")
        with pytest.raises(DataError, match=r"is full or fails .* make room"):
            for k in range(3000):
                journal.put(Outcome(f"{k:09}" * 9, "ecg", "wfdb", "used"), "s")
    with Journal(tmp_path, mark="salt") as journal:
        assert journal.holds("item", "state")


DYING = """
import os, pathlib, sys, time
from cardionets_core.preparation import journal as module
from cardionets_core.preparation.outcome import Outcome
module.COMMIT_SECONDS = 0.0
journal = module.Journal(pathlib.Path(sys.argv[1]), mark="salt")
for k in range(50):
    journal.put(Outcome(f"i{k:02}", "ecg", "wfdb", "used"), "s")
os.kill(os.getpid(), 9)
"""


def test_what_was_committed_survives_a_kill(tmp_path):
    assert subprocess.run([sys.executable, "-c", DYING, tmp_path]).returncode == -9
    with Journal(tmp_path, mark="salt") as journal:
        assert len(list(journal.rows())) == 50
        journal.put(FULL, "state")
    file = sqlite3.connect(tmp_path / "journal.sqlite")
    assert file.execute("PRAGMA quick_check").fetchone() == ("ok",)
    file.close()

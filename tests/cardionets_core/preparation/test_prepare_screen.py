"""What a preparation says on the terminal."""

import numpy as np
import pytest

from cardionets_core.errors import DataError
from cardionets_core.preparation.identity import read_or_make_salt
from cardionets_core.preparation.inventory import look
from cardionets_core.preparation.request import PrepareRequest
from cardionets_core.preparation.screen import lines
from cardionets_core.sources.tables import folders_of_tables


@pytest.fixture
def said(run, tmp_path):
    """The screen after preparing a folder."""

    def call(folder, **options):
        return "\n".join(lines(run(folder, **options), tmp_path / "prepared", folder))

    return call


@pytest.fixture
def of_gains(tmp_path, write_record, leads):
    """A folder of ECGs read so many times too large."""

    def make(*factors):
        for k, factor in enumerate(factors):
            write_record(tmp_path / "ecg", f"r{k}", values=factor * leads(k))
        return tmp_path / "ecg"

    return make


@pytest.mark.parametrize(
    ("factors", "warned"),
    [((1.0,) * 5, ""), ((6.0,) * 6 + (1.0,), "6 of 7"), ((1.0,) * 4 + (0.1,), ""),
     ((1.0,) * 3 + (0.1,), "1 of 4")],
)  # fmt: skip
def test_a_wrong_gain_is_said(said, of_gains, factors, warned):
    screen = said(of_gains(*factors))
    if warned:
        assert f"{warned} ECGs have a voltage outside of 0.4 to 3.5 mV" in screen
        assert "they are used as they are" in screen
    else:
        assert "voltage" not in screen


def test_the_median_is_that_of_the_records(run, of_gains):
    voltages = run(of_gains(6.0, 1.0, 0.1)).voltages
    one = run(of_gains(1.0, 1.0, 1.0)).voltages
    assert (voltages.ecgs, voltages.suspect) == (3, 2)
    assert np.isclose(voltages.median_mv, one.median_mv, rtol=0.1) and one.suspect == 0


def test_a_table_that_lies_deeper_is_said_and_not_used(said, of_gains):
    folder = of_gains(1.0, 1.0)
    assert "tables " not in said(folder)
    for place in ("public/ptb xl", "public/mimic"):
        (folder / place).mkdir(parents=True)
    (folder / "public" / "ptb xl" / "ptbxl_database.csv").write_text("a,b\n")
    (folder / "public" / "mimic" / "record_list.csv").write_text("a,b\n")
    screen = said(folder)
    assert "2 recordings name no patient" in screen
    assert f"--ecg {folder}/public/mimic\n" in screen
    assert f"--ecg '{folder}/public/ptb xl'\n" in screen


def test_tables_are_not_looked_for_without_end(tmp_path):
    deep = tmp_path / "a/b/c/d"
    (deep / "e").mkdir(parents=True)
    (deep / "e" / "record_list.csv").touch()
    assert folders_of_tables(tmp_path) == []
    (deep / "record_list.csv").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "record_list.csv").touch()
    (tmp_path / "link").symlink_to(deep)
    assert folders_of_tables(tmp_path) == [deep]
    assert folders_of_tables(deep) == [deep / "e"]
    assert folders_of_tables(deep / "e") == []  # its own is `find_table`'s


def test_image_headers_are_told_of_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cardionets_core.sources.cmr_layouts.TOLD_EVERY", 2)
    for k in range(5):
        (tmp_path / f"IM{k}").write_bytes(b"no image")
    told = []
    request = PrepareRequest(out=tmp_path / "out", cmr=tmp_path)
    with pytest.raises(DataError, match="No recording was recognised"):
        look(request, read_or_make_salt(tmp_path), None, None, lambda *what: told.append(what))
    assert told[:2] == [("image headers", 2, 0), ("image headers", 4, 0)]

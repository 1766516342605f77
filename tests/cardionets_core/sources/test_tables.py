"""Look-ups: whose row speaks, what is exact, what can never be seen."""

import pickle
import random
import string
from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardionets_core.errors import DataError
from cardionets_core.labels.code import Code
from cardionets_core.sources import table_keys
from cardionets_core.sources.recording import Facts
from cardionets_core.sources.table_keys import KeyIndex, path_key
from cardionets_core.sources.tables import read_table


@pytest.fixture
def table(tmp_path):
    """Read a table from its lines."""

    def read(*lines, name="table.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes("\n".join(lines).encode(encoding))
        return read_table(path, root=tmp_path / "ecg")

    return read


def test_the_row_of_a_recording_goes_before_that_of_its_patient(table):
    found = table(
        "patient_id,ecg,age,sex,icd10,scp,lv_ef",
        "p1,,50,M,I10,NORM,40",
        "p1,a/1.hea,61,,,IMI,",
        "p2,a/2,70,F,,,",
    )
    facts = found.facts("a/1", "")
    assert facts.person.patient_id == "p1"
    assert (facts.person.age, facts.person.sex) == (61, 1)
    # of each code system the recording's own list, if it has one
    assert facts.codes == (Code("scp", "IMI"), Code("icd10", "I10"))
    assert facts.values == {"lv_ef": 40}
    # another recording of this patient: what holds for the patient, nothing of the recording
    assert found.facts("a/9", "p1").person.age == 50
    assert found.facts("", "p1") == found.facts("a/9", "p1")
    # a row that names a recording says nothing of the patient's others
    assert found.facts("a/9", "p2") == Facts() == found.facts("b", "nobody") == found.facts("", "")
    # the recording's row knows whose it is
    assert found.facts("a/2", "p1").person.patient_id == "p2"


def test_look_ups_are_exact(table):
    found = table("patient_id,ecg,age", "p1,a/1.hea,50", "p10,a/10.hea,60", "p1,,70")
    assert found.facts("a/10", "").person.age == 60
    assert found.facts("a/1.dat", "").person.age == 50
    assert found.facts("./a//1.XML", "").person.age == 50
    for other in ("a/", "1", "a/100", "A/1", "a/1/1", "a/1.5"):
        assert found.facts(other, "") == Facts()
    for other in ("p", "P1", "p1 ", "p100"):
        assert found.facts("", other) == Facts()


def test_one_row_per_diagnosis(table):
    found = table(
        "patient_id,icd10,age,recorded",
        "p1,I48.0,60,2020-01-01",
        "p1,I50.9,60,2020-01-01",
        "p2,I10,40,2020-01-01",
        "p2,I10,41,2020-02-02",
    )
    both = found.facts("", "p1")
    assert both.codes == (Code("icd10", "I480"), Code("icd10", "I509"))
    assert both.person.age == 60 and both.recorded == datetime(2020, 1, 1)
    # rows that differ: unknown, and counted with the line of the first of them
    differing = found.facts("", "p2")
    assert np.isnan(differing.person.age) and differing.recorded is None
    assert found.problems == {
        ("age", "rows of one patient differ"): 1,
        ("recorded", "rows of one patient differ"): 1,
    }
    assert found.problem_lines[("age", "rows of one patient differ")] == (4,)


def test_one_recording_of_two_patients(table):
    with pytest.raises(DataError, match=r"one recording for two patients, 1 times \(first in line"):
        table("patient_id,ecg,age", "p1,a/1,50", "p2,a/1,50")
    # the ECG and the CMR of one row are two keys of one row
    found = table("patient_id,ecg,cmr,age", "p1,a/1,b/1/,50")
    assert found.facts("b/1", "") == found.facts("a/1", "")


@pytest.mark.parametrize("collide", [False, True])
def test_many_keys_against_a_dict(collide, monkeypatch):
    """Also where many keys share a digest: a look-up compares the keys themselves."""
    if collide:
        monkeypatch.setattr(
            table_keys, "_digest", lambda text: len(text) * 7 + ord(text[:1] or ".")
        )
    rng = random.Random(1)
    letters = string.ascii_lowercase + "äß/."
    keys = ["".join(rng.choices(letters, k=rng.randint(0, 3))) for _ in range(1500)]
    truth = {}
    for row, key in enumerate(keys):
        truth.setdefault(key, []).append(row)
    index = KeyIndex([pd.Series(keys, dtype="string[pyarrow]")])
    for key in [*keys, "zzzz", "-"]:
        assert index.rows(key) == (truth.get(key, []) if key else [])
    if collide:
        return
    values = np.array([rng.choice([1.0, 1.0, 2.0, np.nan]) for _ in keys])
    differ = sorted(
        rows[0]
        for key, rows in truth.items()
        if key and len({values[r] for r in rows if not np.isnan(values[r])}) > 1
    )
    assert index.disagreeing(values).tolist() == differ


def test_a_placeholder_for_nobody(table):
    rows = [f"W7,{k % 90}" for k in range(2001)]
    found = table("patient_id,age", "p1,50", *rows, "p2,60")
    assert found.facts("", "W7") == Facts()
    assert found.facts("", "p2").person.age == 60
    reason = ("row", "more than 2000 rows of one patient; none is used")
    assert found.problems[reason] == 1 and found.problem_lines[reason] == (3,)


def test_very_many_columns(table):
    names = [f"{k}-0.0" for k in range(30000, 31000)]
    found = table(",".join(("eid", *names, "24103-2.0")), ",".join(("p1", *"1" * 1000, "60")))
    assert found.facts("", "p1").values == {"lv_ef": 60}
    assert len(found.dropped) == 101 and found.dropped["900 more columns"] == 900


def test_nothing_is_a_key_of_nothing():
    index = KeyIndex([])
    assert index.rows("x") == [] and not len(index.disagreeing(np.zeros(0)))
    assert not len(index.crowded())
    index = KeyIndex([pd.Series(["", ""], dtype="string[pyarrow]")])
    assert index.rows("") == [] and not len(index.disagreeing(np.zeros(2)))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b.hea", "a/b"),
        ("a\\b.nii.gz", "a/b"),
        ("./a//b/", "a/b"),
        ("rec.001", "rec.001"),
        ("scan.v2.xml", "scan.v2"),
        ("", ""),
    ],
)
def test_path_keys(path, key):
    assert path_key(path) == key
    assert path_key(key) == key


def test_a_table_travels_to_a_worker(table):
    found = table("patient_id,ecg,age,birth_date", "p1,a/1,50,1950-05-06")
    there = pickle.loads(pickle.dumps(found))
    assert there.facts("a/1", "") == found.facts("a/1", "")
    assert there.facts("a/1", "").person.birth_date == date(1950, 5, 6)
    assert len(there) == 1 and there.sha256 == found.sha256


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    secrets=st.lists(
        st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\";,\t'\\"),
                min_size=4, max_size=12).filter(lambda t: not t.isascii() or not t.isdigit()),
        min_size=9, max_size=9, unique=True,
    ),
    separator=st.sampled_from([",", ";", "\t"]),
)  # fmt: skip
def test_no_cell_of_an_unknown_column_can_be_reached(table, secrets, separator):
    """Nor the text of any cell that could not be read, nor the name of an unknown column."""
    marked = [f"§{secret}§" for secret in secrets]
    a, b, c, d, e, f, g, h, k = marked
    found = table(
        separator.join(("patient_id", "ecg", a, "age", "icd10", "sex", "recorded", "lv_ef", b)),
        separator.join(("p1", "a/1", c, d, e, f, g, h, k)),
        separator.join(("p1", f"../{c}", *[c] * 7)),
        separator.join(("p1", "", *[c] * 7, d)),
    )
    seen = [found, found.dropped, found.problems, found.problem_lines, found.sha256]
    for facts in (found.facts("a/1", ""), found.facts("", "p1"), found.facts(f"../{c}", "p1")):
        seen += [facts, vars(facts), vars(facts.person), dict(facts.values), facts.codes]
    everything = " ".join(f"{thing!r} {thing!s}" for thing in seen)
    assert not [secret for secret in marked if secret in everything]
    assert "§" not in everything
    # it was all counted
    # a name near to ours brings ours as a hint
    dropped = {place.split(" (")[0]: count for place, count in found.dropped.items()}
    assert dropped == {"column 3": 2, "column 9": 2}
    assert found.problems["age", "not a number"] == 2
    assert found.problems["icd10", "not a list of codes"] == 2
    assert found.problems["sex", "not M, F, 1 or 0"] == 2
    assert found.problems["ecg", "a path out of the recordings' folder"] == 1
    assert found.problems["row", "more cells than the header"] == 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    head=st.sampled_from([b"patient_id,ecg,age,icd10,recorded\n", b"eid;sex;24103-2.0;scp\n", b""]),
    body=st.one_of(st.binary(max_size=300), st.text('p1,;\n"I48.0-/ \0', max_size=300)),
)
def test_any_bytes_are_a_table_or_a_data_error(tmp_path, head, body):
    path = tmp_path / "table.csv"
    path.write_bytes(head + (body if isinstance(body, bytes) else body.encode()))
    try:
        found = read_table(path, root=tmp_path)
    except DataError:
        return
    assert found.facts("p1", "p1").person.patient_id in ("", "p1")


def test_errors_show_no_cell(table):
    for lines in (
        ("Karl Meier,born 1950", "x,y"),
        ("patient_id,Karl Meier", "x,y"),
        ("patient_id,age,alter", "Karl Meier,1,2"),
        ("patient_id,ecg", "Karl Meier,a", "x,a"),
        ("patient_id,age", 'x,"Karl Meier'),
    ):
        with pytest.raises(DataError) as error:
            table(*lines)
        assert "Meier" not in str(error.value)

"""A row of a participant speaks for the imaging visit, and not for the repeat visit."""

import math

import pytest

from cardionets_core.preparation.convert import Converted
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.neutral import VALUES_DROPPED, Neutraliser
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.recording import Facts, Person, SourceItem
from cardionets_core.sources.tables import read_table

EID = "1234567"


@pytest.fixture
def outcome(tmp_path):
    def make(source, *rows):
        path = tmp_path / "ukb.csv"
        path.write_text("\n".join(rows))
        table = read_table(path, root=tmp_path / "cmr")
        facts = Facts(person=Person(patient_id=EID))
        done = Converted("item", "cmr", source.kind, files={"cine_sax": "x"}, facts=facts)
        return Neutraliser(Salt("the secret of a site"), table).outcome(done, source)

    return make


def scan(instance):
    return CmrItem("cmr_ukb", "scans", f"{EID}_{instance}_0", layout="ukb", patient=EID)


HEADER = "eid,24100-2.0,24103-2.0,31-0.0,21003-2.0,12144-2.0,heart_failure"
ROW = f"{EID},143,61,1,64,177,1"


def test_the_imaging_visit_has_its_values(outcome):
    found = outcome(scan(2), HEADER, ROW)
    assert found.values == {"lv_edv": 143, "lv_ef": 61, "heart_failure": 1}
    assert (found.age, found.height_cm, found.sex) == (64, 177, 1)
    assert found.quality[VALUES_DROPPED] == 0


@pytest.mark.parametrize("source", [scan(3), SourceItem("cardiosoft", f"ecg/{EID}_20205_3_0.xml")])
def test_the_repeat_visit_does_not(outcome, source):
    found = outcome(source, HEADER, ROW)
    assert found.values == {"heart_failure": 1} and found.sex == 1
    assert math.isnan(found.age) and math.isnan(found.height_cm)
    assert found.quality[VALUES_DROPPED] == 2
    assert found.patient == outcome(scan(2), HEADER, ROW).patient


def test_a_row_of_the_scan_itself_counts_for_any_visit(outcome):
    header = "patient_id,cmr,lv_edv,lv_ef,age"
    rows = (f"{EID},,143,61,64", f"{EID},scans/{EID}_3_0,150,,67")
    found = outcome(scan(3), header, *rows)
    assert found.values == {"lv_edv": 150} and found.age == 67

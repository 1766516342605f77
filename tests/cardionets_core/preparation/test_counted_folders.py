"""patient001 of ACDC and patient001 of PTB are two people; names of a hospital's own stay one."""

import pytest

from cardionets_core.preparation.convert import Converted
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.neutral import Neutraliser
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.recording import Facts, Person, SourceItem
from cardionets_core.sources.tables import read_table

NAME = "patient001"
PTB = SourceItem("wfdb", f"ptb/{NAME}/s0010_re.hea")
ACDC = CmrItem("cmr_acdc", f"acdc/{NAME}", layout="acdc", patient=NAME)
LOOSE = CmrItem("cmr_nifti", NAME, layout="nifti", patient=NAME)


@pytest.fixture
def patient(tmp_path):
    def key(source, *rows):
        table = None
        if rows:
            (tmp_path / "t.csv").write_text("\n".join(("patient_id,age", *rows)))
            table = read_table(tmp_path / "t.csv", root=tmp_path)
        modality = "cmr" if isinstance(source, CmrItem) else "ecg"
        facts = Facts(person=Person(patient_id=NAME))
        done = Converted(source.path, modality, source.kind, files={"x": "y"}, facts=facts)
        return Neutraliser(Salt("the secret of a site"), table).outcome(done, source).patient

    return key


def test_counters_of_two_data_sets_never_meet(patient):
    assert patient(PTB) != patient(ACDC)
    copy = CmrItem("cmr_acdc", f"copy/{NAME}", layout="acdc", patient=NAME)
    assert patient(ACDC) == patient(copy)


def test_a_hospitals_own_names_do(patient):
    assert patient(PTB) == patient(LOOSE)
    assert patient(PTB, f"{NAME},60") == patient(ACDC, f"{NAME},60")

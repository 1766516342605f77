"""A real record of PTB-XL, written by hand in three vendors' layouts, gives the same tensor."""

import base64
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.model_config import EcgSpec
from cardionets_core.sources import cardiosoft, ge_muse, hl7_aecg, wfdb_records

with warnings.catch_warnings():  # wfdb 4.3 trips over a deprecation of pandas 3 on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import wfdb

ROOT = Path(os.environ.get("CARDIONETS_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
RECORD = ROOT / "ptbxl" / "records500" / "00000" / "00012_hr.hea"
HL7_ORDER = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "III", "AVR", "AVL", "AVF")

pytestmark = pytest.mark.skipif(
    not RECORD.is_file(), reason="real files are absent: set CARDIONETS_SHARED_DATA to their folder"
)


@pytest.fixture(scope="module")
def microvolts():
    """Lead -> whole numbers of 1 uV, as wfdb reads them."""
    record = wfdb.rdrecord(str(RECORD.with_suffix("")), physical=False)
    assert set(record.adc_gain) == {1000.0} and set(record.baseline) == {0}
    return dict(zip(map(str.upper, record.sig_name), record.d_signal.T, strict=True))


def in_hl7(leads):
    sequences = "".join(
        f"""<component><sequence><code code="MDC_ECG_LEAD_{name}"/><value>
        <origin value="0" unit="uV"/><scale value="1" unit="uV"/>
        <digits>{" ".join(map(str, leads[name]))}</digits></value></sequence></component>"""
        for name in HL7_ORDER
    )
    return f"""<AnnotatedECG xmlns="urn:hl7-org:v3"><component><series><code code="RHYTHM"/>
        <component><sequenceSet><component><sequence><code code="TIME_RELATIVE"/><value>
        <head value="0" unit="s"/><increment value="2" unit="ms"/></value></sequence></component>
        {sequences}</sequenceSet></component></series></component></AnnotatedECG>"""


def in_muse(leads):
    stored = "".join(
        f"""<LeadData><LeadSampleCountTotal>{len(leads[name])}</LeadSampleCountTotal>
        <LeadAmplitudeUnitsPerBit>1</LeadAmplitudeUnitsPerBit>
        <LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadID>{name}</LeadID>
        <WaveFormData>{base64.encodebytes(leads[name].astype("<i2").tobytes()).decode()}
        </WaveFormData></LeadData>"""
        for name in HL7_ORDER[:8]
    )
    return f"""<!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG><Waveform>
        <WaveformType>Rhythm</WaveformType><SampleBase>500</SampleBase>
        <SampleExponent>0</SampleExponent>{stored}</Waveform></RestingECG>"""


def in_cardiosoft(leads):
    stored = "".join(
        f'<WaveformData lead="{name}">{",".join(map(str, values))}</WaveformData>'
        for name, values in leads.items()
    )
    return f"""<CardiologyXML><StripData><SampleRate units="Hz">500</SampleRate>
        <ChannelSampleCountTotal>5000</ChannelSampleCountTotal>
        <Resolution units="uVperLsb">1</Resolution>{stored}</StripData></CardiologyXML>"""


@pytest.mark.parametrize(
    ("reader", "written", "tolerance"),
    [
        (hl7_aecg, in_hl7, 1e-6),
        (cardiosoft, in_cardiosoft, 1e-6),
        (ge_muse, in_muse, 0.01),  # PTB-XL rounded its derived leads to a few microvolts
    ],
)
def test_the_tensor_is_the_same(tmp_path, microvolts, reader, written, tolerance):
    (tmp_path / "a.xml").write_text(written(microvolts))
    found = reader.read(tmp_path / "a.xml", "", root=tmp_path).record
    truth = wfdb_records.read(RECORD, "", root=ROOT).record
    assert found.sampling_rate_hz == truth.sampling_rate_hz
    np.testing.assert_array_equal(found.lead_mask, truth.lead_mask)
    one, other = prepare_ecg(found, EcgSpec()), prepare_ecg(truth, EcgSpec())
    np.testing.assert_allclose(one, other, atol=tolerance)

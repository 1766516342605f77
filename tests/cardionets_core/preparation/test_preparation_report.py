"""The QC report: right counts, flat memory, nothing that names anyone, a page that stands alone."""

import io
import json
import math
import re
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cardionets_core.data.refusal import REASONS
from cardionets_core.drawing import CroppedView, crop_panel
from cardionets_core.preparation.manifest_write import write_manifest
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.preparation.report import write_report
from cardionets_core.preparation.report_cohort import STAGE_NEEDS, believed, cohort_facts
from cardionets_core.preparation.report_facts import GRADES, Histogram, Scale, gather
from cardionets_core.preparation.report_pictures import WANTED, Examples
from cardionets_core.preparation.report_remarks import figure, remarks, share
from cardionets_core.preparation.studies import Study
from cardionets_core.quality.lead_grades import LeadGrade
from cardionets_core.vocabulary import LEADS, PHENOTYPE_NAMES, StageName
from tests.cardionets_core.preparation.reported_outcomes import (
    cmr_outcome,
    ecg_outcome,
    quality_row,
    refused_outcome,
)

BAD = (
    ("good", "good", "noise", "noise", "good", "baseline")
    + ("missing",) * 3
    + ("flat", "clipped", "good")
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A prepared folder: four persons, one with a pair, one refused file, one bad ECG."""
    out = tmp_path_factory.mktemp("prepared")
    outcomes = [
        ecg_outcome(out, "a1" * 10, "pa", age=61.0, sex=1.0, values={"heart_failure": 1.0}),
        cmr_outcome(out, "b1" * 10, "pa", values={"lv_ef": 40.0, "lv_edv": 210.0}),
        ecg_outcome(
            out, "c1" * 10, "pb", age=90.0, sex=0.0, values={"heart_failure": 0.0},
            quality=quality_row(BAD, "poor", reversal="left arm - right arm"),
            unmapped={"snomed:123456": 2},
        ),
        ecg_outcome(
            out, "c2" * 10, "pb", sex=1.0,
            quality=quality_row(typical_mv=7.5, gain_suspect=True),
        ),
        ecg_outcome(out, "d1" * 10, "pc", values={"lv_ef": 0.6}),
        ecg_outcome(out, "e1" * 10, "pd", quality={}),
        refused_outcome("f1" * 10, "header"),
        refused_outcome("f2" * 10, "header"),
    ]  # fmt: skip
    by_item = {o.item: o for o in outcomes}
    studies = [
        Study("pa", "s1", ("a1" * 10, "b1" * 10)),
        *(Study(by_item[k * 10].patient, f"s{k}", (k * 10,)) for k in ("c1", "c2", "d1", "e1")),
    ]
    write_manifest(
        out,
        studies,
        lambda items: [by_item[i] for i in items],
        known=frozenset({"heart_failure", "lv_ef", "lv_edv"}),
    )
    return out, outcomes


SUMMARY = {
    "seconds": 12.5,
    "new": 8,
    "splits": {"train": 3, "validation": 0, "test": 1},
    "copies": {"extra": 2, "across_patients": 1, "across_splits": 1},
    "patient_unknown": 1,
    "others": {"pdf": 3},
    "unmapped": {"snomed:123456": 2},
}


def _split(patient):
    return "test" if patient == "pb" else "train"


@pytest.fixture(scope="module")
def report(site):
    out, outcomes = site
    page = write_report(out, outcomes=lambda: iter(outcomes), summary=SUMMARY, split=_split)
    return page.read_text(), json.loads((page.parent / "report.json").read_text())


# ----------------------------------------------------------------------------------- the numbers


def test_outcomes_are_counted(report):
    _, numbers = report
    assert numbers["readers"] == {
        "cmr cmr_nifti": {"partly": 1},
        "ecg hl7_aecg": {"refused": 2},
        "ecg wfdb": {"used": 5},
    }
    first, second = numbers["refused"]
    assert (first["what"], first["code"], first["count"]) == ("ecg", "header", 2)
    assert (first["cause"], first["step"]) == REASONS["header"]
    assert (second["what"], second["code"], second["count"]) == ("cine_4ch", "too_few_phases", 1)
    assert numbers["unmapped"] == {"snomed:123456": 2}


def test_quality_is_counted_per_lead(report):
    ecg = report[1]["ecg"]
    assert ecg["graded"] == 4 and ecg["gain_suspect"] == 1
    assert ecg["leads"]["III"] == dict.fromkeys(GRADES, 0) | {"good": 3, "noise": 1}
    assert ecg["leads"]["V1"]["missing"] == 1 and ecg["leads"]["V5"]["clipped"] == 1
    assert ecg["counted"]["overall"] == {"good": 3, "poor": 1}
    assert ecg["counted"]["reversal"]["left arm - right arm"] == 1
    assert ecg["counted"]["sampling_rate_hz"] == {"250": 4}
    voltage = ecg["histograms"]["typical_mv"]
    assert voltage["n"] == 4 and voltage["outside_usual"] == 1
    assert voltage["mean"] == pytest.approx((3 * 1.1 + 7.5) / 4)
    assert ecg["histograms"]["pr_ms"]["n"] == 0 and ecg["histograms"]["pr_ms"]["mean"] is None


def test_cmr_is_counted(report):
    cmr = report[1]["cmr"]
    assert cmr["views"] == {"sax": 1} and cmr["with_mask"] == 1
    means = {name: h["mean"] for name, h in cmr["histograms"].items()}
    assert means == {"pixel_mm": 2.0, "phases": 10.0, "cycle_s": 0.9}


def test_persons_are_counted_once(report):
    cohort = report[1]["cohort"]
    assert (cohort["persons"], cohort["studies"], cohort["pairs"]) == (4, 5, 1)
    assert cohort["persons_by_split"] == {"train": 3, "validation": 0, "test": 1}
    assert cohort["modalities"] == {"ecg": 4, "cine": 1, "phenotypes": 2, "diseases": 2}
    people = cohort["people"]
    assert people["sex"] == {"female": 1, "male": 1, "unknown": 2}  # the first study's of pb
    assert people["age"]["female"]["counts"][-1] == 1  # 90 is in the last bin
    assert people["age_unknown"] == 2
    assert cohort["diseases"] == {"heart_failure": {"known": 2, "present": 1}}
    ejection = cohort["phenotypes"]["lv_ef"]
    assert ejection["n"] == 2 and ejection["mean"] == pytest.approx(20.3)
    assert ejection["outside_usual"] == 1 and ejection["below"] == 1


def test_stages_ask_for_what_trainings_need(report):
    from cardionets_core.training.objectives import NEEDS

    assert {name: frozenset(needs) for name, needs in STAGE_NEEDS.items()} == NEEDS
    assert set(STAGE_NEEDS) < set(StageName.__args__)
    stages = report[1]["cohort"]["stages"]
    persons = {name: stages[name]["persons"] for name in ("ecg_masked", "generative", "diseases")}
    assert persons == {"ecg_masked": 4, "generative": 1, "diseases": 2}
    assert stages["phenotypes"]["persons_by_split"] == {"train": 2, "validation": 0, "test": 0}


def test_without_a_manifest_nobody_is_counted(tmp_path):
    facts = cohort_facts(tmp_path)
    assert facts["persons"] == 0 and facts["diseases"] == {}
    page = write_report(
        tmp_path, outcomes=lambda: iter([refused_outcome("a", "header")]), summary={}
    )
    assert "No recording can be used" in page.read_text()


def test_histograms_agree_with_numpy():
    rng = np.random.default_rng(1)
    values = rng.normal(10, 4, 500)
    edges = tuple(float(x) for x in range(0, 21, 2))
    histogram = Histogram(Scale("x", "", edges, (5.0, 15.0)))
    for value in [*values, math.nan, math.inf, "word", None]:
        histogram.add(value)
    found = histogram.as_json()
    assert found["counts"] == np.histogram(values, edges)[0].tolist()
    assert found["below"] == (values < 0).sum() and found["above"] == (values > 20).sum()
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-4)
    assert found["sd"] == pytest.approx(values.std(ddof=1), abs=1e-4)
    assert found["outside_usual"] == ((values < 5) | (values > 15)).sum()


def test_every_phenotype_has_a_believed_range():
    assert all(believed(name)[0] < believed(name)[1] for name in PHENOTYPE_NAMES)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "\u2013"), (0, 9, "0 %"), (9, 9, "100 %"), (1, 3000, "<0.1 %"), (1, 30, "3.3 %")],
)
def test_shares_say_what_can_be_said(part, whole, text):
    assert share(part, whole).replace("\u00a0", " ") == text
    assert figure(-1.234) == "\u22121.23" and figure(1234.4) == "1,234"


# ---------------------------------------------------------------------------------- the remarks


def test_what_is_wrong_comes_first(report):
    found = " ".join(remarks(report[1]))
    for words in (
        "different splits", "more than one person", "no source says whose", "unusual voltage",
        "25\u00a0% of the ECGs are poor", "ejection fraction: 50\u00a0%",
    ):  # fmt: skip
        assert words in found, words


def test_ids_of_many_persons_are_named(report):
    numbers = dict(report[1])
    numbers["summary"] = {"contradicting_patients": 3, "crowded_patients": 2}
    found = " ".join(remarks(numbers))
    assert "3 patient ids stand for persons of both sexes" in found
    assert "2 patient ids have more than 50 ECGs or CMRs" in found


def test_nothing_is_said_where_nothing_is_wrong(site, tmp_path):
    out, outcomes = site
    numbers = gather(o for o in outcomes if o.patient == "pa").as_json()
    numbers |= {"summary": {}, "cohort": cohort_facts(out)}
    numbers["cohort"]["people"]["sex"]["unknown"] = 0
    numbers["cohort"]["phenotypes"] = {}
    assert remarks(numbers) == []


# ------------------------------------------------------------------------------------- the page


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.anchors, self.links, self.images = [], set(), set(), []
        self.open = []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [v for k, v in found.items() if k in ("src", "href", "data", "action")]
        self.anchors.add(found.get("id"))
        if tag == "a":
            self.links.add(found["href"].removeprefix("#"))
        if tag == "img":
            self.images.append(found)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone(report):
    page, _ = report
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    assert all(a.startswith(("#", "data:image/png;base64,")) for a in reader.addresses)
    assert reader.links <= reader.anchors
    assert all(image["alt"] for image in reader.images)
    assert "url(" not in page and "@import" not in page and "<script" not in page
    assert len(page) < 3_000_000


def test_the_page_says_what_it_must(report):
    page, _ = report
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\u00a0", " ")
    for words in (
        "This page stays at the hospital", "What may leave this site",
        "only counts that a training task may ask for",
        "Export the record again from its source.", "HL7 annotated ECG (XML)",
        "2 recordings are exact copies", "ECG-CMR alignment", "snomed:123456", "3 x pdf",
        "Leads exchanged? left arm - right arm", "Unusual voltage: 7.5 mV", "centre from a mask",
        "Heart failure 2 1 50 %",
    ):  # fmt: skip
        assert words in text, words
    assert page.count("<img") >= 4  # typical, reversal, gain, cine


def test_nothing_names_anyone(site, report):
    out, outcomes = site
    page, numbers = report
    told = re.sub(r"data:image/png;base64,[\w+/=]+", "", page) + json.dumps(numbers)
    for outcome in outcomes:
        for secret in (outcome.item, *outcome.files.values(), out.name):
            assert secret not in told
    for outcome in outcomes:
        assert not re.search(rf"\b{outcome.patient}\b", told) or not outcome.patient


def test_hostile_words_stay_words(tmp_path):
    code = "snomed:<script>alert(1)</script>"
    outcome = Outcome("x", "ecg", "<b>kind</b>", "used", quality=quality_row(), unmapped={code: 1})
    page = write_report(tmp_path, outcomes=lambda: iter([outcome]), summary={"others": {"<i>": 1}})
    text = page.read_text()
    assert "<script" not in text and "<b>kind" not in text and "<i>: " not in text
    assert "&lt;script&gt;" in text


def test_a_second_run_changes_nothing_and_order_does_not_matter(site, report):
    out, outcomes = site
    files = [out / "report" / name for name in ("index.html", "report.json")]
    before = [(f.stat().st_mtime_ns, f.read_bytes()) for f in files]
    again = SUMMARY | {"seconds": 99.0, "new": 0, "unchanged": 8}
    backwards = outcomes[::-1]
    write_report(out, outcomes=lambda: iter(backwards), summary=again, split=_split)
    assert [(f.stat().st_mtime_ns, f.read_bytes()) for f in files] == before
    assert all(f.stat().st_mode & 0o077 == 0 for f in (*files, out / "report"))


def test_a_file_that_is_gone_costs_its_picture_alone(tmp_path):
    kept, lost = (ecg_outcome(tmp_path, key * 10, key) for key in ("a1", "a2"))
    (tmp_path / lost.files["ecg"]).unlink()
    (tmp_path / lost.files["ecg"].replace(".hea", ".dat")).unlink()
    page = write_report(tmp_path, outcomes=lambda: iter([kept, lost]), summary={}).read_text()
    assert page.count("<img") == 1


def test_the_crop_is_outlined_where_it_lies():
    """A crop around the lower right of a black image: the outline's corner is at 40 % of both."""
    black = np.zeros((2, 100, 100), np.float32)
    black[:, 0, 0] = 1.0
    crops = np.zeros((2, 8, 8), np.uint8)
    view = CroppedView("x", black, (1.0, 1.0), (69.5, 69.5), 60.0, crops)
    picture = np.asarray(Image.open(io.BytesIO(crop_panel([view]))).convert("RGB")).astype(int)
    frame = (picture.max(axis=2) < 60)[:, : picture.shape[1] // 2]
    rows, columns = (np.flatnonzero(frame.sum(axis=axis) > 100) for axis in (1, 0))
    left, width = columns[0], np.flatnonzero(np.diff(columns) > 3)[0]
    orange = (picture[..., 0] > 180) & (picture[..., 2] < 120) & (picture[..., 1] > 100)
    across = orange[:, left : left + width].sum(axis=0)
    down = orange[:, left : left + width].sum(axis=1)
    assert np.flatnonzero(across > 20)[0] / width == pytest.approx(0.4, abs=0.03)
    top = (np.flatnonzero(down > 20)[0] - rows[0]) / (rows[-1] - rows[0])
    assert top == pytest.approx(0.4, abs=0.03)


# -------------------------------------------------------------------------------- many outcomes


def _generated(count):
    """Outcomes without files, as cheap as they can be made."""
    words: tuple[LeadGrade, ...] = ("good", "noise", "baseline", "flat")
    rows = [quality_row((words[k % 4],) * 12, heart_rate_bpm=40.0 + k) for k in range(8)]
    for k in range(count):
        key = f"{k * 2654435761 % 2**32:08x}"
        yield Outcome(
            key, "ecg", "wfdb", "used", patient=key, files={"ecg": f"ecg/{key}.hea"},
            quality=rows[k % 8], unmapped={f"icd10:{key}": 1},
        )  # fmt: skip


def _peak(count):
    examples = Examples()
    tracemalloc.start()
    try:
        facts = gather(_also(_generated(count), examples))
        return tracemalloc.get_traced_memory()[1], facts, examples
    finally:
        tracemalloc.stop()


def _also(outcomes, examples):
    for outcome in outcomes:
        examples.add(outcome)
        yield outcome


def test_memory_is_flat():
    """Three times as many outcomes, each with a code of its own, take no more memory."""
    few, _, _ = _peak(2_200)
    many, facts, examples = _peak(6_600)
    assert many < few + 100_000
    assert sum(facts.unmapped.values()) == 6_600 and len(facts.unmapped) <= 2_001
    assert facts.graded == 6_600
    assert len(list(examples.chosen())) <= sum(WANTED.values())


def test_leads_of_the_page_are_the_vocabulary(report):
    page, _ = report
    heat = page[page.index('class="heat"') :]
    head = re.findall(r"<th scope=\"col\">([^<]+)", heat[: heat.index("</thead>")])
    assert tuple(head[1:]) == LEADS

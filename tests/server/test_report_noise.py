"""A private run's results are said to be noised, and not shown where noise leaves nothing."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from cardionets_core.privacy.expected_errors import ExpectedErrors
from cardionets_core.run_config import CONF, compose, run_config_from
from server.report.facts import Facts, lead
from server.report.images import generation_section, retrieval_section
from server.report.page import Group, Section, render
from server.report.results import disease_section, phenotype_section

KEYS = ("mean", "ecg")
SMALL = ExpectedErrors(0.04, 0.12, 4000, 2, 81.0, 31.0)
LARGE = ExpectedErrors(0.36, 16.0, 40, 2, 81.0, 31.0)


def _metrics() -> dict[str, Any]:
    r2 = {"r2": {"value": -0.5, "low": -0.7, "high": -0.3}, "mae_sd": {"value": 0.0}}
    auroc = {"auroc": {"value": 0.7, "low": 0.6, "high": 0.8}, "ece": None}
    auroc["calibration"] = {"patients": []}
    rows = {
        name: {"present": k, "patients": 9, "prevalence": k / 9, "ecg": auroc}
        for name, k in (("heart_failure", 9), ("atrial_fibrillation", 4))
    }
    return {
        "phenotypes": {
            "by_phenotype": {"lv_ef": {"patients": 216, **dict.fromkeys(KEYS, r2)}},
            "average": dict.fromkeys(KEYS, r2),
        },
        "diseases": {"by_disease": rows, "average": {"ecg": auroc}},
    }


def _facts(errors: ExpectedErrors | None, **changes: Any) -> Any:
    """Return the facts of a run whose site `far` is as small as in LARGE."""
    told: dict[str, Any] = {
        "pooled": _metrics(),
        "sites": ("far", "near"),
        "info": SimpleNamespace(
            phenotypes=("lv_ef",),
            diseases=("heart_failure", "atrial_fibrillation"),
            scaler_sd=(10.0,),
        ),
        "at_site": lambda site: _metrics(),
        "title": str.title,
        "known": lambda section, names: list(names),
        "trained": lambda stage: True,
        "errors": lambda *sites: errors and (LARGE if sites == ("far",) else errors),
    }
    facts: Any = SimpleNamespace(**(told | changes))
    facts.drowned = partial(Facts.drowned, facts)
    return facts


def _page(*sections: Section) -> str:
    return render(title="t", lead=(), sections=sections)


def _both(facts: Any) -> tuple[Section, Section]:
    return phenotype_section(facts), disease_section(facts)


NOISE_AS_FACT = (
    "Prevalence is the true one", "interval over patients", "no held-out patient has it",
    "not useful yet", "<th scope=\"col\">Patients</th>", "<th scope=\"col\">Present</th>",
)  # fmt: skip


def test_a_run_without_privacy_says_what_it_said() -> None:
    page = _page(*_both(_facts(None)))
    assert all(words in page for words in NOISE_AS_FACT)
    assert "noise" not in page


def test_noised_results_say_so_before_any_number() -> None:
    sections = _both(_facts(SMALL))
    for section, error in zip(
        sections, ("0.12 in R² and of 81", "0.04 in AUROC and of 31"), strict=True
    ):
        first = section.blocks[0]
        assert first.block == "text" and first.tone == "warning"
        assert "are noised at each hospital" in first.text
        assert f"an error of about {error} in a count" in first.text
        assert "over about 4,000 test patients" in first.text
    page = _page(*sections)
    assert not [words for words in NOISE_AS_FACT if words in page]
    assert "Patients (noised)" in page and "Prevalence (noised)" in page
    assert "interval of the noise alone" in page and "one is 0" in page


def test_a_hospital_too_small_for_the_noise_is_left_out() -> None:
    phenotypes, diseases = _both(_facts(SMALL))
    groups = [block.title for block in phenotypes.blocks if isinstance(block, Group)]
    assert [title.split(":")[0] for title in groups] == ["Near", "All 1 phenotypes"]
    (table,) = (block for block in diseases.blocks if block.block == "table")
    assert table.rows[0].cells[-2].endswith("n = 9 of 9")
    assert "ECG, Near" in table.columns and "ECG, Far" not in table.columns
    assert all("too little to show: Far." in s.blocks[0].text for s in (phenotypes, diseases))


@pytest.mark.parametrize(("errors", "said"), [(SMALL, "noised count 0"), (None, "not recorded")])
def test_a_disease_that_a_site_counted_nobody_of(errors: ExpectedErrors | None, said: str) -> None:
    own = _metrics()
    del own["diseases"]["by_disease"]["heart_failure"]
    section = disease_section(_facts(errors, at_site=lambda site: own))
    (table,) = (block for block in section.blocks if block.block == "table")
    assert table.rows[0].cells[-2] == said


def test_where_noise_leaves_nothing_no_number_and_no_verdict_is_shown() -> None:
    page = _page(*_both(_facts(LARGE)))
    assert page.count("leaves nothing of the scores") == 2 and "16 in R²" in page
    assert not [words for words in ("<table", "<img", "216", "did no better") if words in page]


def test_what_is_missing_is_missing_for_the_reason_of_a_private_run() -> None:
    none = ExpectedErrors(0.04, math.nan, 4000, 2, math.nan, 31.0)
    facts = _facts(none, pooled={})
    page = _page(*_both(facts), retrieval_section(facts), generation_section(facts))
    assert "leaves this section out" in page and "no noised count" in page
    assert page.count("Not scored under privacy") == 2
    assert "no site had enough" not in page


@pytest.mark.parametrize(("patients", "shown"), [(100, False), (100_000, True)])
def test_headline_numbers_of_a_private_run(patients: int, shown: bool) -> None:
    words = ["name=x", "plan=private", "privacy.mode=patient"]
    site = {"modalities": ["ecg"], "counts": {"patients": patients}}
    summary = {
        "sites": {"a": site, "b": site | {"modalities": ["cine"]}},
        "metrics": {"pooled": _metrics()},
        "stages": [],
        "rounds": [],
        "seconds": 1.0,
        "run": "x",
        "virtual": False,
    }
    info: Any = _facts(None).info
    config = run_config_from(compose("run", words, package=CONF))
    facts = Facts(None, summary, info, config)  # type: ignore[arg-type]
    told = [meaning for _, meaning in lead(facts)[2].items]  # type: ignore[union-attr]
    assert [w for w in told if "R²" in w or "AUROC" in w] == [
        "mean R² of 1 phenotypes, ECG alone (noised)",
        "mean AUROC of the diseases, ECG alone (noised)",
    ][: 2 * shown]
    pooled, alone = facts.errors(), facts.errors("a")
    assert pooled is not None and pooled == alone and pooled.patients == patients / 5
    assert facts.errors("b") is None

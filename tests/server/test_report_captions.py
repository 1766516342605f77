"""A caption names what is drawn, and the page's numbers of diseases agree or say why not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from server.report.page import Picture, Section, Table, Text
from server.report.results import disease_section, phenotype_section

KEYS = ("mean", "covariates", "ecg", "ecg_covariates")


def _facts(section: str, found: dict[str, Any], names: tuple[str, ...]) -> Any:
    info = SimpleNamespace(phenotypes=names, diseases=names, scaler_sd=(10.0,) * len(names))
    return SimpleNamespace(
        pooled={section: found},
        sites=(),
        info=info,
        at_site=lambda site: {},
        known=lambda section, names: list(names),
        errors=lambda *sites: None,
        drowned=lambda *asked: False,
    )


def _captions(section: Section) -> list[str]:
    return [block.caption for block in section.blocks if isinstance(block, Picture | Table)]


def _phenotypes(value: float, bound: float | None) -> Section:
    score = {"r2": {"value": value, "low": bound, "high": bound}}
    row = {"patients": 30, **dict.fromkeys(KEYS, score)}
    found = {"by_phenotype": {"lv_ef": row}, "average": dict.fromkeys(KEYS, score)}
    return phenotype_section(_facts("phenotypes", found, ("lv_ef",)))


@pytest.mark.parametrize("bound", [None, 0.3])
def test_intervals_are_promised_only_where_there_are_some(bound: float | None) -> None:
    section = _phenotypes(0.3, bound)
    texts = [b.text for b in section.blocks if isinstance(b, Text)]
    said = [text for text in (*_captions(section), *texts) if "95 %" in text]
    assert len(said) == (0 if bound is None else 3)


def test_triangles_are_explained_where_they_are_drawn() -> None:
    assert "triangle" in _captions(_phenotypes(-3.0, None))[0]
    assert not any("triangle" in caption for caption in _captions(_phenotypes(0.3, None)))


def test_diseases_that_cannot_be_scored_are_named() -> None:
    scores = {"auroc": {"value": 0.7}, "ece": 0.1, "calibration": {"patients": []}}
    rows = {
        name: {"present": k, "patients": 9, "prevalence": k / 9, "ecg": scores}
        for name, k in (("heart_failure", 0), ("atrial_fibrillation", 4))
    }
    found = {"by_disease": rows, "average": {"ecg": {"auroc": {"value": 0.7}}}}
    section = disease_section(_facts("diseases", found, tuple(rows)))
    verdict = section.blocks[0]
    assert isinstance(verdict, Text)
    assert "over 1 disease with" in verdict.text
    assert "heart failure" in verdict.text.lower() and "cannot be scored" in verdict.text
    assert not any("95 %" in caption for caption in _captions(section))

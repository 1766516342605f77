"""The report of a small run: real files, model and evaluation; only training is left out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cardionets_core.checkpoint import read_info
from cardionets_core.site_config import site_config_from
from cardionets_core.vocabulary import COHORT_DISCLAIMER, MAIN_PHENOTYPES, PHENOTYPE_BY_NAME
from server.cli import app as coordinator
from server.report.page import number, stacked
from server.status_file import Status
from server.summary import summarise_run
from server.tracking import Tracker, embedded_uri
from simulations.hospitals import Hospital
from simulations.report import write_report
from tests.drawn_page import Page, read_page
from tests.simulations.evaluated_run import Made, evaluated_run

SECTIONS = (
    "federation", "phenotypes", "diseases", "retrieval", "generation", "patients", "training",
    "facts",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return evaluated_run(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def path(made: Made) -> Path:
    """The page of the run as it is."""
    return write_report(made.folder, made.hospitals)


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return read_page(path)


def _copy(made: Made, place: Path, **changes: Any) -> Path:
    """Copy the run folder with other values in its summary."""
    folder = place / "fake"
    shutil.copytree(made.folder, folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    return folder


def _in_cell(estimate: dict[str, float | None]) -> str:
    return " ".join(stacked(estimate).split())


def test_page_is_whole_and_reaches_for_nothing(made: Made, path: Path, page: Page) -> None:
    assert path == made.folder / "report.html"
    assert page.anchors == list(SECTIONS)
    assert page.sources and all(s.startswith("data:image/") for s in page.sources)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import", path.read_text())
    assert "Two hospitals" in page.words and COHORT_DISCLAIMER in page.words
    assert "not a medical device" in page.words
    # a title with a character of HTML is shown and not interpreted
    assert "North & Sons (virtual)" in page.words and "North &amp; Sons" in path.read_text()


def test_same_run_same_page(made: Made, path: Path) -> None:
    once = path.read_bytes()
    assert write_report(made.folder, made.hospitals).read_bytes() == once


def test_tables_hold_the_numbers_of_the_summary(made: Made, page: Page) -> None:
    metrics = json.loads((made.folder / "summary.json").read_text())["metrics"]
    titles = [PHENOTYPE_BY_NAME[n].title for n in made.config.phenotypes]
    shown = [row for row in page.rows if row and row[0] in titles]
    assert {row[0] for row in shown} == set(titles)
    mass = metrics["pooled"]["phenotypes"]["by_phenotype"]["lv_mass"]
    row = next(r for r in shown if r[0] == "Left ventricular mass" and len(r) == 7)
    assert row[1] == str(mass["patients"])
    assert row[2:6] == [
        _in_cell(mass[p]["r2"]) for p in ("mean", "covariates", "ecg", "ecg_covariates")
    ]
    sd = read_info(made.folder / "checkpoint").scaler_sd[made.config.phenotypes.index("lv_mass")]
    assert row[6] == f"{number(mass['ecg']['mae_sd']['value'] * sd, 1)} g"
    hcm = metrics["pooled"]["diseases"]["by_disease"]["hypertrophic_cardiomyopathy"]
    row = next(r for r in page.rows if r and r[0] == "Hypertrophic cardiomyopathy")
    assert row[1] == f"{hcm['present']} of {hcm['patients']}"
    assert row[3:5] == [_in_cell(hcm[p]["auroc"]) for p in ("ecg", "covariates")]
    frechet = metrics["pooled"]["generation"]["frechet"]
    row = next(r for r in page.rows if r and r[0] == "From the patient's ECG" and len(r) == 8)
    assert float(row[1].replace(",", "")) == pytest.approx(frechet["conditional"], rel=0.01)
    recall = metrics["pooled"]["retrieval"]["ecg_to_cmr"]["recall"]["r_at_10"]
    row = next(r for r in page.rows if r and r[0] == "All sites" and len(r) == 6)
    assert f"chance {100 * recall['chance']:.0f} %" in row[4]


def test_federation_table_says_who_served_what(page: Page) -> None:
    rows = {r[0]: r for r in page.rows if r and len(r) == 7 and "Sons" in r[0]}
    north, hill = rows["North & Sons (virtual)"], rows["Hill & Sons (virtual)"]
    assert north[1] == "ECG, CMR cine, ECG-CMR pairs, CMR measurements, diagnoses"
    assert hill[1] == "ECG, CMR measurements, diagnoses"
    assert (north[2], hill[2]) == ("30", "24")
    assert "Cine generation" in north[4] and "Cine generation" not in hill[4]
    # handshake, five stages of two rounds, evaluation: 2 MB down and 1 MB up each
    assert (north[5], north[6]) == ("24.0 MB", "12.0 MB")
    assert (hill[5], hill[6]) == ("16.0 MB", "8.0 MB")
    assert "Cine generation, 2 rounds: the site has fewer patients" in page.words


def test_facts_hold_hashes_and_a_command_that_parses(made: Made, page: Page) -> None:
    import shlex

    from cardionets_core.cli import app

    summary = json.loads((made.folder / "summary.json").read_text())
    assert summary["config_hash"] in page.words and summary["weights_sha256"] in page.words
    command = next(r[1] for r in page.rows if r and r[0] == "Predict from an ECG")
    words = shlex.split(command)
    assert words[:2] == ["cardionets", "predict"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert Path(options["--ecg"]).is_file() and Path(options["--checkpoint"]).is_dir()
    usage = CliRunner().invoke(app, ["predict", "--help"], terminal_width=200).output
    assert all(option in usage for option in options)


def test_patients_are_held_out_and_virtual(made: Made, path: Path, page: Page) -> None:
    assert page.tags.count("article") == 6
    letters = re.findall(r"<h3>([A-F]): (?:man|woman) of \d+, North", path.read_text())
    assert letters == list("ABCDEF")
    truth = [r for r in page.rows if r and r[0] == "Left ventricular mass, g"]
    assert len(truth) == 6 and len({r[1] for r in truth}) > 1
    assert all(" to " in r[2] for r in truth)
    # no patient identifier of the manifest stands in the page, but for the record to try
    ids = re.findall(r"\n(B\w+),", (Path(made.hospitals[0].config.data.manifest)).read_text())
    named = [i for i in ids if re.search(rf"\b{re.escape(i)}\b", page.words)]
    assert len(ids) == 30 and len(named) == 1


def test_patients_of_a_real_hospital_are_never_drawn(made: Made, tmp_path: Path) -> None:
    folder = _copy(made, tmp_path)
    root = tmp_path / "north"
    shutil.copytree(made.hospitals[0].config.data.root, root)
    (root / "README.txt").unlink()
    values = made.hospitals[0].values
    data = values["data"] | {"root": str(root), "manifest": str(root / "manifest.csv")}
    real = Hospital(site_config_from(values | {"data": data}), values | {"data": data})
    page = read_page(write_report(folder, [real, made.hospitals[1]]))
    assert "Patients of real hospitals are never drawn here" in page.words
    assert "article" not in page.tags


def test_run_without_evaluation_says_so(made: Made, tmp_path: Path) -> None:
    summary = json.loads((made.folder / "summary.json").read_text())
    stages = [s for s in summary["stages"] if s["name"] != "evaluate"]
    page = read_page(write_report(_copy(made, tmp_path, metrics={}, stages=stages), []))
    assert page.anchors == list(SECTIONS)
    assert page.words.count("This run has no evaluation stage") == 4


def test_run_without_pairs_says_so(made: Made, tmp_path: Path) -> None:
    summary = json.loads((made.folder / "summary.json").read_text())
    metrics = summary["metrics"]
    for part in (metrics["pooled"], *metrics["sites"].values()):
        part["retrieval"], part["generation"] = {}, {}
    sites = {"hill": summary["sites"]["hill"]}
    stages = [s for s in summary["stages"] if s["name"] not in ("contrastive", "generative")]
    rounds = [
        r | {"site_metrics": {k: v for k, v in r["site_metrics"].items() if k == "hill"}}
        for r in summary["rounds"]
        if r["stage"] not in ("contrastive", "generative")
    ]
    changes = {"metrics": metrics, "sites": sites, "stages": stages, "rounds": rounds}
    page = read_page(write_report(_copy(made, tmp_path, **changes), made.hospitals[1:]))
    assert page.words.count("This run has no stage 'ECG-CMR alignment'") == 1
    assert page.words.count("This run has no stage 'Cine generation'") == 1
    assert "No virtual hospital with ECG-CMR pairs took part" in page.words
    assert "synthetic cine of the beating heart" not in page.words
    assert "One hospital" in page.words


def test_hospital_that_is_gone_is_said_and_not_a_crash(made: Made, tmp_path: Path) -> None:
    folder = _copy(made, tmp_path)
    moved = made.hospitals[0]
    data = moved.values["data"] | {"manifest": str(tmp_path / "gone.csv")}
    gone = Hospital(site_config_from(moved.values | {"data": data}), moved.values)
    page = read_page(write_report(folder, [gone, made.hospitals[1]]))
    assert "The patients could not be read again" in page.words


@pytest.mark.parametrize("virtual", [False, True])
def test_page_of_a_coordinator(made: Made, tmp_path: Path, virtual: bool) -> None:
    folder = _copy(made, tmp_path, virtual=virtual)
    done = CliRunner().invoke(coordinator, ["report", str(folder)])
    assert done.exit_code == 0 and done.output == f"report     {folder / 'report.html'}\n"
    page = read_page(folder / "report.html")
    assert page.anchors == ["federation", "privacy", *(a for a in SECTIONS[1:] if a != "patients")]
    assert "no epsilon is claimed" in page.words
    assert "no patient to show" in page.words and "A simulation" not in page.words
    assert "Sons" not in page.words and "hill and north trained one" in page.words
    assert (COHORT_DISCLAIMER in page.words) == virtual
    assert page.sources and all(s.startswith("data:image/") for s in page.sources)
    command = next(r[1] for r in page.rows if r and r[0].startswith("Predict from an ECG"))
    assert "--checkpoint checkpoint --ecg RECORD.hea" in command
    assert not [p for p in (tmp_path, made.folder.parent, Path.cwd()) if str(p) in page.words]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("no summary", "only a finished run has a report"),
        ("torn", "is torn"),
        ("schema", "not of schema 1"),
        ("failed", "is FAILED; only a finished run"),
        ("no plan", "holds no config.json"),
        ("no checkpoint", "holds no checkpoint.json"),
        ("simulated", "cardionets-simulate resume="),
    ],
)
def test_what_has_no_report_is_said(made: Made, tmp_path: Path, broken: str, said: str) -> None:
    changes = {"schema": {"schema": 2}, "failed": {"status": "FAILED"}}.get(broken, {})
    folder = _copy(made, tmp_path, **changes)
    (folder / "report.html").write_text("of before")
    gone = {"no summary": "summary.json", "no plan": "config.json"}
    if broken in gone:
        (folder / gone[broken]).unlink()
    if broken == "torn":
        (folder / "summary.json").write_text('{"schema')
    if broken == "no checkpoint":
        shutil.rmtree(folder / "checkpoint")
    if broken == "simulated":
        (folder / "sites").mkdir()
    done = CliRunner().invoke(coordinator, ["report", str(folder)])
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert (folder / "report.html").read_text() == "of before"


def test_report_joins_the_mlflow_run(made: Made, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = _copy(made, tmp_path)
    tracker = Tracker(folder)
    tracker.state("COMPLETED")
    assert tracker.close()
    write_report(folder, [])
    client = MlflowClient(embedded_uri(folder))
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(tracker.run_id)] == ["report.html"]


def _documented(level: str) -> set[str]:
    """Return the keys that docs/summary.md lists in the table under a heading."""
    text = (Path(__file__).parents[2] / "docs" / "summary.md").read_text()
    part = text.split(f"\n## {level}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE))


def test_documented_schema_is_the_real_one(made: Made) -> None:
    from server.state import load_state

    state = load_state(made.config, made.folder / "checkpoint")
    summary = summarise_run(made.folder, made.config, state, final=Status("COMPLETED"), seconds=1.0)
    assert _documented("summary.json") == set(summary)
    assert _documented("`stages[]`") == set(summary["stages"][0])
    assert _documented("`sites.NAME`") == set(summary["sites"]["north"])
    assert _documented("`rounds[]`") == set(summary["rounds"][1])
    assert _documented("`metrics`") == set(summary["metrics"])
    pooled = summary["metrics"]["pooled"]
    assert _documented("`metrics.pooled` and `metrics.sites.NAME`") == set(pooled)
    phenotypes = pooled["phenotypes"]
    row = phenotypes["by_phenotype"]["lv_mass"]
    assert _documented("`phenotypes`") == {*phenotypes}
    assert _documented("`phenotypes.by_phenotype.NAME`") == set(row)
    assert _documented("A predictor of a phenotype") >= set(row["ecg"])
    row = pooled["diseases"]["by_disease"]["hypertrophic_cardiomyopathy"]
    assert _documented("`diseases.by_disease.NAME`") == set(row)
    assert _documented("A predictor of a disease") == set(row["ecg"])
    assert _documented("`retrieval.DIRECTION`") == set(pooled["retrieval"]["ecg_to_cmr"])
    assert _documented("`generation`") == set(pooled["generation"])
    assert len(MAIN_PHENOTYPES) == 9

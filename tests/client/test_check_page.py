"""`cardionets-site check` from end to end: trial, exit code, screen, page; no patient in them."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from typer.testing import CliRunner

import client.checks.device
import client.checks.records
import client.cli
from cardionets_core.errors import DataError
from client.checks.findings import CheckResult, Finding, StageVerdict, ok, warning
from client.checks.page import render
from client.checks.run import CheckRequest, run_checks
from client.cli import app
from tests.private_site import make_private

PLANTED = "SMITH_JOHN_1951-03-07_NHS9434765919"


@pytest.fixture
def site(good_site):
    """YAML of the good site, to be read only."""
    return good_site


def invoke(site, tmp_path, *words):
    files = ["--page", str(tmp_path / "check.html"), "--log", str(tmp_path / "check.log")]
    words = ["check", "--config", str(site), "--trial-seconds", "0", *files, *words]
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, words)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(client.cli.console, "width", 100)


def test_a_trial_is_real_training(site, nano_plan):
    strict, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    result = run_checks(CheckRequest(site, plan=nano_plan, trial_seconds=0.2))
    trial = result.trial
    assert trial is not None and trial.stage in ("phenotypes", "diseases")
    assert trial.steps >= 1 and trial.seconds >= 0.2
    assert trial.patients == result.counts[f"train_{trial.stage}"]
    assert trial.epoch_s == pytest.approx(trial.patients / trial.records_per_s)
    assert trial.round_s == pytest.approx(4 * trial.epoch_s)  # local epochs of the default plan
    assert 50e6 < trial.peak_bytes < 50e9
    assert trial.records_per_s == pytest.approx(16 * trial.steps / trial.seconds, rel=0.5)
    assert torch.are_deterministic_algorithms_enabled() == strict
    assert torch.get_num_threads() == threads
    assert result.exit_code == 0


def test_a_site_of_private_tasks_alone_is_told_no_time_of_ordinary_rounds(bench):
    make_private(bench.file, patients=40, modalities=["ecg", "phenotypes", "diseases"])
    bench.file.chmod(0o600)
    bench.trial_seconds = 0.1
    result = bench.check()
    told = " ".join(f.what for f in result.findings if f.area == "device")
    assert "rounds of private tasks, the only ones that this site takes, were not timed" in told
    assert "per round" not in told and "per epoch" not in told
    page = render(result)
    assert "rounds of private tasks" in page and "one round" not in page
    told = " ".join(f.what for f in result.findings if f.area == "budget")
    # The same that `budget plan` speaks of; the check itself looks at labels of every disease.
    assert "of the 82 phenotypes and 12 diseases of a run's default" in told


def test_a_loss_that_is_not_finite_is_an_error(site, nano_plan):
    rates = tuple(f"stage.{name}.lr=1e30" for name in ("ecg_masked", "phenotypes", "diseases"))
    result = run_checks(CheckRequest(site, plan=(*nano_plan, *rates), trial_seconds=1.0))
    (finding,) = [f for f in result.findings if f.code == "diverged"]
    assert finding.level == "error" and finding.cause and finding.next_step
    assert result.trial is None and result.exit_code == 2


def test_a_memory_that_is_too_small_is_an_error(site, nano_plan, monkeypatch):
    import client.checks.trial

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(client.checks.trial, "train_locally", full)
    result = run_checks(CheckRequest(site, plan=nano_plan, trial_seconds=1.0))
    assert "out_of_memory" in {f.code for f in result.of_level("error")}


def test_a_good_site_on_screen_and_page(site, tmp_path, narrow):
    result = invoke(site, tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "Can join: ecg_masked, masked, phenotypes, diseases." in result.output
    assert max(len(line) for line in result.output.splitlines() if "page  " not in line) <= 100
    assert len(result.output.splitlines()) <= 50  # one screen
    page = tmp_path / "check.html"
    assert page.stat().st_mode & 0o077 == 0
    assert "Can join: ecg_masked, masked, phenotypes, diseases." in page.read_text()
    assert not (tmp_path / "check.log").exists()


def test_the_screen_says_cause_and_next_step(site, tmp_path, narrow):
    result = invoke(site, tmp_path, "workers=0", "device=gpu")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    for word in ("workers_none", "bad_value", "Cannot join yet: 2 errors", "-> Set it between"):
        assert word in text
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and "(1 more above)" in line


class _Tags(HTMLParser):
    """Collects tags that are open, and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.links, self.anchors = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[k] for k in ("href", "src") if k in attrs]
        self.anchors += [attrs["id"]] if "id" in attrs else []
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_whole_and_needs_nothing_else(site, tmp_path):
    invoke(site, tmp_path, "workers=0")
    text = (tmp_path / "check.html").read_text()
    tags = _Tags()
    tags.feed(text)
    assert not tags.open and not tags.wrong
    assert all(link.startswith("#") and link[1:] in tags.anchors for link in tags.links)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "--ink:" in text, "the style sheet is inside"


def test_the_page_shows_text_as_text():
    """What a page shows comes from a YAML and from a network: none of it may become markup."""
    from datetime import UTC, datetime

    evil = "<script>alert(1)</script>"
    finding = warning("data", "x", evil, cause=evil, next_step=evil)
    result = CheckResult(
        evil,
        evil,
        evil,
        datetime.now(UTC),
        "tiny",
        (finding,),
        (StageVerdict(evil, True, 1, evil),),
    )
    assert "<script" not in render(result)


def test_no_patient_stands_on_screen_page_or_log(site, tmp_path, patient_ids, narrow):
    copy = tmp_path / "copy"
    shutil.copytree(site.parent, copy)
    text = site.read_text().replace(str(site.parent), str(copy))
    (copy / "west.yaml").write_text(text)
    table = copy / "west" / "data" / "manifest.csv"
    ids = patient_ids(site)
    lines = table.read_text().replace(ids[3], PLANTED).splitlines()
    lines[5] = lines[5].replace("ecg/", f"ecg/{PLANTED}")
    table.write_text("\n".join([*lines, lines[4]]) + "\n")  # a file that is absent, a row twice
    shown = invoke(copy / "west.yaml", tmp_path)
    assert shown.exit_code == 2 and "manifest_duplicate" in shown.output
    table.write_text("\n".join(lines) + "\n")
    shown_too = invoke(copy / "west.yaml", tmp_path)
    assert "files_missing" in shown_too.output and shown_too.exit_code == 0
    written = "".join(p.read_text() for p in tmp_path.glob("check.*"))
    for text in (shown.output, shown.stderr, shown_too.output, written):
        assert not [name for name in (*ids, PLANTED) if name in text]


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (RuntimeError(PLANTED), "internal"),
        (KeyError(PLANTED), "internal"),
        (FileNotFoundError(2, "No such file", PLANTED), "internal"),
        (DataError("The table is upside down; turn it."), "refused"),
    ],
)
def test_a_failure_of_the_check_itself_is_a_finding(site, tmp_path, monkeypatch, raised, code):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(client.checks.device, "check_device", fail)
    result = invoke(site, tmp_path)
    assert result.exit_code == 2
    assert code in result.output
    log = tmp_path / "check.log"
    if code == "refused":
        assert "upside down" in result.output and not log.exists()
        return
    assert type(raised).__name__ in result.output
    assert "check.log" in " ".join(result.output.split())
    assert "test_check_page.py" in log.read_text() and type(raised).__name__ in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    page = (tmp_path / "check.html").read_text()
    for text in (result.output, result.stderr, log.read_text(), page):
        assert PLANTED not in text


def test_other_areas_go_on_after_a_failure(site, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(client.checks.records, "check_records", fail)
    result = run_checks(CheckRequest(site, trial_seconds=0))
    areas = {f.area for f in result.findings}
    assert areas >= {"configuration", "versions", "disk", "device", "connection", "budget"}
    assert [f.area for f in result.findings if f.code == "internal"] == ["data"]
    assert result.exit_code == 2


def test_a_page_that_cannot_be_written(site, tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke(site, tmp_path, "--page", str(tmp_path / "file" / "page.html"))
    assert result.exit_code == 2
    assert "--page" in result.stderr and "name another file" in result.stderr


def test_a_preset_that_does_not_exist(site):
    result = CliRunner().invoke(app, ["check", "--config", str(site), "--preset", "huge"])
    assert result.exit_code == 2 and "there is no such model" in result.stderr


def test_a_complaint_without_a_next_step_cannot_be_made():
    with pytest.raises(ValueError, match="next step"):
        Finding("data", "error", "Something is wrong.", cause="Who knows.", code="x")
    assert ok("data", "All is well.").level == "ok"


def test_the_budget_is_not_pretended(site):
    result = run_checks(CheckRequest(site, trial_seconds=0))
    (finding,) = [f for f in result.findings if f.area == "budget"]
    assert "No privacy budget is set" in finding.what

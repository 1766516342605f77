"""A prepared site: what its report says, and what may be wrong with the folder."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from cardionets_core.preparation.outcome import Outcome
from cardionets_core.preparation.report import KEPT
from cardionets_core.preparation.report_facts import Facts
from cardionets_core.site_config import write_yaml
from client.checks.run import CheckRequest, run_checks

EXPECTED = {"no_trial", "superlink_unnamed"}


def outcomes(used=40, **refused):
    """Yield what became of every item, as the journal of a preparation would."""
    quality = {"overall": "good", "reversal": "", "gain_suspect": 0.0, "mains_hz": 0.0}
    for k in range(used):
        yield Outcome(f"item{k}", "ecg", "wfdb", "used", patient=f"p{k}", quality=quality)
    for code, count in refused.items():
        for k in range(count):
            yield Outcome(f"{code}{k}", "ecg", "wfdb", "refused", refused=(("ecg", code),))


def write_numbers(folder, *, summary=None, used=40, **refused):
    """Write report.json with what the preparation's own counting makes of the outcomes."""
    facts = Facts()
    for outcome in outcomes(used, **refused):
        facts.add(outcome)
    plain = {"patients": 40, "copies": {"extra": 0, "across_splits": 0}, **(summary or {})}
    assert set(plain) <= set(KEPT)
    numbers = {"format": 1, "summary": plain, **facts.as_json(), "cohort": {}}
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "report.json").write_text(json.dumps(numbers))


@pytest.fixture(scope="module")
def template(good_site, nano_plan, tmp_path_factory):
    """A folder laid out as `cardionets prepare` does, with arrays for the nano model."""
    folder = tmp_path_factory.mktemp("prepared") / "out"
    shutil.copytree(good_site.parent / "west" / "data" / "ecg", folder / "ecg")
    table = pd.read_csv(good_site.parent / "west" / "data" / "manifest.csv")
    table.to_parquet(folder / "manifest.parquet")
    (folder / "site_salt").write_text("salt-of-west\n")
    (folder / "site_salt").chmod(0o600)
    folder.chmod(0o700)
    write_numbers(folder)
    check(folder, nano_plan)
    return folder


@pytest.fixture
def prepared(template, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(template, folder)
    return folder


def check(folder, plan, **data):
    path = folder.parent / "west.yaml"
    write_yaml(path, {"site": "west", "data": {"prepared": str(folder), **data}})
    path.chmod(0o600)
    return run_checks(CheckRequest(path, plan=plan, trial_seconds=0))


def codes(result):
    return {f.code for f in result.findings if f.level != "ok"}


def test_a_good_prepared_site(prepared, nano_plan):
    result = check(prepared, nano_plan)
    assert codes(result) == EXPECTED
    quality = dict(result.quality)
    assert quality["recordings prepared"] == "40 of 40"
    assert quality["ECGs good, usable, poor"] == "40, 0, 0"
    assert result.joinable and result.exit_code == 0


def remove_report(folder):
    (folder / "report" / "report.json").unlink()


def tear_report(folder):
    path = folder / "report" / "report.json"
    path.write_text(path.read_text()[:200])


def report_of_another_kind(folder):
    (folder / "report" / "report.json").write_text('{"format": 1, "readers": [1], "summary": {}}')


FAULTS = {
    "no report": ("report_missing", remove_report),
    "torn report": ("report_unreadable", tear_report),
    "another report": ("report_unreadable", report_of_another_kind),
    "some refused": ("prepared_refused", lambda f: write_numbers(f, header=3)),
    "most refused": ("prepared_most_refused", lambda f: write_numbers(f, used=2, header=9)),
    "copies": (
        "copies_across_splits",
        lambda f: write_numbers(f, summary={"copies": {"extra": 5, "across_splits": 2}}),
    ),
    "nobody's": (
        "patient_unknown",
        lambda f: write_numbers(f, summary={"patient_unknown": 7}),
    ),
    "another table": (
        "table_unmatched",
        lambda f: write_numbers(f, summary={"table": {"rows": 9, "recordings it names": 0}}),
    ),
    "open salt": ("salt_readable", lambda f: (f / "site_salt").chmod(0o644)),
    "open folder": ("prepared_readable", lambda f: f.chmod(0o755)),
    "no salt": ("prepared_unusable", lambda f: (f / "site_salt").unlink()),
    "no manifest": ("prepared_unusable", lambda f: (f / "manifest.parquet").unlink()),
    "torn manifest": ("manifest_refused", lambda f: (f / "manifest.parquet").write_bytes(b"PAR1")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_prepared_site(prepared, nano_plan, fault):
    code, inject = FAULTS[fault]
    inject(prepared)
    result = check(prepared, nano_plan)
    named = [f for f in result.findings if f.code == code]
    assert named and all(f.cause and f.next_step for f in named)
    assert codes(result) - EXPECTED == {code}
    assert result.exit_code == (2 if named[0].level == "error" else 0)


def test_the_reasons_of_the_preparation_stand_in_the_table(prepared, nano_plan):
    write_numbers(prepared, header=3, too_short=1)
    result = check(prepared, nano_plan)
    assert [(r.code, r.files) for r in result.refused] == [("header", 3), ("too_short", 1)]
    assert all(r.cause and r.next_step for r in result.refused)


def test_two_answers_are_refused(prepared, nano_plan):
    result = check(prepared, nano_plan, root=str(prepared))
    assert "prepared_unusable" in codes(result) and result.exit_code == 2


def test_the_salt_of_the_folder_is_not_shown(prepared, nano_plan):
    assert "salt-of-west" not in repr(check(prepared, nano_plan))

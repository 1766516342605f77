"""`cardionets-site check`: one fault in a good site at a time, each named with cause and next step.

Every case puts exactly one fault into a copy of a site that has none of them, and asks for its
code. The connection's own faults stand in test_check_connection.py.
"""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

import client.checks.configuration
import client.checks.quality
from tests.client.site_bench import codes

EXPECTED_WARNINGS = {"no_trial", "superlink_unnamed"}
"""Of a check that neither trains nor connects."""


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(client.checks.quality, "SAMPLE", 3)


def test_a_good_site_has_no_fault(bench):
    result = bench.check()
    assert codes(result) == EXPECTED_WARNINGS
    assert result.joinable == ("ecg_masked", "masked", "phenotypes", "diseases")
    assert result.exit_code == 0
    assert {f.area for f in result.findings} == {
        "configuration", "permissions", "versions", "disk", "data", "policy", "device",
        "connection", "budget",
    }  # fmt: skip
    assert result.counts["test_patients"] > 0 and result.quality


def remove_yaml(bench):
    bench.file.unlink()


def break_yaml(bench):
    bench.file.write_text("site: [west\ndata: {")


def root_is_a_file(bench):
    bench.edit("data", root=str(bench.data / "manifest.csv"))


def root_unreadable(bench):
    # Tests may run as root, who may read everything.
    bench.machine = replace(bench.machine, readable=lambda path: path != bench.data)


def manifest_with_semicolons(bench):
    path = bench.data / "manifest.csv"
    path.write_text(path.read_text().replace(",", ";"))


def no_header(bench):
    path = bench.data / "manifest.csv"
    path.write_text(path.read_text().partition("\n")[2])


def unknown_column(bench):
    def rename(rows):
        for row in rows:
            row["lv_edvv"] = row.pop("lv_edv")

    bench.edit_table(rename)


def duplicate_study(bench):
    bench.edit_table(lambda rows: rows.append(dict(rows[1])))


def path_outside(bench):
    bench.edit_table(lambda rows: rows[2].update(ecg="../../../etc/passwd"))


def files_gone(bench):
    for path in sorted(bench.data.glob("ecg/*.hea"))[:3]:
        path.unlink()


def text_for_a_number(bench):
    bench.edit_table(lambda rows: rows[0].update(age="old"))


def cache_below_a_file(bench):
    bench.edit("data", cache=str(bench.data / "manifest.csv" / "cache"))


def cache_inside_root(bench):
    bench.edit("data", cache=str(bench.data / "cache"))


def cache_open(bench):
    (bench.file.parent / "west" / "cache").chmod(0o755)


def disk_full(bench):
    bench.machine = replace(bench.machine, free_bytes=lambda folder: 10_000)


def disk_nearly_full(bench):
    bench.machine = replace(bench.machine, free_bytes=lambda folder: 100_000_000)


def no_cuda(bench):
    bench.machine = replace(bench.machine, has_cuda=lambda: False)
    bench.edit(device="cuda")


def too_many_workers(bench):
    bench.machine = replace(bench.machine, cores=2)
    bench.edit(workers=64)


def other_flower(bench):
    installed = bench.machine.version_of
    bench.machine = replace(
        bench.machine, version_of=lambda name: "1.40.0" if name == "flwr" else installed(name)
    )


def no_torch(bench):
    installed = bench.machine.version_of
    bench.machine = replace(
        bench.machine, version_of=lambda name: "" if name == "torch" else installed(name)
    )


def clock_of_1970(bench):
    bench.machine = replace(bench.machine, now=lambda: datetime(1970, 1, 3, tzinfo=UTC))


def volumes_in_litres(bench):
    def scale(rows):
        for row in rows:
            row["lv_edv"] = row["lv_edv"] and str(float(row["lv_edv"]) / 1000)

    bench.edit_table(scale)


def fraction_for_percent(bench):
    def scale(rows):
        for row in rows:
            row["lv_ef"] = row["lv_ef"] and str(float(row["lv_ef"]) / 100)

    bench.edit_table(scale)


def gain_ten_times_off(bench):
    def scale(text):
        return re.sub(r"(\d+(?:\.\d+)?)(\(|/)", lambda m: f"{float(m[1]) / 6:g}{m[2]}", text)

    bench.edit_headers(scale)


def most_headers_broken(bench):
    bench.edit_headers(lambda text: "no header\n", share=0.7)


def some_headers_broken(bench):
    bench.edit_headers(lambda text: "no header\n", share=0.1)


def all_headers_broken(bench):
    bench.edit_headers(lambda text: "no header\n")


def no_age_and_sex(bench):
    bench.set_cells(age="", sex="")


def no_labels(bench):
    names = ("lv_edv", "lv_ef", "atrial_fibrillation", "left_bundle_branch_block")
    bench.set_cells(**dict.fromkeys(names, ""))


def constant_label(bench):
    bench.set_cells(heart_failure="1")


def few_test_patients(bench):
    bench.edit("policy", min_patients=15)


def one_patient_to_validate(bench):
    from cardionets_core.data.manifest import split_of

    def thin(rows):
        held = [r for r in rows if split_of(r["patient_id"], salt="salt-of-west") == "validation"]
        for row in held[1:]:
            rows.remove(row)

    bench.edit_table(thin)


FAULTS = {
    "config absent": ("config_absent", remove_yaml),
    "no YAML": ("config_unreadable", break_yaml),
    "unknown key": ("unknown_key", lambda b: b.edit(titel="West")),
    "unknown key in a section": ("unknown_key", lambda b: b.edit("policy", min_patient=3)),
    "missing key": ("missing_key", lambda b: b.edit("data", cache=None)),
    "wrong type": ("bad_value", lambda b: b.edit(workers="many")),
    "wrong choice": ("bad_value", lambda b: b.edit(device="gpu")),
    "site name with blanks": ("site_name", lambda b: b.edit(site="St. Elsewhere")),
    "override unreadable": ("config_unreadable", lambda b: setattr(b, "overrides", ("device=[",))),
    "root missing": ("root_missing", lambda b: b.edit("data", root="/nowhere/data")),
    "root is a file": ("root_is_a_file", root_is_a_file),
    "root unreadable": ("root_unreadable", root_unreadable),
    "manifest missing": ("manifest_missing", lambda b: b.edit("data", manifest="/nowhere/m.csv")),
    "manifest is a folder": ("manifest_is_a_folder", lambda b: b.edit("data", manifest="/")),
    "prepared folder missing": ("prepared_unusable", lambda b: b.edit("data", prepared="/nowhere")),
    "semicolons": ("manifest_separator", manifest_with_semicolons),
    "no header": ("manifest_header", no_header),
    "unknown column": ("manifest_column", unknown_column),
    "duplicate study": ("manifest_duplicate", duplicate_study),
    "path outside": ("path_escape", path_outside),
    "text for a number": ("manifest_refused", text_for_a_number),
    "files missing": ("files_missing", files_gone),
    "salt empty": ("salt_empty", lambda b: b.edit("data", salt="")),
    "salt of the template": ("salt_template", lambda b: b.edit("data", salt="change-me")),
    "cache not writable": ("cache_not_writable", cache_below_a_file),
    "cache inside root": ("cache_inside_root", cache_inside_root),
    "cache open to others": ("cache_readable", cache_open),
    "disk full": ("disk_full", disk_full),
    "disk nearly full": ("disk_nearly_full", disk_nearly_full),
    "YAML readable by others": ("yaml_readable", lambda b: b.file.chmod(0o644)),
    "YAML writable by others": ("yaml_writable", lambda b: b.file.chmod(0o666)),
    "policy stage mistyped": ("policy_stage", lambda b: b.edit("policy", stages=["contrastiv"])),
    "floor above the cohort": ("policy_floor", lambda b: b.edit("policy", min_patients=1000)),
    "no handshake": ("policy_handshake", lambda b: b.edit("policy", stages=["diseases"])),
    "no stage": ("policy_no_stage", lambda b: b.edit("policy", stages=["handshake", "evaluate"])),
    "few local epochs": ("policy_epochs", lambda b: b.edit("policy", max_local_epochs=3)),
    "no CUDA": ("device_cuda", no_cuda),
    "no workers": ("workers_none", lambda b: b.edit(workers=0)),
    "too many workers": ("workers_many", too_many_workers),
    "other Flower": ("version_flwr", other_flower),
    "no torch": ("version_torch", no_torch),
    "clock": ("clock", clock_of_1970),
    "litres": ("phenotype_units", volumes_in_litres),
    "fractions": ("phenotype_units", fraction_for_percent),
    "gain": ("gain_suspect", gain_ten_times_off),
    "most refused": ("quarantine_most", most_headers_broken),
    "some refused": ("quarantine", some_headers_broken),
    "all refused": ("no_records", all_headers_broken),
    "no age, no sex": ("covariates_missing", no_age_and_sex),
    "no labels": ("labels_missing", no_labels),
    "constant label": ("label_constant", constant_label),
    "few in the test split": ("test_small", few_test_patients),
    "one to validate": ("split_single", one_patient_to_validate),
    "too few for any stage": ("no_stage", lambda b: b.keep_patients(6)),
}
"""What is wrong -> the code that must name it, and how to put it into a good site."""

OF_THE_YAML = {"config_absent", "config_unreadable", "unknown_key", "missing_key", "bad_value"}

FOLLOWS = {
    "all refused": {"quarantine_most", "no_stage"},
    "most refused": {"quality_poor"},
    "too few for any stage": {"test_small", "split_single"},
    "floor above the cohort": {"test_small"},
    "salt of the template": {"test_small"},  # another salt, another split
}
"""What must follow from a fault, beside its own name; nothing else may be complained about."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_cause_and_next_step(bench, fault, monkeypatch):
    code, inject = FAULTS[fault]
    inject(bench)
    if code not in OF_THE_YAML:
        # Composing with Hydra takes longer than the rest of a check, and these do not depend on it.
        monkeypatch.setattr(client.checks.configuration, "compose_site", read_plainly)
    if not fault.startswith("YAML"):
        restrict(bench.file)
    result = bench.check()
    named = [f for f in result.findings if f.code == code]
    assert named, codes(result)
    assert all(f.cause and f.next_step for f in named)
    others = codes(result) - {code} - EXPECTED_WARNINGS
    assert others <= FOLLOWS.get(fault, set()), others
    expected = 2 if any(f.level == "error" for f in named) else 0
    assert result.exit_code == expected


def read_plainly(path, overrides):
    return yaml.safe_load(path.read_text())


def restrict(path):
    if path.exists():
        path.chmod(0o600)


def test_there_are_more_than_thirty_of_them():
    assert len(FAULTS) > 30 and len({code for code, _ in FAULTS.values()}) > 30


def test_all_faults_are_found_and_not_only_the_first(bench):
    bench.edit(titel="West", workers=0)
    bench.edit("data", salt="", root="/nowhere")
    bench.edit("policy", stages=["contrastiv"])
    bench.edit(device="gpu")
    restrict(bench.file)
    found = codes(bench.check())
    assert found >= {
        "unknown_key", "bad_value", "policy_stage", "salt_empty", "root_missing", "workers_none",
    }  # fmt: skip


def test_all_faults_of_a_table_are_found(bench):
    unknown_column(bench)
    duplicate_study(bench)
    path_outside(bench)
    assert codes(bench.check()) >= {"manifest_column", "manifest_duplicate", "path_escape"}


def test_the_nearest_key_and_column_are_named(bench):
    bench.edit(titel="West")
    unknown_column(bench)
    text = " ".join(f.what for f in bench.check().findings)
    assert "did you mean 'title'" in text and "did you mean 'lv_edv'" in text


def test_the_unit_that_is_probably_meant_is_named(bench):
    volumes_in_litres(bench)
    (finding,) = [f for f in bench.check().findings if f.code == "phenotype_units"]
    assert "Multiply the column by 1000" in finding.next_step


def test_the_quarantine_is_counted_by_reason(bench):
    some_headers_broken(bench)
    files_gone(bench)
    refused = {r.code: r for r in bench.check().refused}
    assert refused["header"].files == 1 and refused["missing_file"].files == 3
    assert all(r.cause and r.next_step for r in refused.values())


def test_a_table_without_header_does_not_show_its_first_patient(bench, patient_ids):
    ids = patient_ids(bench.file.parent / "west.yaml")
    no_header(bench)
    assert not [name for name in ids if name in repr(bench.check())]


def test_a_secret_is_not_shown(bench):
    bench.edit("data", salt=123456789)
    result = bench.check()
    assert "bad_value" in codes(result)
    assert "123456789" not in repr(result)


def test_what_is_read_is_not_written(bench):
    """The check may write the cache, and nothing else."""
    before = {p: p.stat().st_mtime_ns for p in bench.data.rglob("*")}
    bench.check()
    assert {p: p.stat().st_mtime_ns for p in bench.data.rglob("*")} == before


def test_without_a_coordinator_nothing_is_connected(bench, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert "internal" not in codes(bench.check())


def test_permissions_of_a_file_that_is_not_there_are_not_judged(bench):
    bench.file.unlink()
    (permissions,) = [f for f in bench.check().findings if f.area == "permissions"]
    assert permissions.code == "left_out" and "alone" not in permissions.what


def test_the_stage_that_reports_counts_the_test_split(bench):
    verdicts = {s.name: s for s in bench.check().stages}
    few_test_patients(bench)
    restrict(bench.file)
    result = bench.check()
    few, held = {s.name: s for s in result.stages}, result.counts["test_patients"]
    assert verdicts["evaluate"].takes_part and verdicts["evaluate"].patients == held
    assert not few["evaluate"].takes_part and few["evaluate"].patients == held < 15
    assert "floor of 15" in few["evaluate"].why and "no results" in few["evaluate"].why

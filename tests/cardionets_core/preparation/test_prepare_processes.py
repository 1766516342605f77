"""The real command in real processes: killed and resumed, with workers that die."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from cardionets_core.data.manifest import read_manifest
from cardionets_core.preparation import convert as convert_module
from cardionets_core.preparation import worker
from cardionets_core.preparation.convert import convert, crashed
from cardionets_core.preparation.pool import WorkerPool
from cardionets_core.preparation.worker import start_worker
from tests.processes import living

COMMAND = "from cardionets_core.cli import app; app()"
PATIENCE_S = 120.0
HELD = """
import time
from cardionets_core.preparation.pool import WorkerPool

run = WorkerPool.run

def held(self, items):
    for number, result in enumerate(run(self, items)):
        while number == 20:
            time.sleep(1)
        yield result

WorkerPool.run = held
"""
"""Put before COMMAND: it never comes to its end, however late the test looks."""


@pytest.fixture
def many(tmp_path, write_record, leads):
    """Sixty records; written once and copied, so that they have one signal in three rates."""
    root = tmp_path / "many"
    for k in range(60):
        rate = (250, 300, 500)[k % 3]
        comments = [f"<subject_id>: MRN-{k}"]
        write_record(root, f"r{k:03}", values=leads(k % 7, rate), rate=rate, comments=comments)
    return root


def command(ecg, out, code=COMMAND):
    return subprocess.Popen(
        [sys.executable, "-c", code, "prepare", "--ecg", ecg, "--out", out, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_and_started_again(many, tmp_path, run):
    out = tmp_path / "prepared"
    first = command(many, out, HELD + COMMAND)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(list((out / "ecg").glob("*/*.hea"))) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        children = [p.pid for p in psutil.Process(first.pid).children(recursive=True)]
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert not (out / "manifest.parquet").exists()
    deadline = time.monotonic() + PATIENCE_S
    while living(children):
        assert time.monotonic() < deadline, "workers outlive the command"
        time.sleep(0.05)
    (out / "ecg" / "00").mkdir(exist_ok=True)
    torn = out / "ecg" / "00" / f".{'0' * 32}.dat.1234.tmp"
    torn.write_bytes(b"half of a record")

    written = {p: p.stat().st_mtime_ns for p in out.rglob("*.dat")}
    summary = run(many)
    assert summary.items == {"ecg used": 60} and summary.patients == 60
    assert summary.new + summary.unchanged == 60
    # What lay on disk but not yet in the journal when the kill came is done again; nothing else is.
    untouched = sum(p.stat().st_mtime_ns == t for p, t in written.items())
    assert untouched >= summary.unchanged, "written twice"
    assert not torn.exists()
    assert len(read_manifest(out / "manifest.parquet", out)) == 60


def act(work, places):
    """A decoder with a mistake of its own."""
    if work.source.path.endswith("rec3.hea"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return convert(work, places)


def test_a_decoder_that_crashes_costs_its_record_and_is_tried_again(hospital, run):
    def run_all(converted, works, workers):
        careless = partial(act, **converted.keywords)
        return WorkerPool(careless, crashed, workers=2, start=start_worker).run(works)

    summary = run(hospital, run_all=run_all)
    assert summary.refused["ecg reader_crashed"] == 1
    assert summary.items == {"ecg used": 6, "ecg refused": 4}
    again = run(hospital)
    assert (again.new, again.unchanged) == (1, 9)
    assert again.items == {"ecg used": 7, "ecg refused": 3}


def stuck(work, places):
    """A decoder that never comes back to Python, where signals are heard."""
    if work.source.path.endswith("rec3.hea"):
        worker.ITEM_SECONDS = worker.GRACE_SECONDS = 1
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        convert_module.read_ecg = lambda *_, **__: time.sleep(60)
    return convert(work, places)


def test_a_decoder_that_never_returns_costs_its_record(hospital, run):
    def run_all(converted, works, workers):
        careless = partial(stuck, **converted.keywords)
        return WorkerPool(careless, crashed, workers=1, start=start_worker).run(works)

    summary = run(hospital, run_all=run_all)
    assert summary.refused["ecg reader_crashed"] == 1
    assert summary.items == {"ecg used": 6, "ecg refused": 4}


def test_the_command_says_what_it_did(hospital, tmp_path):
    out = tmp_path / "prepared"
    process = command(hospital, out)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    for words in ("patients    6", "7, 0 of them", "10 read", "quarantine", f"prepared: {out}"):
        assert words in said
    assert "MRN" not in said and "rec6" not in said
    secret = (out / "site_salt").read_text().strip()
    assert secret not in said
    pages = [p.read_text() for p in (out / "report").iterdir()]
    assert pages and not any(secret in page for page in pages)

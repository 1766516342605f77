"""A hospital's folder of WFDB records, written with wfdb itself."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():  # wfdb 4.3 trips over a deprecation of pandas 3 on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import wfdb

from cardionets_core.preparation.request import PrepareRequest
from cardionets_core.preparation.run import prepare

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def pytest_collection_modifyitems(items):
    """Let wfdb's writer, which these tests need, use what pandas 3 deprecates."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:The inplace keyword"))


@pytest.fixture(scope="session")
def leads():
    """float64 [n, 12] mV that obeys Einthoven and Goldberger; another heart for every seed."""

    def make(seed=0, rate=250, seconds=10):
        rng = np.random.default_rng(seed)
        t = np.arange(round(seconds * rate)) / rate
        phase = (t * (1.0 + 0.02 * (seed % 10))) % 1.0
        qrs = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2)
        wave = 0.3 * np.exp(-0.5 * ((phase - 0.6) / 0.05) ** 2)
        one, two = 0.7 * qrs + wave, 1.1 * qrs + 1.2 * wave + rng.normal(0, 0.01, len(t))
        limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
        chest = [(k - 2) * 0.4 * qrs + 0.2 * k * wave for k in range(6)]
        return np.stack(limbs + chest, axis=1)

    return make


@pytest.fixture(scope="session")
def write_record(leads):
    """Write one record with the comments that archives write."""

    def write(folder, name, *, seed=0, rate=250, values=None, comments=(), gain=1000.0):
        folder.mkdir(parents=True, exist_ok=True)
        values = leads(seed, rate) if values is None else values
        count = values.shape[1]
        wfdb.wrsamp(
            name,
            fs=rate,
            units=["mV"] * count,
            sig_name=LEADS[:count],
            p_signal=values,
            fmt=["16"] * count,
            adc_gain=[gain] * count,
            baseline=[0] * count,
            comments=list(comments),
            write_dir=str(folder),
        )
        return folder / f"{name}.hea"

    return write


@pytest.fixture
def hospital(tmp_path, archive):
    """Eight records of six patients, three of them damaged; and what no reader is for."""
    return Path(shutil.copytree(archive, tmp_path / "archive"))


@pytest.fixture(scope="session")
def archive(tmp_path_factory, write_record):
    root = tmp_path_factory.mktemp("template") / "archive"
    for k in range(8):
        patient = "abcdef"[k % 6]
        write_record(
            root / f"p{patient}",
            f"rec{k}",
            seed=k,
            comments=[
                f"<age>: {50 + k}  <sex>: {'MF'[k % 2]}  <subject_id>: MRN-{patient}-007",
                "Dx: 426783006,164889003,73211009" if k == 0 else "Dx: 426783006",
            ],
        )
    torn = root / "pa" / "rec6.dat"
    torn.write_bytes(torn.read_bytes()[:1000])
    write_record(root / "pb", "flat", values=np.zeros((2500, 12)))
    (root / "pb" / "bad.hea").write_text(":::\n")
    (root / "notes.docx").write_bytes(b"a letter about Mrs Smith")
    (root / "Smith.MRN-a-007").write_text("text")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.hea").write_text("x")
    return root


def here(act, works, workers):
    """Carry the work out in this process."""
    return map(act, works)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Prepare into `tmp_path/prepared` in this process; options go to the request."""

    def call(ecg=None, *, run_all=here, with_report=False, out=None, **options):
        if not with_report:  # its pictures take seconds
            monkeypatch.setattr("cardionets_core.preparation.report.write_report", _no_report)
        options.setdefault("workers", 1)
        request = PrepareRequest(out=out or tmp_path / "prepared", ecg=ecg, **options)
        return prepare(request, run_all=run_all)

    return call


def _no_report(out, **_):
    (out / "report").mkdir(exist_ok=True)
    (out / "report" / "index.html").touch()


@pytest.fixture
def contents():
    """Path below a folder -> (modification time, bytes) of every file."""

    def call(folder):
        return {
            p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes())
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    return call

"""Damaged files for a bounded time: every reader reads or refuses, nothing else ever happens.

FUZZ_SECONDS=300 python -m pytest -m slow tests/cardionets_core/preparation/test_fuzz_readers.py
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.data.refusal import REASONS, RecordRefused
from cardionets_core.preparation.recognise import READERS, parts_of, read_ecg
from cardionets_core.sources.cmr_layouts import find_cmr, read_cmr

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
"""For each kind of file."""

LONGEST_CASE = 20.0
"""A damaged file may not keep a reader busier than this."""

NUMBERS = (b"0", b"-1", b"1e308", b"NaN", b"999999999999", b"2147483648", b"", b"0.0000001")
WORDS = (b"../", b"\x00", b"/etc/passwd", b"<!ENTITY", b"]]>", b"\xff\xfe", b"%s%n", b"~")

SEEDS = {
    "wfdb": ("wfdb-edge/100_3chan.hea", "cinc2021/ptb-xl/HR00002.hea", "wfdb-edge/a103l.hea"),
    "hl7_aecg": ("ecg-vendor-formats/hl7_aecg_fda_subject1_0.xml",),
    "philips_sierra": (
        "ecg-vendor-formats/philips_sierra_1_03.xml",
        "ecg-vendor-formats/philips_sierra_1_04_01.xml",
    ),
    "dicom_ecg": ("ecg-vendor-formats/waveform_ecg_scrubbed.dcm",),
}


def shared() -> Path:
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    root = Path(os.environ.get("CARDIONETS_SHARED_DATA", default))
    if not root.is_dir():
        pytest.skip("real files are absent: set CARDIONETS_SHARED_DATA to their folder")
    return root


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return `data` with one to eight of a fuzzer's usual injuries."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(0, len(found) + 1))
        length = int(rng.integers(1, 64))
        match int(rng.integers(0, 8)):
            case 0 if at < len(found):
                found[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                found[at : at + length] = rng.bytes(length)
            case 2:
                del found[at : at + length]
            case 3:
                found[at:at] = found[max(0, at - length) : at] * int(rng.integers(1, 5))
            case 4:
                found[at:at] = WORDS[int(rng.integers(0, len(WORDS)))]
            case 5:
                _replace_number(found, rng)
            case 6:
                del found[at:]
            case _:
                found[at : at + length] = b"\x00" * length
        if not found:
            break
    return bytes(found)


def _replace_number(found: bytearray, rng: np.random.Generator) -> None:
    """Put another number in the place of one that stands in the text of the file."""
    at = int(rng.integers(0, max(1, len(found))))
    digits = [k for k in range(at, min(at + 2000, len(found))) if 48 <= found[k] <= 57]
    if not digits:
        return
    start = end = digits[0]
    while end < len(found) and 48 <= found[end] <= 57:
        end += 1
    found[start:end] = NUMBERS[int(rng.integers(0, len(NUMBERS)))]


def _read_all(kind: str, file: Path, root: Path) -> str:
    """Read a file; return `read` or the reason of the refusal. Anything else comes through."""
    began = time.monotonic()
    try:
        for k, part in enumerate(parts_of(kind, file)):
            if k >= 2:
                break
            read_ecg(kind, file, part, root=root)
        result = "read"
    except RecordRefused as refusal:
        assert refusal.code in REASONS
        result = refusal.code
    assert time.monotonic() - began < LONGEST_CASE
    return result


@pytest.mark.parametrize("kind", sorted(SEEDS))
def test_ecg_readers(kind, tmp_path):
    rng = np.random.default_rng(20)
    results: dict[str, int] = {}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        seed = shared() / SEEDS[kind][int(rng.integers(0, len(SEEDS[kind])))]
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if kind == "wfdb":
            for beside in seed.parent.glob(f"{seed.stem}.*"):
                (folder / beside.name).write_bytes(beside.read_bytes())
        target = folder / seed.name
        target.write_bytes(damaged(seed.read_bytes(), rng))
        result = _read_all(kind, target, folder)
        results[result] = results.get(result, 0) + 1
    print(f"\n{kind}: {sum(results.values())} files, {results}")
    assert sum(results.values()) > 20 and len(results) > 1


def test_every_reader_has_seeds_or_is_fuzzed_in_its_own_tests():
    own = {"ge_muse", "cardiosoft", "array_csv", "array_parquet", "array_hdf5"}
    assert set(READERS) == set(SEEDS) | own


def test_dicom_cines(tmp_path):
    rng = np.random.default_rng(21)
    files = sorted((shared() / "sunnybrook-mini" / "dicom").glob("*.dcm"))
    studies = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        folder = tmp_path / "study"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in files:
            data = file.read_bytes()
            (folder / file.name).write_bytes(damaged(data, rng) if rng.random() < 0.5 else data)
        for item in find_cmr(folder):
            try:
                read_cmr(item, root=folder)
            except RecordRefused as refusal:
                assert refusal.code in REASONS
        studies += 1
    assert studies > 2

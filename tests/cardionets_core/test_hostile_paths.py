"""More than 200 references that lead out of the data folder, in every carrier that may hold one.

An audit hook of the interpreter sees every file that is opened: none may lie outside the folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.manifest import read_manifest
from cardionets_core.data.paths import file_inside, inside, sibling
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.errors import DataError

SECRET = "secret"
_OPENED: list[str] = []
_WATCHING = [False]


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _WATCHING[0] and isinstance(arguments[0], str | bytes | os.PathLike):
        _OPENED.append(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_watch)


@pytest.fixture
def opened():
    """The files that the test opens."""
    _OPENED.clear()
    _WATCHING[0] = True
    yield _OPENED
    _WATCHING[0] = False


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A data folder with a good record, a secret record beside it, and links that lead out."""
    base = tmp_path_factory.mktemp("hospital")
    root, outside = base / "data", base / "outside"
    for folder in (root / "ecg" / "deep", outside):
        folder.mkdir(parents=True)
    samples = (200 * np.sin(np.arange(10_000) / 30)).astype("<i2")
    for folder, name in ((root / "ecg", "good"), (outside, SECRET), (base, SECRET)):
        (folder / f"{name}.dat").write_bytes(samples.tobytes())
        (folder / f"{name}.hea").write_text(
            f"{name} 1 500 10000\n{name}.dat 16 200/mV 16 0 0 0 0 I"
        )
    (root / "link").symlink_to(outside)
    (root / "ecg" / "link").symlink_to(outside)
    (root / "ecg" / "link.dat").symlink_to(outside / f"{SECRET}.dat")
    (root / "ecg" / "link.hea").symlink_to(outside / f"{SECRET}.hea")
    (root / "ecg" / "up").symlink_to(base)
    (root / "ecg" / "chain").symlink_to(root / "link")
    return base


def references(base: Path) -> list[str]:
    """Return hostile references to the secret record, without suffix, over 200 of them."""
    outside = base / "outside" / SECRET
    absolute = [str(outside), f"/{outside}", f"//{outside}", f"/{base}/./outside/{SECRET}"]
    targets = (f"outside/{SECRET}", SECRET, "etc/passwd")
    ups = [f"{'../' * k}{target}" for k in range(1, 12) for target in targets]
    ups += [f"{p}{'../' * k}outside/{SECRET}" for p in ("./", "deep/", "ecg/", ".//", "deep/./")
            for k in range(1, 8)]  # fmt: skip
    ups += [f"{'..%2f' * 2}outside", "..", "../..", ".", "", "../", "./..", f"../{SECRET}"]
    ups += [
        f"....//{SECRET}",
        f"..;/{SECRET}",
        f".. /{SECRET}",
        f"..\x00/{SECRET}",
        f"../\t{SECRET}",
    ]
    drives = [f"{d}:{s}outside{s}{SECRET}" for d in "CDZ" for s in ("/", "\\", "")]
    backs = [f"{'..' + chr(92)}{'..' + chr(92) * k}outside\\{SECRET}" for k in range(1, 8)]
    backs += [f"\\\\server\\share\\{SECRET}", f"\\\\?\\C:\\{SECRET}", f"..\\{SECRET}"]
    schemes = ("file", "http", "https", "s3", "gs", "ftp", "sftp", "hdfs", "smb", "data", "jar")
    urls = [f"{s}://{h}/{SECRET}" for s in schemes for h in ("127.0.0.1", "evil.example", "")]
    urls += [f"{s}:{outside}" for s in schemes]
    homes = [f"~/{SECRET}", f"~root/{SECRET}", "~", f"~+/{SECRET}"]
    devices = [f"/dev/{d}" for d in ("zero", "random", "stdin", "fd/0", "tcp/127.0.0.1/80")]
    devices += [f"/proc/self/{f}" for f in ("environ", "mem", "fd/0", f"root{outside}", "cwd")]
    links = [f"link/{SECRET}", f"ecg/link/{SECRET}", f"chain/{SECRET}", f"up/{SECRET}"]
    links += [f"up/outside/{SECRET}", f"./link/{SECRET}", f"deep/../link/{SECRET}"]
    links += [f"{link}{'/.' * k}/{SECRET}" for link in ("link", "up", "chain") for k in range(1, 5)]
    mixed = [f"{'..' + sep}{target}" for sep in ("/./", "//", "/\\", "\\/") for target in targets]
    mixed += [f"good/../{'../' * k}{target}" for k in range(1, 4) for target in targets]
    controls = [f"{SECRET}{c}" for c in "\x00\n\r\x1b\x07"] + [f"{c}{SECRET}" for c in "\x00\n"]
    unicode = [f"\u2024\u2024/{SECRET}", f"..\u2215{SECRET}", f"\uff0e\uff0e/{SECRET}"]
    every = [
        *absolute,
        *ups,
        *drives,
        *backs,
        *urls,
        *homes,
        *devices,
        *links,
        *mixed,
        *controls,
        *unicode,
    ]
    return list(dict.fromkeys(every))


def _escapes(opened: list[str], base: Path) -> list[str]:
    """Return what was opened outside of the data folder, the interpreter's own files aside."""
    root = os.path.realpath(base / "data")
    hostile = [os.path.realpath(p) for p in opened]
    ours = [p for p in hostile if p.startswith((os.path.realpath(base), "/dev", "/proc"))]
    return [p for p in ours if not p.startswith(root + os.sep)]


def test_there_are_more_than_two_hundred(place):
    assert len(references(place)) >= 200


def test_no_reference_resolves_outside(place):
    root = place / "data"
    reached = []
    for reference in references(place):
        for suffix in ("", ".hea", ".dat"):
            for start in (root, root / "ecg"):
                try:
                    found = file_inside(start, reference + suffix)
                except RecordRefused:
                    continue
                reached.append((reference, found))
    assert reached == []


def test_a_header_may_name_its_own_folder_only(place):
    header = place / "data" / "ecg" / "good.hea"
    for reference in references(place):
        for suffix in ("", ".dat"):
            with pytest.raises(RecordRefused):
                sibling(header, reference + suffix, place / "data")


@pytest.mark.parametrize("carrier", ["signal", "segment", "layout"])
def test_wfdb_headers(place, opened, carrier):
    folder = place / "data" / "ecg"
    refused = 0
    for reference in references(place):
        header = folder / "evil.hea"
        header.write_bytes(_header(carrier, reference).encode())
        with pytest.raises(RecordRefused):
            read_wfdb(header, root=place / "data")
        refused += 1
    assert refused >= 200
    assert _escapes(opened, place) == []


def _header(carrier: str, reference: str) -> str:
    if carrier == "signal":
        return f"evil 1 500 10000\n{reference}.dat 16 200/mV 16 0 0 0 0 I\n"
    if carrier == "segment":
        return f"evil/2 1 500 20000\ngood 10000\n{reference} 10000\n"
    return f"evil/2 1 500 10000\n{reference} 0\ngood 10000\n"


def test_records_that_are_links(place, opened):
    for name in ("link.hea", "link/secret.hea", "up/secret.hea"):
        with pytest.raises(RecordRefused):
            read_wfdb(place / "data" / "ecg" / name, root=place / "data")
    header = place / "data" / "ecg" / "evil.hea"
    header.write_text("evil 1 500 10000\nlink.dat 16 200/mV 16 0 0 0 0 I\n")
    with pytest.raises(RecordRefused):
        read_wfdb(header, root=place / "data")
    assert _escapes(opened, place) == []


def test_manifests(place, opened, tmp_path):
    manifest = tmp_path / "manifest.csv"
    unseen = []
    for reference in references(place):
        cell = f"{reference}.hea".replace('"', '""')
        manifest.write_text(f'patient_id,ecg\np,"{cell}"\n', newline="")
        try:
            table = read_manifest(manifest, place / "data")
        except DataError as error:
            assert SECRET not in str(error)
            continue
        unseen.append((reference, table.table["ecg"][0]))
    assert unseen == []
    assert _escapes(opened, place) == []


def test_the_hook_sees_what_is_opened(place, opened):
    """The control: an escape would have been noticed."""
    (place / "outside" / f"{SECRET}.dat").read_bytes()
    np.fromfile(place / "outside" / f"{SECRET}.dat", dtype="<i2", count=1)
    assert len(_escapes(opened, place)) >= 1
    assert inside(place / "data", "ecg/good.hea").is_file()

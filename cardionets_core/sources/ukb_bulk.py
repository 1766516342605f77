"""UK Biobank bulk fields 20208 (long axis) and 20209 (short axis), zipped or unpacked.

Layout: EID_20209_2_0.zip (participant, field, instance, array) with .dcm files and a manifest.csv,
in early releases manifest.cvs. The manifests repeat what the DICOM headers say and are not read.
Members are read in memory, one at a time; nothing is unpacked. PatientID inside is a pseudonym of
its own: the participant is who the name of the file says.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from cardionets_core.data.paths import file_inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.dicom import Dataset, parse_dataset
from cardionets_core.sources.dicom_cine import read_cine_study
from cardionets_core.sources.dicom_frames import OpenImage
from cardionets_core.sources.recording import SourceCmr

_NAME = re.compile(r"(\d{7})_(2020[89])_(\d{1,2})_(\d{1,2})(?:\.zip)?", re.IGNORECASE | re.ASCII)

_PART = re.compile(r"\d{7}_(\d{1,2})_\d{1,2}", re.ASCII)
_ANY_FIELD = re.compile(r"\d{7}_\d{5}_(\d{1,2})_\d{1,2}(?![0-9_])", re.ASCII)

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The two that can be unpacked piece by piece."""

MOST_MEMBERS = 20_000
LARGEST_MEMBER = 64 * 2**20
LARGEST_TOTAL = 8 * 2**30
"""Bytes of all members when unpacked; a study has some hundred megabytes."""


def participant_of(name: str) -> tuple[str, str] | None:
    """Return (EID, instance) of a bulk file or folder, None where it is none."""
    match = _NAME.fullmatch(name)
    return (match[1], f"{match[3]}_{match[4]}") if match else None


def visit_of(path: str, part: str = "") -> int | None:
    """Return the instance that a bulk file (EID_20205_3_0.xml, EID_20209_3_0.zip) is of.

    Args:
        path: of the file or folder.
        part: EID_3_0 where a study is made of several.
    """
    match = _PART.fullmatch(part) or _ANY_FIELD.match(path.rpartition("/")[2])
    return int(match[1]) if match else None


def read_ukb(
    item: CmrItem, *, root: Path, images_in: Callable[[str], Iterator[OpenImage]]
) -> SourceCmr:
    """Read the short axis and the long axis of one visit.

    Args:
        item: its zip files or folders.
        root: folder that no file may lie outside of.
        images_in: lists the files of a folder.

    Raises:
        RecordRefused: `zip`, `too_large`, or as `read_cine_study`.
    """
    with ExitStack() as archives:
        images: list[OpenImage] = []
        broken: dict[str, str] = {}
        for member in item.members:
            try:
                if member.lower().endswith(".zip"):
                    images += _members(file_inside(root, member), archives)
                else:
                    images += images_in(member)
            except RecordRefused as error:
                broken["sax" if "_20209_" in member else "4ch"] = error.code
        if not images:
            raise RecordRefused(next(iter(broken.values()), "no_pixels"))
        found = read_cine_study(images, one_patient=False)
    person = replace(found.facts.person, patient_id=item.patient)
    refused = {**found.refused, **broken}
    return SourceCmr(found.views, refused, replace(found.facts, person=person))


def _members(path: Path, archives: ExitStack) -> list[OpenImage]:
    """Open an archive and judge its sizes."""
    try:
        archive = archives.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise RecordRefused("zip") from None
    members = [m for m in archive.infolist() if m.filename.lower().endswith(".dcm")]
    sizes = [m.file_size for m in members]
    if len(members) > MOST_MEMBERS or sum(sizes) > LARGEST_TOTAL:
        raise RecordRefused("too_large", f"{len(members)} members, {sum(sizes)} bytes")
    if max(sizes, default=0) > LARGEST_MEMBER:
        raise RecordRefused("too_large", f"a member of {max(sizes)} bytes")
    if any(m.flag_bits & 1 or m.compress_type not in _METHODS for m in members):
        raise RecordRefused("zip")
    return [partial(_open, archive, member) for member in members]


def _open(archive: zipfile.ZipFile, member: zipfile.ZipInfo, pixels: bool) -> Dataset:
    try:
        with archive.open(member) as stream:
            data = stream.read(member.file_size)  # never more than was declared and judged
    except Exception:  # zipfile and zlib raise whatever a torn member trips over
        raise RecordRefused("zip") from None
    return parse_dataset(data, pixels=pixels)

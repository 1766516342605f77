"""A hospital's CMR folder -> its studies, whatever its layout, and each of them read.

    acdc    a folder with Info.cfg            mnms   CODE/CODE_sa.nii.gz and the data set's table
    ukb     EID_20208_2_0, EID_20209_2_0      nifti  <patient>_4ch.nii.gz, <patient>_sax.nii.gz
    dicom   everything else that is DICOM, gathered by StudyInstanceUID

Only regular files are opened (a pipe would wait for ever); links and hidden files are left out,
and a DICOMDIR is never asked where files are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from cardionets_core.data.paths import inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import mnms
from cardionets_core.sources.acdc import is_patient_folder, read_acdc
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.dicom import Dataset, read_dataset, text_of
from cardionets_core.sources.dicom_cine import read_cine_study
from cardionets_core.sources.dicom_frames import OpenImage
from cardionets_core.sources.nifti_studies import is_view_folder, items_of, read_nifti_study
from cardionets_core.sources.recording import Facts, Person, SourceCmr
from cardionets_core.sources.ukb_bulk import participant_of, read_ukb
from cardionets_core.vocabulary import PHENOTYPE_NAMES

__all__ = ["CmrItem", "find_cmr", "read_cmr"]

_NIFTI = (".nii", ".nii.gz")
_NEVER_DICOM = tuple(
    ".txt .csv .cvs .json .cfg .xml .pdf .zip .gz .nii .png .jpg .jpeg .md .html .xlsx".split()
)

MOST_FILES = 50_000
"""Of one study."""

DEEPEST = 100
"""Folders in each other that are looked into; an archive has ten."""

CLOSED, TOO_DEEP = "cmr_closed", "cmr_too_deep"
"""Kinds of items that are no study: a folder that cannot be opened, and one below `DEEPEST`."""

_NO_STUDY = {CLOSED: "io_error", TOO_DEEP: "too_deep"}


TOLD_EVERY = 200
"""Files whose headers were read, which takes about a millisecond each."""


def find_cmr(folder: Path, told: Callable[[int], None] = lambda read: None) -> Iterator[CmrItem]:
    """Yield the studies below `folder`; those that lie in several folders last.

    Of DICOM files two of each folder are opened, and all of them where those two differ in their
    study.

    Args:
        folder: the hospital's.
        told: called with the number of headers read so far, every `TOLD_EVERY` of them: in a
            folder with all of an archive, nothing is yielded until all are read.
    """
    headers = _Headers(folder, told)
    visits: dict[tuple[str, str], list[str]] = {}
    studies: dict[str, list[str]] = {}
    tables: dict[str, str] = {}
    views: dict[str, list[str]] = {}
    left: list[CmrItem] = []
    for below, folders, files in _walk(folder, left):
        prefix = f"{below}/" if below else ""
        for name in (*folders, *files):
            visit = participant_of(name)
            if visit:
                visits.setdefault(visit, []).append(prefix + name)
        for name in files:
            if name.lower().endswith(".csv") and mnms.is_table(_first_line(folder / below / name)):
                tables[below] = prefix + name
        folders[:] = [name for name in folders if participant_of(name) is None]
        is_view = is_view_folder(PurePosixPath(below).name)
        if is_view or any(is_view_folder(name) for name in folders):
            place = below.rpartition("/")[0] if is_view else below
            names = [name for name in files if name.lower().endswith(_NIFTI)]
            views.setdefault(place, []).extend(prefix + name for name in names)
        else:
            yield from _nifti_items(below, files, tables)
        for study, member in _dicom_members(headers, below, files):
            studies.setdefault(study, []).append(member)
    for place, paths in views.items():
        yield from items_of(place, paths)
    yield from _visit_items(visits)
    yield from _study_items(studies)
    yield from left


def read_cmr(item: CmrItem, *, root: Path) -> SourceCmr:
    """Read one study.

    Args:
        item: from `find_cmr`.
        root: the folder that was given to it; no file outside of it is opened.

    Raises:
        RecordRefused: where nothing of the study can be used; what is wrong with one view stands in
            `SourceCmr.refused`.
    """
    if item.kind in _NO_STUDY:
        raise RecordRefused(_NO_STUDY[item.kind])
    if item.layout == "acdc":
        found = read_acdc(item, root=root)
    elif item.layout == "mnms":
        found = mnms.read_mnms(item, root=root)
    elif item.layout == "nifti":
        found = read_nifti_study(item, root=root)
    elif item.layout == "ukb":
        found = read_ukb(item, root=root, images_in=partial(_images, root))
    else:
        images = [image for member in item.members for image in _images(root, member)]
        found = read_cine_study(images, study=item.part)
    named = Facts(person=Person(patient_id=item.patient))
    found = SourceCmr(found.views, found.refused, found.facts.or_else(named))
    if not found.views and not set(PHENOTYPE_NAMES) & set(found.facts.values):
        raise RecordRefused(next(iter(found.refused.values()), "no_cine"))
    return found


def _walk(root: Path, left: list[CmrItem]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (relative folder, folders, files), sorted, without links and hidden names.

    What the caller takes out of `folders` is not visited. Folders that cannot be listed or lie too
    deep go to `left`.
    """
    waiting = [""]  # and no recursion: os.walk of Python 3.11 ends at a thousand levels
    while waiting:
        below = waiting.pop()
        try:
            folders, files = _listed(root / below)
        except OSError:
            left.append(CmrItem(CLOSED, below or "."))
            continue
        yield below, folders, files
        prefix = f"{below}/" if below else ""
        deeper = [prefix + name for name in reversed(folders)]
        if prefix.count("/") < DEEPEST:
            waiting += deeper
        else:
            left += [CmrItem(TOO_DEEP, path) for path in deeper]


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the regular files of a folder, sorted."""
    with os.scandir(folder) as entries:
        own = [entry for entry in entries if not entry.name.startswith(".")]
        return (
            sorted(e.name for e in own if e.is_dir(follow_symlinks=False)),
            sorted(e.name for e in own if e.is_file(follow_symlinks=False)),
        )


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("utf-8-sig", "replace").partition("\n")[0]
    except OSError:  # a table that cannot be opened is none; its studies are read without it
        return ""


def _nifti_items(below: str, files: list[str], tables: dict[str, str]) -> Iterator[CmrItem]:
    names = [name for name in files if name.lower().endswith(_NIFTI)]
    lower = frozenset(name.lower() for name in files)
    prefix, folder = (f"{below}/" if below else ""), PurePosixPath(below).name
    if not names:
        return
    if is_patient_folder(lower):
        members = [n for n in files if n in names or n.lower() == "info.cfg"]
        paths = tuple(prefix + n for n in members)
        yield CmrItem("cmr_acdc", below or ".", layout="acdc", patient=folder, members=paths)
        return
    table = next((tables[p] for p in _ancestors(below) if p in tables), None)
    code = mnms.code_of(folder, lower)
    if code and (table or any("_sa_gt." in name for name in lower)):
        paths = tuple(prefix + n for n in names) + ((table,) if table else ())
        yield CmrItem("cmr_mnms", below, layout="mnms", patient=code, members=paths)
        return
    yield from items_of(below, [prefix + name for name in names])


def _ancestors(below: str) -> Iterator[str]:
    path = PurePosixPath(below)
    for place in (path, *path.parents):
        yield "" if place == PurePosixPath(".") else place.as_posix()


def _visit_items(visits: dict[tuple[str, str], list[str]]) -> Iterator[CmrItem]:
    for (eid, instance), members in visits.items():
        place = _common_folder([m.rpartition("/")[0] for m in members])
        part = f"{eid}_{instance}"
        yield CmrItem(
            "cmr_ukb", place, part, layout="ukb", patient=eid, members=tuple(sorted(members))
        )


def _study_items(studies: dict[str, list[str]]) -> Iterator[CmrItem]:
    for study, members in studies.items():
        place = _common_folder([m if m.endswith("/") else m.rpartition("/")[0] for m in members])
        paths = tuple(sorted(m.rstrip("/") or "." for m in members))
        part = "" if study.startswith("/") else study
        yield CmrItem("cmr_dicom", place, part, layout="dicom", members=paths)


def _common_folder(folders: list[str]) -> str:
    return os.path.commonpath([f.strip("/") for f in folders]) if all(folders) else "."


def _dicom_members(headers: _Headers, below: str, files: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (study, member): the folder itself, ending in "/", or each file of a mixed one.

    A study without a number is the folder's own, "/" and its path.
    """
    candidates = [n for n in files if not n.lower().endswith(_NEVER_DICOM)]
    prefix = f"{below}/" if below else ""
    own = f"/{below}"
    read: dict[str, str | None] = {}

    def study_of(name: str) -> str | None:
        if name not in read:
            read[name] = headers.study_of(prefix + name)
        return read[name]

    def first(names: list[str]) -> str | None:
        return next((study for n in names if (study := study_of(n)) is not None), None)

    study = first(candidates)
    if study is None:
        return
    if study == first(candidates[::-1]):
        yield study or own, prefix or "/"
        return
    for name in candidates:
        study = study_of(name)
        if study is not None:
            yield study or own, prefix + name


class _Headers:
    """Reads which study an image is of, each file once, and says how many it has read."""

    def __init__(self, root: Path, told: Callable[[int], None]) -> None:
        self._root, self._told, self._read = root, told, 0

    def study_of(self, relative: str) -> str | None:
        """Return the StudyInstanceUID of a file, "" where it has none, None where no image."""
        self._read += 1
        if self._read % TOLD_EVERY == 0:
            self._told(self._read)
        path, wanted = self._root / relative, ("StudyInstanceUID", "Rows")
        try:
            dataset = read_dataset(path, pixels=False, root=self._root, only=wanted)
            return text_of(dataset, "StudyInstanceUID") if "Rows" in dataset else None
        except (RecordRefused, OSError):
            return None


def _images(root: Path, member: str) -> Iterator[OpenImage]:
    """Yield the files of a member: itself, or those of a folder."""
    path = root if member == "." else inside(root, member)
    if not path.is_dir():
        yield partial(_open, path, root)
        return
    is_unpacked = participant_of(path.name) is not None  # an archive may have folders inside
    left: list[CmrItem] = []
    found: list[Path] = []
    for below, folders, files in _walk(path, left):
        found += [path / below / name for name in files if not name.lower().endswith(_NEVER_DICOM)]
        if len(found) > MOST_FILES:
            raise RecordRefused("too_large", f"{len(found)} files in a study")
        if not is_unpacked:
            folders.clear()
    if left:
        raise RecordRefused(_NO_STUDY[left[0].kind])
    yield from (partial(_open, file, root) for file in found)


def _open(path: Path, root: Path, pixels: bool) -> Dataset:
    return read_dataset(path, pixels=pixels, root=root)

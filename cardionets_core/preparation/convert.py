"""One source item -> neutral files below the prepared folder. This is what a worker does.

What goes back to the parent process holds the item's raw facts in memory; no file does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from cardionets_core.data.cmr import CineVolume, read_nifti
from cardionets_core.data.cmr_write import write_nifti
from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.data.ecg_write import content_of, write_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.transforms import SHORTEST_SECONDS
from cardionets_core.errors import DataError
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.recognise import EMPTY, read_ecg
from cardionets_core.preparation.worker import time_limit
from cardionets_core.quality.grades import grade
from cardionets_core.sources.cmr_layouts import CmrItem, read_cmr
from cardionets_core.sources.recording import Facts, SourceItem
from cardionets_core.vocabulary import VIEWS

Modality = Literal["ecg", "cmr"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ONE_UNIT_MV = 0.0011
"""One unit of the neutral file, with float32's rounding."""


class DiskFullError(DataError):
    """The disk of the prepared folder is full: this ends the preparation, not one item."""


@dataclass(frozen=True, slots=True)
class Work:
    """One item to prepare: its key and where it lies."""

    item: str
    modality: Modality
    source: SourceItem


@dataclass(frozen=True)
class Places:
    """What every worker needs: the folders, and the salt that names the files."""

    out: Path
    roots: Mapping[Modality, Path] = field(repr=False)
    salt: Salt = field(repr=False)


@dataclass(frozen=True)
class Converted:
    """What became of an item, before ids and labels are made neutral.

    Attributes:
        item, modality, kind: of the item.
        refused: (what, reason code).
        facts: as the source has them; they stay in memory.
        files: manifest column -> path below the prepared folder.
        content: salted digest of the signal.
        quality: numbers and words for the report.
    """

    item: str
    modality: Modality
    kind: str
    refused: tuple[tuple[str, str], ...] = ()
    facts: Facts = field(default_factory=Facts, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    quality: Mapping[str, float | str] = field(default_factory=dict)


def convert(work: Work, places: Places) -> Converted:
    """Prepare one item; what its files cause is said in the result, never raised.

    Raises:
        DiskFullError: the prepared folder has no room left.
    """
    act = _ecg if work.modality == "ecg" else _cmr
    what = "ecg" if work.modality == "ecg" else "study"
    try:
        with time_limit():
            return act(work, places)
    except RecordRefused as error:
        code = error.code
    except DiskFullError:
        raise
    except OSError:  # permissions, a disk or a network: the item's own, or they all are refused
        code = "io_error"
    except MemoryError:
        code = "too_large"
    except Exception:  # a reader's own mistake costs this item; its words could name a patient
        code = "reader_failed"
    return Converted(work.item, work.modality, work.source.kind, refused=((what, code),))


def crashed(work: Work) -> Converted:
    """Return the result of an item whose worker died."""
    what = "ecg" if work.modality == "ecg" else "study"
    return Converted(
        work.item, work.modality, work.source.kind, refused=((what, "reader_crashed"),)
    )


def _ecg(work: Work, places: Places) -> Converted:
    root = places.roots["ecg"]
    item = work.source
    source = read_ecg(item.kind, root / item.path, item.part, root=root)
    record = source.record
    seconds = record.signal.shape[1] / record.sampling_rate_hz
    if seconds < SHORTEST_SECONDS:
        raise RecordRefused("too_short", f"{seconds:.2f} s")
    content = places.salt.content_key(content_of(record))
    kept, name = _write_ecg(record, content, places.out)
    return Converted(
        work.item,
        "ecg",
        item.kind,
        facts=_plain(source.facts),
        files={"ecg": name},
        content=content,
        quality=_ecg_quality(kept, seconds),
    )


def _write_ecg(record: EcgRecord, content: str, out: Path) -> tuple[EcgRecord, str]:
    """Write the neutral record; return it as every later reader will see it, and its name."""
    folder = _folder(out, "ecg", content)
    header = folder / f"{content}.hea"
    kept = _read_back(header, out) if header.exists() else None
    if kept is None:  # new, or torn when the machine lost its power
        with _room():
            write_wfdb(record, folder, content)
        kept = read_wfdb(header, root=out)
    both = record.lead_mask & kept.lead_mask
    known = record.signal[both, : kept.signal.shape[1]]
    if np.abs(known - kept.signal[both]).max(initial=0.0) > _ONE_UNIT_MV:
        raise RecordRefused("implausible_amplitude", "more than 65 mV")
    return kept, header.relative_to(out).as_posix()


def _read_back(header: Path, out: Path) -> EcgRecord | None:
    try:
        return read_wfdb(header, root=out)
    except RecordRefused:
        return None


def _ecg_quality(record: EcgRecord, seconds: float) -> dict[str, float | str]:
    return grade(record).to_row() | {
        "sampling_rate_hz": record.sampling_rate_hz,
        "leads": float(record.lead_mask.sum()),
        "seconds": round(seconds, 2),
    }


def _plain(facts: Facts) -> Facts:
    """Return facts that can be sent to another process: read-only mappings cannot."""
    return replace(facts, values=dict(facts.values))


def _cmr(work: Work, places: Places) -> Converted:
    item = work.source
    if not isinstance(item, CmrItem):
        raise TypeError("a CMR comes as a CmrItem")
    if item.kind == EMPTY:
        raise RecordRefused("truncated")
    source = read_cmr(item, root=places.roots["cmr"])
    files, contents = {}, []
    refused = dict(source.refused)
    for view, volume in sorted(source.views.items()):
        try:
            files[f"cine_{view}"], content = _write_cine(volume, places)
            contents.append(f"{view} {content}")
        except RecordRefused as error:
            refused[view] = error.code
    return Converted(
        work.item,
        "cmr",
        item.kind,
        refused=tuple(
            (f"cine_{what}" if what in VIEWS else "study", code)
            for what, code in sorted(refused.items())
        ),
        facts=_plain(source.facts),
        files=files,
        content=places.salt.content_key(" ".join(contents).encode()) if contents else "",
        quality=_cmr_quality(source.views),
    )


def _cmr_quality(views: Mapping[str, CineVolume]) -> dict[str, float | str]:
    row: dict[str, float | str] = {}
    for view, volume in views.items():
        row[f"phases_{view}"] = float(len(volume.frames))
        row[f"pixel_mm_{view}"] = round(sum(volume.pixel_mm) / 2, 3)
        row[f"heart_known_{view}"] = float(volume.heart_mm is not None)
        if volume.cycle_s is not None:
            row[f"cycle_s_{view}"] = round(volume.cycle_s, 3)
    return row


def _write_cine(volume: CineVolume, places: Places) -> tuple[str, str]:
    """Write one view and see that it can be read; return its name and the key of its content.

    Raises:
        RecordRefused: what was written is refused by the reader of all trainings.
    """
    frames = np.ascontiguousarray(volume.frames, dtype="<f4")
    facts = f"cine {frames.shape} {volume.pixel_mm} {volume.cycle_s} {volume.heart_mm}"
    content = places.salt.content_key(facts.encode() + frames.tobytes())
    file = _folder(places.out, "cmr", content) / f"{content}.nii.gz"
    if not (file.exists() and file.stat().st_size):  # empty: the machine lost its power
        temporary = file.with_name(f".{content}.{os.getpid()}.nii.gz")
        try:
            with _room():
                write_nifti(temporary, volume)
            read_nifti(temporary, root=places.out)
            with _room():
                os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return file.relative_to(places.out).as_posix(), content


def _folder(out: Path, modality: str, content: str) -> Path:
    folder = out / modality / content[:2]
    if not folder.is_dir():
        with _room():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def _room() -> Iterator[None]:
    """Tell a full disk of the prepared folder from trouble with one source file."""
    try:
        yield
    except OSError as error:
        cause = "is full" if error.errno in _FULL else f"cannot be written ({error.strerror})"
        raise DiskFullError(
            f"The prepared folder {cause}. Nothing that was prepared is lost: correct that and "
            "start the same command again."
        ) from None


def converter(places: Places) -> Callable[[Work], Converted]:
    """Return `convert` with the places filled in, as it travels to the workers."""
    return partial(convert, places=places)

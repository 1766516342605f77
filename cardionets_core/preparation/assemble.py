"""Outcomes -> the prepared site: manifest, quarantine, model arrays; files of nobody go."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.data.cache import open_cache
from cardionets_core.data.cache_folders import forget_files
from cardionets_core.data.manifest import FILE_COLUMNS, Manifest, read_manifest
from cardionets_core.errors import DataError
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.manifest_write import PARQUET, write_manifest
from cardionets_core.preparation.quarantine import write_quarantine
from cardionets_core.preparation.request import PrepareRequest
from cardionets_core.preparation.studies import crowded, same_again, studies_of
from cardionets_core.preparation.summary import (
    Copies,
    Tally,
    one_pass,
    pairs_in,
    patients_by_split,
)
from cardionets_core.vocabulary import LEADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.model_config import ModelConfig

_OURS = re.compile(r"\.?[0-9a-f]{32}\.(?:hea|dat|nii\.gz)|\..+\.tmp|\.[0-9a-f]{32}\.\d+\.nii\.gz")
"""Names of neutral files, and of the temporary ones that a killed worker leaves."""


@dataclass(frozen=True)
class Assembled:
    """The numbers of the assembled site; see `PrepareSummary`."""

    tally: Tally
    copies: Copies
    studies: int
    pairs: int
    same_again: int
    crowded_patients: int
    splits: dict[str, int]
    manifest_changed: bool


def assemble(
    request: PrepareRequest, salt: Salt, journal: Journal, paths: Mapping[str, str]
) -> Assembled:
    """Write manifest and quarantine from the journal, and remove files that nothing names."""
    tally, copies, recordings = one_pass(journal.rows, salt)
    studies = studies_of(recordings, salt=salt, pair_days=request.pair_days)
    changed = write_manifest(
        request.out, studies, journal.of_items, known=frozenset(tally.known.keys())
    )
    write_quarantine(request.out, journal.rows(), paths, with_paths=request.keep_source_names)
    _sweep(request.out, journal)
    again = same_again(recordings)
    return Assembled(
        tally=tally,
        copies=copies,
        studies=len(studies),
        pairs=pairs_in(studies),
        same_again=len(again),
        crowded_patients=len(crowded(r for r in recordings if r.item not in again)),
        splits=patients_by_split(studies, salt),
        manifest_changed=changed,
    )


def build_caches(
    request: PrepareRequest,
    salt: Salt,
    assembled: Assembled,
    progress: Callable[[str, int, int], None],
) -> dict[str, int]:
    """Build the arrays of every model that was named; return preset -> studies.

    Arrays of recordings that are gone go too, of these models and of any other. That is asked in
    every run and not only where something went: a run that was killed may not have come this far.
    """
    caches = request.out / "cache"
    if not assembled.studies:
        forget_files(caches, ())
        return {}
    manifest = read_manifest(request.out / PARQUET, request.out, check_files=False)
    built = _build(request, salt, assembled, manifest, progress) if request.presets else {}
    # after building: the new arrays were taken from the earlier ones
    forget_files(caches, (name for c in FILE_COLUMNS for name in manifest.table[c]))
    return built


def _build(
    request: PrepareRequest,
    salt: Salt,
    assembled: Assembled,
    manifest: Manifest,
    progress: Callable[[str, int, int], None],
) -> dict[str, int]:
    from cardionets_core.run_config import model_preset

    def told(preset: str) -> Callable[[int], None]:
        return lambda done: progress(f"arrays {preset}", done, len(manifest))

    for preset in request.presets:
        model = model_preset(preset)
        if assembled.manifest_changed:
            check_free(request.out, _bytes_of_arrays(manifest, model), f"the arrays of {preset}")
        open_cache(
            manifest,
            model.ecg,
            model.cine,
            request.out / "cache",
            salt=salt.text,
            workers=request.processes,
            progress=told(preset),
        )
    return {preset: len(manifest) for preset in request.presets}


def _bytes_of_arrays(manifest: Manifest, model: ModelConfig) -> int:
    """Return what the arrays of `data/cache.py` take: float16 ECGs, 8-bit cines."""
    ecgs = int((manifest.table["ecg"] != "").sum())
    cines = sum(int((manifest.table[f"cine_{view}"] != "").sum()) for view in model.cine.views)
    cine = model.cine.phases * model.cine.size_px**2
    return ecgs * len(LEADS) * model.ecg.record_samples * 2 + cines * cine


def check_free(out: Path, need: int, what: str = "the neutral files") -> None:
    """Compare the free space of the prepared folder with what is about to be written.

    Raises:
        DataError: there is too little.
    """
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(
            f"The disk of {out} has {free / 1e9:.1f} GB left and {what} take about "
            f"{need / 1e9:.1f} GB; make room and run the same command again (what is prepared is "
            "kept), or choose --out on another disk."
        )


def _sweep(out: Path, journal: Journal) -> None:
    """Remove neutral files of items that are gone or have changed, and halves of killed workers."""
    named = {name for outcome in journal.rows() for name in outcome.files.values()}
    for modality in ("ecg", "cmr"):
        for folder in sorted((out / modality).glob("[0-9a-f][0-9a-f]")):
            for file in folder.iterdir():
                header = file.with_suffix(".hea") if file.suffix == ".dat" else file
                is_named = header.relative_to(out).as_posix() in named
                if not is_named and _OURS.fullmatch(file.name):
                    file.unlink()

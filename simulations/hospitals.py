"""The hospitals of a federation on one machine: their folders and their resolved YAML files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.cohort import COHORT_VERSION
from cardionets_core.cohort.write import write_site
from cardionets_core.data.manifest import read_manifest
from cardionets_core.errors import ConfigError, DataError
from cardionets_core.preparation.request import PrepareRequest
from cardionets_core.preparation.run import prepare
from cardionets_core.privacy.population import found_mark
from cardionets_core.runtime import derive_seed
from cardionets_core.site_config import (
    SiteConfig,
    compose_site,
    load_site_config,
    site_config_from,
    write_yaml,
)
from client.memory import drop_private_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulations.settings import SimulatedSite, SimulationConfig

READY = ".complete"
"""Written last into a virtual hospital's folder: without it the folder is written again."""


@dataclass(frozen=True)
class Hospital:
    """One site of the federation: its config and the YAML file that its processes will read."""

    config: SiteConfig
    values: dict[str, Any]


def make_hospitals(
    simulation: SimulationConfig, *, announce: Callable[[str, int], Callable[[int], None]]
) -> list[Hospital]:
    """Write what is missing on disk and return the hospitals that take part.

    Args:
        simulation: names the sites, the output folder and where PTB-XL lies.
        announce: told the title and number of patients of every hospital that is written; returns
            what to call with the number of patients written so far.

    Raises:
        ConfigError: a site file is wrong.
        DataError: a manifest cannot be used.
    """
    made = [_make(site, simulation, announce) for site in simulation.sites]
    hospitals = [h for h in made if h is not None]
    names = [h.config.site for h in hospitals]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two sites are called {name!r}; give each hospital its own name.")
    for hospital in hospitals:
        # Read now, so that a broken table is told before any process is started.
        data = hospital.config.data
        try:
            read_manifest(Path(data.manifest), Path(data.root))
        except DataError as error:
            raise DataError(f"{data.manifest}: {error}") from None
    return hospitals


def forget_ledgers(hospitals: Sequence[Hospital], made: Path) -> None:
    """Remove what the ledgers of an earlier simulation have left at the hospitals that it made.

    Made-up patients, and public records that were prepared here, begin anew with every simulation.

    Args:
        hospitals: of the simulation; those with data of their own, a cache or a table that lies
            elsewhere, are left alone.
        made: folder of the hospitals that simulations write.
    """
    for hospital in hospitals:
        data = hospital.config.data
        cache, table = Path(data.cache), Path(data.manifest)
        own = all(p.resolve().is_relative_to(made.resolve()) for p in (cache, table))
        if hospital.config.privacy.ledger or not own:
            continue
        while (mark := found_mark(cache, table)) is not None:
            mark.unlink()
        drop_private_answers(cache / "runs")


def write_site_files(hospitals: Sequence[Hospital], folder: Path) -> dict[str, Path]:
    """Write each hospital's YAML into the run's folder and return site name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for hospital in hospitals:
        path = folder / f"{hospital.config.site}.yaml"
        write_yaml(path, hospital.values)
        files[hospital.config.site] = path
    return files


def read_hospitals(folder: Path) -> list[Hospital]:
    """Return the hospitals of an earlier run from its site files.

    Raises:
        ConfigError: there are none, or their data are gone.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{folder} holds no site files; resume a run folder, outputs/RUN.")
    return [Hospital(load_site_config(f), compose_site(f)) for f in files]


def _make(
    site: SimulatedSite,
    simulation: SimulationConfig,
    announce: Callable[[str, int], Callable[[int], None]],
) -> Hospital | None:
    path = Path(site.config)
    values = compose_site(path)
    config = site_config_from(values, where=path.name)
    place = Path(simulation.output).resolve() / "hospitals"
    if site.ptbxl:
        source = simulation.ptbxl_folder
        if source is None:
            return None
        prepared = _prepare(source, place / config.site, config, simulation, announce)
        return _with_data(values, path, {"prepared": str(prepared)})
    if not site.cohort:
        return Hospital(load_site_config(path), values)
    kind = "ecg" if site.ecg_only else "cmr" if site.cmr_only else "pairs"
    key = f"{site.cohort}-{kind}-{site.patients}-seed{simulation.cohort_seed}-v{COHORT_VERSION}"
    folder = place / f"{config.site}-{key}"
    if not (folder / READY).exists():
        _write_cohort(site, config, simulation, folder, announce)
    root = folder / "data"
    data = {"root": root, "manifest": root / "manifest.csv", "cache": folder / "cache"}
    return _with_data(
        values, path, dict(values.get("data", {})) | {k: str(v) for k, v in data.items()}
    )


def _prepare(
    source: Path,
    folder: Path,
    config: SiteConfig,
    simulation: SimulationConfig,
    announce: Callable[[str, int], Callable[[int], None]],
) -> Path:
    """Prepare real records as a hospital does, and return the prepared folder.

    Nothing is read again that an earlier run has prepared. The salt is made from the one of the
    site's YAML, so that the splits of every machine's demo are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    salt = folder / "salt"
    salt.write_text(hashlib.sha256(config.data.salt.encode()).hexdigest())
    reading: list[Callable[[int], None]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "read":
            if not reading:
                reading.append(announce(config.title or config.site, total))
            reading[0](done)

    request = PrepareRequest(
        out=folder / "prepared", ecg=source, salt_file=salt, workers=simulation.workers
    )
    prepare(request, progress)
    return request.out.resolve()


def _write_cohort(
    site: SimulatedSite,
    config: SiteConfig,
    simulation: SimulationConfig,
    folder: Path,
    announce: Callable[[str, int], Callable[[int], None]],
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    progress = announce(config.title or config.site, site.patients)
    write_site(
        site.cohort,
        patients=site.patients,
        # Each hospital has patients of its own, also where two use the same preset.
        seed=derive_seed("cohort", simulation.cohort_seed, config.site) % 2**31,
        out=folder / "data",
        ecg_only=site.ecg_only,
        cmr_only=site.cmr_only,
        workers=simulation.workers or os.cpu_count() or 1,
        progress=progress,
    )
    (folder / READY).write_text(json.dumps({"cohort_version": COHORT_VERSION}))


def _with_data(values: dict[str, Any], path: Path, data: dict[str, str]) -> Hospital:
    """Return the hospital of a YAML with other places of its data."""
    values = values | {"data": data}
    return Hospital(site_config_from(values, where=path.name), values)

"""This hospital: its configuration, its dataset, and the frozen parts that it keeps."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from cardionets_core.data.cache import open_cache
from cardionets_core.data.dataset import Scaler, SiteDataset
from cardionets_core.data.manifest import read_manifest
from cardionets_core.packing import Arrays, fingerprint
from cardionets_core.privacy.population import found_mark
from cardionets_core.site_config import SiteConfig, load_own_site_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.messages import TaskHeader
    from cardionets_core.model_config import ModelConfig


@dataclass(frozen=True)
class Site:
    """One hospital, as its own processes know it."""

    config: SiteConfig

    @property
    def name(self) -> str:
        """The name that the coordinator knows."""
        return self.config.site

    @property
    def runs(self) -> Path:
        """Folder of what the site remembers of the runs that it takes part in."""
        return Path(self.config.data.cache) / "runs"

    @property
    def ledger_mark(self) -> Path | None:
        """The mark of a privacy ledger that pays for these records; None where there is none."""
        return found_mark(Path(self.config.data.cache), Path(self.config.data.manifest))

    def dataset(self, header: TaskHeader) -> SiteDataset:
        """Open the prepared records for the model of a task; prepares them on the first call.

        Raises:
            DataError: the manifest cannot be used.
        """
        scaler = None
        if header.scaler_mean:
            scaler = Scaler(np.array(header.scaler_mean), np.array(header.scaler_sd))
        return open_dataset(
            self.config,
            header.model,
            phenotypes=header.phenotypes,
            diseases=header.diseases,
            scaler=scaler,
        )

    def kept_part(self, part: str, mark: str) -> Arrays | None:
        """Return the weights of a frozen part, if the ones kept here have this fingerprint."""
        path = self._part_path(part)
        if not path.is_file():
            return None
        try:
            arrays: Arrays = load_tensors(path.read_bytes())
        except SafetensorError:
            return None  # a torn file is as good as none: the server sends the part again
        return arrays if fingerprint(arrays) == mark else None

    def keep_part(self, part: str, arrays: Arrays) -> None:
        """Keep a frozen part, in place of the one before."""
        path = self._part_path(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of this process's own: tasks of two runs may keep the same part at once.
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        contiguous = {k: np.asarray(v, order="C") for k, v in arrays.items()}
        try:
            temporary.write_bytes(save_tensors(contiguous))
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)  # half a file must not fill a full disk
            raise

    def _part_path(self, part: str) -> Path:
        # Hashed, because the name comes from outside and must not choose the path.
        name = hashlib.sha256(part.encode()).hexdigest()[:16]
        return Path(self.config.data.cache) / "parts" / f"{name}.safetensors"


def open_site() -> Site:
    """Load the site that this process's environment names.

    Raises:
        ConfigError: none is named, or its YAML is wrong.
    """
    return Site(load_own_site_config())


def open_dataset(
    config: SiteConfig,
    model: ModelConfig,
    *,
    phenotypes: tuple[str, ...],
    diseases: tuple[str, ...],
    scaler: Scaler | None,
    progress: Callable[[int], None] | None = None,
) -> SiteDataset:
    """Open a site's records as the model wants them, preparing them where that was not done yet."""
    # A file that was lost since the table was checked costs its own study, not the site's part.
    manifest = read_manifest(Path(config.data.manifest), Path(config.data.root), check_files=False)
    arrays = open_cache(
        manifest,
        model.ecg,
        model.cine,
        Path(config.data.cache),
        salt=config.data.salt,
        workers=config.workers,
        progress=progress,
    )
    return SiteDataset(
        manifest,
        arrays,
        spec=model,
        phenotypes=phenotypes,
        diseases=diseases,
        scaler=scaler,
        salt=config.data.salt,
    )

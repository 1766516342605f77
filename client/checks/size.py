"""How many bytes a site still has to write before it can train."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.models.cost import count_parameters
from cardionets_core.vocabulary import LEADS

if TYPE_CHECKING:
    from cardionets_core.data.manifest import Manifest
    from cardionets_core.model_config import ModelConfig
    from cardionets_core.site_config import SiteConfig


def bytes_to_write(config: SiteConfig, manifest: Manifest, model: ModelConfig) -> int:
    """Return the bytes of the prepared arrays and of every part of the model.

    Arrays that lie there already are taken off: a new cache takes their rows over, and they are
    counted by what they occupy, not by their nominal size (rows without a file are holes).
    """
    table, cine = manifest.table, model.cine
    ecg = int((table["ecg"] != "").sum()) * len(LEADS) * model.ecg.record_samples * 2
    frames = cine.phases * cine.size_px**2
    cines = sum(int((table[f"cine_{view}"] != "").sum()) for view in cine.views) * frames
    arrays = max(0, ecg + cines - _occupied(Path(config.data.cache)))
    return arrays + _bytes_of_parts(model)


@lru_cache(maxsize=8)
def _bytes_of_parts(model: ModelConfig) -> int:
    """Return the size of all parts in fp32; counting builds the model, so once per model."""
    return 4 * count_parameters(model)[0]


def _occupied(cache: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in cache.glob("*/*.npy"))

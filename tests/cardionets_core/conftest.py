"""Random batches in the shapes of a configuration, for models and training; the real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cardionets_core.batch import Batch
from cardionets_core.model_config import (
    CineSpec,
    CmrEncoderConfig,
    DecoderConfig,
    EcgEncoderConfig,
    EcgSpec,
    GeneratorConfig,
    ModelConfig,
    TokenizerConfig,
)

MakeBatch = Callable[..., Batch]


@pytest.fixture(scope="session")
def micro() -> ModelConfig:
    """The smallest configuration that has every kind of part; far below `tiny`, for speed."""
    return ModelConfig(
        preset="micro",
        ecg=EcgSpec(crop_seconds=0.5),
        cine=CineSpec(size_px=16, phases=4),
        ecg_encoder=EcgEncoderConfig(width=24, depth=1, heads=2),
        ecg_decoder=DecoderConfig(width=16, heads=2),
        cmr_encoder=CmrEncoderConfig(patch_px=4, width=24, depth=1, heads=2),
        cmr_decoder=DecoderConfig(width=16, heads=2),
        tokenizer=TokenizerConfig(
            channels=4, stem=(1, 2, 2), widths=(8, 16), strides=((2, 2, 2),), groups=4
        ),
        generator=GeneratorConfig(
            patch=(2, 2, 2), width=24, heads=2, encoder_depth=1, decoder_depth=1, condition_tokens=3
        ),
        num_phenotypes=5,
        num_diseases=3,
    )


@pytest.fixture(scope="session")
def make_batch() -> MakeBatch:
    """Return a function (config, size, seed=0) -> Batch of random patients who have everything."""

    def make(config: ModelConfig, size: int, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        cine, views = config.cine, len(config.cine.views)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(size, *shape, generator=generator)

        def known(*shape: int) -> torch.Tensor:
            return torch.ones(size, *shape, dtype=torch.bool)

        return Batch(
            ecg=normal(12, config.ecg.crop_samples),
            lead_mask=known(12),
            cine=normal(views, cine.phases, cine.size_px, cine.size_px).clamp(-1, 1),
            view_mask=known(views),
            covariates=normal(4),
            covariate_mask=known(4),
            phenotypes=normal(config.num_phenotypes),
            phenotype_mask=known(config.num_phenotypes),
            diseases=(normal(config.num_diseases) > 0).float(),
            disease_mask=known(config.num_diseases),
        )

    return make


@pytest.fixture(scope="session")
def shared_data():
    """The folder of openly licensed real files."""
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("CARDIONETS_SHARED_DATA", root))
    if not root.is_dir():
        pytest.skip("real files are absent: set CARDIONETS_SHARED_DATA to their folder")
    return root

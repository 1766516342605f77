"""ModelConfig: what the model sees and what it is made of. It travels with every task and checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EcgSpec:
    """How a 12-lead record becomes a tensor; part of the model, because weights mean nothing without.

    Attributes:
        sampling_rate_hz: rate after polyphase resampling.
        record_seconds: length that is kept of every record (shorter ones are zero-padded).
        crop_seconds: length that the encoder sees; random in training, `test_crops` spread evenly and
            averaged at test time.
        highpass_hz: zero-phase Butterworth high-pass, applied first.
        lowpass_hz: zero-phase Butterworth low-pass, applied second (skipped above Nyquist).
        filter_order: order of both.
        scale: `fixed` divides millivolts by `scale_mv` and keeps the voltage; `record` takes one mean
            and sd over all leads and time (the paper).
        scale_mv: see `scale`.
    """

    sampling_rate_hz: int = 100
    record_seconds: float = 10.0
    crop_seconds: float = 2.5
    test_crops: int = 3
    highpass_hz: float = 0.67
    lowpass_hz: float = 40.0
    filter_order: int = 5
    scale: Literal["fixed", "record"] = "fixed"
    scale_mv: float = 0.3

    @property
    def record_samples(self) -> int:
        """Samples per lead of a cached record."""
        return round(self.record_seconds * self.sampling_rate_hz)

    @property
    def crop_samples(self) -> int:
        """Samples per lead that the encoder sees."""
        return round(self.crop_seconds * self.sampling_rate_hz)


@dataclass(frozen=True)
class CineSpec:
    """How a cine volume becomes a tensor.

    Attributes:
        views: which views the CMR encoder reads, in order.
        size_px: height and width after resampling.
        pixel_mm: size of a pixel after resampling: physical size is kept.
        phases: cardiac phases over one cycle, the first at end-diastole.
    """

    views: tuple[str, ...] = ("4ch", "sax")
    size_px: int = 64
    pixel_mm: float = 2.5
    phases: int = 8


@dataclass(frozen=True)
class ModelConfig:
    """The whole model. `num_phenotypes` and `num_diseases` are set by the run (RunConfig)."""

    preset: str = "tiny"
    ecg: EcgSpec = field(default_factory=EcgSpec)
    cine: CineSpec = field(default_factory=CineSpec)
    num_phenotypes: int = 82
    num_diseases: int = 12

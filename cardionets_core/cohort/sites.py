"""Virtual hospitals as data: scanner, ECG device, case mix and missing data of each preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.vocabulary import LEADS

DIAGNOSES = ("normal", "lvh", "hcm", "dcm", "mi", "ph", "af")
"""Main diagnosis of a virtual patient; conduction disease is drawn beside it."""


@dataclass(frozen=True)
class Scanner:
    """A balanced steady-state cine on one magnet.

    Attributes:
        field_t: field strength in tesla (1.5 or 3.0).
        flip_deg: flip angle in degrees.
        pixel_mm: in-plane pixel of the short axis (the long axis takes 1.15 times it).
        snr: signal over noise in bright blood.
        coil_mm: depth at which the surface coil has lost 1/e of its sensitivity.
        resolution: acquired share of k-space along each axis, in (0, 1].
    """

    field_t: float
    flip_deg: float
    pixel_mm: float
    snr: float
    coil_mm: float
    resolution: float


@dataclass(frozen=True)
class EcgDevice:
    """An electrocardiograph and its habits.

    Attributes:
        sampling_rate_hz: rate of the stored record.
        high_pass_hz: corner of the baseline filter.
        low_pass_hz: corner of the muscle filter.
        mains_hz: frequency of the hum.
        noise_uv: muscle noise.
        unit: unit written in the header ("mV" or "uV").
        adu_per_unit: stored integer steps per unit.
        lead_names: the twelve names as the device writes them, in the order of `LEADS`.
    """

    sampling_rate_hz: int
    high_pass_hz: float
    low_pass_hz: float
    mains_hz: float
    noise_uv: float
    unit: str
    adu_per_unit: float
    lead_names: tuple[str, ...]


@dataclass(frozen=True)
class Missing:
    """Rates of what a real table lacks.

    Attributes:
        cmr: patients without any cine (their image-derived cells are empty as well).
        view: patients with one of the two views only.
        label: single empty phenotype or disease cells.
        lead: records with one flat lead (a fallen electrode).
        broken: records or volumes that are torn; off unless a test asks for it.
    """

    cmr: float = 0.03
    view: float = 0.02
    label: float = 0.02
    lead: float = 0.01
    broken: float = 0.0


@dataclass(frozen=True)
class SitePreset:
    """A virtual hospital.

    Attributes:
        name: the preset's letter; first letter of its patient ids.
        title: what kind of hospital it is.
        scanner: its magnet.
        device: its electrocardiograph.
        case_mix: share of each diagnosis; sums to one.
        missing: default rates of missing data.
    """

    name: str
    title: str
    scanner: Scanner
    device: EcgDevice
    case_mix: Mapping[str, float]
    missing: Missing = Missing()


def _mix(**shares: float) -> Mapping[str, float]:
    """Fill the share of normal hearts so that the mix sums to one."""
    return MappingProxyType({"normal": 1.0 - sum(shares.values()), **shares})


_UPPER = tuple(name.upper() for name in LEADS)
_LOWER = tuple(name.lower() for name in LEADS)

PRESETS: Mapping[str, SitePreset] = MappingProxyType(
    {
        "A": SitePreset(
            "A",
            "population study",
            Scanner(1.5, 60.0, 1.8, 28.0, 170.0, 0.85),
            EcgDevice(500, 0.05, 150.0, 50.0, 9.0, "mV", 1000.0, LEADS),
            _mix(lvh=0.09, hcm=0.03, dcm=0.04, mi=0.07, ph=0.03, af=0.04),
        ),
        "B": SitePreset(
            "B",
            "cardiomyopathy clinic",
            Scanner(3.0, 42.0, 1.6, 34.0, 120.0, 0.95),
            EcgDevice(1000, 0.05, 100.0, 50.0, 7.0, "uV", 1.0, _UPPER),
            _mix(lvh=0.14, hcm=0.18, dcm=0.16, mi=0.10, ph=0.04, af=0.04),
        ),
        "C": SitePreset(
            "C",
            "district hospital",
            Scanner(1.5, 70.0, 2.1, 16.0, 230.0, 0.70),
            EcgDevice(250, 0.5, 40.0, 50.0, 18.0, "mV", 200.0, _LOWER),
            _mix(lvh=0.16, hcm=0.03, dcm=0.06, mi=0.20, ph=0.03, af=0.07),
        ),
        "D": SitePreset(
            "D",
            "right-heart centre",
            Scanner(1.5, 55.0, 1.9, 24.0, 150.0, 0.80),
            EcgDevice(500, 0.15, 150.0, 60.0, 11.0, "mV", 204.8, LEADS),
            _mix(lvh=0.10, hcm=0.03, dcm=0.07, mi=0.08, ph=0.24, af=0.06),
        ),
    }
)
"""The presets of `cardionets cohort --site`, by letter."""


def find_preset(name: str) -> SitePreset:
    """Return the preset called `name`.

    Raises:
        ConfigError: no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"Unknown site preset {name!r}{nearest(name, PRESETS)}. "
            f"Choose one of {', '.join(PRESETS)}."
        )
    return PRESETS[name]

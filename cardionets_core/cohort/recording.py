"""Ten seconds of ECG as the device stores it: rhythm, breathing, P waves, noise, filters.

Twelve seconds are laid on a circle, filtered in the frequency domain (so that the device's filters
and its sampling rate come for free) and ten of them are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from cardionets_core.cohort.electrics import BEAT_TIMES, INDEPENDENT_LEADS
from cardionets_core.cohort.geometry import Floats
from cardionets_core.cohort.heart import Heart
from cardionets_core.cohort.nuisance import Nuisance
from cardionets_core.cohort.sites import EcgDevice

RECORD_S, _CIRCLE_S, _KEPT_FROM_S = 10, 12, 1
_RATE = 500
_SAMPLES = _CIRCLE_S * _RATE
_LEADS = len(INDEPENDENT_LEADS)
_FREQUENCY = np.arange(_SAMPLES // 2 + 1) / _CIRCLE_S
_BEAT_AT = np.round(BEAT_TIMES / 1000 * _RATE).astype(np.intp)
_P_TIMES: Floats = np.arange(-60, 260, 1000 / _RATE)
_P_AT = np.round(_P_TIMES / 1000 * _RATE).astype(np.intp)
_P_FIELD = np.array(
    [
        [0.632, 0.059, 0.235],
        [0.235, -0.132, -1.066],
        [-0.319, -0.569, -0.097],
        [0.027, -0.860, -0.102],
        [0.547, -0.792, -0.061],
        [0.752, -0.373, -0.079],
        [0.698, -0.053, -0.079],
        [0.515, 0.143, -0.047],
    ]
)
"""Dower's matrix for the eight leads; chest leads at 0.62, for atria lie deep."""
_F_WAVE = np.array([0.25, 0.6, 1.0, 0.8, 0.45, 0.3, 0.25, 0.2])


def record(
    heart: Heart,
    nuisance: Nuisance,
    poses: Floats,
    device: EcgDevice,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Ten seconds of the twelve leads in mV [12, 10 s * rate].

    Args:
        heart: whose rhythm.
        nuisance: P wave, PR interval and rate variability of the patient.
        poses: one beat at the end of expiration and of inspiration, mV [2, 8, beat time].
        device: filters, noise and sampling rate.
        rng: noise and beat-to-beat variation.
    """
    breath = (rng.uniform(0.18, 0.30), rng.uniform(0, 2 * np.pi))
    leads = _lay_beats(heart, nuisance, poses, breath, rng)
    if heart.af:
        leads += _fibrillation(rng)
    leads += _breathing_baseline(breath, rng)
    spectrum = fft.rfft(leads, axis=1) + _noise(device, rng)
    spectrum *= _filter_gain(device)
    rate = device.sampling_rate_hz
    length = _CIRCLE_S * rate
    resampled = fft.irfft(spectrum, n=length, axis=1) * (rate / _RATE)
    start = _KEPT_FROM_S * rate
    return twelve_leads(resampled[:, start : start + RECORD_S * rate]).astype(np.float32)


def twelve_leads(leads: Floats) -> Floats:
    """Add III, aVR, aVL and aVF to I, II and V1..V6 [8, n] -> [12, n]."""
    one, two = leads[0], leads[1]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([np.stack(limb), leads[2:]])


def p_wave(heart: Heart, nuisance: Nuisance) -> Floats:
    """P wave in mV [8, time]: right then left atrium, taller and longer when they are large."""
    left, right = (heart.la_max / 68) ** 0.45, (heart.ra_max / 80) ** 0.45
    width = 26 * left**0.30 * nuisance.p_duration
    early = np.exp(-0.5 * ((_P_TIMES - 42) / 19) ** 2)
    late = np.exp(-0.5 * ((_P_TIMES - 76 - 34 * (left**0.5 - 1)) / width) ** 2)
    dipole = np.outer(right * np.array([0.30, -0.62, -0.75]), early)
    dipole += np.outer(left * np.array([0.85, 0.62, -0.28]), late)
    return np.asarray(nuisance.gain * 0.115 * nuisance.p_amplitude * (_P_FIELD @ dipole))


def _lay_beats(
    heart: Heart,
    nuisance: Nuisance,
    poses: Floats,
    breath: tuple[float, float],
    rng: np.random.Generator,
) -> Floats:
    """Put beats (and P waves, unless the atria fibrillate) on the circle [8, samples]."""
    leads = np.zeros((_LEADS, _SAMPLES))
    atrial = p_wave(heart, nuisance)
    time = rng.uniform(0, heart.cycle_s)
    while time < _CIRCLE_S:
        wave = np.sin(2 * np.pi * breath[0] * time + breath[1])
        share = 0.5 + 0.5 * wave
        onset = round(time * _RATE)
        leads[:, (onset + _BEAT_AT) % _SAMPLES] += (1 - share) * poses[0] + share * poses[1]
        if not heart.af:
            before = round((time - nuisance.pr_ms / 1000) * _RATE)
            leads[:, (before + _P_AT) % _SAMPLES] += atrial
        time += heart.cycle_s * _stretch(heart, nuisance, wave, rng)
    return leads


def _stretch(heart: Heart, nuisance: Nuisance, wave: float, rng: np.random.Generator) -> float:
    """Length of the next beat relative to the mean.

    Fibrillation is irregular, more or less; a few people in sinus rhythm have premature beats.
    """
    chance, normal = rng.random(), rng.normal()
    if heart.af:
        shape = nuisance.irregularity
        return float(np.clip(rng.gamma(shape, 1 / shape), 0.55, 1.7))
    regular = 1 + nuisance.rate_variability * (0.6 * wave + 0.7 * normal)
    return float(regular * (0.68 if chance < nuisance.premature_share else 1.0))


def _fibrillation(rng: np.random.Generator) -> Floats:
    """Fibrillatory waves at 5 to 7.5 Hz of wandering pace and height [8, samples], mV."""
    pace = rng.uniform(5, 7.5) * (1 + 0.96 * gaussian_filter1d(rng.normal(size=_SAMPLES), 60))
    phase = np.cumsum(2 * np.pi * pace / _RATE)
    height = 0.05 * rng.uniform(0.2, 1.4)
    height = height * (1 + 3 * gaussian_filter1d(rng.normal(size=_SAMPLES), 200))
    wave = height * (np.sin(phase) + 0.35 * np.sin(2 * phase + 1))
    return np.asarray(np.outer(_F_WAVE, wave))


def _breathing_baseline(breath: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Baseline that sways with the breath, another height and phase in each lead [8, samples]."""
    angle = 2 * np.pi * breath[0] * np.arange(_SAMPLES) / _RATE
    height, phase = rng.normal(0, 0.06, _LEADS), rng.uniform(0, 2 * np.pi, _LEADS)
    sine = np.outer(height * np.cos(phase), np.sin(angle))
    return np.asarray(sine + np.outer(height * np.sin(phase), np.cos(angle)))


def _noise(device: EcgDevice, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Spectrum of muscle noise, slow drift and hum [8, frequency]."""
    white = rng.standard_normal((2, _LEADS, len(_FREQUENCY)), dtype=np.float32)
    muscle = device.noise_uv / 1000 * 1.9 * np.exp(rng.normal(0, 0.35))
    muscle = muscle * np.exp(-2 * (np.pi * 1.2 * _FREQUENCY / _RATE) ** 2)
    drift = 0.9 * np.exp(-2 * (np.pi * 250 * _FREQUENCY / _RATE) ** 2)
    shape = np.sqrt(_SAMPLES / 2) * np.hypot(muscle, drift)
    spectrum = (white[0] + 1j * white[1]) * shape
    spectrum[:, round(device.mains_hz * _CIRCLE_S)] += (
        -0.5j * _SAMPLES * rng.normal(0, 0.004, _LEADS)
    )
    return np.asarray(spectrum)


def _filter_gain(device: EcgDevice) -> Floats:
    """Zero-phase Butterworth gains: first-order high pass, second-order low pass, run both ways."""
    high = (_FREQUENCY / device.high_pass_hz) ** 2
    low = (_FREQUENCY / device.low_pass_hz) ** 4
    gain = high / (1 + high) / (1 + low)
    return np.asarray(gain * (device.sampling_rate_hz > 2 * _FREQUENCY))

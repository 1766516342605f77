"""The ECG is to scale, the cine plays in real time, pictures are files of the right kind."""

import io

import numpy as np
import pytest
from PIL import Image

from cardionets_core import drawing

DOTS_PER_MM = 110 / 25.4


def _open(data):
    return Image.open(io.BytesIO(data))


def _ink(png, x_mm, top_mm, bottom_mm):
    """Return the height in mm, from the top, of the ink in a column of the picture."""
    grey = np.asarray(_open(png).convert("L")).astype(int)
    column = grey[:, round(x_mm * DOTS_PER_MM)]
    rows = np.arange(round(top_mm * DOTS_PER_MM), round(bottom_mm * DOTS_PER_MM))
    dark = rows[column[rows] < 110]
    return float(dark.mean()) / DOTS_PER_MM


@pytest.mark.parametrize(("millivolts", "expected_mm"), [(1.0, 10.0), (4.0, 20.0)])
def test_ecg_is_to_scale_and_tall_ones_at_half_gain(millivolts, expected_mm):
    rate = 200.0
    signal = np.zeros((12, 2000), np.float32)
    signal[0, 100:300] = millivolts  # 0.5 to 1.5 s
    mask = np.zeros(12, bool)
    mask[0] = True
    png = drawing.ecg_strip(signal, mask, rate, title="t")
    low = _ink(png, drawing.LEFT_MM + 0.25 * 25, 10, 37)
    high = _ink(png, drawing.LEFT_MM + 1.0 * 25, 2, 37)
    assert low - high == pytest.approx(expected_mm, abs=0.35)
    width, height = _open(png).size
    assert width / DOTS_PER_MM == pytest.approx(drawing.LEFT_MM + 250 + 4, abs=0.5)
    assert height / DOTS_PER_MM == pytest.approx(4 * drawing.ROW_MM + 12, abs=0.5)


def test_time_is_25_mm_a_second():
    signal = np.zeros((12, 1000), np.float32)
    signal[1, 500:] = 1.0  # lead II steps up after 5 s of 10
    mask = np.zeros(12, bool)
    mask[1] = True
    png = drawing.ecg_strip(signal, mask, 100.0)
    top, bottom = 10 + 3 * drawing.ROW_MM, 10 + 4 * drawing.ROW_MM - 3
    before = _ink(png, drawing.LEFT_MM + 4.9 * 25, top, bottom)
    after = _ink(png, drawing.LEFT_MM + 5.1 * 25, top, bottom)
    assert before - after == pytest.approx(10.0, abs=0.35)


def test_short_and_incomplete_records_are_drawn():
    signal = np.random.default_rng(0).normal(size=(12, 300)).astype(np.float32)
    png = drawing.ecg_strip(signal, np.zeros(12, bool), 100.0)
    assert _open(png).format == "PNG"


def test_the_same_picture_has_the_same_bytes():
    signal = np.random.default_rng(0).normal(size=(12, 500)).astype(np.float32)
    mask = np.ones(12, bool)
    one, other = (drawing.ecg_strip(signal, mask, 100.0) for _ in range(2))
    assert one == other


def _beating(phases=10):
    cine = np.full((phases, 64, 64), -1.0, np.float32)
    for k in range(phases):
        half = 30 - round(20 * np.sin(np.pi * k / phases))
        cine[k, 32 - half : 32 + half, 32 - half : 32 + half] = 1.0
    return cine


def test_end_systole_is_the_smallest_heart():
    assert drawing.end_systole(_beating()) == 5
    broken = _beating()
    broken[9] = -1.0  # no heart at 90 % of the cycle is an artefact, not systole
    assert drawing.end_systole(broken) == 5


def test_gif_plays_one_cycle_in_real_time():
    gif = _open(drawing.cine_gif([_beating(), _beating()], cycle_s=0.8, scale=2))
    assert (gif.format, gif.n_frames, gif.size) == ("GIF", 10, ((64 + 2 + 64) * 2, 128))
    total = 0
    for k in range(gif.n_frames):
        gif.seek(k)
        total += gif.info["duration"]
    assert total == pytest.approx(800, abs=60)


def test_frames_panel_is_a_png_and_data_uri_holds_it():
    png = drawing.frames_panel({"Real": _beating(), "Sample": _beating()}, title="x")
    assert _open(png).format == "PNG"
    assert drawing.data_uri(b"abc") == "data:image/png;base64,YWJj"

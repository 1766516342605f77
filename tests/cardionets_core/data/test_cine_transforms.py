import numpy as np
import pytest
from scipy import ndimage

from cardionets_core.data.cine_transforms import heart_centre_mm, prepare_cine
from cardionets_core.data.cmr import CineVolume
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.model_config import CineSpec


def volume(frames, pixel=(2.0, 2.0)):
    return CineVolume(np.asarray(frames, dtype=np.float32), pixel, 1.0)


@pytest.mark.parametrize("pixel", [(1.4, 1.4), (1.8, 2.2), (2.5, 1.2)])
@pytest.mark.parametrize("offset", [(0, 0), (-25, 15), (20, 30)])
def test_the_heart_is_found(ring, pixel, offset):
    shape = tuple(round(240 / p) for p in pixel)
    centre = (120.0 + offset[0], 120.0 + offset[1])
    frames = ring(12, shape, pixel, centre)
    frames = frames + np.random.default_rng(0).normal(0, 20, frames.shape)
    assert heart_centre_mm(volume(frames, pixel)) == pytest.approx(centre, abs=1.5)


def test_a_still_image_is_cut_around_its_middle():
    frames = np.tile(np.random.default_rng(0).normal(size=(61, 41)), (8, 1, 1))
    assert heart_centre_mm(volume(frames)) == pytest.approx((60.0, 40.0), abs=1e-6)


@pytest.mark.parametrize("pixel", [(1.2, 1.2), (2.0, 1.5), (2.5, 2.5), (3.0, 3.0)])
def test_millimetres_survive(ring, pixel):
    spec = CineSpec(size_px=64, pixel_mm=2.5, phases=8)
    shape = tuple(round(240 / p) for p in pixel)
    cine = prepare_cine(volume(ring(8, shape, pixel, (118.0, 124.0)), pixel), spec)
    assert cine.shape == (8, 64, 64) and cine.dtype == np.uint8
    area = (cine > 127).sum(axis=(1, 2)) * 2.5**2
    radius = np.sqrt(area / np.pi)
    truth = 26 + 7 * np.cos(2 * np.pi * np.arange(8) / 8)
    np.testing.assert_allclose(radius, truth, atol=0.8)
    centre = ndimage.center_of_mass(cine[0] > 127)
    assert centre == pytest.approx((31.5, 31.5), abs=0.7)


def test_one_to_one_crop_copies_pixels(ring):
    frames = ring(8, (64, 64), (2.5, 2.5), (31.5 * 2.5, 31.5 * 2.5))
    cine = prepare_cine(volume(frames, (2.5, 2.5)), CineSpec())
    low, high = np.percentile(frames, (1, 99.5))
    truth = np.clip((frames - low) / (high - low) * 255, 0, 255)
    assert np.abs(cine.astype(float) - truth).max() <= 2


def test_reducing_averages_and_does_not_alias():
    stripes = np.zeros((8, 240, 240))
    stripes[:, ::2] = 1000.0  # 1 mm pixels, a pattern that 2.5 mm pixels cannot show
    stripes[:, 100:140, 100:140] += np.linspace(0, 500, 8)[:, None, None]
    cine = prepare_cine(volume(stripes, (1.0, 1.0)), CineSpec())
    assert cine[0, :16].astype(float).std() < 25


def test_outside_the_scanned_field_is_black(ring):
    frames = ring(8, (50, 50), (2.5, 2.5), (40.0, 62.0)) + 300
    cine = prepare_cine(volume(frames, (2.5, 2.5)), CineSpec())
    assert not cine[:, :10].any()


def test_phases_are_taken_at_their_time_and_the_cycle_closes(ring):
    truth = ring(48, (80, 80), (2.5, 2.5), (100.0, 100.0))
    fine = prepare_cine(volume(truth, (2.5, 2.5)), CineSpec(phases=8)).astype(float)
    exact = prepare_cine(volume(truth[::6], (2.5, 2.5)), CineSpec(phases=8)).astype(float)
    np.testing.assert_allclose(fine, exact, atol=2)
    assert prepare_cine(volume(truth[::4], (2.5, 2.5)), CineSpec(phases=50)).shape[0] == 50
    # between the last stored phase and the first one of the next beat
    ramp = np.arange(12)[:, None, None] * np.linspace(0, 1, 64 * 64).reshape(64, 64)
    grey = prepare_cine(volume(ramp, (2.5, 2.5)), CineSpec(phases=24)).astype(float)
    inner = (grey[22] > 0) & (grey[22] < 255)  # not cut by the percentiles
    middle = (grey[22] + grey[0]) / 2
    assert inner.sum() > 1000
    np.testing.assert_allclose(grey[23][inner], middle[inner], atol=2)


def test_grey_values_do_not_depend_on_the_scanner(ring):
    frames = ring(8, (90, 90), (2.0, 2.0), (90.0, 90.0))
    one = prepare_cine(volume(frames), CineSpec())
    other = prepare_cine(volume(frames * 3.7 + 55), CineSpec())
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert one.min() == 0 and one.max() == 255


def test_a_few_bright_pixels_do_not_darken_the_heart(ring):
    frames = ring(8, (90, 90), (2.0, 2.0), (90.0, 90.0))
    plain = prepare_cine(volume(frames), CineSpec()).astype(float)
    frames[:, 60, 60] = 1e5
    spiked = prepare_cine(volume(frames), CineSpec()).astype(float)
    assert np.median(np.abs(plain - spiked)) < 2


def test_constant_images_are_refused():
    with pytest.raises(RecordRefused, match="empty_image"):
        prepare_cine(volume(np.ones((8, 60, 60))), CineSpec())

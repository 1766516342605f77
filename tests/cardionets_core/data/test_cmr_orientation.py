"""The same heart, stored in every order that NIfTI allows: nibabel turns it, we turn it back."""

import gzip
import itertools
import struct

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from cardionets_core.data.cine_transforms import heart_centre_mm, prepare_cine
from cardionets_core.data.cmr import CineVolume, read_masks, read_nifti, read_phase_files
from cardionets_core.data.cmr_write import write_nifti
from cardionets_core.data.orientation import canonical_orientation
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.model_config import CineSpec

# a short axis as a scanner of the Sunnybrook data took it: LPS directions of columns and rows
ACROSS = np.array([0.698629, 0.714773, -0.0318918])
DOWN = np.array([-0.298901, 0.251078, -0.920661])
SLICES = 4


def affine_of(across, down, *, pixel=(1.8, 1.4), thick=8.0, toward=None):
    toward = np.cross(across, down) if toward is None else toward
    lps = np.stack([across * pixel[1], down * pixel[0], toward * thick], axis=1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.diag([-1.0, -1, 1]) @ lps, (10, -20, 30)
    return affine


@pytest.fixture
def image():
    voxels = np.random.default_rng(0).integers(0, 900, (24, 30, SLICES, 6)).astype(np.int16)
    return nib.Nifti1Image(voxels, affine_of(ACROSS, DOWN))


def turned(image, order, flips):
    """The same image with its axes permuted and reversed by nibabel."""
    transform = np.array([[order.index(k), -1 if flips[k] else 1] for k in range(3)])
    return image.as_reoriented(transform)


EVERY = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((0, 1), repeat=3))
)


@pytest.mark.parametrize(("order", "flips"), EVERY)
def test_every_order_of_the_axes_gives_the_same_frames(tmp_path, image, order, flips):
    nib.save(turned(image, order, flips), tmp_path / "a.nii.gz")
    stored = np.asarray(image.dataobj)
    for at in range(SLICES):
        volume = read_nifti(tmp_path / "a.nii.gz", slice_index=at)
        np.testing.assert_array_equal(volume.frames, stored[:, :, at].transpose(2, 1, 0))
        assert volume.pixel_mm == pytest.approx((1.8, 1.4), rel=1e-5)
    middle = read_nifti(tmp_path / "a.nii.gz").frames
    np.testing.assert_array_equal(middle, stored[:, :, SLICES // 2].transpose(2, 1, 0))


def test_masks_follow_their_images(tmp_path, image):
    labels = (np.asarray(image.dataobj) % 4).astype(np.uint8)
    mask = nib.Nifti1Image(labels, image.affine)
    nib.save(turned(mask, (2, 1, 0), (1, 0, 1)), tmp_path / "m.nii.gz")
    found = read_masks([tmp_path / "m.nii.gz"], root=tmp_path)
    np.testing.assert_array_equal(found.masks, labels.transpose(3, 2, 1, 0))
    assert found.slice_mm == pytest.approx(8.0, rel=1e-5)
    assert found.pixel_mm == pytest.approx((1.8, 1.4), rel=1e-5)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1)])
def test_either_form_serves(tmp_path, image, sform, qform):
    other = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("ALS")))
    other.set_qform(other.affine, qform)
    other.set_sform(other.affine if sform else None, sform)
    nib.save(other, tmp_path / "a.nii")
    kept = nib.load(tmp_path / "a.nii").header
    assert (int(kept["sform_code"]), int(kept["qform_code"])) == (sform, qform)
    expected = np.asarray(image.dataobj)[:, :, SLICES // 2].transpose(2, 1, 0)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").frames, expected)


def test_without_a_form_pixels_stay_where_they_are(tmp_path, image):
    plain = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], None)
    plain.header.set_zooms((1.4, 1.8, 8.0, 0.05))
    nib.save(plain, tmp_path / "a.nii")
    expected = np.asarray(plain.dataobj)[:, :, SLICES // 2].transpose(2, 1, 0)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").frames, expected)


L, P, F = np.eye(3)[0], np.eye(3)[1], -np.eye(3)[2]


@pytest.mark.parametrize(
    ("across", "down"), [(L, P), (L, F), (P, F), (ACROSS, DOWN)],
    ids=["axial", "coronal", "sagittal", "short axis"],
)  # fmt: skip
def test_the_fields_own_views_stay_as_they_are(across, down):
    assert canonical_orientation(down, across).is_as_stored
    for flip in (-1, 1):
        turned_back = canonical_orientation(across, down * flip)
        assert turned_back.swap and not turned_back.flip_columns
        assert turned_back.flip_rows == (flip < 0)


def test_phases_in_a_file_each(tmp_path, image):
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}.nii.gz")
        one = nib.Nifti1Image(np.asarray(image.dataobj)[..., k], image.affine)
        nib.save(turned(one, (1, 0, 2), (0, 1, 1)), paths[-1])
    whole = read_phase_files(paths, root=tmp_path)
    expected = np.asarray(image.dataobj)[:, :, SLICES // 2].transpose(2, 1, 0)
    np.testing.assert_array_equal(whole.frames, expected)
    with pytest.raises(RecordRefused, match="ed_es_only"):
        read_phase_files(paths[:2], root=tmp_path)
    nib.save(one, paths[2])
    with pytest.raises(RecordRefused, match="image_shape"):
        read_phase_files(paths, root=tmp_path)


@pytest.mark.parametrize("heart", [None, (61.25, 40.5)])
def test_what_is_written_comes_back(tmp_path, ring, heart):
    frames = ring(10, (60, 50), (2.1, 1.7), (61.0, 40.0)).astype(np.float32)
    for values, kind in ((frames, "f"), (np.rint(frames), "i"), (np.rint(frames / 9), "u")):
        volume = CineVolume(values, (2.1, 1.7), 0.85, heart)
        write_nifti(tmp_path / "a.nii.gz", volume)
        found = read_nifti(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(found.frames, values)
        assert found.pixel_mm == pytest.approx((2.1, 1.7)) and found.heart_mm == heart
        assert found.cycle_s == pytest.approx(0.85)
        stored = nib.load(tmp_path / "a.nii.gz")
        assert stored.get_data_dtype().kind == kind and stored.shape == (50, 60, 1, 10)
        assert nib.aff2axcodes(stored.affine) == ("L", "P", "S")


def test_the_same_cine_is_the_same_file(tmp_path, ring):
    volume = CineVolume(
        ring(8, (40, 40), (2, 2), (40, 40)).astype(np.float32), (2, 2), None, (1, 2)
    )
    write_nifti(tmp_path / "a.nii.gz", volume)
    write_nifti(tmp_path / "b.nii.gz", volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert read_nifti(tmp_path / "a.nii.gz").cycle_s is None


def test_the_crop_is_centred_on_the_masks_heart(ring):
    frames = ring(8, (100, 100), (2.5, 2.5), (100.0, 100.0)).astype(np.float32)
    plain = CineVolume(frames, (2.5, 2.5), 1.0)
    moved = CineVolume(frames, (2.5, 2.5), 1.0, (100.0 + 25.0, 100.0 - 12.5))
    assert heart_centre_mm(plain) == pytest.approx((100, 100), abs=0.5)
    spec = CineSpec(size_px=64)
    one, other = prepare_cine(plain, spec)[0] > 127, prepare_cine(moved, spec)[0] > 127
    rows, columns = np.argwhere(one).mean(axis=0) - np.argwhere(other).mean(axis=0)
    assert (rows, columns) == pytest.approx((10, -5), abs=0.3)


def extended(tmp_path, text, code=6, size=None):
    """A file with a hand-made extension; size: what the extension claims to be long."""
    image = nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 1, 5)).astype("f4"),
                            np.diag([-2.0, -2, 8, 1]))  # fmt: skip
    raw = image.to_bytes()
    padded = text + b"\0" * (-(len(text) + 8) % 16)
    block = struct.pack("<ii", size or len(padded) + 8, code) + padded
    head = bytearray(raw[:352])
    head[108:112] = struct.pack("<f", 352 + len(block))
    head[348] = 1
    (tmp_path / "a.nii").write_bytes(bytes(head) + block + raw[352:])
    return read_nifti(tmp_path / "a.nii").heart_mm


def test_extensions_by_hand(tmp_path):
    good = b'{"cardionets_heart_mm": [12.5, 20]}'
    assert extended(tmp_path, good) == (12.5, 20.0)
    for bad in (b'{"cardionets_heart_mm": [NaN, 2]}', b'{"cardionets_heart_mm": [1e9, 2]}',
                b'{"cardionets_heart_mm": "x"}', b"[" * 900, b"some note", b"[1, 2]"):  # fmt: skip
        assert extended(tmp_path, bad) is None
    assert extended(tmp_path, good, code=4) is None
    assert extended(tmp_path, good, size=2**31 - 16) == (12.5, 20.0)  # no byte beyond the offset
    assert extended(tmp_path, good, size=-16) is None


@pytest.mark.parametrize("second", [False, True])
def test_sixty_thousand_cubed_is_refused_from_the_header(tmp_path, second):
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    header = bytearray(kind(np.zeros((16, 16, 2, 5), "u1"), np.eye(4) * 2).to_bytes()[:544])
    if second:
        header[16:56] = struct.pack("<5q", 4, 60000, 60000, 60000, 30)
    else:
        header[40:50] = struct.pack("<5h", 4, 32000, 32000, 32000, 30)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(RecordRefused, match="too_large"):
        read_nifti(tmp_path / "a.nii.gz")


def test_an_offset_of_gigabytes_is_never_read(tmp_path):
    raw = bytearray(nib.Nifti1Image(np.zeros((16, 16, 2, 5), "u1"), np.eye(4) * 2).to_bytes())
    raw[108:112] = struct.pack("<f", 4e9)
    raw[348] = 1
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw) + b"\0" * 2**22))
    with pytest.raises(RecordRefused, match="header"):
        read_nifti(tmp_path / "a.nii.gz")

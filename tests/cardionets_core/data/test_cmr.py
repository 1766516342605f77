import gzip

import nibabel as nib
import numpy as np
import pytest

from cardionets_core.data.cmr import read_nifti
from cardionets_core.data.refusal import RecordRefused


def save(path, array, affine=None, **fields):
    image = nib.Nifti1Image(array, np.diag([-1.5, -2.0, 8.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm", fields.pop("unit", "sec"))
    image.header["pixdim"][4] = fields.pop("step", 0.05)
    nib.save(image, path)
    return path


def code_of(path):
    with pytest.raises(RecordRefused) as refusal:
        read_nifti(path)
    return refusal.value.code


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 900, (24, 30, 3, 20)).astype(np.int16)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_axes_spacing_and_time(tmp_path, voxels, name):
    volume = read_nifti(save(tmp_path / name, voxels))
    assert volume.frames.shape == (20, 30, 24) and volume.frames.dtype == np.float32
    np.testing.assert_array_equal(volume.frames[7], voxels[:, :, 1, 7].T)
    assert volume.pixel_mm == pytest.approx((2.0, 1.5))
    assert volume.cycle_s == pytest.approx(1.0)


def test_oblique_affines_keep_their_spacing(tmp_path, voxels):
    angle = 0.6
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ np.diag([-1.4, -1.8, 10.0, 1.0])
    volume = read_nifti(save(tmp_path / "a.nii", voxels, affine))
    assert volume.pixel_mm == pytest.approx((1.8, 1.4), rel=1e-5)


def test_zooms_serve_where_there_is_no_affine(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, None)
    image.header.set_zooms((1.5, 2.5, 8.0, 0.04))
    nib.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").pixel_mm == pytest.approx((2.5, 1.5))


@pytest.mark.parametrize(
    ("unit", "step", "cycle"),
    [("sec", 0.04, 0.8), ("msec", 40.0, 0.8), ("unknown", 0.04, 0.8), ("unknown", 40.0, 0.8),
     ("sec", 1.0, None), ("sec", 0.0, None)],
)  # fmt: skip
def test_duration_of_the_cycle(tmp_path, voxels, unit, step, cycle):
    found = read_nifti(save(tmp_path / "a.nii", voxels, unit=unit, step=step)).cycle_s
    assert found == (None if cycle is None else pytest.approx(cycle))


def test_scaled_integers_are_read_as_grey_values(tmp_path, voxels):
    image = nib.Nifti1Image(voxels.astype(np.float64) * 0.5 + 7, np.diag([-1.5, -2, 8, 1]))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(
        read_nifti(tmp_path / "a.nii").frames[3], voxels[:, :, 1, 3].T * 0.5 + 7, atol=0.02
    )


def test_refusals(tmp_path, voxels):
    one = np.diag([1.0, 1.0, 1.0, 1.0])
    flat = np.full_like(voxels, 5)
    holes = voxels.astype(np.float32)
    holes[3, 3, 1, 3] = np.nan
    assert code_of(save(tmp_path / "a.nii", voxels[..., 0])) == "image_shape"
    assert code_of(save(tmp_path / "b.nii", voxels[..., :2])) == "ed_es_only"
    assert code_of(save(tmp_path / "k.nii", voxels[..., :3])) == "too_few_phases"
    assert code_of(save(tmp_path / "c.nii", voxels[:8])) == "image_shape"
    assert code_of(save(tmp_path / "d.nii", voxels, one)) == "spacing"
    assert code_of(save(tmp_path / "e.nii", voxels, np.diag([40.0, 40.0, 8.0, 1.0]))) == "spacing"
    assert code_of(save(tmp_path / "f.nii", flat)) == "empty_image"
    assert code_of(save(tmp_path / "g.nii", holes)) == "empty_image"
    assert code_of(save(tmp_path / "h.nii", voxels.astype(np.complex64))) == "image_type"
    (tmp_path / "i.nii").write_bytes(b"not an image")
    assert code_of(tmp_path / "i.nii") == "header"
    (tmp_path / "j.hdr").write_bytes(b"x")
    assert code_of(tmp_path / "j.hdr") == "file_type"
    assert code_of(tmp_path / "absent.nii.gz") == "missing_file"


@pytest.mark.parametrize(
    "shape", [(30000, 30000, 30000, 30), (512, 512, 30, 300), (64, 64, 2, 3000)]
)
def test_size_bombs_are_refused_from_the_header(tmp_path, voxels, shape):
    path = save(tmp_path / "a.nii", voxels)
    data = bytearray(path.read_bytes())
    data[40:50] = np.array([4, *shape], dtype="<i2").tobytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data)))
    assert code_of(tmp_path / "b.nii.gz") == "too_large"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_torn_files_are_unreadable(tmp_path, voxels, name):
    path = save(tmp_path / name, voxels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert code_of(path) == "unreadable"


def test_a_link_out_of_the_root_is_refused(tmp_path, voxels):
    save(tmp_path / "a.nii", voxels)
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.nii").symlink_to(tmp_path / "a.nii")
    assert code_of(root / "a.nii") == "path_escape"

"""The segments of the wall by number, however the masks and their files lie."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cardionets_core.data.cmr import read_masks
from cardionets_core.data.mask_phenotypes import MaskLabels, phenotypes_of_masks

ACDC = MaskLabels(lv=3, myo=2, rv=1)


@pytest.fixture(scope="module")
def patient_heart():
    """uint8 mask [left, back, feet] with a wall of its own thickness in each segment, and those.

    As in the patient: the apex points to the feet, the right ventricle lies on the right of the
    body. Segment 1 is in front; 2 and 3 face the right ventricle, 4 is at the back.
    """
    x = y = np.arange(110) - 54.5  # mm from the middle
    radius, angle = np.hypot(x[:, None], y[None]), np.arctan2(y[None], x[:, None])
    from_front = np.mod(-np.pi / 2 - angle, 2 * np.pi)  # by the right of the body to the back
    mask, thickness = np.zeros((110, 110, 9), np.uint8), {}
    for level, count in enumerate((6, 6, 4)):
        width = 2 * np.pi / count
        segment = np.mod(from_front + width / 2, 2 * np.pi) // width
        for k in range(count):
            number = len(thickness) + 1
            thickness[number] = 6.0 + 0.5 * number
            for slab in range(3 * level, 3 * level + 3):
                inner = 22.0 - 1.2 * slab
                mask[(segment == k) & (radius < inner + thickness[number]), slab] = 2
                mask[(segment == k) & (radius < inner), slab] = 3
    right = np.hypot(x[:, None] + 38, y[None]) < 18
    mask[right[..., None] & (mask == 0)] = 1
    return mask, thickness


@pytest.mark.parametrize(
    ("flips", "swap"),
    [((), False), ((0,), False), ((2,), False), ((0, 1, 2), False), ((), True), ((1, 2), True)],
)
def test_segments_are_numbered_however_the_array_lies(patient_heart, flips, swap):
    mask, thickness = patient_heart
    directions = np.diag([1.0, 1.0, -1.0])  # columns: the axes of `mask` in left, back, head
    for axis in flips:
        mask = np.flip(mask, axis)
        directions[:, axis] *= -1
    if swap:
        mask, directions = mask.transpose(1, 0, 2), directions[:, [1, 0, 2]]
    diastole = mask.transpose(2, 1, 0)  # [slices, rows, columns]
    systole = np.where(ndimage.binary_erosion(diastole == 3, np.ones((1, 5, 5))), 3, 0)
    how = {"labels": ACDC, "pixel_mm": (1.0, 1.0), "slice_mm": 8.0}
    masks = np.stack([diastole, systole]).astype(np.uint8)
    values = phenotypes_of_masks(masks, **how, right_handed=bool(np.linalg.det(directions) > 0))
    for number, true in thickness.items():
        assert values[f"wt_{number}"] == pytest.approx(true, abs=0.45), number
    mean = np.mean([values[f"wt_{k}"] for k in range(1, 17)])
    assert values["wt_global"] == pytest.approx(mean, rel=0.01)
    if not flips:
        unknown = phenotypes_of_masks(masks, **how)
        assert "wt_1" not in unknown and unknown["wt_global"] == values["wt_global"]


@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_segments_of_files_that_know_how_they_lie(tmp_path, patient_heart, flips):
    """The same heart, turned in the scanner, through NIfTI: the affine says which wall is which."""
    mask, thickness = patient_heart
    turned = Rotation.from_euler("xyz", (25, 35, -40), degrees=True).as_matrix()
    affine = np.eye(4)
    # left, back and feet in the scanner's right, front and head
    affine[:3, :3] = np.diag([-1, -1, 1]) @ turned @ np.diag([1, 1, -1]) * [1, 1, 8]
    systole = np.where(ndimage.binary_erosion(mask == 3, np.ones((5, 5, 1))), 3, 0)
    paths = [tmp_path / f"{phase}.nii.gz" for phase in range(2)]
    for path, labels in zip(paths, (mask, systole), strict=True):
        for axis in flips:
            labels = np.flip(labels, axis)
        stored = affine @ np.diag([*(-1.0 if axis in flips else 1.0 for axis in range(3)), 1.0])
        nib.save(nib.Nifti1Image(labels.astype(np.uint8), stored), path)
    stack = read_masks(paths, root=tmp_path)
    assert (stack.pixel_mm, stack.slice_mm) == (pytest.approx((1.0, 1.0)), pytest.approx(8.0))
    values = phenotypes_of_masks(
        stack.masks,
        labels=ACDC,
        pixel_mm=stack.pixel_mm,
        slice_mm=stack.slice_mm,
        right_handed=stack.right_handed,
    )
    for number, true in thickness.items():
        assert values[f"wt_{number}"] == pytest.approx(true, abs=0.5), number


def test_the_header_of_acdc_has_its_sizes_in_the_qform(tmp_path):
    """As patient100 has it (github.com/MIC-DKFZ/nnUNet/issues/2741): an sform without sizes.

    It lies exactly along the scanner's axes, which no short axis does: nothing is known of sides.
    """
    image = nib.Nifti1Image(np.full((40, 40, 6), 3, np.uint8), None)
    image.header.set_zooms((1.31579006, 1.31579006, 10))
    image.set_qform(np.diag([-1.31579006, -1.31579006, 10, 1]), 1)
    image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
    path = tmp_path / "patient100_frame01_gt.nii.gz"
    nib.save(image, path)
    assert np.allclose(nib.load(path).affine, np.diag([-1, -1, 1, 1]))
    stack = read_masks([path], root=tmp_path)
    assert stack.pixel_mm == pytest.approx((1.31579006, 1.31579006))
    assert stack.slice_mm == 10.0 and stack.right_handed is None

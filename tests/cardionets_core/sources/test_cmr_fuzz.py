"""Bytes of headers changed at random: every file is read or refused, nothing else happens."""

import random

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardionets_core.data.cmr import read_masks, read_nifti
from cardionets_core.data.refusal import REASONS, RecordRefused
from cardionets_core.sources.cmr_layouts import find_cmr, read_cmr

BOUNDED = settings(
    max_examples=1500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def changed(data, seed, start, end):
    """The bytes with up to five short runs between `start` and `end` changed, sometimes cut."""
    dice = random.Random(seed)
    data = bytearray(data)
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(start, end)
        run = [dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
               for _ in range(dice.randint(1, 4))]  # fmt: skip
        data[at : at + len(run)] = bytes(run)
    return bytes(data[: dice.randrange(len(data))]) if dice.random() < 0.1 else bytes(data)


@pytest.fixture(scope="module")
def nifti_files():
    voxels = np.random.default_rng(0).integers(0, 200, (20, 22, 3, 6)).astype(np.int16)
    first = nib.Nifti1Image(voxels, np.diag([-1.5, -2, 8, 1]))
    return first.to_bytes(), nib.Nifti2Image.from_image(first).to_bytes()


@pytest.mark.slow
@BOUNDED
@given(seed=st.integers(0, 2**32))
def test_nifti_headers(tmp_path, nifti_files, seed):
    path = tmp_path / "a.nii"
    path.write_bytes(changed(nifti_files[seed % 2], seed, 0, 552))
    for read in (read_nifti, lambda p: read_masks([p], root=tmp_path)):
        try:
            read(path)
        except RecordRefused as refusal:
            assert refusal.code in REASONS


@pytest.mark.slow
@settings(BOUNDED, max_examples=400)
@given(seed=st.integers(0, 2**32))
def test_dicom_headers(tmp_path, sax_images, save_all, beating, seed):
    folder = tmp_path / "d"
    if not folder.is_dir():
        save_all(folder, sax_images(beating(phases=4, slices=1)[0]).values())
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    try:
        for k, (path, data) in enumerate(whole.items()):
            path.write_bytes(changed(data, seed + k, 132, data.index(b"\xe0\x7f\x10\0") + 12))
        for item in find_cmr(folder):
            try:
                found = read_cmr(item, root=folder)
                assert set(found.refused.values()) <= set(REASONS)
            except RecordRefused as refusal:
                assert refusal.code in REASONS
    finally:
        for path, data in whole.items():
            path.write_bytes(data)

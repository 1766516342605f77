"""Signals and folders that the tests of several readers need."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardionets_core.data.refusal import RecordRefused

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture(scope="session")
def heart():
    """float64 [12, n] in mV that obeys Einthoven and Goldberger, in the order of `LEADS`."""

    def make(seconds=10.0, rate=500, seed=0):
        t = np.arange(round(seconds * rate)) / rate
        phase = (t * 1.2 + 0.1 * seed) % 1.0
        qrs = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2)
        wave = 0.3 * np.exp(-0.5 * ((phase - 0.6) / 0.05) ** 2)
        sway = 0.05 * np.sin(2 * np.pi * 0.3 * t + 0.4)
        one, two = 0.7 * qrs + wave + sway, 1.1 * qrs + 1.2 * wave - 0.6 * sway
        limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
        return np.stack(limbs + [(k - 2) * 0.4 * qrs + 0.2 * k * wave + k * sway for k in range(6)])

    return make


@pytest.fixture(scope="session")
def code_of():
    """Why a call is refused; any other exception than `RecordRefused` is an error of the test."""

    def call(function, *arguments, **options):
        try:
            function(*arguments, **options)
        except RecordRefused as refused:
            return refused.code
        return None

    return call


DAMAGE = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)
"""Places of a file, and the bytes that are put there."""


@pytest.fixture
def survives_damage(tmp_path):
    """Damage the bytes of a valid file at random: a reader refuses it or gives finite signals."""

    def call(reader, valid, examples):
        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(damage=DAMAGE)
        def check(damage):
            data = bytearray(valid)
            for place, value in damage:
                data[place % len(data)] = value
            (tmp_path / "a.xml").write_bytes(data)
            reader.recognises("a.xml", bytes(data[:4096]))
            try:
                record = reader.read(tmp_path / "a.xml", "", root=tmp_path).record
            except RecordRefused:
                return
            assert np.isfinite(record.signal).all()

        check()

    return call


# ------------------------------------------------------------------- CMR: hearts of known volume

SAX_ACROSS = (0.698629, 0.714773, -0.0318918)
SAX_DOWN = (-0.298901, 0.251078, -0.920661)
"""LPS directions of columns and rows of a short axis (those of the Sunnybrook images)."""


@pytest.fixture(scope="session")
def beating():
    """A cylinder that beats: grey int16 and labels uint8, both [phases, slices, h, w].

    Labels: 1 left ventricle, radius 22 to 15 mm; 2 myocardium, 8 mm around it; 3 right ventricle, a
    rectangle of 24 x 30 to 15 x 30 mm. Pixels of 1.5 mm. Every slice has its own level of grey.
    """

    def make(phases=8, slices=6, shape=(64, 72)):
        rows, columns = (np.arange(n) * 1.5 for n in shape)
        distance = np.hypot(rows[:, None] - 48.4, columns[None] - 66.6)
        moment = 0.5 + 0.5 * np.cos(2 * np.pi * np.arange(phases) / phases)
        labels = np.zeros((phases, slices, *shape), np.uint8)
        for k, share in enumerate(moment):
            radius, width = 15 + 7 * share, 15 + 9 * share
            right = (abs(rows[:, None] - 48.4) < 15) & (columns[None] > 33.2 - width)
            labels[k, :, right & (columns[None] < 33.2)] = 3
            labels[k, :, distance < radius + 8] = 2
            labels[k, :, distance < radius] = 1
        grey = np.array([50, 800, 200, 700])[labels]
        grey = grey + np.arange(slices)[:, None, None] + np.indices(shape)[0] % 7
        return grey.astype(np.int16), labels

    return make


@pytest.fixture(scope="session")
def mr_image():
    """A data set of one MR image, made with pydicom from the tags that scanners write."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    def make(pixels, *, position=(0.0, 0.0, 0.0), series="1.2.3.1", study="1.2.3", **tags):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = tags.pop("uid", None) or generate_uid()
        image = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.Modality, image.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
        image.PatientID, image.PatientSex, image.PatientAge = "HOSP-0042", "F", "061Y"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.SeriesNumber = study, series, 3
        image.StudyDate, image.StudyTime = "20190503", "101500"
        image.ImagePositionPatient = [f"{v:.5f}" for v in position]
        image.ImageOrientationPatient = [f"{v:.6f}" for v in (*SAX_ACROSS, *SAX_DOWN)]
        image.PixelSpacing = [1.5, 1.5]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
        image.PixelRepresentation = 0
        image.Rows, image.Columns = pixels.shape[-2:]
        image.PixelData = pixels.astype("<u2").tobytes()
        for name, value in tags.items():
            setattr(image, name, value)
        return image

    return make


@pytest.fixture(scope="session")
def sax_images(beating, mr_image):
    """Data sets of a short-axis series, (slice, phase) -> image; slices 8 mm apart from the apex.

    Options are tags of every image; grey is [phases, slices, h, w].
    """

    def make(grey=None, *, first=0.0, **tags):
        grey = beating(phases=6, slices=4)[0] if grey is None else grey
        toward_base = np.cross(SAX_ACROSS, SAX_DOWN)
        return {
            (s, k): mr_image(
                grey[k, s],
                position=toward_base * (first + 8.0 * s),
                **{"TriggerTime": 40.0 * k, "InstanceNumber": s * len(grey) + k + 1, **tags},
            )
            for k in range(len(grey))
            for s in range(grey.shape[1])
        }

    return make


@pytest.fixture(scope="session")
def save_all():
    """Write data sets below a folder, in an order that names do not tell."""

    def save(folder, images, prefix="IM"):
        folder.mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(1).permutation(len(images))
        for number, image in zip(order, images, strict=True):
            image.save_as(folder / f"{prefix}{number:04d}.dcm", enforce_file_format=True)
        return folder

    return save


@pytest.fixture(scope="session")
def save_stack():
    """Write [phases, slices, h, w], or [slices, h, w], as NIfTI with nibabel.

    Directions are those of `SAX_ACROSS` and `SAX_DOWN`, slices 8 mm apart from the apex.
    """
    import nibabel as nib

    def save(path, values, *, step=0.1, axes=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        toward = np.cross(SAX_ACROSS, SAX_DOWN)
        affine = np.eye(4)
        affine[:3, :3] = np.stack(
            [np.array(SAX_ACROSS) * 1.5, np.array(SAX_DOWN) * 1.5, toward * 8.0], axis=1
        )
        affine[:2, :3] *= -1  # LPS to RAS
        image = nib.Nifti1Image(values.T, affine if axes is None else axes)
        image.header.set_xyzt_units("mm", "sec")
        if values.ndim == 4:
            image.header["pixdim"][4] = step
        nib.save(image, path)
        return path

    return save


@pytest.fixture(scope="session")
def true_volumes():
    """mL of the beating cylinder of 6 slices: formulas, not counted pixels."""
    height = 6 * 8.0
    return {
        "lv_edv": np.pi * 22**2 * height / 1000,
        "lv_esv": np.pi * 15**2 * height / 1000,
        "lv_ef": 100 * (1 - (15 / 22) ** 2),
        "rv_edv": 24 * 30 * height / 1000,
        "rv_esv": 15 * 30 * height / 1000,
        "lv_mass": 1.05 * np.pi * (30**2 - 22**2) * height / 1000,
    }


@pytest.fixture
def describe(tmp_path):
    """Write the schema of the arrays in a folder."""

    def write(schema, name="schema.json"):
        (tmp_path / name).write_text(json.dumps(schema))

    return write

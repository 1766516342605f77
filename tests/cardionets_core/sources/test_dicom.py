"""pydicom's own files (NEMA's images in every transfer syntax) and hostile ones made of them."""

import io
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    generate_uid,
)

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.coded_size import coded_size
from cardionets_core.sources.dicom import (
    bytes_of,
    frames_of,
    guarded,
    is_dicom,
    items_of,
    number_of,
    numbers_of,
    read_dataset,
    text_of,
)
from cardionets_core.sources.dicom_facts import age_years, facts_of

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def open_file(name, *, pixels=True):
    if not (FILES / name).is_file():
        pytest.skip(f"this pydicom comes without {name}")
    return read_dataset(FILES / name, pixels=pixels, root=FILES)


@pytest.fixture
def image():
    """A grey image of 3 x 4 pixels, as pydicom's users make one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.SOPClassUID = MRImageStorage
    dataset.PatientID = "CANARY-17"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.Rows, dataset.Columns = 3, 4
    dataset.PixelData = np.arange(12, dtype="<u2").tobytes()
    return dataset


@pytest.fixture
def save(tmp_path):
    def write(dataset, name="image.dcm"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of the values that are wrong on purpose
            dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


@pytest.fixture
def frames(save, tmp_path):
    return lambda dataset: frames_of(read_dataset(save(dataset), pixels=True, root=tmp_path))


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
     "MR_small_expb.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"],
)  # fmt: skip
def test_lossless_transfer_syntaxes_hold_the_same_pixels(name):
    plain = pydicom.dcmread(FILES / "MR_small.dcm")
    golden = np.frombuffer(plain.PixelData, dtype="<i2").reshape(1, 64, 64)
    np.testing.assert_array_equal(frames_of(open_file(name)), golden)


def test_several_frames():
    stored = pydicom.dcmread(FILES / "rtdose.dcm").pixel_array
    pixels = frames_of(open_file("rtdose_rle.dcm"))
    assert pixels.shape == (15, 10, 10) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, stored.astype(np.float32))


def test_a_real_cine(shared_data):
    file = next((shared_data / "sunnybrook-mini").rglob("*.dcm"))
    dataset = read_dataset(file, pixels=True, root=shared_data)
    np.testing.assert_array_equal(frames_of(dataset)[0], pydicom.dcmread(file).pixel_array)
    assert text_of(dataset, "StudyDate") == "20120000"  # as it stands there
    assert facts_of(dataset).recorded is None or facts_of(dataset).recorded.year > 1900


def test_slope_and_intercept(image, frames):
    image.RescaleSlope, image.RescaleIntercept = "2.5", "-10"
    np.testing.assert_array_equal(frames(image)[0].ravel(), np.arange(12) * 2.5 - 10)


def test_slope_and_intercept_of_each_frame(image, frames):
    def group(slope, intercept):
        transformation, item = Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, intercept
        item.PixelValueTransformationSequence = Sequence([transformation])
        return item

    image.NumberOfFrames, image.Rows = 3, 1
    image.PerFrameFunctionalGroupsSequence = Sequence([group("2", "1"), Dataset(), Dataset()])
    image.SharedFunctionalGroupsSequence = Sequence([group("10", "0")])
    expected = [[1, 3, 5, 7], [40, 50, 60, 70], [80, 90, 100, 110]]
    np.testing.assert_array_equal(frames(image)[:, 0], expected)


def test_white_is_high(image, frames):
    image.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(frames(image)[0].ravel(), np.arange(12)[::-1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "image_type"),
        ({"BitsAllocated": 12}, "image_type"),
        ({"PixelData": b""}, "image_type"),
        ({"Rows": 0}, "image_shape"),
        ({"Rows": 65535}, "too_large"),
        ({"NumberOfFrames": 10**9}, "too_large"),
        ({"NumberOfFrames": "-3"}, "image_shape"),
        ({"Rows": 4}, "truncated"),
        ({"NumberOfFrames": 2}, "truncated"),
    ],
)
def test_images_that_are_refused(image, frames, code_of, change, code):
    for keyword, value in change.items():
        setattr(image, keyword, value)
    assert code_of(frames, image) == code


def test_10_to_the_12_frames(image, save, code_of, tmp_path):
    image.NumberOfFrames = "100000000000"  # twelve digits: as long as the one that replaces it
    file = save(image)
    file.write_bytes(file.read_bytes().replace(b"100000000000", b"999999999999"))
    dataset = read_dataset(file, pixels=True, root=tmp_path)
    assert code_of(frames_of, dataset) == "too_large"


def test_a_code_stream_of_another_size(image, frames, code_of):
    """The decoder would allocate what the code stream claims, not what the header says."""
    siz = struct.pack(">2sHHIIII", b"\xff\x51", 41, 0, 2**31, 2**31, 0, 0)
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + siz + bytes(40)])
    image["PixelData"].VR = "OB"
    assert code_of(frames, image) == "image_shape"
    image.PixelData = pydicom.encaps.encapsulate([bytes(500_000)])
    assert code_of(frames, image) == "too_large"


def test_a_jp2_file_around_the_code_stream(image, frames):
    """DICOM forbids it and some vendors write it; Pillow is the independent encoder."""
    pixels = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG2000", no_jp2=False, irreversible=False)
    assert buffer.getvalue().startswith(b"\0\0\0\x0cjP  ")
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.Rows, image.Columns, image.BitsStored, image.HighBit = 32, 48, 16, 15
    image.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    image["PixelData"].VR = "OB"
    np.testing.assert_array_equal(frames(image)[0], pixels)


def test_sizes_that_code_streams_state():
    sof = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc3\x00\x0b\x10\x01\x02\x03\x04\x01"
    assert coded_size(sof) == (0x0102, 0x0304)
    assert coded_size(b"\xff\xd8\xff\xf7\x00\x0b\x08\x00\x05\x00\x06\x01") == (5, 6)  # JPEG-LS
    siz = struct.pack(">2sHHIIII", b"\xff\x51", 41, 0, 70, 50, 6, 2)
    assert coded_size(b"\xff\x4f" + siz) == (48, 64)
    for broken in (b"", b"\xff\xd8", sof[:14], b"\xff\xd8" + bytes(20), b"\xff\x4f\xff\x51\0"):
        assert coded_size(broken) is None


def test_other_files(tmp_path, code_of, image, save):
    plain, short = tmp_path / "plain.dcm", tmp_path / "short.dcm"
    plain.write_bytes(b"II*\0" + bytes(2000))
    short.write_bytes(bytes(128) + b"DIC")
    assert not is_dicom(plain.read_bytes())
    for file in (plain, short):
        assert code_of(read_dataset, file, pixels=True, root=tmp_path) == "file_type"
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert code_of(read_dataset, save(image), pixels=True, root=tmp_path) == "file_type"
    assert code_of(read_dataset, tmp_path / "no.dcm", pixels=True, root=tmp_path) == "missing_file"


def test_size_is_judged_before_the_file_is_read(image, save, tmp_path, code_of, monkeypatch):
    monkeypatch.setattr("cardionets_core.sources.dicom.LARGEST_FILE", 100)
    assert code_of(read_dataset, save(image), pixels=True, root=tmp_path) == "too_large"


def test_nothing_outside_the_root_is_read(image, save, tmp_path, code_of):
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "link.dcm").symlink_to(save(image))
    assert code_of(read_dataset, inside / "link.dcm", pixels=True, root=inside) == "path_escape"
    assert code_of(read_dataset, save(image), pixels=True, root=inside) == "path_escape"


def test_values_are_plain_or_absent(image, save, tmp_path):
    image.add_new("PatientWeight", "DS", "80")
    image.add_new("ImagePositionPatient", "DS", ["1", "2", "-3.5"])
    image.add_new("Manufacturer", "LO", ["one ", "two"])
    file = save(image)
    file.write_bytes(file.read_bytes().replace(b"80", b"8x"))  # a value that is no number
    dataset = read_dataset(file, pixels=False, root=tmp_path)
    assert np.isnan(number_of(dataset, "PatientSize"))
    assert numbers_of(dataset, "ImagePositionPatient") == (1, 2, -3.5)
    assert text_of(dataset, "Manufacturer") == "one"
    assert text_of(dataset, "PatientName") == "" and items_of(dataset, "PatientID") == ()
    assert bytes_of(dataset, "PixelData") == b""  # reading stopped before it
    assert text_of(dataset, "PatientWeight") == "8x" and np.isnan(
        number_of(dataset, "PatientWeight")
    )


def test_what_pydicom_says_goes_nowhere():
    """Its messages quote values."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    with pytest.raises(RecordRefused) as refused, guarded():
        warnings.warn("CANARY-17", stacklevel=1)
        logging.getLogger("pydicom").error("CANARY-17")
        raise ValueError("CANARY-17")
    logging.getLogger().removeHandler(handler)
    assert refused.value.code == "unreadable" and "CANARY" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__
    assert not log.getvalue()


def test_nested_sequences(tmp_path, code_of):
    """Ten thousand sequences within each other must not end the process."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    buffer = io.BytesIO()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, "1.2.3"
    dataset.save_as(buffer, enforce_file_format=True)
    file = tmp_path / "deep.dcm"
    file.write_bytes(buffer.getvalue() + (sequence + item) * 10_000)
    assert code_of(read_dataset, file, pixels=True, root=tmp_path) == "header"


@pytest.mark.parametrize(
    ("written", "years"),
    [("045Y", 45), ("006M", 0.5), ("052W", 52 * 7 / 365.25), ("010D", 10 / 365.25), ("300Y", None),
     ("45", None), ("", None), ("-45Y", None)],
)  # fmt: skip
def test_ages(written, years):
    assert age_years(written) == pytest.approx(np.nan if years is None else years, nan_ok=True)


def test_facts(image, save, tmp_path):
    image.PatientSex, image.PatientAge, image.PatientBirthDate = "M", "061Y", "19500230"
    image.PatientSize, image.PatientWeight = "1.8", "82.5"
    image.StudyDate, image.StudyTime = "20110301", "143005.25"
    image.AcquisitionDateTime = "20120000"
    facts = facts_of(read_dataset(save(image), pixels=False, root=tmp_path))
    person = facts.person
    assert (person.patient_id, person.sex, person.age) == ("CANARY-17", 1, 61)
    assert (person.height_cm, person.weight_kg) == (pytest.approx(180), 82.5)
    assert person.birth_date is None  # the 30th of February
    assert facts.recorded is not None and facts.recorded.isoformat() == "2011-03-01T14:30:05"
    assert "CANARY" not in repr(facts)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "rtdose.dcm"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_files(tmp_path_factory, code_of, name, data):
    content = bytearray((FILES / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        # most damage to the header: pixels may hold any value
        at = data.draw(st.integers(128, min(2500, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(130, len(content)))
    file = tmp_path_factory.getbasetemp() / "damaged.dcm"
    file.write_bytes(content[:cut] if data.draw(st.booleans()) else content)

    def read():
        dataset = read_dataset(file, pixels=True, root=file.parent)
        facts_of(dataset)
        items_of(dataset, "PerFrameFunctionalGroupsSequence")
        frames_of(dataset)

    code_of(read)

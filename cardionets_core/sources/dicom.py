"""The only door to pydicom: data sets, their values and their pixels, with hostile files in mind.

pydicom converts a value when it is first asked for, and may then warn or raise with the value in
the message. So nobody touches an attribute of a data set directly: `text_of`, `number_of`,
`numbers_of`, `items_of` and `bytes_of` give plain values and raise nothing but `RecordRefused`.

Layouts: DICOM PS3.3 (attributes), PS3.5 (encodings), PS3.10 (files).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import isfinite, nan
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import pixel_array
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.coded_size import coded_size
from cardionets_core.sources.guard import refusing

__all__ = [
    "Dataset",
    "bytes_of",
    "frames_of",
    "guarded",
    "is_dicom",
    "is_little_endian",
    "items_of",
    "number_of",
    "numbers_of",
    "parse_dataset",
    "read_dataset",
    "text_of",
    "texts_of",
]

LARGEST_FILE = 512 * 2**20
"""Bytes; a cine of 100 phases of 512 x 512 pixels takes a tenth."""

LARGEST_IMAGE = 2**28
"""Pixels of all frames: 1 GiB as float32."""

LARGEST_SIDE = 4096

_DECODERS = dict.fromkeys(
    (JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000, JPEG2000Lossless), "pillow"
)
"""The others are pydicom's choice. GDCM throws through Python over a damaged image and so ends the
process: images are decoded in the workers of `prepare`, which survives them, and JPEG lossless and
JPEG-LS, for which there is no other decoder, are the only ones left to it."""

_GREY = ("MONOCHROME1", "MONOCHROME2")

# messages of pydicom quote values: none may reach a log; and its checks of values only warn
logging.getLogger("pydicom").propagate = False
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins with `head` is DICOM (PS3.10: `DICM` at byte 128)."""
    return head[128:132] == b"DICM"


@contextmanager
def guarded(code: str = "unreadable") -> Iterator[None]:
    """Turn whatever pydicom raises into `RecordRefused` and keep its warnings quiet."""
    with warnings.catch_warnings(), refusing(code):
        warnings.simplefilter("ignore")
        yield


def read_dataset(path: Path, *, pixels: bool, root: Path, only: Sequence[str] = ()) -> Dataset:
    """Read one DICOM file.

    Args:
        path: the file.
        pixels: whether to read the whole file, up to `LARGEST_FILE`; without, reading stops
            before the pixel data.
        root: folder that the file may not lie outside of.
        only: attributes to keep, which takes half the time; all if empty.

    Raises:
        RecordRefused: `path_escape`, `missing_file`, `too_large`, `file_type` where it is not
            DICOM or deflated as a whole (which can hide a bomb), `header`.
    """
    file = sibling(path, path.name, root)
    with guarded("header"), file.open("rb") as stream:
        size = file.stat().st_size
        if pixels and size > LARGEST_FILE:
            raise RecordRefused("too_large", f"{size} bytes")
        if not is_dicom(stream.read(132)):
            raise RecordRefused("file_type")
        meta = read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise RecordRefused("file_type", "deflated DICOM")
        stream.seek(0)
        kept = list(only) or None
        return pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=kept)


def parse_dataset(data: bytes, *, pixels: bool) -> Dataset:
    """Read one DICOM file that lies in memory, as a member of an archive does.

    Args:
        data: the whole file.
        pixels: as in `read_dataset`.

    Raises:
        RecordRefused: as `read_dataset`, but for what paths cause.
    """
    with guarded("header"):
        if len(data) > LARGEST_FILE:
            raise RecordRefused("too_large", f"{len(data)} bytes")
        if not is_dicom(data[:132]):
            raise RecordRefused("file_type")
        if DeflatedExplicitVRLittleEndian.encode() in data:
            raise RecordRefused("file_type", "deflated DICOM")
        return pydicom.dcmread(BytesIO(data), force=False, stop_before_pixels=not pixels)


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return the value of an attribute as text without blanks at its ends, "" where absent.

    Of several values the first.
    """
    with guarded():
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue):
            value = value[0] if value else None
        return "" if value is None else str(value).strip(" \0")


def texts_of(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return all values of an attribute as text, () where absent."""
    with guarded():
        value = dataset.get(keyword)
        several = isinstance(value, pydicom.multival.MultiValue | list | tuple)
        values = [] if value is None else value if several else [value]
        return tuple(str(v).strip(" \0") for v in values)


def number_of(dataset: Dataset, keyword: str) -> float:
    """Return the (first) value of an attribute as a number, NaN where absent or no number."""
    values = numbers_of(dataset, keyword)
    return values[0] if values else nan


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the values of an attribute as finite numbers, () where absent or one is none."""
    with guarded():
        value = dataset.get(keyword)
        if value is None or isinstance(value, bytes):
            return ()
        several = isinstance(value, pydicom.multival.MultiValue | list | tuple)
        try:
            numbers = tuple(float(v) for v in (value if several else [value]))
        except (TypeError, ValueError, OverflowError):
            return ()
        return numbers if all(isfinite(v) for v in numbers) else ()


def items_of(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence, () where it is absent or empty."""
    with guarded():
        value = dataset.get(keyword)
        return tuple(value) if isinstance(value, pydicom.sequence.Sequence) else ()


def bytes_of(dataset: Dataset, keyword: str) -> bytes:
    """Return the raw bytes of an attribute, b"" where it is absent or not kept as bytes."""
    with guarded():
        value = dataset.get(keyword)
        return value if isinstance(value, bytes) else b""


def is_little_endian(dataset: Dataset) -> bool:
    """Return the byte order that the file was written in."""
    with guarded():
        return bool(dataset.original_encoding[1] is not False)


def frames_of(dataset: Dataset) -> NDArray[np.float32]:
    """Decode the pixels of a grey image, whatever its transfer syntax.

    Args:
        dataset: from `read_dataset(..., pixels=True)`.

    Returns:
        float32 [frames, rows, columns], rescaled (slope and intercept of the image or, in
        enhanced multi-frame images, of each frame); white is high.

    Raises:
        RecordRefused: `image_type` (colour, no pixels), `image_shape`, `too_large`, `truncated`,
            `unreadable`.
    """
    frames, rows, columns = _declared_shape(dataset)
    _check_pixel_bytes(dataset, frames, rows, columns)
    with guarded():
        syntax = dataset.file_meta.TransferSyntaxUID
        _quiet_decoders()
        pixels = np.asarray(pixel_array(dataset, decoding_plugin=_DECODERS.get(syntax, "")))
    if pixels.size != frames * rows * columns:
        raise RecordRefused("unreadable")
    image = pixels.reshape(frames, rows, columns).astype(np.float32)
    slopes, intercepts = _rescale(dataset, frames)
    image *= slopes[:, None, None]
    image += intercepts[:, None, None]
    if text_of(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        image = image.max() + image.min() - image
    return image


def _declared_shape(dataset: Dataset) -> tuple[int, int, int]:
    if text_of(dataset, "PhotometricInterpretation") not in _GREY:
        raise RecordRefused("image_type")
    if number_of(dataset, "SamplesPerPixel") != 1 or not bytes_of(dataset, "PixelData"):
        raise RecordRefused("image_type")
    if number_of(dataset, "BitsAllocated") not in (8, 16, 32):
        raise RecordRefused("image_type")
    declared = number_of(dataset, "NumberOfFrames") if "NumberOfFrames" in dataset else 1.0
    shape = (declared, number_of(dataset, "Rows"), number_of(dataset, "Columns"))
    if not all(n >= 1 for n in shape):
        raise RecordRefused("image_shape")
    if max(shape[1:]) > LARGEST_SIDE or shape[0] * shape[1] * shape[2] > LARGEST_IMAGE:
        raise RecordRefused("too_large", " x ".join(f"{n:.0f}" for n in shape))
    return int(shape[0]), int(shape[1]), int(shape[2])


def _check_pixel_bytes(dataset: Dataset, frames: int, rows: int, columns: int) -> None:
    """Refuse pixel data that are shorter than declared or code another size than declared."""
    data = bytes_of(dataset, "PixelData")
    frame_bytes = rows * columns * int(number_of(dataset, "BitsAllocated")) // 8
    with guarded():
        syntax = dataset.file_meta.TransferSyntaxUID
        if not syntax.is_compressed:
            if len(data) < frames * frame_bytes:
                raise RecordRefused("truncated")
            return
        coded = 0
        for frame in generate_frames(data, number_of_frames=frames):
            coded += 1
            if len(frame) > 2 * frame_bytes + 65536:
                raise RecordRefused("too_large", f"{len(frame)} coded bytes in a frame")
            if "RLE" not in syntax.name and coded_size(frame) != (rows, columns):
                raise RecordRefused("image_shape")
        if coded != frames:
            raise RecordRefused("truncated")


def _rescale(dataset: Dataset, frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return slope and intercept of each frame (PS3.3 C.11.1 and C.7.6.16.2.9)."""
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")[:1]
    each = items_of(dataset, "PerFrameFunctionalGroupsSequence")[:frames]
    common = _transformation((dataset, *(t for g in shared for t in _transformations(g))))
    found = [_transformation(_transformations(group)) or common for group in each]
    found += [common] * (frames - len(found))
    values = np.array([pair or (1.0, 0.0) for pair in found], dtype=np.float32)
    return values[:, 0], values[:, 1]


def _transformations(group: Dataset) -> tuple[Dataset, ...]:
    return items_of(group, "PixelValueTransformationSequence")


def _transformation(places: tuple[Dataset, ...]) -> tuple[float, float] | None:
    """Return the first slope and intercept that are stated."""
    for place in places:
        slope, intercept = number_of(place, "RescaleSlope"), number_of(place, "RescaleIntercept")
        if isfinite(slope) and slope != 0 and isfinite(intercept):
            return slope, intercept
    return None


def _quiet_decoders() -> None:
    """Stop GDCM's own messages: they go to the process's stderr and may quote values."""
    # here, for a site without DICOM images need not wait half a second for it
    import gdcm  # type: ignore[import-untyped]

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()

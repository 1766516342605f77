"""DICOM images -> one `Frame` each: where it lay in the patient, and when in the heart's cycle.

Layouts: DICOM PS3.3 C.7.6.2 (image plane), C.7.6.18 (cardiac synchronisation), C.8.3 (MR), and for
enhanced multi-frame images C.7.6.16 (functional groups). Of descriptions only the view is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.orientation import Vector
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.dicom import (
    Dataset,
    items_of,
    number_of,
    numbers_of,
    text_of,
    texts_of,
)

Hint = Literal["4ch", "sax", "long", "other", ""]

OpenImage = Callable[[bool], Dataset]
"""Reads one file; the argument says whether with its pixels."""

MOST_FRAMES = 60_000
"""Of one study; the largest cine studies have some thousand."""

_MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
"""MR images, enhanced ones included."""

_GREY_IMAGES = ("MR", "CT", "")
_HINTS: tuple[tuple[Hint, str], ...] = (
    # results drawn over images, flow, tags, maps, late enhancement: no cines of these views
    (
        "other",
        r"inline|flow|venc|\btag|\bt[12]\b|\bt[12] ?map|\bmap|molli|\blge\b|psir|perf|scout"
        r"|\bloc\b|locali|survey",
    ),
    ("4ch", r"(?<!\d)4 ?(ch|cv|kam)|four|vierk|\bhla\b|horizontal"),
    ("other", r"(?<!\d)[235] ?(ch|cv|kam)|\bvla\b|vertical|lvot|rvot|aort"),
    ("long", r"lax\b|\blong"),
    ("sax", r"sax|short|kurz|\bsa\b"),
)
"""View -> pattern, in words that only blanks separate; the first that fits holds."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of one file.

    Attributes:
        opens: reads its file.
        index: its number in that file.
        study, series, patient: identifiers, to keep apart what is apart.
        series_number: repeated series have higher ones; -inf where unknown.
        position: of the first pixel's centre (LPS mm) [3].
        across, down: directions in which columns and rows rise (LPS, unit) [3].
        pixel_mm: (row, column) spacing.
        shape: (rows, columns).
        trigger_ms: time after the R wave, NaN where unknown.
        instance: number in the series, NaN where unknown.
        interval_ms: duration of the cycle, NaN where unknown.
        expected: phases in the cycle as stated, 0 where unknown.
        hint: what the descriptions say of the view.
    """

    opens: OpenImage = field(repr=False)
    index: int
    study: str = field(repr=False)
    series: str = field(repr=False)
    patient: str = field(repr=False)
    series_number: float
    position: Vector = field(repr=False)
    across: Vector = field(repr=False)
    down: Vector = field(repr=False)
    pixel_mm: tuple[float, float]
    shape: tuple[int, int]
    trigger_ms: float
    instance: float
    interval_ms: float
    expected: int
    hint: Hint

    @property
    def normal(self) -> Vector:
        """Unit vector across the slice."""
        return np.cross(self.across, self.down)


def frames_in(dataset: Dataset, opens: OpenImage) -> Iterator[Frame]:
    """Yield the frames of a grey MR or CT image; nothing for other objects.

    Raises:
        RecordRefused: `too_large`, `spacing`, `image_shape`, `truncated`, `unreadable`.
    """
    if not _is_cine_image(dataset):
        return
    count = number_of(dataset, "NumberOfFrames") if "NumberOfFrames" in dataset else 1.0
    if not 1 <= count <= MOST_FRAMES:
        raise RecordRefused("too_large" if count > MOST_FRAMES else "image_shape")
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")[:1]
    each = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    hint = view_hint(text_of(dataset, name) for name in ("SeriesDescription", "ProtocolName"))
    step = number_of(dataset, "FrameTime")
    for k in range(int(count)):
        groups = (*each[k : k + 1], *shared)
        trigger = _trigger_ms(dataset, groups)
        if count > 1 and not each and step > 0:
            trigger = k * step
        number = k if count > 1 else number_of(dataset, "InstanceNumber")
        moment = (trigger, float(number))
        yield _frame(dataset, groups, opens, index=k, moment=moment, hint=hint)


def view_hint(texts: Iterator[str] | Sequence[str]) -> Hint:
    """Return the view that a series' description or protocol names; "" where it names none."""
    for text in texts:
        words = re.sub(r"[^a-z0-9]+", " ", text.lower())
        for hint, pattern in _HINTS:
            if re.search(pattern, words):
                return hint
    return ""


def _is_cine_image(dataset: Dataset) -> bool:
    if "Rows" not in dataset:  # a DICOMDIR, a report, a recording; or a file cut off in its header
        if text_of(dataset, "SOPClassUID").startswith(_MR_CLASS):
            raise RecordRefused("truncated")
        return False
    kinds = [kind.upper() for kind in texts_of(dataset, "ImageType")]
    is_velocity = any(kind in ("P", "PHASE", "VELOCITY", "PHASE MAP") for kind in kinds[2:])
    return text_of(dataset, "Modality") in _GREY_IMAGES and not is_velocity


def _frame(
    dataset: Dataset,
    groups: tuple[Dataset, ...],
    opens: OpenImage,
    *,
    index: int,
    moment: tuple[float, float],
    hint: Hint,
) -> Frame:
    plane = _find(dataset, groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    position = _find(dataset, groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    spacing = _find(dataset, groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    if not (plane and position and spacing):
        raise RecordRefused("spacing")
    across, down = np.array(plane[:3]), np.array(plane[3:])
    if not (_is_unit(across) and _is_unit(down) and abs(across @ down) < 0.01):
        raise RecordRefused("spacing", "the directions of rows and columns make no plane")
    rows, columns = number_of(dataset, "Rows"), number_of(dataset, "Columns")
    if not (rows >= 1 and columns >= 1):
        raise RecordRefused("image_shape")
    number = number_of(dataset, "SeriesNumber")
    expected = number_of(dataset, "CardiacNumberOfImages")
    return Frame(
        opens=opens,
        index=index,
        study=text_of(dataset, "StudyInstanceUID"),
        series=text_of(dataset, "SeriesInstanceUID"),
        patient=text_of(dataset, "PatientID"),
        series_number=number if isfinite(number) else -inf,
        position=np.array(position),
        across=across / np.linalg.norm(across),
        down=down / np.linalg.norm(down),
        pixel_mm=(spacing[0], spacing[1]),
        shape=(int(rows), int(columns)),
        trigger_ms=moment[0],
        instance=moment[1],
        interval_ms=_interval_ms(dataset, groups),
        expected=int(expected) if 0 < expected <= 1000 else 0,
        hint=hint,
    )


def _find(
    dataset: Dataset, groups: tuple[Dataset, ...], sequence: str, keyword: str, count: int
) -> tuple[float, ...]:
    """Return the numbers of an attribute, of the frame's groups first; () where absent."""
    places = [item for group in groups for item in items_of(group, sequence)]
    for place in (*places, dataset):
        values = numbers_of(place, keyword)
        if len(values) == count:
            return values
    return ()


def _is_unit(vector: NDArray[np.float64]) -> bool:
    return bool(abs(np.linalg.norm(vector) - 1) < 0.01)


def _trigger_ms(dataset: Dataset, groups: tuple[Dataset, ...]) -> float:
    name = "NominalCardiacTriggerDelayTime"
    found = _find(dataset, groups, "CardiacSynchronizationSequence", name, 1)
    return found[0] if found else number_of(dataset, "TriggerTime")


def _interval_ms(dataset: Dataset, groups: tuple[Dataset, ...]) -> float:
    name = "RRIntervalTimeNominal"
    found = _find(dataset, groups, "CardiacSynchronizationSequence", name, 1)
    candidates = (*found, number_of(dataset, "NominalInterval"))
    rate = number_of(dataset, "HeartRate")
    candidates = (*candidates, 60_000 / rate if rate > 0 else nan)
    return next((ms for ms in candidates if 200 <= ms <= 3000), nan)

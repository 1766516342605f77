"""The DICOM images of one CMR study -> its four-chamber and its mid short-axis cine.

The view is decided by geometry: three or more parallel slices are a short-axis stack, unless the
description names another view; a slice alone is told by its description or, where that is silent,
by its angle to the stack and to where hearts lie. Slices are sorted by their place along the
normal, phases by trigger time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.cmr import (
    CYCLE_S,
    MAX_VOXELS,
    PHASES,
    PIXEL_MM,
    PIXELS,
    CineVolume,
    check_phases,
)
from cardionets_core.data.orientation import Vector, canonical_orientation
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.dicom import Dataset, frames_of, text_of
from cardionets_core.sources.dicom_facts import facts_of
from cardionets_core.sources.dicom_frames import MOST_FRAMES, Frame, OpenImage, frames_in
from cardionets_core.sources.recording import Facts, SourceCmr
from cardionets_core.vocabulary import VIEWS

STACK_SLICES = 3
"""Fewest parallel slices that are a stack."""

_HEART_AXIS = np.array([-0.62, 0.62, 0.45]) / np.linalg.norm([-0.62, 0.62, 0.45])
"""LPS: from apex to base, as hearts usually lie."""

_FOUR_CHAMBER_NORMAL = np.array([0.12, -0.49, 0.84]) / np.linalg.norm([0.12, -0.49, 0.84])

_SAME_ANGLE = 0.996
"""Cosine within which slices are parallel (5 degrees)."""

_SAME_PLACE_MM = 1.0
_GAP = 1.8
"""Steps of this many usual ones hide a missing frame."""


@dataclass(frozen=True)
class _Slice:
    """The frames of one series at one place, in the order of their phases."""

    frames: tuple[Frame, ...]

    @property
    def first(self) -> Frame:
        return self.frames[0]

    @property
    def is_complete(self) -> bool:
        return len(self.frames) >= self.first.expected and not _has_gap(self.frames)


def read_cine_study(
    images: Iterable[OpenImage], *, study: str = "", one_patient: bool = True
) -> SourceCmr:
    """Read a study from all its files.

    Args:
        images: readers of its files; what is no image is passed over.
        study: its StudyInstanceUID; an image of another study is refused. "" for any.
        one_patient: whether images of different PatientIDs are refused.

    Raises:
        RecordRefused: `no_pixels` where no file is an image, `several_studies`, `too_large`, or why
            no image could be read.
    """
    frames, facts, refused = _collect(images, study)
    if one_patient and len({frame.patient for frame in frames}) > 1:
        raise RecordRefused("several_studies")
    slices = [_ordered(group) for group in _by_place(frames)]
    stacks = _stacks([s for s in slices if len(s.frames) > 1])
    found = {"sax": _short_axis(stacks)}
    found["4ch"] = _four_chamber(stacks, found["sax"])
    views: dict[str, CineVolume] = {}
    for view in VIEWS:
        if not found[view]:
            continue  # most studies lack one: that is no fault of theirs
        try:
            views[view] = _cine(found[view])
        except RecordRefused as error:
            refused[view] = error.code
    if not any(found.values()):
        refused.setdefault("study", "no_cine")
    return SourceCmr(views, refused, facts)


def _collect(images: Iterable[OpenImage], study: str) -> tuple[list[Frame], Facts, dict[str, str]]:
    """Return the frames of the study's images, its facts, and what could not be read."""
    frames: list[Frame] = []
    seen: set[tuple[str, int]] = set()
    facts, codes = Facts(), list[str]()
    for opens in images:
        try:
            dataset = opens(False)
            own = [f for f in frames_in(dataset, opens) if _is_new(dataset, f, seen)]
            if any(study not in ("", frame.study) for frame in own):
                raise RecordRefused("several_studies")
            if own and not frames:
                facts = facts_of(dataset)
        except RecordRefused as error:
            codes += [error.code] if error.code != "file_type" else []
            continue
        frames += own
        if len(frames) > MOST_FRAMES:
            raise RecordRefused("too_large", f"more than {MOST_FRAMES} frames")
    if not frames:
        raise RecordRefused(codes[0] if codes else "no_pixels")
    return frames, facts, {"study": codes[0]} if codes else {}


def _is_new(dataset: Dataset, frame: Frame, seen: set[tuple[str, int]]) -> bool:
    """Whether this object was not met before: exports often hold an image twice."""
    key = (text_of(dataset, "SOPInstanceUID"), frame.index)
    if key[0] and key in seen:
        return False
    seen.add(key)
    return True


def _by_place(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group the frames of each series by where they lie and how large they are."""
    series: dict[tuple[object, ...], list[list[Frame]]] = {}
    for frame in frames:
        groups = series.setdefault((frame.series, frame.shape, frame.hint), [])
        for group in groups:
            if _is_parallel(frame, group[0]) and _distance(frame, group[0]) < _SAME_PLACE_MM / 2:
                group.append(frame)
                break
        else:
            groups.append([frame])
    return [group for groups in series.values() for group in groups]


def _is_parallel(one: Frame, other: Frame) -> bool:
    same_axes = min(one.across @ other.across, one.down @ other.down) > _SAME_ANGLE
    return bool(same_axes and np.allclose(one.pixel_mm, other.pixel_mm, rtol=0.01))


def _distance(one: Frame, other: Frame) -> float:
    return float(np.linalg.norm(one.position - other.position))


def _ordered(group: list[Frame]) -> _Slice:
    """Sort by trigger time, or by number where times are unknown; the first of two at one time."""
    by_number = sorted(group, key=lambda f: f.instance if isfinite(f.instance) else 0.0)
    triggers = {frame.trigger_ms for frame in group}
    timed = all(isfinite(t) for t in triggers) and 2 * len(triggers) >= len(group)
    moments: dict[float, Frame] = {}
    for place, frame in enumerate(by_number):
        number = frame.instance if isfinite(frame.instance) else float(place)
        moments.setdefault(frame.trigger_ms if timed else number, frame)
    return _Slice(tuple(moments[t] for t in sorted(moments)))


def _has_gap(frames: Sequence[Frame]) -> bool:
    if len(frames) < PHASES[0]:
        return False
    for moments in ([f.trigger_ms for f in frames], [f.instance for f in frames]):
        steps = np.diff(moments)
        if np.isfinite(steps).all() and (steps > 0).all():
            return bool(steps.max() > _GAP * np.median(steps))
    return False


def _stacks(slices: Sequence[_Slice]) -> list[list[_Slice]]:
    """Join parallel slices of the same size and view, over all series; sorted from the apex.

    Of several at one place the one with most phases stays, then that of the latest series: who
    repeats a slice was not content with the first.
    """
    stacks: list[list[_Slice]] = []
    best_first = sorted(slices, key=lambda s: (-len(s.frames), -s.first.series_number))
    for own in best_first:
        for stack in stacks:
            head = stack[0].first
            alike = (head.shape, head.hint) == (own.first.shape, own.first.hint)
            if alike and _is_parallel(head, own.first):
                if all(abs(_depth(s) - _depth(own)) >= _SAME_PLACE_MM for s in stack):
                    stack.append(own)
                break
        else:
            stacks.append([own])
    return [sorted(stack, key=_depth) for stack in stacks]


def _normal(frame: Frame) -> Vector:
    """Return the normal of the slice from apex to base, whatever the order of its axes."""
    return np.array(canonical_orientation(frame.down, frame.across).normal)


def _depth(own: _Slice) -> float:
    return float(own.first.position @ _normal(own.first))


def _short_axis(stacks: Sequence[list[_Slice]]) -> list[_Slice]:
    """Return the stack that is the short axis, [] where there is none."""

    def rank(stack: list[_Slice]) -> tuple[bool, bool, float]:
        first = stack[0].first
        upright = abs(float(_normal(first) @ _HEART_AXIS))
        return first.hint == "sax", len(stack) >= STACK_SLICES, upright * min(len(stack), 8)

    fit = [
        stack
        for stack in stacks
        if stack[0].first.hint == "sax"
        or (stack[0].first.hint == "" and len(stack) >= STACK_SLICES)
    ]
    return max(fit, key=rank, default=[])


def _four_chamber(stacks: Sequence[list[_Slice]], short: Sequence[_Slice]) -> list[_Slice]:
    """Return the slice or slices of the four-chamber view, [] where there are none."""
    axis = _normal(short[0].first) if short else _HEART_AXIS

    def likeness(stack: list[_Slice]) -> float:
        normal = _normal(stack[0].first)
        is_long = abs(float(normal @ axis)) < (0.35 if short else 0.5)
        return float(normal @ _FOUR_CHAMBER_NORMAL) if is_long else 0.0

    named = [stack for stack in stacks if stack[0].first.hint == "4ch"]
    if named:
        return max(named, key=lambda s: (len(s[0].frames), s[0].first.series_number))
    silent = [
        stack
        for stack in stacks
        if stack[0].first.hint == "long"
        or (stack[0].first.hint == "" and len(stack) < STACK_SLICES and stack is not short)
    ]
    best = max(silent, key=likeness, default=[])
    return best if best and likeness(best) > 0.8 else []


def _cine(stack: Sequence[_Slice]) -> CineVolume:
    """Read the middle slice, or the complete one that is nearest to it."""
    phases = max(len(own.frames) for own in stack)
    check_phases(phases)
    middle = len(stack) // 2
    nearest = sorted(range(len(stack)), key=lambda k: abs(k - middle))
    whole = [k for k in nearest if len(stack[k].frames) == phases and stack[k].is_complete]
    if not whole:
        raise RecordRefused("incomplete_cine")
    chosen = stack[whole[0]].frames
    first = chosen[0]
    _check_size(first, phases)
    orientation = canonical_orientation(first.down, first.across)
    frames = np.ascontiguousarray(orientation.apply(_pixels(chosen)))
    if not np.isfinite(frames).all() or np.ptp(frames) == 0:
        raise RecordRefused("empty_image")
    return CineVolume(frames, orientation.spacing(first.pixel_mm), _cycle_s(chosen))


def _check_size(frame: Frame, phases: int) -> None:
    size = f"{phases}x{frame.shape[0]}x{frame.shape[1]}"
    if max(frame.shape) > PIXELS[1] or phases > PHASES[1]:
        raise RecordRefused("too_large", size)
    if phases * frame.shape[0] * frame.shape[1] > MAX_VOXELS:
        raise RecordRefused("too_large", size)
    if min(frame.shape) < PIXELS[0]:
        raise RecordRefused("image_shape", size)
    if not all(PIXEL_MM[0] <= mm <= PIXEL_MM[1] for mm in frame.pixel_mm):
        raise RecordRefused("spacing", "{:.3g} x {:.3g} mm".format(*frame.pixel_mm))


def _pixels(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Decode the frames, every file once: float32 [phases, rows, columns]."""
    decoded: list[NDArray[np.float32]] = []
    opens: OpenImage | None = None
    pixels: NDArray[np.float32] | None = None
    for frame in frames:
        if pixels is None or frame.opens is not opens:
            opens, pixels = frame.opens, frames_of(frame.opens(True))
        if pixels.shape[1:] != frame.shape or frame.index >= len(pixels):
            raise RecordRefused("image_shape")
        decoded.append(pixels[frame.index])
    return np.stack(decoded)


def _cycle_s(frames: Sequence[Frame]) -> float | None:
    intervals = [f.interval_ms for f in frames if isfinite(f.interval_ms)]
    if intervals:
        return float(np.median(intervals)) / 1000
    steps = np.diff([f.trigger_ms for f in frames])
    cycle = len(frames) * float(np.median(steps)) / 1000
    return cycle if CYCLE_S[0] <= cycle <= CYCLE_S[1] else None

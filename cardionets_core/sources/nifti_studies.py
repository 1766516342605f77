"""Loose NIfTI files whose names say patient and view.

    P007_4ch.nii.gz  P007_sax.nii.gz  P007_sax_seg.nii.gz        side by side
    P007/4ch.nii.gz  P007/sax.nii.gz  P007/sax_seg.nii.gz        or in a folder for each patient
    4ch/P007.nii.gz  sax/P007.nii.gz  sax/P007_seg.nii.gz        or in a folder for each view
    P007_sax_frame01.nii.gz, P007_sax_frame02.nii.gz, ...        a volume for each phase

`la_4ch`, `lax_4ch` and `sa`, `_gt`, `_mask`, `_label` or a leading `seg_` for `_seg`, and `_ED` and
`_ES` for single phases are read as well. In masks 2 is the myocardium; which of 1 and 3 it
surrounds, and so is the left ventricle, is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from scipy import ndimage

from cardionets_core.data.cmr import CineVolume, MaskStack, read_masks
from cardionets_core.data.mask_phenotypes import MaskLabels
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.masked_cine import read_masked, read_slice
from cardionets_core.sources.recording import Facts, Person, SourceCmr

_MASK = r"seg|gt|masks?|labels?|segmentation"
_VIEW = r"(?:lax?[_-])?4ch|sax?"
_NAME = re.compile(
    rf"(?:(?P<early>{_MASK})[_-])?(?:(?!cine[_-])(?P<patient>.+?)[_-])??(?:cine[_-])?"
    rf"(?P<view>{_VIEW})(?:[_-](?P<mask>{_MASK}))?"
    r"(?:[_-]?(?:frame|phase|ph|t)[_-]?(?P<phase>\d{1,3})|[_-](?P<end>ed|es))?"
    rf"(?:[_-](?P<late>{_MASK}))?",
    re.IGNORECASE | re.ASCII,
)
_MASK_AT_END = re.compile(rf"(.+?)[_-]({_MASK})", re.IGNORECASE | re.ASCII)
_ENDS = {"ed": 0, "es": 1}
_INSIDE = 0.8
"""Share of the pixels within the ring of myocardium that the left ventricle must fill."""


@dataclass(frozen=True)
class NamedFile:
    """What the name of a file says; `phase` is -1 where the file holds every phase."""

    patient: str
    view: str
    is_mask: bool
    phase: int


def is_view_folder(name: str) -> bool:
    """Return whether a folder is one for a view and not for a patient."""
    return re.fullmatch(_VIEW, name, re.IGNORECASE | re.ASCII) is not None


def named(path: str) -> NamedFile | None:
    """Return what a NIfTI file's path says, None where it does not say its view."""
    place = PurePosixPath(path)
    stem = re.sub(r"\.nii(\.gz)?$", "", place.name, flags=re.IGNORECASE)
    match = _NAME.fullmatch(stem)
    if match is None and is_view_folder(place.parent.name):
        mask = _MASK_AT_END.fullmatch(stem)
        who = mask[1] if mask else stem
        # `image`, `cine`: a word without a digit is nobody; then the folder above says who it is
        parts = (who if re.search(r"\d", who) else "", place.parent.name, mask[2] if mask else "")
        match = _NAME.fullmatch("_".join(part for part in parts if part))
    if match is None:
        return None
    view = "4ch" if match["view"].lower().endswith("4ch") else "sax"
    phase = _ENDS[match["end"].lower()] if match["end"] else int(match["phase"] or -1)
    is_mask = any(match[name] for name in ("early", "mask", "late"))
    return NamedFile(match["patient"] or "", view, is_mask, phase)


def items_of(folder: str, paths: Iterable[str]) -> list[CmrItem]:
    """Group NIfTI files to studies; one whose view is unknown is a study alone.

    Args:
        folder: relative path of their folder, or of what holds their folders of views; "" for the
            folder that was given itself.
        paths: the files, relative to the folder that was given.
    """
    groups: dict[str, list[str]] = {}
    unknown: list[str] = []
    for path in sorted(paths):
        facts = named(path)
        if facts is None:
            unknown.append(path)
        else:
            groups.setdefault(facts.patient, []).append(path)
    found = [
        CmrItem(
            "cmr_nifti",
            folder or ".",
            patient or "nifti",
            layout="nifti",
            patient=patient or Path(folder).name,
            members=tuple(members),
        )
        for patient, members in groups.items()
    ]
    return found + [CmrItem("cmr_nifti", path, members=(path,)) for path in unknown]


def read_nifti_study(item: CmrItem, *, root: Path) -> SourceCmr:
    """Read the views and masks of one study.

    Raises:
        RecordRefused: `unknown_view` where the names do not say which view it is.
    """
    files = [(named(member), root / member) for member in item.members]
    known = [(facts, path) for facts, path in files if facts is not None]
    if not known:
        raise RecordRefused("unknown_view")
    facts = Facts(person=Person(patient_id=item.patient))
    views: dict[str, CineVolume] = {}
    refused: dict[str, str] = {}
    for view in ("4ch", "sax"):
        try:
            cines, masks = (_pick(known, view, is_mask) for is_mask in (False, True))
            if view == "sax" and masks:
                found = read_masked(cines, masks, labels=labels_of, root=root, facts=facts)
                views.update(found.views)
                refused.update(found.refused)
                facts = found.facts
            elif cines:
                stack = read_masks(masks, root=root) if masks else None
                views[view] = read_slice(cines, stack, root=root)
        except RecordRefused as error:
            refused[view] = error.code
    return SourceCmr(views, refused, facts)


def _pick(known: Sequence[tuple[NamedFile, Path]], view: str, is_mask: bool) -> list[Path]:
    """Return the files of a view's cine or mask; single phases only where no file has all.

    Raises:
        RecordRefused: `ambiguous_files` where two files claim the same phases.
    """
    own = sorted((f.phase, p) for f, p in known if (f.view, f.is_mask) == (view, is_mask))
    own = [pair for pair in own if pair[0] < 0] or own
    if len({phase for phase, _ in own}) < len(own):
        raise RecordRefused("ambiguous_files")
    return [path for _, path in own]


def labels_of(stack: MaskStack) -> MaskLabels:
    """Return which label is the left ventricle: the one that the myocardium, 2, surrounds.

    Raises:
        RecordRefused: `mask_labels` where neither 1 nor 3 is, or there are other labels.
    """
    masks = stack.masks
    if masks.max() > 3:
        raise RecordRefused("mask_labels", "labels above 3")
    counts = np.zeros(4, dtype=np.int64)
    for wall, labels in zip((masks == 2).reshape(-1, *masks.shape[2:]),
                            masks.reshape(-1, *masks.shape[2:]), strict=True):  # fmt: skip
        if wall.any():
            inside = ndimage.binary_fill_holes(wall) & ~wall
            counts += np.bincount(labels[inside], minlength=4)
    for lv, rv in ((1, 3), (3, 1)):
        if counts[lv] > _INSIDE * counts.sum() > 0:
            return MaskLabels(lv=lv, myo=2, rv=rv)
    raise RecordRefused("mask_labels")

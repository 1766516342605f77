"""Where one CMR study lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cardionets_core.sources.recording import SourceItem

Layout = Literal["nifti", "dicom", "ukb", "acdc", "mnms"]


@dataclass(frozen=True)
class CmrItem(SourceItem):
    """One CMR study, as `find_cmr` found it.

    Attributes:
        layout: how its folder is laid out.
        patient: who it is by the names of its files; "" where they do not say.
        members: its files, and folders whose files (not those below) all belong to it; POSIX paths
            relative to the folder that was given, sorted. What changes of it changes one of them.
    """

    layout: Layout = "nifti"
    patient: str = field(default="", repr=False)
    members: tuple[str, ...] = field(default=(), repr=False)


def kind_of(layout: Layout) -> str:
    """Return the name of the reader of a layout."""
    return f"cmr_{layout}"

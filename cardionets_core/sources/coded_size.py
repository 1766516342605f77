"""Rows and columns that a compressed image states, read before any decoder allocates for them."""

from __future__ import annotations

_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  "
"""A JP2 file around the code stream: DICOM forbids it, some vendors write it."""

_JP2_BOXES = 4096
_NO_FRAME = (0xC4, 0xC8, 0xCC)
"""Markers among SOF0..SOF15 that are tables or reserved."""

_JPEG_LS_FRAME = 0xF7
_BARE = (*range(0xD0, 0xD8), 0x01)
"""Markers without a length: restarts and TEM."""


def coded_size(code: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 code stream, None where none is found.

    Sources: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000).
    """
    if code.startswith(_JP2):
        code = code[max(code.find(_J2K, 0, _JP2_BOXES), 0) :]
    if code.startswith(_J2K):
        return _jpeg_2000(code)
    if code.startswith(b"\xff\xd8"):
        return _jpeg(code)
    return None


def _jpeg_2000(code: bytes) -> tuple[int, int] | None:
    """Read the SIZ segment: length (2), capabilities (2), then the sides of grid and offset."""
    if len(code) < 24:
        return None
    width, height, left, top = (int.from_bytes(code[k : k + 4], "big") for k in range(8, 24, 4))
    return height - top, width - left


def _jpeg(code: bytes) -> tuple[int, int] | None:
    """Walk the marker segments to the first frame header."""
    at = 2
    while at + 9 <= len(code):
        if code[at] != 0xFF:
            return None
        marker = code[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _BARE:
            at += 2
        elif (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME) or marker == _JPEG_LS_FRAME:
            return int.from_bytes(code[at + 5 : at + 7]), int.from_bytes(code[at + 7 : at + 9])
        else:
            at += 2 + max(2, int.from_bytes(code[at + 2 : at + 4]))
    return None

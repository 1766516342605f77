"""Philips XLI: the compression of the leads of a Sierra ECG.

Each lead is one chunk: size of what follows (int32), a number that is 1 (int16), the first delta
(int16), then LZW codes of 10 bits, most significant bit first. They give bytes: the high bytes of
all samples, then the low ones. These 16-bit numbers are the first two samples and, from there on,
what the second difference of the next sample is short of 64. III, aVR, aVL and aVF are stored as
what they differ from the leads that follow from I and II.

Source of the layout: the wiki of the sierra-ecg-tools project ("XLI Compression in Detail"); the
width of the codes' table and its end code were found on files of it. No code of it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.refusal import RecordRefused

_HEADER = struct.Struct("<ihh")
_CODE_BITS = 10
_END = 2**_CODE_BITS - 1
_DELTA_OFFSET = 64

Samples = NDArray[np.int64]


def decode_leads(data: bytes, *, leads: int, samples: int) -> list[Samples]:
    """Return the first `leads` leads of XLI data, as the device recorded them.

    Args:
        data: the chunks of all leads in the order I, II, III, aVR, aVL, aVF, V1, ...
        leads: how many to decode.
        samples: samples of each lead, by the declared duration: what bounds the decompression.

    Returns:
        int64 [samples] of each lead, in units of the file's resolution.

    Raises:
        RecordRefused: `truncated`, `unreadable`, or `too_large` where a lead unfolds to more.
    """
    decoded: list[Samples] = []
    for first, codes in _chunks(data):
        if len(decoded) == leads:
            break
        unfolded = unfold(codes, limit=2 * samples)
        if len(unfolded) < 2 * samples:
            raise RecordRefused("truncated")
        decoded.append(integrate(unfolded, first))
    if len(decoded) < leads:
        raise RecordRefused("truncated")
    return decoded


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield first delta and codes of each lead."""
    at = 0
    while at < len(data):
        if at + _HEADER.size > len(data):
            raise RecordRefused("truncated")
        size, _, first = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if size <= 0:
            raise RecordRefused("unreadable")
        if at + size > len(data):
            raise RecordRefused("truncated")
        yield first, data[at : at + size]
        at += size


def unfold(codes: bytes, *, limit: int) -> bytes:
    """Undo LZW with codes of 10 bits that stand for up to 1,023 strings; 1,023 ends them.

    Raises:
        RecordRefused: `too_large` beyond `limit` bytes, `unreadable` for a code without a string.
    """
    strings = [bytes([k]) for k in range(256)]
    unfolded = bytearray()
    previous = b""
    for code in _codes(codes):
        if code == _END:
            break
        if code < len(strings):
            string = strings[code]
        elif code == len(strings) and previous:  # the string that this very code completes
            string = previous + previous[:1]
        else:
            raise RecordRefused("unreadable")
        if previous and len(strings) < _END:
            strings.append(previous + string[:1])
        unfolded += string
        if len(unfolded) > limit:
            raise RecordRefused("too_large", f"more than {limit} bytes in a lead")
        previous = string
    return bytes(unfolded)


def _codes(data: bytes) -> Iterator[int]:
    held, bits = 0, 0
    for byte in data:
        held, bits = held << 8 | byte, bits + 8
        if bits >= _CODE_BITS:
            bits -= _CODE_BITS
            yield held >> bits
            held &= (1 << bits) - 1


def integrate(unfolded: bytes, first: int) -> Samples:
    """Return the samples of one lead, int64 [n], from the bytes of its deltas and the first one."""
    count = len(unfolded) // 2
    parts = np.frombuffer(unfolded, dtype=np.uint8)[: 2 * count].astype(np.uint16)
    stored = (parts[:count] << 8 | parts[count:]).astype(np.int16).astype(np.int64)
    if count < 3:
        return stored
    bends = np.concatenate(([-first], _DELTA_OFFSET - stored[2:-1]))
    slopes = stored[1] - stored[0] + np.cumsum(bends)
    samples = np.concatenate((stored[:2], stored[1] + np.cumsum(slopes)))
    return samples.astype(np.int16).astype(np.int64)  # the device calculates in 16 bits


def restore_limb_leads(leads: list[Samples]) -> list[Samples]:
    """Return the leads with III, aVR, aVL and aVF as recorded instead of as differences.

    Args:
        leads: from `decode_leads`, I, II, III, aVR, aVL, aVF first.
    """
    one, two, d_three, d_avr, d_avl, d_avf = leads[:6]
    three = two - one - d_three
    avr = -_half(one + two) - d_avr
    avl = _half(one - three) - d_avl
    avf = _half(two + three) - d_avf
    return [one, two, three, avr, avl, avf, *leads[6:]]


def _half(values: Samples) -> Samples:
    """Return half of integers, cut towards zero."""
    return np.fix(values / 2).astype(np.int64)

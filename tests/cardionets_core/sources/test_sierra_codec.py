"""The published layout of XLI, by hand, and by a compressor that knows nothing of the reader."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.sources.sierra_codec import (
    decode_leads,
    integrate,
    restore_limb_leads,
    unfold,
)


def pack(codes):
    """10-bit codes, most significant bit first."""
    bits = "".join(f"{code:010b}" for code in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)


def lzw(data):
    """LZW as Welch (1984) describes it, with a table of 1,023 strings."""
    table = {bytes([k]): k for k in range(256)}
    codes, word = [], b""
    for k in range(len(data)):
        longer = word + data[k : k + 1]
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) < 1023:
            table[longer] = len(table)
        word = data[k : k + 1]
    return pack([*codes, table[word], 1023])


def chunk(samples):
    """One lead as the wiki has it: what undoes z = 2y - x - previous, previous = code - 64."""
    codes = [samples[0], samples[1]]
    needed = [2 * samples[k - 1] - samples[k - 2] - samples[k] for k in range(2, len(samples))]
    first, rest = needed[0], needed[1:]
    codes += [wanted + 64 for wanted in rest] + [0]  # the last code is not used
    halves = np.array(codes, dtype=">i2").tobytes()
    body = lzw(halves[0::2] + halves[1::2])
    return struct.pack("<ihh", len(body), 1, first) + body


def test_codes_by_hand():
    # 65, 66, then 256 = "AB", then the string that is only completed by its own code: "ABA"
    assert unfold(pack([65, 66, 256, 258, 1023, 67]), limit=99) == b"ABABABA"


@given(st.binary(min_size=1, max_size=3000))
@settings(max_examples=30, deadline=None)
def test_every_string_comes_back(data):
    assert unfold(lzw(data), limit=len(data)) == data


def test_a_table_that_is_full(heart):
    data = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    assert unfold(lzw(data), limit=len(data)) == data


def test_deltas_by_hand():
    # x = 10, 12; first = 3: 2 * 12 - 10 - 3 = 11; then code 69 - 64 = 5: 2 * 11 - 12 - 5 = 5
    stored = struct.pack(">4h", 10, 12, 69, 64)
    assert integrate(stored[0::2] + stored[1::2], 3).tolist() == [10, 12, 11, 5]
    assert integrate(b"\xff\x01\xfe\x02", 3).tolist() == [-2, 258]
    assert integrate(b"", 3).tolist() == []


def test_leads_come_back(heart):
    stored = np.round(heart(seconds=4) * 200).astype(int).tolist()  # 5 uV
    data = b"".join(chunk(lead) for lead in stored)
    np.testing.assert_array_equal(decode_leads(data, leads=12, samples=2000), stored)
    np.testing.assert_array_equal(decode_leads(data, leads=3, samples=2000), stored[:3])


def test_limb_leads_by_hand():
    stored = [np.array([value]) for value in (100, 41, 1, 2, -3, 4, 7)]
    restored = [int(lead[0]) for lead in restore_limb_leads(stored)]
    # III = 41 - 100 - 1; aVR = -(141 / 2) - 2; aVL = (100 + 60) / 2 + 3; aVF = (41 - 60) / 2 - 4
    assert restored == [100, 41, -60, -72, 83, -13, 7]


def test_bombs_are_refused_before_they_unfold(code_of):
    growing = pack([0, *range(256, 1022)])  # every code is one byte longer than the last
    assert code_of(unfold, growing, limit=11_000) == "too_large"
    header = struct.pack("<ihh", len(growing), 1, 0)
    assert code_of(decode_leads, header + growing, leads=1, samples=5500) == "too_large"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "truncated"),
        (b"\1\0\0", "truncated"),
        (struct.pack("<ihh", 2**31 - 1, 1, 0) + bytes(99), "truncated"),
        (struct.pack("<ihh", -1, 1, 0) + bytes(99), "unreadable"),
        (struct.pack("<ihh", 0, 1, 0), "unreadable"),
        (struct.pack("<ihh", 2, 1, 0) + pack([300]), "unreadable"),
        (struct.pack("<ihh", 5, 1, 0) + pack([1, 2, 700, 1023]), "unreadable"),
        (chunk([1, 2, 3, 4, 5]), "truncated"),  # shorter than declared
        (chunk([1] * 100), "too_large"),  # longer than declared
    ],
)
def test_what_is_refused(code_of, data, code):
    assert code_of(decode_leads, data, leads=1, samples=50) == code


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes(code_of, data):
    code_of(decode_leads, data, leads=2, samples=20)
    code_of(decode_leads, struct.pack("<ihh", len(data), 1, 0) + data, leads=1, samples=20)

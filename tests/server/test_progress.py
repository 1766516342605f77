"""The progress file of a run: what a crash has torn costs one line, and no reader falls over it."""

from __future__ import annotations

import random

from server.progress import FILE_NAME, Progress, read_progress


def rounds(folder):
    return [e["round"] for e in read_progress(folder) if e["event"] == "round"]


def told(folder, *numbers):
    progress = Progress(folder)
    for number in numbers:
        progress.round({"stage": "ecg_masked", "round": number, "rounds": 5})


def test_a_line_that_a_crash_has_torn_does_not_swallow_the_next_one(tmp_path):
    told(tmp_path, 1, 2)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    assert rounds(tmp_path) == [1]
    told(tmp_path, 2, 3)
    assert rounds(tmp_path) == [1, 2, 3]


def test_no_flipped_bit_stops_a_reader(tmp_path):
    told(tmp_path, *range(1, 6))
    path, draw = tmp_path / FILE_NAME, random.Random(3)
    whole = path.read_bytes()
    for _ in range(200):
        raw = bytearray(whole)
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(raw))
        assert len(rounds(tmp_path)) >= 3  # a break of line that is gone costs two

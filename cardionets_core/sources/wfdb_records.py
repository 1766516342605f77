"""WFDB records with what their headers say: PhysioNet/CinC, PTB, MIMIC and others.

Comment lines are free text by the format; archives write some of them in a fixed way, and only
those are taken: `#Age: 74` and `# Age: 74`, `#Sex: Male`, `#Dx: 426783006,270492004` (SNOMED CT;
CinC 2020 and 2021), `# ECG date: 01/10/1990` (PTB), `# <age>: 25  <sex>: M`, `# <subject_id>: 1234`
(MIMIC-IV-ECG). The rest, PTB's medical history included, is dropped.
"""

from __future__ import annotations

import re
from datetime import datetime
from math import nan
from pathlib import Path

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.wfdb_header import MAX_HEADER_BYTES, Header, read_header
from cardionets_core.labels.code import Code
from cardionets_core.sources.plausible import age_of, moment_of, sex_of
from cardionets_core.sources.recording import Facts, Person, SourceEcg

KIND = "wfdb"

_PLAIN = re.compile(r"(?P<name>age|sex|dx|ecg date)\s*:\s*(?P<value>.*)", re.IGNORECASE)
_BRACKETED = re.compile(r"<(?P<name>age|sex|subject_id)>\s*:\s*(?P<value>[^<\s]+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}(?:\.\d*)?", re.ASCII)
_SNOMED = re.compile(r"[1-9]\d{5,17}", re.ASCII)
"""A SNOMED CT identifier has 6 to 18 digits."""

_PTB_DATE = re.compile(r"(\d{2})/(\d{2})/(\d{4})", re.ASCII)
_SUBJECT_FOLDER = re.compile(r"(patient\d{1,6})|p(\d{5,10})", re.ASCII)
"""PTB: patient001/s0010_re.hea; MIMIC: p1000/p10000032/s40689238/40689238.hea."""

_TWO_RATES = re.compile(r"(\d{5})_(?:lr|hr)", re.ASCII)
"""PTB-XL holds each record at 100 Hz and at 500 Hz."""

_MULTI_SEGMENT = re.compile(rb"[-\w]+/\d+\s")


def recognises(name: str, head: bytes) -> bool:
    """Return whether a file is the header of a record: such files have no mark but their name."""
    return name.endswith(".hea")


def segments_of(hea: Path) -> frozenset[str]:
    """Return the names of the records that are segments, or the layout, of this one.

    They lie in its folder and are no recordings of their own. Empty for a record of one segment
    and for a header that cannot be read: reading it as a record will say why.
    """
    with hea.open("rb") as file:
        written = file.read(MAX_HEADER_BYTES)
    lines = [line.strip() for line in written.splitlines()]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    if not lines or not _MULTI_SEGMENT.match(lines[0]):
        return frozenset()
    names = {line.split()[0].decode("ascii", "replace") for line in lines[1:]}
    return frozenset(names - {"~"})


def read(path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read one record.

    The patient is the header's subject id, else the subject's folder (PTB, MIMIC), else the name of
    the record; a table of the hospital is asked before any of them.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS.
    """
    if part:
        raise RecordRefused("missing_file")
    record = read_wfdb(path, root=root)
    return SourceEcg(record=record, facts=_facts(read_header(path, root), path))


def _facts(header: Header, path: Path) -> Facts:
    said = _comments(header)
    age = said.get("age", "")
    return Facts(
        person=Person(
            patient_id=said.get("subject_id", "") or _patient(path),
            sex=sex_of(said.get("sex", "")),
            age=age_of(float(age)) if _NUMBER.fullmatch(age) else nan,
        ),
        recorded=header.recorded or _ptb_date(said.get("ecg date", "")),
        codes=tuple(
            Code("snomed", word)
            for word in dict.fromkeys(re.split(r"[,\s]+", said.get("dx", "")))
            if _SNOMED.fullmatch(word)
        ),
    )


def _comments(header: Header) -> dict[str, str]:
    """Return the first value of each name that is taken."""
    said: dict[str, str] = {}
    for line in header.comments:
        plain = _PLAIN.fullmatch(line)
        for match in [plain] if plain else _BRACKETED.finditer(line):
            said.setdefault(match["name"].lower(), match["value"].strip())
    return said


def _patient(path: Path) -> str:
    for folder in (path.parent.name, path.parent.parent.name):
        match = _SUBJECT_FOLDER.fullmatch(folder)
        if match:
            return match[1] or match[2]
    twice = _TWO_RATES.fullmatch(path.stem)
    return twice[1] if twice else path.stem


def _ptb_date(written: str) -> datetime | None:
    match = _PTB_DATE.fullmatch(written)
    return moment_of(f"{match[3]}{match[2]}{match[1]}") if match else None

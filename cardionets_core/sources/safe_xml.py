"""The one door for XML: vendors' files, read as the untrusted text they are.

Nothing that a document declares is obeyed: entities, element types, attributes and notations are
refused. A `<!DOCTYPE RestingECG SYSTEM "restecg.dtd">` that declares nothing itself, with which GE
MUSE opens every file, is passed over; what it names is never opened.
"""

from __future__ import annotations

import re
from math import isnan, nan
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from numpy.typing import NDArray

from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused

MAX_BYTES = 64_000_000
MAX_ELEMENTS = 500_000
MAX_DEPTH = 100
MAX_LIST = 8_000_000
"""Characters of the samples of one lead: three quarters of an hour at 500 Hz."""

LARGEST = 1e18
"""No number of a recording is larger, and the product of two such numbers is still finite."""

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_UNMARKED_16 = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([-\w.]{1,40})["']""")
_CODECS = {
    "utf8": "utf-8", "usascii": "ascii", "ascii": "ascii",
    # some tools convert the bytes and leave the declaration: bytes of 8 bits are not UTF-16
    "utf16": "utf-8", "utf16le": "utf-8", "utf16be": "utf-8", "unicode": "utf-8",
    "latin1": "latin-1", "iso88591": "latin-1",
    **{f"iso8859{k}": f"iso8859_{k}" for k in (2, 5, 7, 8, 9, 15)},
    **{f"windows{k}": f"cp{k}" for k in range(1250, 1259)},
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "big5": "big5",
    "shiftjis": "shift_jis", "eucjp": "euc_jp", "euckr": "euc_kr",
}  # fmt: skip
"""Declared encoding without case, hyphens and underscores (CardioSoft: `ISO8859-1`) -> codec."""

_ASIDE = re.compile(r"<!--.*?-->|<\?.*?\?>|<!DOCTYPE[^>\[]*(?:\[[^\]]*\])?\s*>", re.DOTALL)
_TAG = re.compile(r"\s*<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII)
_NUMBERS = re.compile(r"[-+.\d\seE]*", re.ASCII)


def parse(path: Path, *, root: Path) -> Element:
    """Read a whole document; names of elements and attributes come without their namespaces.

    Args:
        path: the file, in UTF-8, UTF-16 or the 8-bit or East Asian encoding that it declares.
        root: folder that it may not lie outside of.

    Raises:
        RecordRefused: `header` for what is not well-formed, declares anything or has an unknown
            encoding; `too_large`, `path_escape` or `missing_file`.
    """
    file = sibling(path, path.name, root)
    if file.stat().st_size > MAX_BYTES:
        raise RecordRefused("too_large", f"more than {MAX_BYTES} bytes of XML")
    parser = _Parser(_PlainNames())
    try:
        parser.feed(_decode(file.read_bytes()))
        tree: Element = parser.close()
    except DefusedXmlException:
        raise RecordRefused("header", "XML with declarations") from None
    except ParseError:
        raise RecordRefused("header", "XML that is not well-formed") from None
    return tree


def parse_as(tag: str, path: Path, part: str, *, root: Path, what: str) -> Element:
    """Read a document that is one recording.

    Args:
        tag: name of its root element.
        path: the file.
        part: of it; there is none.
        root: folder that it may not lie outside of.
        what: the recording in words, for the message.

    Raises:
        RecordRefused: as of `parse`; `header` for another document, or for a part of it.
    """
    tree = parse(path, root=root)
    if tree.tag != tag or part:
        raise RecordRefused("header", f"no {what}")
    return tree


def root_tag(head: bytes) -> str:
    """Return the name of the root element in the first bytes of a file; "" if it is no XML."""
    for mark, codec in (*_MARKS, *_UNMARKED_16):
        if head.startswith(mark):
            text = head.decode(codec, errors="ignore").lstrip("\ufeff")
            break
    else:
        text = head.decode("latin-1")
    match = _TAG.match(_ASIDE.sub("", text))
    return match[1] if match else ""


def text(element: Element, path: str = ".") -> str:
    """Return the text of the first element at `path` without blanks around it, "" where none is."""
    found = element.find(path)
    return "" if found is None or found.text is None else found.text.strip()


def need(element: Element, path: str) -> Element:
    """Return the first element at `path` (a path of the format, never of the file).

    Raises:
        RecordRefused: `header` where there is none.
    """
    found = element.find(path)
    if found is None:
        raise RecordRefused("header", f"no {path.removeprefix('.//')}")
    return found


def number(written: str, what: str) -> float:
    """Return a finite number.

    Args:
        written: as it stands in the file.
        what: name of the field, for the message.

    Raises:
        RecordRefused: `header`.
    """
    value = number_or_nan(written)
    if isnan(value):
        raise RecordRefused("header", f"{what} is not a number")
    return value


def number_or_nan(written: str) -> float:
    """Return a finite number, NaN for anything else; for what a recording can do without."""
    plain = written.strip()
    if not _NUMBER.fullmatch(plain):
        return nan
    value = float(plain)
    return value if abs(value) <= LARGEST else nan


def numbers(written: str) -> NDArray[np.float64]:
    """Return the samples, float64 [n], of a list that commas or blanks separate.

    Raises:
        RecordRefused: `unreadable`, or `too_large` for a list no resting ECG fills.
    """
    if len(written) > MAX_LIST:
        raise RecordRefused("too_large", "a lead of too many samples")
    plain = written.replace(",", " ").replace(";", " ")
    if not _NUMBERS.fullmatch(plain):
        raise RecordRefused("unreadable", "samples that are not numbers")
    try:
        values = np.array([float(word) for word in plain.split()], dtype=np.float64)
    except ValueError:
        raise RecordRefused("unreadable", "samples that are not numbers") from None
    if np.abs(values).max(initial=0.0) > LARGEST:
        raise RecordRefused("unreadable", "samples that are too large")
    return values


class _Parser(DefusedXMLParser):
    """Refuses every declaration; a document type that declares nothing is passed over."""

    def __init__(self, target: TreeBuilder) -> None:
        super().__init__(target=target, forbid_dtd=False)
        self.parser.ElementDeclHandler = _refuse_declaration
        self.parser.AttlistDeclHandler = _refuse_declaration
        self.parser.NotationDeclHandler = _refuse_declaration


def _refuse_declaration(*_: object) -> None:
    raise RecordRefused("header", "XML with declarations")


class _PlainNames(TreeBuilder):
    """Builds the tree without namespaces, and only as large as a recording needs."""

    def __init__(self) -> None:
        super().__init__()
        self._count = self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._count += 1
        self._depth += 1
        if self._count > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            raise RecordRefused("too_large", "XML with too many elements")
        plain = {_local(name): value for name, value in attrs.items()}
        return super().start(_local(tag), plain)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(_local(tag))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _decode(data: bytes) -> str:
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return _strictly(data[len(mark) :], codec)
    for start, codec in _UNMARKED_16:
        if data.startswith(start):
            return _strictly(data, codec)
    declared = _DECLARED.match(data[:400])
    written = declared[1].decode("ascii") if declared else "utf-8"
    named = _CODECS.get(re.sub("[-_.]", "", written.lower()))
    if named is None:
        raise RecordRefused("header", "unknown encoding")
    return _strictly(data, named)


def _strictly(data: bytes, codec: str) -> str:
    try:
        return data.decode(codec).lstrip()
    except UnicodeDecodeError:
        raise RecordRefused("header", "text in another encoding than it declares") from None

"""The door for XML: encodings that vendors use, and everything that a document may not do."""

import numpy as np
import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import safe_xml


@pytest.fixture
def parse(tmp_path):
    def parse(data: bytes):
        path = tmp_path / "a.xml"
        path.write_bytes(data)
        return safe_xml.parse(path, root=tmp_path)

    return parse


DECLARED = [
    ("utf-8", "UTF-8"),
    ("utf-8-sig", "utf-8"),
    ("utf-16", "UTF-16"),  # with its mark
    ("utf-16-le", "UTF-16"),
    ("utf-16-be", "UTF-16"),
    ("utf-8", "UTF-16"),  # converted, but the declaration stayed
    ("latin-1", "ISO-8859-1"),
    ("latin-1", "ISO8859-1"),  # GE CardioSoft
    ("cp1252", "windows-1252"),
    ("iso8859_15", "ISO-8859-15"),
]


@pytest.mark.parametrize(("codec", "declared"), DECLARED)
def test_encodings(parse, codec, declared):
    document = f'<?xml version="1.0" encoding="{declared}"?>\n<Name>M\u00fcller</Name>'
    assert parse(document.encode(codec)).text == "M\u00fcller"
    assert safe_xml.root_tag(document.encode(codec)) == "Name"


def test_chinese_hospitals(parse):
    document = '<?xml version="1.0" encoding="GB2312"?><a>\u5fc3\u7535\u56fe</a>'
    assert parse(document.encode("gb2312")).text == "\u5fc3\u7535\u56fe"


def test_names_come_without_namespaces(parse):
    tree = parse(b'<q:a xmlns="u:1" xmlns:q="u:2"><b q:type="PQ"> 7 </b></q:a>')
    assert tree.tag == "a"
    assert tree.find("b").attrib == {"type": "PQ"}
    assert safe_xml.text(tree, "b") == "7"
    assert safe_xml.text(tree, "c") == ""
    with pytest.raises(RecordRefused, match="no c"):
        safe_xml.need(tree, ".//c")


def test_a_document_type_that_declares_nothing_is_passed_over(parse):
    """Every export of GE MUSE names one; some writers add an empty subset."""
    for subset in ("", "[]", "[ ]"):
        document = f'<!DOCTYPE RestingECG SYSTEM "restecg.dtd"{subset}><RestingECG/>'.encode()
        assert parse(document).tag == "RestingECG"
        assert safe_xml.root_tag(document) == "RestingECG"


LAUGHS = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
HOSTILE = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "lol">{LAUGHS}]><a>&l9;</a>',
    "one entity": '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    "external entity": '<!DOCTYPE a [<!ENTITY b SYSTEM "SECRET">]><a>&b;</a>',
    "unparsed entity": '<!DOCTYPE a [<!ENTITY b SYSTEM "x" NDATA gif>]><a/>',
    "parameter entity": '<!DOCTYPE a [<!ENTITY % b SYSTEM "SECRET"> %b;]><a/>',
    "undeclared parameter entity": "<!DOCTYPE a [%b;]><a>&c;</a>",
    "entity of the external subset": '<!DOCTYPE a SYSTEM "SECRET"><a>&b;</a>',
    "default attributes": f'<!DOCTYPE a [<!ATTLIST b c CDATA "{"x" * 999}">]><a>{"<b/>" * 99}</a>',
    "element type": "<!DOCTYPE a [<!ELEMENT a ANY>]><a/>",
    "notation": '<!DOCTYPE a [<!NOTATION n SYSTEM "x">]><a/>',
    "unclosed": "<a><b></b>",
    "two roots": "<a/><b/>",
    "nothing": "",
    "only blanks": "  \n",
    "no xml": "MZ\x90\x00",
    "zero byte": "<a>\0</a>",
    "control character": "<a>&#1;</a>",
    "unknown encoding": '<?xml version="1.0" encoding="zlib"?><a/>',
    "encoding of another file": '<?xml version="1.0" encoding="ascii"?><a>\u00e4</a>',
    "unbound prefix": "<q:a/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused(parse, tmp_path, name):
    secret = tmp_path / "secret.txt"
    secret.write_text("<!ENTITY b 'patient 4711'>")
    with pytest.raises(RecordRefused) as refused:
        parse(HOSTILE[name].replace("SECRET", secret.as_uri()).encode())
    assert refused.value.code == "header"
    assert "4711" not in str(refused.value)


def test_bytes_that_are_not_what_is_declared(parse):
    with pytest.raises(RecordRefused):
        parse(b"<a>\xe4</a>")  # no declaration: UTF-8
    with pytest.raises(RecordRefused):
        parse("<a/>".encode("utf-16")[:-1])


def test_size_is_judged_before_the_file_is_read(tmp_path, monkeypatch):
    path = tmp_path / "large.xml"
    with path.open("wb") as file:
        file.truncate(safe_xml.MAX_BYTES + 1)  # sparse
    with pytest.raises(RecordRefused) as refused:
        safe_xml.parse(path, root=tmp_path)
    assert refused.value.code == "too_large"


@pytest.mark.parametrize("limit", ["MAX_ELEMENTS", "MAX_DEPTH"])
def test_number_and_depth_of_elements(parse, monkeypatch, limit):
    assert parse(b"<a><a><a><a/></a></a></a>").tag == "a"
    monkeypatch.setattr(safe_xml, limit, 3)
    with pytest.raises(RecordRefused) as refused:
        parse(b"<a><a><a><a/></a></a></a>")
    assert refused.value.code == "too_large"


def test_nothing_outside_the_root_is_read(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "a.xml").write_text("<a/>")
    (root / "link.xml").symlink_to(tmp_path / "a.xml")
    for path, code in (
        (tmp_path / "a.xml", "path_escape"),
        (root / ".." / "a.xml", "path_escape"),
        (root / "link.xml", "path_escape"),
        (root / "absent.xml", "missing_file"),
        (root, "path_escape"),
    ):
        with pytest.raises(RecordRefused) as refused:
            safe_xml.parse(path, root=root)
        assert refused.value.code == code


def test_root_tag_of_other_files():
    assert safe_xml.root_tag(b"") == ""
    assert safe_xml.root_tag(b"\x89HDF\r\n\x1a\n") == ""
    assert safe_xml.root_tag(b"a;b\n1;2\n") == ""
    assert safe_xml.root_tag(b"<!-- <a/> --><?pi?><q:b c='d'") == "b"
    assert safe_xml.root_tag(b"<!-- never closed <a/>") == ""


def test_numbers():
    np.testing.assert_array_equal(safe_xml.numbers("1,-2\n 3;  4.5e1"), [1, -2, 3, 45])
    assert safe_xml.numbers("").shape == (0,)
    for written in ("1 nan", "inf", "1_0", "0x10", "a", "1e", "\u0663", "1e999", "1e19"):
        with pytest.raises(RecordRefused) as refused:
            safe_xml.numbers(written)
        assert refused.value.code == "unreadable"
    assert safe_xml.number("0.002", "rate") == 0.002
    assert safe_xml.number(" -1.5e3\n", "rate") == -1500
    for written in ("", "nan", "inf", "1e999", "1e19", "1 2", "abc", "1_0"):
        with pytest.raises(RecordRefused, match="rate is not a number"):
            safe_xml.number(written, "rate")
        assert np.isnan(safe_xml.number_or_nan(written))


def test_long_numbers_take_no_time():
    """A pattern that backtracks takes minutes for these."""
    digits = "1" * 200_000
    for written in (digits, f"{digits}x", f"{digits}.{digits}e", f"1e{digits}"):
        assert np.isnan(safe_xml.number_or_nan(written))


def test_a_list_no_lead_can_fill(monkeypatch):
    monkeypatch.setattr(safe_xml, "MAX_LIST", 10)
    assert len(safe_xml.numbers("1 2 3 4 5")) == 5
    with pytest.raises(RecordRefused, match="too_large"):
        safe_xml.numbers("1 2 3 4 5 6")

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.wfdb_header import MAX_HEADER_BYTES, read_header

GOOD = "r 1 500 5000\nr.dat 16 1000(0)/mV 16 0 0 0 0 II\n"


def header(folder, text, size=10_000, name="r"):
    path = folder / f"{name}.hea"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "r.dat").write_bytes(bytes(size))
    return path


def code_of(folder, text, **more):
    path = header(folder, text, **more)
    with pytest.raises(RecordRefused) as refusal:
        read_header(path, folder)
    return refusal.value.code


def test_a_good_header(tmp_path):
    parsed = read_header(header(tmp_path, "# said by hand\n" + GOOD), tmp_path)
    (signal,) = parsed.signals
    assert (parsed.rate_hz, parsed.frames, parsed.frames_to_read) == (500.0, 5000, 5000)
    assert (signal.file, signal.fmt, signal.gain, signal.baseline) == ("r.dat", "16", 1000.0, 0)
    assert (signal.unit, signal.name, signal.per_frame) == ("mV", "II", 1)


@pytest.mark.parametrize(
    ("field", "gain", "baseline", "unit"),
    [
        ("200", 200.0, 5, "mV"),
        ("0/uV", 200.0, 5, "uV"),
        ("1.253e+04/NU", 12530.0, 5, "NU"),
        ("12.84(-1605)/mmHg", 12.84, -1605, "mmHg"),
        ("1000.0(0)/µV", 1000.0, 0, "µV"),
    ],
)
def test_gain_fields(tmp_path, field, gain, baseline, unit):
    text = f"r 1 500 5000\nr.dat 16 {field} 16 5 0 0 0 II\n"
    (signal,) = read_header(header(tmp_path, text), tmp_path).signals
    assert (signal.gain, signal.baseline, signal.unit) == (gain, baseline, unit)


def test_format_fields(tmp_path):
    text = "r 1 125 100\nr.dat 16x4:3+24 200 16 0 0 0 0 chest lead V1\n"
    (signal,) = read_header(header(tmp_path, text), tmp_path).signals
    assert (signal.per_frame, signal.skew, signal.offset) == (4, 3, 24)
    assert signal.name == "chest lead V1"


def test_latin_1_units_are_kept(tmp_path):
    text = "r 1 500 5000\nr.dat 16 1/µV 16 0 0 0 0 II\n".encode("latin-1")
    assert read_header(header(tmp_path, text), tmp_path).signals[0].unit == "µV"


NAMES = ["../r.dat", "../../x.dat", "/etc/passwd", "a/r.dat", "..", "C:r.dat", "..\\r.dat"]
NAMES += ["s3://bucket/x", "http://h/x.dat", "./r.dat", "~/r.dat", "r.dat/..", "//h/r.dat"]


@pytest.mark.parametrize("name", NAMES)
def test_signal_files_elsewhere_are_refused(tmp_path, name):
    assert code_of(tmp_path, f"r 1 500 5000\n{name} 16 200 16 0 0 0 0 II\n") == "path_escape"


@pytest.mark.parametrize("name", NAMES)
def test_segments_elsewhere_are_refused(tmp_path, name):
    assert code_of(tmp_path, f"r/1 1 500 5000\n{name} 5000\n") == "path_escape"


def test_a_linked_signal_file_is_refused(tmp_path):
    (tmp_path / "out.dat").write_bytes(bytes(10_000))
    root = tmp_path / "root"
    root.mkdir()
    (root / "r.hea").write_text(GOOD)
    (root / "r.dat").symlink_to(tmp_path / "out.dat")
    with pytest.raises(RecordRefused, match="path_escape"):
        read_wfdb(root / "r.hea")
    # the whole folder may be linked where the data root allows it
    assert read_header(root / "r.hea", tmp_path).frames == 5000


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "header"),
        ("# only a comment\n", "header"),
        ("r\n", "header"),
        ("r x 500 10\n", "header"),
        ("r 2 500 5000\nr.dat 16 200 16 0 0 0 0 II\n", "header"),
        ("r 1 500 5000\nr.dat\n", "header"),
        ("r 1 500 5000\nr.dat abc 200\n", "header"),
        ("r 1 500 5000\nr.dat 16 gain/mV\n", "header"),
        ("r 1 500 5000\nr.dat 16 1e-320/mV\n", "header"),
        ("r 1 500 5000\nr.dat 16 1e400/mV\n", "header"),
        ("r 1 500 5000\nr.dat 17 200 16 0 0 0 0 II\n", "header"),
        ("r 1 500 5000\n~ 16 200 16 0 0 0 0 II\n", "header"),
        ("r 1 500 5000\nr.dat 16x0 200 16 0 0 0 0 II\n", "header"),
        ("r 1 500 5000\nq.dat 16 200 16 0 0 0 0 II\n", "missing_file"),
        ("r 1 0 5000\nr.dat 16 200 16 0 0 0 0 II\n", "sampling_rate"),
        ("r 1 -500 5000\nr.dat 16 200 16 0 0 0 0 II\n", "sampling_rate"),
        ("r 1 1e9 5000\nr.dat 16 200 16 0 0 0 0 II\n", "sampling_rate"),
        ("r 1 inf 5000\nr.dat 16 200 16 0 0 0 0 II\n", "sampling_rate"),
        ("r 1 500 5001\nr.dat 16 200 16 0 0 0 0 II\n", "truncated"),
        ("r 1 500 5000\nr.dat 16+1 200 16 0 0 0 0 II\n", "truncated"),
        ("r/2 1 500 5000\nr 5000\n", "header"),
        ("r/1 1 500 5000\nr 5000\n", "header"),
    ],
)
def test_broken_headers(tmp_path, text, code):
    assert code_of(tmp_path, text) == code


@pytest.mark.parametrize(
    "text",
    [
        "r 1 500 1000000000000\nr.dat 16 200 16 0 0 0 0 II\n",
        "r 1 500 " + "9" * 5000 + "\nr.dat 16 200 16 0 0 0 0 II\n",
        "r 1 500 1000000000000\nr.dat 516 200 16 0 0 0 0 II\n",
        "r 1000000 500 5000\nr.dat 16 200 16 0 0 0 0 II\n",
        "r 1 500 100000\nr.dat 516x1000000 200 16 0 0 0 0 II\n",
        "r/100000 1 500 5000\nr 5000\n",
        "r/1 1 500 1000000000000\ns 1000000000000\n",
    ],
)
def test_size_bombs_are_refused_from_the_header(tmp_path, text):
    assert code_of(tmp_path, text) == "too_large"


def test_a_bloated_header_is_not_parsed(tmp_path):
    assert code_of(tmp_path, b"#" * (MAX_HEADER_BYTES + 1)) == "too_large"


def test_segments_do_not_nest(tmp_path):
    (tmp_path / "s.hea").write_text("s/1 1 500 5000\nr 5000\n")
    assert code_of(tmp_path, "r/1 1 500 5000\ns 5000\n") == "header"


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_any_text_is_parsed_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        read_header(header(folder, text), folder)
    except RecordRefused:
        pass


FIELD = st.sampled_from(["r", "r.dat", "16", "516", "0", "-1", "1e400", "500", "/", "x", "II", "~"])


@given(st.lists(st.lists(FIELD, max_size=9).map(" ".join), max_size=5).map("\n".join))
def test_any_sentence_of_header_words_is_read_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        read_wfdb(header(folder, text))
    except RecordRefused:
        pass


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("r 1 {} 5000\nr.dat 16 1000(0)/mV 16 0 0 0 0 II\n", "sampling_rate"),
        ("r 1 500 5000\nr.dat 16 {} 16 0 0 0 0 II\n", "header"),
    ],
)
def test_long_numbers_take_no_time(tmp_path, text, code):
    """A pattern that backtracks takes minutes for these."""
    assert code_of(tmp_path, text.format("1" * 200_000 + "x")) == code

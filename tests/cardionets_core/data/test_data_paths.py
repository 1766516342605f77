import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardionets_core.data.paths import file_inside, inside, sibling
from cardionets_core.data.refusal import REASONS, RecordRefused

UP = ["..", "../x", "a/../x", "a/../../x", "../../etc/passwd", "a/b/../../../x", "..\\x", "x/.."]
ABSOLUTE = ["/etc/passwd", "//host/share", "C:x", "C:\\x", "c:/x", "\\\\host\\x", "~", "~root/x"]
ADDRESSES = ["s3://b/x", "gs://b/x", "http://h/x", "file:///etc/passwd", "az://b/x", "memory://x"]
ODD = ["", "a\x00b", "a\nb", "a\r", "\x1b[0m", "a\\..\\b"]
PREFIXES = ["", "ecg/", "./", "a/./", "ecg//", "e" * 40 + "/"]


@pytest.mark.parametrize("hostile", UP + ABSOLUTE + ADDRESSES + ODD)
def test_hostile_paths_are_refused(tmp_path, hostile):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(RecordRefused) as refusal:
        inside(tmp_path, hostile)
    assert refusal.value.code == "path_escape"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("hostile", [h for h in UP + ADDRESSES + ODD[1:] if h])
def test_hostile_paths_behind_a_folder_are_refused(tmp_path, prefix, hostile):
    with pytest.raises(RecordRefused, match="path_escape"):
        inside(tmp_path, prefix + hostile)


@given(st.lists(st.sampled_from(["..", ".", "a", "b.dat", "", "~", "c:"]), max_size=6))
def test_no_combination_of_parts_escapes(parts):
    root = os.path.realpath("/tmp")
    try:
        path = inside(Path(root), "/".join(parts))
    except RecordRefused:
        return
    assert os.path.commonpath([root, path]) == root


def test_links_out_of_the_root_are_refused(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.dat").write_text("x")
    (root / "file.dat").symlink_to(outside / "secret.dat")
    (root / "folder").symlink_to(outside)
    (root / "chain.dat").symlink_to(root / "file.dat")
    for name in ("file.dat", "folder/secret.dat", "chain.dat"):
        with pytest.raises(RecordRefused, match="path_escape"):
            inside(root, name)
    with pytest.raises(RecordRefused, match="path_escape"):
        sibling(root / "x.hea", "file.dat", root)


def test_links_that_stay_inside_and_a_linked_root_are_fine(tmp_path):
    root = tmp_path / "root"
    (root / "ecg").mkdir(parents=True)
    (root / "ecg" / "a.dat").write_text("x")
    (root / "b.dat").symlink_to(root / "ecg" / "a.dat")
    (tmp_path / "link").symlink_to(root)
    real = root / "ecg" / "a.dat"
    assert file_inside(root, "b.dat") == real
    assert file_inside(tmp_path / "link", "ecg/a.dat") == real
    assert sibling(tmp_path / "link" / "ecg" / "x.hea", "a.dat", root) == real


def test_only_regular_files_count(tmp_path):
    os.mkfifo(tmp_path / "pipe.dat")
    (tmp_path / "folder.dat").mkdir()
    for name in ("pipe.dat", "folder.dat", "absent.dat"):
        with pytest.raises(RecordRefused) as refusal:
            file_inside(tmp_path, name)
        assert refusal.value.code == "missing_file"


@pytest.mark.parametrize("name", ["a/b.dat", "../b.dat", "", ".", "..", "/b.dat"])
def test_a_sibling_is_a_bare_name(tmp_path, name):
    with pytest.raises(RecordRefused, match="path_escape"):
        sibling(tmp_path / "x.hea", name, tmp_path)


def test_every_reason_has_a_cause_and_a_next_step():
    for code, (cause, step) in REASONS.items():
        text = str(RecordRefused(code, "7 Hz"))
        assert cause in text and step in text and code in text and "7 Hz" in text

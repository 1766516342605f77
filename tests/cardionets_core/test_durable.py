"""A file that was moved into place is there after a power cut, too."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from cardionets_core import durable
from cardionets_core.durable import move_into_place


@pytest.fixture
def written(tmp_path):
    temporary = tmp_path / ".a.tmp"
    temporary.write_text("new")
    return temporary, tmp_path / "a"


def test_the_folder_is_synced_after_the_rename(written, monkeypatch):
    synced = []

    def sync(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), written[1].read_text()))

    monkeypatch.setattr(durable.os, "fsync", sync)
    move_into_place(*written)
    assert synced == [(True, "new")] and not written[0].exists()


def failing(monkeypatch, number):
    def fail(descriptor):
        raise OSError(number, "no")

    monkeypatch.setattr(durable.os, "fsync", fail)


def test_a_mount_that_syncs_no_folders_will_do(written, monkeypatch):
    failing(monkeypatch, errno.EINVAL)
    move_into_place(*written)
    assert written[1].read_text() == "new"


def test_a_broken_disk_is_told(written, monkeypatch):
    failing(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="no"):
        move_into_place(*written)

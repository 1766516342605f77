"""Whose fault it is: the file's, the disk's or the memory's."""

import errno

import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.guard import refusing


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("CANARY"), "header"),
        (RecursionError(), "header"),
        (OSError("file signature not found"), "header"),  # as h5py says it
        (OSError(errno.EINVAL, "CANARY"), "header"),
        (OSError(errno.EIO, "CANARY"), "io_error"),
        (PermissionError(errno.EACCES, "CANARY"), "io_error"),
        (MemoryError(), "too_large"),
        (RecordRefused("spacing"), "spacing"),
    ],
)
def test_what_is_raised(error, code):
    with pytest.raises(RecordRefused) as refused, refusing("header"):
        raise error
    assert refused.value.code == code and "CANARY" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_process_ends_it(error):
    with pytest.raises(error), refusing():
        raise error

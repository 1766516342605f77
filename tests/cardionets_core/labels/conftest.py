"""Where the real files lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data():
    """The folder of openly licensed real files."""
    root = Path(__file__).resolve().parents[4] / "shared" / "data"
    root = Path(os.environ.get("CARDIONETS_SHARED_DATA", root))
    if not root.is_dir():
        pytest.skip("real files are absent: set CARDIONETS_SHARED_DATA to their folder")
    return root

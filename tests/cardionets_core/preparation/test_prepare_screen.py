"""What a preparation says on the terminal."""

import numpy as np
import pytest

from cardionets_core.preparation.screen import lines


@pytest.fixture
def said(run, tmp_path):
    """The screen after preparing a folder."""

    def call(folder, **options):
        return "\n".join(lines(run(folder, **options), tmp_path / "prepared"))

    return call


@pytest.fixture
def of_gains(tmp_path, write_record, leads):
    """A folder of ECGs read so many times too large."""

    def make(*factors):
        for k, factor in enumerate(factors):
            write_record(tmp_path / "ecg", f"r{k}", values=factor * leads(k))
        return tmp_path / "ecg"

    return make


@pytest.mark.parametrize(
    ("factors", "warned"),
    [((1.0,) * 5, ""), ((6.0,) * 6 + (1.0,), "6 of 7"), ((1.0,) * 4 + (0.1,), ""),
     ((1.0,) * 3 + (0.1,), "1 of 4")],
)  # fmt: skip
def test_a_wrong_gain_is_said(said, of_gains, factors, warned):
    screen = said(of_gains(*factors))
    if warned:
        assert f"{warned} ECGs have a voltage outside of 0.4 to 3.5 mV" in screen
        assert "they are used as they are" in screen
    else:
        assert "voltage" not in screen


def test_the_median_is_that_of_the_records(run, of_gains):
    voltages = run(of_gains(6.0, 1.0, 0.1)).voltages
    one = run(of_gains(1.0, 1.0, 1.0)).voltages
    assert (voltages.ecgs, voltages.suspect) == (3, 2)
    assert np.isclose(voltages.median_mv, one.median_mv, rtol=0.1) and one.suspect == 0

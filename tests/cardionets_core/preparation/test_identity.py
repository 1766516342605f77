"""Keys, shifted days and stated ages; golden values from hmac and hashlib alone."""

import hashlib
import hmac
import math
import stat
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardionets_core.errors import ConfigError
from cardionets_core.preparation.identity import Salt, read_or_make_salt, stated_age

SALT = Salt("the secret of a site, long enough")


def keyed(purpose, text):
    return hmac.new(SALT.text.encode(), f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()[
        :20
    ]


def test_keys_are_hmacs_of_their_purpose():
    assert SALT.patient_key(" 4711 ") == keyed("patient", "4711") == SALT.patient_key("4711")
    assert SALT.item_key("a/b.hea", "3") == keyed("item", "a/b.hea\0003")
    assert len({SALT.patient_key("x"), SALT.item_key("x"), SALT.content_key(b"x")[:20]}) == 3
    assert Salt("another secret of a site").patient_key("4711") != SALT.patient_key("4711")


@pytest.mark.parametrize("name", ["M\udcfcller", "half \ud800"])
def test_names_that_are_not_utf8_have_keys_too(name):
    keys = {SALT.item_key(name), SALT.patient_key(name), SALT.state_key(name)}
    keys |= {SALT.person_of_content(name), SALT.item_key("Müller"), SALT.item_key("M?ller")}
    assert len(keys) == 6


def test_the_salt_does_not_show():
    assert SALT.text not in repr(SALT) and SALT.text not in SALT.mark


@given(st.text(min_size=1), st.dates(), st.dates())
def test_days_keep_the_intervals_of_a_patient(patient, first, second):
    days = [SALT.shifted_day(patient, day) for day in (first, second)]
    assert days[1] - days[0] == (second - first).days


def test_the_calendars_of_patients_differ():
    day = date(2020, 5, 17)
    shifted = {SALT.shifted_day(f"p{k}", day) for k in range(200)}
    assert len(shifted) > 190 and day.toordinal() not in shifted
    assert SALT.shifted_day("p", None) is None


def test_no_patient_stands_near_an_end_of_the_calendar():
    """From the greatest and least shifted days of an archive of 20 years nobody reads a date."""
    first, last = date(2000, 1, 1), date(2020, 1, 1)
    days = [SALT.shifted_day(f"p{k}", d) for k in range(2000) for d in (first, last)]
    assert max(days) - min(days) > 50 * (last - first).days * 5
    near = sum(d > max(days) - (last - first).days for d in days)
    assert near / len(days) < 0.01  # with one century a fifth


def test_a_moment_is_a_second_of_one_patient():
    at = datetime(2020, 5, 17, 10, 30, 5)
    assert SALT.moment_key("p", at) == SALT.moment_key("p", at.replace(microsecond=7))
    assert SALT.moment_key("p", at) != SALT.moment_key("q", at)
    assert SALT.moment_key("p", datetime(2020, 5, 17)) == ""  # a day without a time
    assert SALT.moment_key("p", None) == ""


@pytest.mark.parametrize(
    ("age", "born", "recorded", "stated"),
    [
        (56.9, None, None, 56.0),
        (89.0, None, None, 89.0),
        (93.0, None, None, 90.0),
        (math.nan, date(1960, 6, 2), date(2020, 6, 1), 59.0),
        (math.nan, date(1960, 6, 2), date(2020, 6, 2), 60.0),
        (math.nan, date(1901, 1, 1), date(2020, 6, 1), 90.0),
        (math.nan, date(2021, 1, 1), date(2020, 6, 1), math.nan),
        (math.nan, date(1960, 6, 2), None, math.nan),
        (-1.0, None, None, math.nan),
    ],
)
def test_ages_are_whole_years_up_to_ninety(age, born, recorded, stated):
    assert stated_age(age, born, recorded) == pytest.approx(stated, nan_ok=True)


def test_a_salt_is_made_once_and_private(tmp_path):
    salt = read_or_make_salt(tmp_path)
    file = tmp_path / "site_salt"
    assert len(salt.text) == 64 and int(salt.text, 16)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_or_make_salt(tmp_path) == salt
    (tmp_path / "other").mkdir()
    assert read_or_make_salt(tmp_path / "other") != salt


def test_a_salt_is_there_wholly_or_not_at_all(tmp_path, monkeypatch):
    def power_cut(*_):
        raise OSError

    monkeypatch.setattr("cardionets_core.preparation.identity.os.fsync", power_cut)
    with pytest.raises(OSError):
        read_or_make_salt(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_salt_that_is_given_is_kept(tmp_path):
    mine, out = tmp_path / "mine", tmp_path / "out"
    out.mkdir()
    mine.write_text("0123456789abcdef0123\n")
    assert read_or_make_salt(out, mine).text == "0123456789abcdef0123"
    assert read_or_make_salt(out).text == "0123456789abcdef0123"
    mine.write_text("another-0123456789abcdef")
    with pytest.raises(ConfigError, match="another salt") as error:
        read_or_make_salt(out, mine)
    assert "0123456789abcdef" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"short", b"\xff\xfe\x00\x01" * 9])
def test_a_wrong_salt_file(tmp_path, content):
    mine = tmp_path / "mine"
    if content is not None:
        mine.write_bytes(content)
    with pytest.raises(ConfigError, match="leave --site-salt out"):
        read_or_make_salt(tmp_path, mine)

import random

import pytest

from cardionets_core.labels.code_syntax import normal_form, shown

# Verhoeff's tables as printed in his monograph, for an independent check of our arithmetic.
D = [
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
]  # fmt: skip
P = ["0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901",
     "2793806415", "7046913258"]  # fmt: skip


def verhoeff_is_right(digits):
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(D[check][int(P[place % 8][int(digit)])])
    return check == 0


def test_snomed_check_digits_against_the_printed_tables():
    rng = random.Random(0)
    for _ in range(3000):
        stem = str(rng.randrange(10**5, 10**12))
        code = stem + rng.choice(["00", "10"]) + str(rng.randrange(10))
        assert bool(normal_form("snomed", code)) == verhoeff_is_right(code)


@pytest.mark.parametrize(
    ("system", "text", "code"),
    [
        ("snomed", "164889003", "164889003"),
        ("snomed", "164889004", ""),
        ("snomed", "67741000119109", "67741000119109"),
        ("icd10", " i48.0 ", "I480"),
        ("icd10", "I32.1*", "I321"),
        ("icd10", "I2510", "I2510"),
        ("icd10", "48.0", ""),
        ("icd10", "I48.", ""),
        ("icd10", "Ivanov", ""),
        ("icd10", "I4٨", ""),
        ("icd9", "427.31", "42731"),
        ("icd9", "V45.81", "V4581"),
        ("icd9", "E849.0", "E8490"),
        ("icd9", "4273123", ""),
        ("scp", "lao/lae", "LAO/LAE"),
        ("scp", "PRC(S)", "PRC(S)"),
        ("scp", "Karl Meier", ""),
        ("icd10", "I" * 100, ""),
    ],
)
def test_normal_forms(system, text, code):
    assert normal_form(system, text) == code


def test_what_is_shown_of_a_code_is_no_patient_number():
    assert shown("icd10", normal_form("icd10", "A123456")) == "A12"
    assert shown("snomed", "164889003") == "164889003"

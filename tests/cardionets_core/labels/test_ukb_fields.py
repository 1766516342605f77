import pytest

from cardionets_core.labels.ukb_fields import fields, ukb_name, ukb_rank
from cardionets_core.vocabulary import PHENOTYPES


def test_every_phenotype_stands_under_its_field_with_its_unit():
    table = fields()
    assert {p.field: (p.name, p.unit, "phenotype") for p in PHENOTYPES} == {
        number: tuple(field) for number, field in table.items() if field.kind == "phenotype"
    }
    assert sorted(n for n, f in table.items() if f.kind == "phenotype") == [*range(24100, 24182)]


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("24100-2.0", "lv_edv"),
        ("p24103_i2", "lv_ef"),
        ("f.24105.2.0", "lv_mass"),
        ("p24181_i2_a0", "ell_global"),
        ("31-0.0", "sex"),
        ("p31", "sex"),
        ("f.21003.2.0", "age"),
        ("12144-2.0", "height_cm"),
        ("50-2.0", "height_cm"),
        ("p21002_i2", "weight_kg"),
        ("24100-3.0", ""),  # the repeat visit is another day
        ("21003-0.0", ""),  # age when recruited, years before the scan
        ("24100-2.1", ""),
        ("24182-2.0", ""),
        ("p24100", ""),
        ("124100-2.0", ""),
        ("lv_edv", ""),
    ],
)
def test_columns(column, name):
    assert ukb_name(column) == name


def test_measures_at_the_scanner_go_first():
    assert ukb_rank("12144-2.0") < ukb_rank("50-2.0")
    assert ukb_rank("12143-2.0") < ukb_rank("21002-2.0")
    assert ukb_rank("anything") == -1

"""What a phenotype can be in anyone, from a newborn to the most ill: a wall against wrong units.

Much wider than what is usual: adults' values (Petersen et al., J Cardiovasc Magn Reson 2017;19:18)
lie well inside, so that no ill heart is lost. A litre, a fraction of one or a centimetre is a
factor of ten at least, and lies outside.
"""

from __future__ import annotations

from cardionets_core.vocabulary import PHENOTYPE_NAMES

_OF_NAME = {
    "lv_edv": (5.0, 1000.0), "lv_esv": (1.0, 900.0), "lv_sv": (2.0, 400.0), "lv_ef": (2.0, 95.0),
    "rv_edv": (5.0, 1000.0), "rv_esv": (1.0, 900.0), "rv_sv": (2.0, 400.0), "rv_ef": (2.0, 95.0),
    "lv_co": (0.3, 30.0), "lv_mass": (3.0, 800.0),
    "aao_max_area": (30.0, 8000.0), "aao_min_area": (30.0, 8000.0),
    "dao_max_area": (20.0, 5000.0), "dao_min_area": (20.0, 5000.0),
    "aao_distensibility": (0.0, 50.0), "dao_distensibility": (0.0, 50.0),
}  # fmt: skip

_OF_KIND = {
    "max": (2.0, 1000.0), "min": (1.0, 900.0), "sv": (1.0, 400.0), "ef": (2.0, 95.0),
    "wt": (1.0, 50.0), "ecc": (-80.0, 40.0), "err": (-60.0, 300.0), "ell": (-80.0, 40.0),
}  # fmt: skip
"""Of the atria by their last word, of walls and strains by their first."""


def _range_of(name: str) -> tuple[float, float]:
    first, *_, last = name.split("_")
    return _OF_NAME.get(name) or _OF_KIND[last if first in ("la", "ra") else first]


PHENOTYPE_RANGES: dict[str, tuple[float, float]] = {n: _range_of(n) for n in PHENOTYPE_NAMES}
"""Phenotype -> lowest and highest value in its unit of the vocabulary; others are unknown."""

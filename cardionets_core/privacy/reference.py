"""Reference mean and sd of every phenotype: public constants that private sums are measured from.

Rounded from healthy adults (Petersen et al., J Cardiovasc Magn Reson 2017;19:18: means of women and
men) and widened for hospital patients, whose hearts are larger and weaker. They bound what one
patient adds to a sum, and stand in for a site's own patients as far as noise drowns these; no
result is compared with them.
"""

from __future__ import annotations

from cardionets_core.vocabulary import PHENOTYPE_NAMES

_OF_NAME = {
    "lv_edv": (150.0, 45.0), "lv_esv": (65.0, 35.0), "lv_sv": (85.0, 22.0), "lv_ef": (58.0, 10.0),
    "rv_edv": (155.0, 45.0), "rv_esv": (70.0, 30.0), "rv_sv": (85.0, 22.0), "rv_ef": (56.0, 10.0),
    "lv_co": (5.5, 1.5), "lv_mass": (100.0, 35.0),
    "la_max": (70.0, 28.0), "la_min": (32.0, 22.0), "la_sv": (38.0, 14.0), "la_ef": (56.0, 13.0),
    "ra_max": (80.0, 30.0), "ra_min": (42.0, 24.0), "ra_sv": (37.0, 14.0), "ra_ef": (48.0, 12.0),
    "aao_max_area": (850.0, 220.0), "aao_min_area": (780.0, 210.0),
    "dao_max_area": (480.0, 120.0), "dao_min_area": (430.0, 110.0),
    "aao_distensibility": (2.0, 1.5), "dao_distensibility": (2.5, 1.5),
}  # fmt: skip

_OF_KIND = {"wt": (7.5, 2.5), "ecc": (-20.0, 7.0), "err": (45.0, 20.0), "ell": (-17.0, 6.0)}
"""Of walls and strains: segments and global values alike."""

REFERENCE: dict[str, tuple[float, float]] = {
    name: _OF_NAME.get(name) or _OF_KIND[name.split("_")[0]] for name in PHENOTYPE_NAMES
}
"""Phenotype -> mean and sd in its unit of the vocabulary."""

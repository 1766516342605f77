"""Privacy ledgers for the hospitals of a simulation.

A real ledger is made once for its patients and kept for ever. Virtual patients, and public records
that are prepared here, begin anew with every simulation: the run's folder holds the ledgers of its
hospitals. A hospital that the simulation did not make needs a ledger of its own in its YAML.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.data.manifest import CINE_COLUMNS, read_manifest
from cardionets_core.errors import ConfigError
from cardionets_core.privacy.new_ledger import init_ledger
from cardionets_core.site_config import site_config_from
from simulations.hospitals import Hospital

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.data.manifest import Manifest

LEAST_DELTA = 1e-5
"""Delta of a simulated hospital, or a tenth of 1 / patients where that is less."""


def with_ledgers(
    hospitals: Sequence[Hospital], folder: Path, *, epsilon: float, made: Path
) -> list[Hospital]:
    """Return the hospitals with a ledger each, made in `folder`.

    Args:
        hospitals: of the simulation, with no ledger of an earlier one (`forget_ledgers`).
        folder: of the run.
        epsilon: what each hospital lets its ledger spend.
        made: folder of the hospitals that the simulation writes.

    Raises:
        ConfigError: a hospital with data of its own names no ledger.
        PrivacyError: a ledger cannot be made.
    """
    return [_with_ledger(h, folder / "ledgers", epsilon=epsilon, made=made) for h in hospitals]


def _with_ledger(hospital: Hospital, place: Path, *, epsilon: float, made: Path) -> Hospital:
    config = hospital.config
    if config.privacy.ledger:
        return hospital
    cache = Path(config.data.cache)
    if not cache.resolve().is_relative_to(made.resolve()):
        raise ConfigError(
            f"{config.site} has patients of its own, whose ledger is made once and kept: run "
            "`cardionets-site budget init` and name it as privacy.ledger in the site's YAML."
        )
    manifest = read_manifest(Path(config.data.manifest), Path(config.data.root), check_files=False)
    patients = manifest.table["patient_id"].unique()
    own = place.resolve() / config.site
    own.mkdir(parents=True)
    section = {
        "required": True,
        "ledger": str(own / "ledger.jsonl"),
        "patients": _rounded(len(patients)),
        "modalities": _offered(manifest),
        "epsilon": epsilon,
        "delta": min(LEAST_DELTA, 0.1 / len(patients)),
    }
    values: dict[str, Any] = hospital.values | {"privacy": section}
    private = site_config_from(values, where=config.site)
    init_ledger(
        private.privacy,
        patients=patients,
        salt=private.data.salt,
        claim_folder=cache,
        table=Path(config.data.manifest),
    )
    return Hospital(private, values)


def _rounded(patients: int) -> int:
    """Return the number of patients as a hospital would declare it: to two digits."""
    unit = int(10 ** max(0, len(str(patients)) - 2))
    return max(1, round(patients / unit) * unit)


def _offered(manifest: Manifest) -> list[str]:
    """Return what the hospital declares: here, where nobody is real, what its table holds."""
    table = manifest.table
    ecg = table["ecg"] != ""
    cine = (table[list(CINE_COLUMNS)] != "").any(axis=1)
    has = {
        "ecg": ecg.any(),
        "cine": cine.any(),
        "pairs": (ecg & cine).any(),
        "phenotypes": table[list(manifest.phenotypes)].notna().any(axis=None),
        "diseases": table[list(manifest.diseases)].notna().any(axis=None),
    }
    return [name for name, found in has.items() if found]

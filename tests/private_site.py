"""Hospitals with a privacy ledger, for tests of private runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from cardionets_core.data.manifest import read_manifest
from cardionets_core.privacy.ledger import init_ledger
from cardionets_core.site_config import load_site_config, write_yaml

PAIRED = ("cine", "diseases", "ecg", "pairs", "phenotypes")

PRIVATE_RUN = ("privacy.mode=patient", "privacy.rate=0.2", "evaluation.sections=[phenotypes]")
"""Overrides that make a small plan private; stages need `max_steps` besides."""


def make_private(site: Path, **privacy: object) -> Path:
    """Give the hospital of a YAML a ledger of its own; return the YAML.

    Args:
        site: the YAML; it gets a `privacy` section, in which the records are 100 patients.
        privacy: other values of SitePrivacy.
    """
    values = yaml.safe_load(site.read_text())
    folder = site.parent / f"ledger-of-{site.stem}"
    folder.mkdir(exist_ok=True)
    section = {"patients": 100, "modalities": list(PAIRED), "epsilon": 50.0, "required": True}
    section |= {"ledger": str(folder / "ledger.jsonl"), **privacy}
    write_yaml(site, values | {"privacy": section})
    config = load_site_config(site)
    table = read_manifest(Path(config.data.manifest), Path(config.data.root)).table
    init_ledger(
        config.privacy,
        patients=table["patient_id"].unique(),
        salt=config.data.salt,
        claim_folder=Path(config.data.cache),
    )
    return site

"""Hospitals with a privacy ledger, for tests of private runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import yaml

from cardionets_core.config_tree import build
from cardionets_core.data.manifest import read_manifest
from cardionets_core.privacy.new_ledger import init_ledger
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.site_config import SiteConfig, load_site_config, write_yaml

PAIRED = ("cine", "diseases", "ecg", "pairs", "phenotypes")

PRIVATE_RUN = ("privacy.mode=patient", "privacy.rate=0.2", "evaluation.sections=[phenotypes]")
"""Overrides that make a small plan private; stages need `max_steps` besides."""


def section(folder: Path, **privacy: object) -> dict[str, object]:
    """Return what a YAML says of a ledger in `folder`; its records are 100 patients there."""
    values = {"patients": 100, "modalities": list(PAIRED), "epsilon": 50.0, "required": True}
    return values | {"ledger": str(folder / "ledger.jsonl"), **privacy}


def with_ledger(config: SiteConfig, folder: Path, **privacy: object) -> SiteConfig:
    """Return the settings of a hospital that has a new ledger in `folder`.

    Args:
        config: of the hospital.
        folder: it is made.
        privacy: other values of SitePrivacy.
    """
    folder.mkdir(exist_ok=True)
    config = replace(config, privacy=build(SitePrivacy, section(folder, **privacy), "privacy"))
    table = read_manifest(Path(config.data.manifest), Path(config.data.root)).table
    init_ledger(
        config.privacy,
        patients=table["patient_id"].unique(),
        salt=config.data.salt,
        claim_folder=Path(config.data.cache),
        table=Path(config.data.manifest),
    )
    return config


def copy_with_ledger(prepared: SiteConfig, folder: Path, **privacy: object) -> SiteConfig:
    """Return a prepared hospital with a table, a cache and a ledger of its own in `folder`."""
    cache = str(shutil.copytree(prepared.data.cache, folder / "cache"))
    table = str(shutil.copy(prepared.data.manifest, folder / "manifest.csv"))
    own = replace(prepared, data=replace(prepared.data, cache=cache, manifest=table))
    return with_ledger(own, folder, **privacy)


def make_private(site: Path, **privacy: object) -> Path:
    """Give the hospital of a YAML a ledger, and the YAML its section `privacy`; return the YAML."""
    folder = site.parent / f"ledger-of-{site.stem}"
    with_ledger(load_site_config(site), folder, **privacy)
    write_yaml(site, yaml.safe_load(site.read_text()) | {"privacy": section(folder, **privacy)})
    return site

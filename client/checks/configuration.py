"""The site's YAML: every wrong key of it, and not only the first."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from cardionets_core.config_tree import build
from cardionets_core.errors import ConfigError, nearest
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.site_config import (
    SiteConfig,
    SiteData,
    SitePolicy,
    compose_site,
    site_config_from,
)
from cardionets_core.vocabulary import StageName
from client.checks.findings import Finding, error, ok

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_DATA = {"root": "data", "manifest": "manifest.csv", "cache": "cache"}

_SECTIONS: dict[str, tuple[type, dict[str, Any]]] = {
    "": (SiteConfig, {"site": "site", "data": _DATA}),
    "data": (SiteData, _DATA),
    "policy": (SitePolicy, {}),
    "privacy": (SitePrivacy, {"patients": 1, "delta": 1e-12, "signing_key": "/key"}),
}
"""Section -> its class, and values that a single key of it can be tried with."""

_NEEDED = {
    "site": "Without it nobody knows which hospital this is.",
    "data": "Without it nobody knows where the hospital's records lie.",
    "root": "Every path of the manifest is relative to it.",
    "manifest": "It is the table that says which record is whose.",
    "cache": "Prepared records are kept there between rounds.",
}
"""Key that must be there -> why."""

_EVERY_KEY = "site_configs/template.yaml shows every key with its meaning."


def read_configuration(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[SiteConfig | None, list[Finding]]:
    """Read a site's YAML as far as it can be read.

    Returns:
        The configuration without its wrong keys, None where too little is left of it; and the
        findings, one per wrong key.
    """
    try:
        values = compose_site(path, overrides)
    except ConfigError as cause:
        return None, [_unreadable(path, str(cause))]
    found: list[Finding] = []
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if key in _SECTIONS and isinstance(value, dict):
            kept[key] = _usable_keys(key, value, path.name, found)
    if "privacy" in kept:
        kept["privacy"] = _agreeing(kept["privacy"], path.name, found)
    kept |= _usable_keys("", {k: v for k, v in values.items() if k not in kept}, path.name, found)
    try:
        config = site_config_from(kept, path.name)
    except ConfigError as cause:
        missing = _missing_keys(path.name, values)
        if "data.prepared" in str(cause):
            found.append(_prepared(str(cause)))
        elif not found and not missing:
            found.append(_bad(path.name, "", str(cause)))
        return None, found + missing
    if not found:
        found.append(ok("configuration", f"{path.name}: every key is known and of the right type."))
    return config, found


def _unreadable(path: Path, text: str) -> Finding:
    if not path.is_file():
        return error(
            "configuration",
            "config_absent",
            f"{path} does not exist.",
            cause="The site's YAML says where the records lie and what the hospital allows.",
            next_step="Name another file with --config, or copy site_configs/template.yaml.",
        )
    return error(
        "configuration",
        "config_unreadable",
        text,
        cause="The file is not YAML with keys, or an override cannot be read.",
        next_step=f"Compare indentation, colons and quotes; {_EVERY_KEY}",
    )


def _usable_keys(
    section: str, values: Mapping[str, Any], name: str, found: list[Finding]
) -> dict[str, Any]:
    """Return the keys that can be used; say of every other one why not."""
    cls, others = _SECTIONS[section]
    known = [f.name for f in dataclasses.fields(cls)]
    place = f"{name}.{section}" if section else name
    kept = {}
    for key, value in values.items():
        if key not in known:
            found.append(_unknown(place, key, known))
            continue
        try:
            build(cls, {**others, key: value}, place)
        except ConfigError as cause:
            found.append(_bad(place, key, str(cause)))
        else:
            kept[key] = value
    return kept


def _agreeing(values: dict[str, Any], name: str, found: list[Finding]) -> dict[str, Any]:
    """Return the section on privacy where its keys go together; else say why not, and {}.

    Keys that are wrong by themselves are said already: nothing follows from what the others lack.
    """
    place = f"{name}.privacy"
    try:
        build(SitePrivacy, values, place)
    except ConfigError as cause:
        if not any(f.what.startswith(f"{place}:") or f.what.startswith(f"{place}.") for f in found):
            found.append(_bad(place, "", str(cause)))
        return {}
    return values


def _unknown(place: str, key: str, known: Sequence[str]) -> Finding:
    return error(
        "configuration",
        "unknown_key",
        f"{place}: unknown key {key!r}{nearest(key, known)}.",
        cause="A key that nothing reads would be a setting that silently does not hold.",
        next_step=f"Correct or remove it. Known keys: {', '.join(known)}.",
    )


def _bad(place: str, key: str, text: str) -> Finding:
    code, cause, step = "bad_value", "No setting can follow from this value.", _EVERY_KEY
    if key == "salt":
        # The text quotes the value, and the salt is a secret.
        text, step = f"{place}.salt: expected text.", "Write it in quotes."
    elif key == "site":
        code = "site_name"
        cause = "The name stands in file names, reports and on the coordinator's screen."
        step = "Use letters, digits, '-' and '_' only, for instance my-hospital."
    elif key == "stages":
        code = "policy_stage"
        cause = "A stage that does not exist would silently keep the hospital out of the real one."
        step = f"Correct it. Stages: {', '.join(get_args(StageName))}."
    return error("configuration", code, text, cause=cause, next_step=step)


def _prepared(text: str) -> Finding:
    return error(
        "configuration",
        "prepared_unusable",
        text,
        cause="Data folder, manifest and salt of a prepared site come from that one folder.",
        next_step="Name the folder that `cardionets prepare --out` made, and nothing beside it.",
    )


def _missing_keys(name: str, values: Mapping[str, Any]) -> list[Finding]:
    data = values.get("data")
    keys = set(data) if isinstance(data, dict) else set(_DATA)  # no section: that alone is said
    keys |= _meant(keys, [f.name for f in dataclasses.fields(SiteData)])
    if "prepared" in keys:
        keys |= set(_DATA)
    present = {
        "": set(values) | _meant(values, [f.name for f in dataclasses.fields(SiteConfig)]),
        "data": keys,
    }
    return [
        error(
            "configuration",
            "missing_key",
            f"{name}: {'.'.join(filter(None, (section, key)))} is missing.",
            cause=_NEEDED[key],
            next_step=f"Add it; {_EVERY_KEY}"
            if section == ""
            else "Add it, or name the folder that `cardionets prepare` made as data.prepared.",
        )
        for section, needed in (("", ("site", "data")), ("data", tuple(_DATA)))
        for key in needed
        if key not in present[section]
    ]


def _meant(keys: Iterable[str], known: Sequence[str]) -> set[str]:
    """Return the known keys that unknown ones probably are: the typo is named, and says enough."""
    meant: set[str] = set()
    for key in set(keys) - set(known):
        meant.update(get_close_matches(key, known, n=1, cutoff=0.5))
    return meant

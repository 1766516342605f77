"""Where the records lie: root, manifest, cache, the salt, who else can read them, and the room."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.site_config import PREPARED_SALT
from client.checks.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from cardionets_core.site_config import SiteConfig
    from client.checks.machine import Machine

TEMPLATE_SALT = "change-me"
"""What stands in site_configs/template.yaml."""

MARGIN_BYTES = 200_000_000
"""Room for logs, Flower's own files and the parts of one more run."""

_NAME_ONE = (
    "Correct the path, prepare the hospital's files (`cardionets prepare`), or make a virtual "
    "hospital (`cardionets cohort`)."
)


def check_places(config: SiteConfig, name: str, machine: Machine) -> list[Finding]:
    """Look at the folders and files that the YAML names; they are only read.

    Args:
        config: the site's configuration.
        name: file name of its YAML, for messages.
        machine: answers whether this account may read a path.
    """
    found = _check_root(Path(config.data.root), name, machine)
    found += _check_manifest(Path(config.data.manifest), name, machine)
    found += _check_salt(config, name)
    return found or [ok("configuration", "Data folder, manifest and salt are in place.")]


def _absent(name: str, key: str, path: Path) -> Finding:
    return error(
        "configuration",
        f"{key}_missing",
        f"{name}: data.{key} names {path}, which does not exist.",
        cause="The path is mistyped, or its disk is not mounted.",
        next_step=_NAME_ONE,
    )


def _closed(name: str, key: str, path: Path) -> Finding:
    return error(
        "configuration",
        f"{key}_unreadable",
        f"{name}: data.{key} names {path}, which this account may not read.",
        cause=f"The account that trains (uid {os.getuid()}) has no read permission there.",
        next_step="Grant it read access (chmod, chgrp or an ACL), or use the account that has it.",
    )


def _check_root(root: Path, name: str, machine: Machine) -> list[Finding]:
    if not root.exists():
        return [_absent(name, "root", root)]
    if not root.is_dir():
        return [
            error(
                "configuration",
                "root_is_a_file",
                f"{name}: data.root names {root}, which is not a folder.",
                cause="Every path of the manifest is relative to this folder.",
                next_step="Name the folder that the records lie in.",
            )
        ]
    return [] if machine.readable(root) else [_closed(name, "root", root)]


def _check_manifest(manifest: Path, name: str, machine: Machine) -> list[Finding]:
    if not manifest.exists():
        return [_absent(name, "manifest", manifest)]
    if not manifest.is_file():
        return [
            error(
                "configuration",
                "manifest_is_a_folder",
                f"{name}: data.manifest names {manifest}, which is a folder.",
                cause="The manifest is one table with a row per study.",
                next_step="Name the table itself, for instance manifest.csv in that folder.",
            )
        ]
    return [] if machine.readable(manifest) else [_closed(name, "manifest", manifest)]


def _check_salt(config: SiteConfig, name: str) -> list[Finding]:
    salt = config.data.salt.strip()
    if salt and salt != TEMPLATE_SALT:
        return []
    is_empty = not salt
    return [
        error(
            "configuration",
            "salt_empty" if is_empty else "salt_template",
            f"{name}: data.salt is {'empty' if is_empty else 'the one of the template'}.",
            cause="The split into training and test patients is drawn with it: whoever knows it "
            "can tell who is in which, and a later change moves patients between the two.",
            next_step="Set it once, before the first run: `openssl rand -hex 16` makes one.",
        )
    ]


def check_cache(config: SiteConfig, name: str, machine: Machine, needed: int) -> list[Finding]:
    """Look whether prepared arrays can be written where the YAML says, and whether they fit.

    Args:
        config: the site's configuration.
        name: file name of its YAML, for messages.
        machine: answers how much room there is.
        needed: bytes that are still to be written.
    """
    cache = Path(config.data.cache)
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as cause:
        return [
            error(
                "disk",
                "cache_not_writable",
                f"{name}: data.cache names {cache}, which cannot be written.",
                cause=f"The system says: {cause.strerror}.",
                next_step="Choose another folder, or give this account write permission there.",
            )
        ]
    return [_room(cache, machine.free_bytes(cache), needed), *_inside_root(config, name, cache)]


def _room(cache: Path, free: int, needed: int) -> Finding:
    figures = f"{free / 1e9:.1f} GB free in {cache}, {needed / 1e9:.2f} GB still to be written"
    step = "Free some space, or name a folder on a larger disk in data.cache."
    if free < needed:
        return error(
            "disk",
            "disk_full",
            f"The disk is too small: {figures}.",
            cause="Prepared arrays of every study and the parts of the model lie there.",
            next_step=step,
        )
    if free < needed + MARGIN_BYTES:
        return warning(
            "disk",
            "disk_nearly_full",
            f"The disk is nearly full: {figures}.",
            cause="A second preset, new studies or logs would no longer fit.",
            next_step=step,
        )
    return ok("disk", f"{figures}.")


def _inside_root(config: SiteConfig, name: str, cache: Path) -> list[Finding]:
    is_inside = cache.resolve().is_relative_to(Path(config.data.root).resolve())
    if config.data.prepared or not is_inside:
        return []  # a prepared folder is made to hold its own cache
    return [
        warning(
            "disk",
            "cache_inside_root",
            f"{name}: data.cache lies inside data.root.",
            cause="Copies of patient data would lie among the originals: backups grow, and a "
            "data folder that should be read-only has to be writable.",
            next_step="Name a folder outside, for instance beside the data folder.",
        )
    ]


def check_permissions(config: SiteConfig | None, path: Path) -> list[Finding]:
    """Look who else may read or change the YAML (with the salt) and the cache (patient data)."""
    if not path.is_file():
        return [ok("permissions", "Not looked at: there is no YAML.", "left_out")]
    found = _open_yaml(path)
    if config is None:
        seen = "The YAML belongs to this account alone; the cache was not looked at."
        return found or [ok("permissions", seen, "left_out")]
    found += _open_folders(config)
    return found or [ok("permissions", "The YAML and the cache belong to this account alone.")]


def _open_yaml(path: Path) -> list[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        return [
            warning(
                "permissions",
                "yaml_writable",
                f"{path.name} can be changed by other accounts (mode {mode:03o}).",
                cause="It holds the hospital's policy; who can edit it decides for it.",
                next_step=f"chmod 600 {path.name}",
            )
        ]
    if mode & 0o044:
        return [
            warning(
                "permissions",
                "yaml_readable",
                f"{path.name} can be read by other accounts (mode {mode:03o}).",
                cause="It says where the patients' data lie, and may hold the salt.",
                next_step=f"chmod 600 {path.name}",
            )
        ]
    return []


def _open_folders(config: SiteConfig) -> list[Finding]:
    """Look at what this software wrote itself; who reads the originals is the hospital's matter."""
    own = {"cache": Path(config.data.cache)}
    if config.data.prepared:
        own["prepared"] = Path(config.data.prepared)
        own["salt"] = own["prepared"] / PREPARED_SALT
    return [
        warning(
            "permissions",
            f"{key}_readable",
            f"{path} is open to other accounts (mode {stat.S_IMODE(path.stat().st_mode):03o}).",
            cause="It is the secret that patients' keys are made with."
            if key == "salt"
            else "It holds prepared ECGs and images of patients.",
            next_step=f"chmod {'600' if key == 'salt' else '700'} {path}",
        )
        for key, path in own.items()
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]

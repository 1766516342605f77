"""A whole model at one site: what a run averaged, with what this site trained for itself."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import (
    part_arrays,
    read_info,
    read_tensors,
    to_groups,
    to_tensors,
    write_checkpoint,
)
from cardionets_core.errors import CheckpointError, ConfigError, SiteError
from cardionets_core.messages import TaskHeader
from cardionets_core.models.cardionet import PARTS
from cardionets_core.training.stages import STAGES
from client.memory import LOCAL, RunMemory
from client.weights import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.checkpoint import CheckpointInfo
    from cardionets_core.packing import Groups
    from client.site import Site

log = logging.getLogger("cardionets.site")


def write_own_model(site: Site, checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint that this site's evaluation used; `cardionets predict` takes it.

    It holds tensors that were never averaged: it is for this hospital only, and readable by the
    account that writes it only.

    Args:
        site: whose personal tensors.
        checkpoint: of a run with `local_parts`.
        out: folder for the whole checkpoint; must not exist or be empty.

    Raises:
        ConfigError: the checkpoint is whole already, or `out` holds something.
        CheckpointError: it cannot be read, or this site does not remember the run.
    """
    info = read_info(checkpoint)
    if not info.provenance.get("local_parts"):
        raise ConfigError(
            f"{checkpoint} is whole already: its run kept nothing at the sites. "
            "Use it as it is (`cardionets predict`)."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something already; name a folder that is new or empty.")
    header = _header(info)
    own = _remembered(site, header, info, checkpoint)
    model = load_model(header, to_groups(read_tensors(checkpoint, info)), own)
    whole = {part: part_arrays(model, part) for part in PARTS}
    kept = {k: v for k, v in info.provenance.items() if k != "local_parts"}
    written = replace(info, provenance=kept | {"personal_to": site.name}, state={})
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_checkpoint(out, written, to_tensors(whole), number=1)
    return out


def _header(info: CheckpointInfo) -> TaskHeader:
    """Return the header of an evaluation of the run: the site opened its model by such a one."""
    return TaskHeader(
        run=info.provenance["run"],
        config_hash=info.provenance["config_hash"],
        stage="evaluate",
        action="score",
        round=1,
        seed=0,
        threads=1,
        model=info.model,
        phenotypes=info.phenotypes,
        diseases=info.diseases,
        local=tuple(info.provenance["local_parts"]),
        model_seed=info.provenance["seed"],
    )


def _remembered(site: Site, header: TaskHeader, info: CheckpointInfo, checkpoint: Path) -> Groups:
    """Return the personal tensors of the site's last update that the run used.

    Raises:
        CheckpointError: there is none, or it is lost.
    """
    rounds = [r for r in info.state.get("history", ()) if r["stage"] in STAGES]
    used = [f"{r['stage']}/{r['round']}" for r in rounds if site.name in r["accepted"]]
    if not used:
        raise CheckpointError(
            f"{checkpoint}: the run used no update of site {site.name}, so the site has trained "
            "nothing of its own for it. Name the YAML of a site that took part."
        )
    try:
        return RunMemory(site.runs, header).read(used[-1]).groups.get(LOCAL, {})
    except SiteError:
        raise CheckpointError(
            f"{site.runs} does not hold what this site trained for itself in {used[-1]} of run "
            f"{header.run}, or it is torn. It lies in data.cache of the site that took part, for "
            "the five runs that were written last; restore it from a backup."
        ) from None

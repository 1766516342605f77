"""A full disk under what a run keeps: under the checkpoint, and under what its sites keep.

Each must be told by an error that names the cause, and must leave the old generation whole.
"""

from __future__ import annotations

import resource
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.errors import CardioNetsError, CheckpointError, DataError
from cardionets_core.site_config import load_site_config
from client.memory import RunMemory
from server.state import load_state, save_state
from simulations.faults.kills import STAGE, kill_plan
from simulations.faults.torn import (
    ROUNDS,
    RUN,
    answered,
    answered_mark,
    remembered,
    resume_point,
    task_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_SPACE, TOO_LARGE = "No space left", "File too large"
"""The kernel's words for ENOSPC and EFBIG."""

LARGEST_BYTES = 4096
"""Less than any memory or answer of a site has."""


def full_disk(base: Path) -> list[str]:
    """Let every write of the checkpoint, of a site's memory and of its answer fail, one at a time.

    Args:
        base: folder of an interrupted run (simulations/faults/torn.py).

    Returns:
        What went wrong; empty when each was told clearly and left the old generation whole.
    """
    return [*_under_checkpoint(base), *_under_memory(base)]


def _under_checkpoint(base: Path) -> list[str]:
    """Put `/dev/full` in the place of each temporary file: the kernel's own "no space left"."""
    config, wrong = kill_plan(ROUNDS), []
    before = resume_point(base / "outputs" / RUN / "checkpoint")
    spare = base.with_name("full")
    for name in (f"weights-{before[2] + 1:06d}.safetensors", "checkpoint.json", "previous.json"):
        shutil.rmtree(spare, ignore_errors=True)
        shutil.copytree(base / "outputs" / RUN / "checkpoint", spare)
        (spare / f".{name}.tmp").symlink_to("/dev/full")
        state = load_state(config, spare)
        told = _told(partial(save_state, state, config, spare), CheckpointError, NO_SPACE)
        wrong += [f"{name}: {words}" for words in told]
        if resume_point(spare) != before:
            wrong.append(f"{name}: the old generation is not whole")
    return wrong


def _under_memory(base: Path) -> list[str]:
    """Write what a site keeps once more, where no file may grow as large as that."""
    wrong, header = [], task_header()
    for site in sorted((base / "sites").glob("*.yaml")):
        spare = base.with_name(f"full-{site.stem}")
        shutil.rmtree(spare, ignore_errors=True)
        shutil.copytree(Path(load_site_config(site).data.cache) / "runs", spare)
        memory, answer = RunMemory(spare, header), next(spare.glob("*/answer*"))
        readers = remembered(spare), answered(spare, answer)
        before, mark = [read() for read in readers], answered_mark(answer)
        known, update = memory.read(f"{STAGE}/{ROUNDS - 1}"), memory.answer(mark)
        assert update is not None and None not in before
        writes: dict[str, Callable[[], object]] = {
            "memory": partial(memory.write, header, known),
            "answer": partial(memory.keep_answer, "another task", update),
        }
        for what, write in writes.items():
            with _small_files():
                told = _told(write, DataError, TOO_LARGE)
            wrong += [f"{what} of {site.stem}: {words}" for words in told]
            if [read() for read in readers] != before:
                wrong.append(f"{what} of {site.stem}: what was there before is not whole")
    return wrong


def _told(write: Callable[[], object], kind: type[CardioNetsError], words: str) -> list[str]:
    """Return what is wrong with how a write fails."""
    try:
        write()
    except kind as error:
        return [] if words in str(error) else [str(error)]
    return ["the full disk was not noticed"]


@contextmanager
def _small_files() -> Iterator[None]:
    """Let no file of this process grow beyond a size: a quota, whatever the file's name is.

    Python ignores the signal that comes with it, so that the write itself fails.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

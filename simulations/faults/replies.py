"""A grid whose sites are files: replies as large as real ones that cost their maker no memory.

For measuring the server alone. What the server sends is forgotten at once, but for its header and
manifest; a reply's bytes are read from a file when the server asks for it, as they would come from
a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.lib import format as npy

from cardionets_core.flower_compat import stamp_message_id, task_identity
from cardionets_core.messages import ARRAYS, CONFIG, NPY, Update, update_to_records
from simulations.grid import InProcessGrid

STUDIES = 400
"""Training studies of each site."""

NUMBERS = 2**20
"""Numbers that are drawn at a time."""


@dataclass(frozen=True)
class _Sent:
    """What is kept of a task: the emptied message, its header and its manifest."""

    message: Message
    header: dict[str, Any]
    manifest: dict[str, Any]


class Replies(InProcessGrid):
    """A grid of sites that answer with noise.

    Args:
        sites: how many there are.
        folder: the bytes of the replies lie there.
        phenotypes: length of the sums in the handshake.
    """

    def __init__(self, sites: int, folder: Path, phenotypes: int) -> None:
        super().__init__(ClientApp(), {f"site{i:02d}": folder for i in range(sites)})
        self._folder, self._phenotypes = folder, phenotypes
        self._tasks: dict[str, _Sent] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages, keep no array of them, and return their ids."""
        ids = []
        for message in messages:
            ids.append(f"sent-{len(self._tasks)}-{message.metadata.dst_node_id}")
            stamp_message_id(message, ids[-1])
            config = message.content[CONFIG]
            header, manifest = (json.loads(str(config[key])) for key in ("header", "manifest"))
            message.content = RecordDict()
            self._tasks[ids[-1]] = _Sent(message, header, manifest)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages; each comes once."""
        found = [(i, self._tasks.pop(i)) for i in list(message_ids) if i in self._tasks]
        return [self._reply(message_id, sent) for message_id, sent in found]

    def _reply(self, message_id: str, sent: _Sent) -> Message:
        node, header = sent.message.metadata.dst_node_id, sent.header
        update = Update(
            self.names[node], header["run"], header["stage"], header["round"], num_examples=STUDIES
        )
        if header["action"] == "describe":
            content = update_to_records(described(update, self._phenotypes))
        else:
            mine = {k: e for k, e in sent.manifest.items() if k.split("|")[0] in header["trains"]}
            content = self._trained(update, mine)
        with task_identity(run_id=1, node_id=node):
            reply = Message(content, reply_to=sent.message)
        stamp_message_id(reply, f"reply-to-{message_id}")
        return reply

    def _trained(self, update: Update, manifest: dict[str, Any]) -> RecordDict:
        # One number is the site's own, or the firewall would know the update as a copy.
        own = 1e-3 * (update.round + len(manifest) * float(update.site.removeprefix("site")))
        arrays, entries = {}, {}
        for key, entry in manifest.items():
            size = sum(prod(shape) for _, shape in entry["tensors"])
            arrays[key], digest = noise(self._folder, key, size, own)
            entries[key] = entry | {"sha256": digest}
        # All but the arrays is packed as a site packs it.
        config = update_to_records(update)[CONFIG]
        assert isinstance(config, ConfigRecord)
        config["manifest"] = json.dumps(entries)
        return RecordDict({ARRAYS: ArrayRecord(arrays), CONFIG: config})


def described(update: Update, phenotypes: int) -> Update:
    """Return what a site with pairs says of itself."""
    ones = np.full(phenotypes, float(STUDIES))
    return replace(
        update,
        counts={"patients": STUDIES, "train_studies": STUDIES},
        modalities=("cine", "diseases", "ecg", "pairs", "phenotypes"),
        sums={"phenotype_n": ones, "phenotype_sum": 0 * ones, "phenotype_square": ones},
    )


def noise(folder: Path, key: str, size: int, own: float) -> tuple[Array, str]:
    """Return a flat array of a message and the SHA-256 of its numbers, in a single copy.

    Args:
        folder: the file with the bytes lies there; written on the first call.
        key: `part|dtype`.
        size: numbers.
        own: the first of them.
    """
    path, dtype = folder / key.replace("|", "-"), np.dtype(key.split("|")[1])
    if not path.exists():
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
            npy.write_array_header_1_0(file, header)
            for start in range(0, size, NUMBERS):
                drawn = rng.standard_normal(min(NUMBERS, size - start), dtype=np.float32)
                file.write((1e-4 * drawn).astype(dtype).tobytes())
    with path.open("r+b") as file:
        start = path.stat().st_size - size * dtype.itemsize
        file.seek(start)
        file.write(np.array(own, dtype=dtype).tobytes())
        file.seek(start)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with path.open("rb", buffering=0) as file:  # a buffered file would read it in two copies
        data = file.readall()
    return Array(dtype=str(dtype), shape=(size,), stype=NPY, data=data), digest

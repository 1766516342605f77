"""Which site a node is that has not said it: registered by name, or known by its key.

Every SuperNode has a key; one that nobody registered makes itself a new one at each start. So a key
is one process, which serves one hospital, and who answered a handshake with it before is who
refuses one with it now. Digests of the keys stand in the handshakes' entries of `progress.jsonl`,
of this run and of those beside it, and nowhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from server.progress import read_progress

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from server.exchange import Run


def keys_of(run: Run) -> dict[str, Any]:
    """Return what a handshake's entry keeps of the nodes' keys; {} where the engine has none."""
    keys = {site: run.attendance.key_of(node) for site, node in sorted(run.nodes.items())}
    told = {site: key for site, key in keys.items() if key}
    return {"keys": told} if told else {}


def names_of(run: Run, nodes: Iterable[int]) -> dict[int, str]:
    """Return node -> site, of those nodes of which it is certain.

    It is not where a key has spoken for two names, or where another node goes by the name as well.
    """
    attendance, nodes = run.attendance, list(nodes)
    names = {node: attendance.label(node) for node in nodes if attendance.is_enrolled(node)}
    keys = {node: attendance.key_of(node) for node in nodes if node not in names}
    spoken = _spoken_for(run.folder) if any(keys.values()) else {}
    for node, key in keys.items():
        if len(sites := spoken.get(key, set())) == 1:
            names[node] = min(sites)
    others = [n for n in attendance.online if n not in names and attendance.is_enrolled(n)]
    taken = Counter([*run.nodes, *names.values(), *map(attendance.label, others)])
    return {n: name for n, name in names.items() if n not in keys or taken[name] == 1}


def _spoken_for(folder: Path) -> dict[str, set[str]]:
    """Return digest of a key -> sites that answered with it, in this run and those beside it."""
    spoken: dict[str, set[str]] = defaultdict(set)
    for other in (path for path in folder.parent.iterdir() if path.is_dir()):
        for entry in read_progress(other):
            for site, key in entry.get("keys", {}).items():
                spoken[key].add(site)
    return spoken

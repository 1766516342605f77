"""What one SuperLink takes: memory and time of a round against the number of SuperNodes.

python benchmarks/superlink.py                      # 2, 4 and 8 nodes, a reply of 20 MB each

Real processes on loopback: SuperLink, SuperExec, one SuperNode per site, and an app that only sends
an array to every node and takes one back, one reply at a time, as our server does. Prints the
seconds of a round and the peak memory of the SuperLink and of one SuperNode.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import flwr
import psutil

from server.launch import BUNDLE
from simulations.processes import SUPERLINK, Federation, site_process

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = """
import json, os, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    megabytes, rounds = int(os.environ["ECHO_MB"]), int(os.environ["ECHO_ROUNDS"])
    nodes = list(grid.get_node_ids())
    seconds = []
    for number in range(rounds):
        began = time.monotonic()
        values = np.full(megabytes * 250_000, number, dtype=np.float32)
        content = RecordDict({"arrays": ArrayRecord({"w": Array(values)})})
        waiting = set()
        for node in nodes:
            waiting.update(grid.push_messages([Message(content, node, "train")]))
        while waiting:
            for one in list(waiting):
                for reply in grid.pull_messages([one]):
                    assert len(reply.content["arrays"]["w"].data) > megabytes * 1_000_000
                    waiting.discard(reply.metadata.reply_to_message_id)
            time.sleep(0.1)
        seconds.append(time.monotonic() - began)
    folder = Path(os.environ["CARDIONETS_OUTPUTS"]) / context.run_config["run"]
    (folder / "seconds.json").write_text(json.dumps(seconds))
"""
CLIENT = """
import os
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    values = message.content["arrays"]["w"].numpy() + np.float32(os.getpid())
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(values)})}), reply_to=message)
"""


def write_apps(folder: Path) -> Path:
    """Write both apps and the bundle that names them; return the bundle."""
    folder.mkdir(parents=True)
    (folder / "echo_server.py").write_text(SERVER)
    (folder / "echo_client.py").write_text(CLIENT)
    lines = (BUNDLE / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    apps = {"serverapp": "echo_server:app", "clientapp": "echo_client:app"}
    for i, line in enumerate(lines):
        key = line.partition("=")[0].strip()
        if key in apps:
            lines[i] = f'{key} = "{apps[key]}"'
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class Peaks:
    """The largest memory of some processes, looked at again and again."""

    def __init__(self, federation: Federation, names: Sequence[str]) -> None:
        self._pids = {name: federation.processes.processes[name].pid for name in names}
        self.bytes = dict.fromkeys(names, 0)

    def look(self) -> None:
        """Look once."""
        for name, pid in self._pids.items():
            self.bytes[name] = max(self.bytes[name], psutil.Process(pid).memory_info().rss)


def measure(folder: Path, nodes: int, megabytes: int, rounds: int) -> str:
    """Return the line of the table for so many nodes."""
    sites = {f"site{i:02d}": folder / "sites" / f"site{i:02d}.yaml" for i in range(nodes)}
    for name, path in sites.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"site: {name}\n")
    env = {
        "PYTHONPATH": str(folder.resolve() / "apps"),
        "ECHO_MB": str(megabytes),
        "ECHO_ROUNDS": str(rounds),
        "OMP_NUM_THREADS": "1",
    }
    bundle = write_apps(folder / "apps")
    place = folder / "run"
    with Federation(place, sites, env=env, bundle=bundle, start_s=400.0) as federation:
        peaks = Peaks(federation, [SUPERLINK, *map(site_process, sites)])
        peaks.look()
        idle = peaks.bytes[SUPERLINK]
        state = federation.wait(federation.submit({"run": "run"}), peaks.look)
        if not state.completed:
            raise SystemExit(f"the run did not complete: {state}; logs in {place / 'logs'}")
    seconds = json.loads((place / "seconds.json").read_text())
    node = statistics.median(peaks.bytes[site_process(name)] for name in sites)
    return (
        f"{nodes:6}{statistics.median(seconds):12.1f}{idle / 1e6:12.0f}"
        f"{peaks.bytes[SUPERLINK] / 1e6:12.0f}{node / 1e6:12.0f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="One SuperLink and more and more SuperNodes.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/superlink"))
    given = parser.parse_args()
    print(f"command    python {' '.join(sys.argv)}")
    print(f"machine    {platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"versions   Flower {flwr.__version__}, Python {platform.python_version()}")
    print(f"\n{given.megabytes} MB to each node and back, {given.rounds} rounds; memory in MB")
    print(f"{'nodes':>6}{'s a round':>12}{'idle link':>12}{'peak link':>12}{'peak node':>12}")
    for nodes in given.nodes:
        shutil.rmtree(given.output, ignore_errors=True)
        print(measure(given.output, nodes, given.megabytes, given.rounds), flush=True)


if __name__ == "__main__":
    main()

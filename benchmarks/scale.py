"""100 virtual hospitals in one federation on one machine, through Flower's simulation engine.

pip install 'cardionets[ray]'
python benchmarks/scale.py                          # 100 sites, minutes on two cores
python benchmarks/scale.py --sites 8                # a quick look

Each site is a hospital of its own (name, salt, cache, memory) with ECGs of virtual patients; a few
folders of patients serve all of them. The ServerApp, the sites' app, the wire, the firewall and the
sums are those of a real run; Ray's processes take the place of the SuperNodes. Prints the time of
every round, what the sites sent, and the memory of all processes.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flwr
import psutil
import torch

from cardionets_core.cohort.write import write_site
from cardionets_core.config_tree import digest
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.site_config import write_yaml
from server.progress import read_progress
from server.server_app import write_config
from simulations.faults.small import NANO, plan
from simulations.ray_engine import RAY_VERSION, RayFederation

if TYPE_CHECKING:
    from cardionets_core.run_config import RunConfig
    from simulations.processes import Federation

FOLDERS = 4
"""Folders of virtual patients; site i reads folder i modulo this."""

LOOK_S = 2.0
"""Seconds between two looks at the memory."""

WORDS = (
    *NANO,
    "stages=[handshake,ecg_masked]",
    "stage.ecg_masked.batch_size=8",
    "min_patients=5",
)


class Memory:
    """The memory of a federation's processes; looked at every LOOK_S seconds."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._next = 0.0
        self.peak: dict[str, int] = {}
        self.processes = 0

    def look(self) -> None:
        """Keep what the processes take together, if it is more than ever before."""
        if time.monotonic() < self._next:
            return
        sums: dict[str, int] = {}
        found = self._federation.processes.members()
        for process in found:
            try:
                size, kind = process.memory_full_info().pss, _kind(process)
            except psutil.Error:
                continue  # it ended meanwhile
            sums[kind] = sums.get(kind, 0) + size
        if sum(sums.values()) > sum(self.peak.values()):
            self.peak, self.processes = sums, len(found)
        self._next = time.monotonic() + LOOK_S


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for word, kind in KINDS.items():
        if word in line:
            return kind
    return "the rest"


KINDS = {
    "ray::": "Ray's processes for the sites",
    "/ray/": "Ray itself",
    "flwr-simulation": "ServerApp",
    "superlink": "SuperLink",
    "superexec": "SuperExec",
}
"""What stands in a process's command line -> what the table calls it."""


def write_sites(folder: Path, count: int, patients: int) -> dict[str, Path]:
    """Write the patients and one YAML per site; return site name -> YAML."""
    cohorts = [folder / f"cohort-{i}" for i in range(min(FOLDERS, count))]
    for i, cohort in enumerate(cohorts):
        write_site("ABC"[i % 3], patients=patients, seed=100 + i, out=cohort, ecg_only=True)
    sites: dict[str, Path] = {}
    for i in range(count):
        name, cohort = f"virtual-{i:03d}", cohorts[i % len(cohorts)]
        data = {
            "root": str(cohort),
            "manifest": str(cohort / "manifest.csv"),
            "cache": str(folder / "caches" / name),
            "salt": f"salt-of-{name}",
        }
        sites[name] = folder / "sites" / f"{name}.yaml"
        sites[name].parent.mkdir(parents=True, exist_ok=True)
        write_yaml(sites[name], {"site": name, "title": name, "device": "cpu", "data": data})
    return sites


def run(
    folder: Path, config: RunConfig, sites: dict[str, Path]
) -> tuple[list[dict[str, Any]], Memory]:
    """Run the federation; return the records of its rounds, and what it took."""
    write_config(folder, config)
    env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with RayFederation(folder, sites, env=env) as federation:
        memory = Memory(federation)
        run_id = federation.submit({"run": config.name, "config-hash": digest(config)})
        federation.wait(run_id, memory.look)
    entries = read_progress(folder)
    if not entries or entries[-1]["event"] != "completed":
        raise SystemExit(f"the run did not complete: {entries[-1:]}; logs in {folder / 'logs'}")
    return [entry for entry in entries if entry["event"] == "round"], memory


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Many virtual sites on one machine.")
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("outputs/scale"))
    given = parser.parse_args()
    shutil.rmtree(given.output, ignore_errors=True)
    words = [*WORDS, f"stage.ecg_masked.rounds={given.rounds}", "wait_s=600", "seed=1"]
    # Some salts leave a site too few training patients; it refuses, and the round goes on.
    words += [f"stage.ecg_masked.min_sites={max(1, given.sites // 2)}"]
    config = plan("scale", words, sites=given.sites)
    model = build_model(config.sized_model(), device="meta")
    sizes = {p: sum(t.nbytes for t in model.get_submodule(p).state_dict().values()) for p in PARTS}
    print(f"command    python {' '.join(sys.argv)}")
    print(f"machine    {platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"versions   Flower {flwr.__version__}, Ray {RAY_VERSION}, torch {torch.__version__}")
    print(f"seed       {config.seed}; {given.sites} sites of {given.patients} virtual patients")
    trained = sizes["ecg_encoder"] + sizes["ecg_decoder"]
    print(f"model      {sum(sizes.values()) / 1e6:.2f} MB, of which {trained / 1e6:.2f} MB train")
    sites = write_sites(given.output, given.sites, given.patients)
    started = time.monotonic()
    rounds, memory = run(given.output / "scale", config, sites)
    print(f"all        {time.monotonic() - started:.0f} s from the first process to the last")
    for record in rounds:
        down, up = (sum(record[k].values()) / 1e6 for k in ("bytes_down", "bytes_up"))
        print(
            f"{record['stage']:>12} {record['round']}  {record['seconds']:6.1f} s  "
            f"{len(record['accepted'])} sites used, {len(record['refused'])} refused, "
            f"{down:.1f} MB down, {up:.1f} MB up"
        )
    print(
        f"memory     {sum(memory.peak.values()) / 1e6:.0f} MB in {memory.processes} processes (PSS)"
    )
    for kind, size in sorted(memory.peak.items(), key=lambda item: -item[1]):
        print(f"           {size / 1e6:6.0f} MB  {kind}")


if __name__ == "__main__":
    main()

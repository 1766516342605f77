"""One federation of real processes that meets planned faults, and what can be compared afterwards.

    calm = federate(folder / "calm", config, sites)
    hit = federate(folder / "hit", config, sites, faults)
    assert hit.weights == calm.weights

The processes run under the supervision that an operator's run under; the harness itself only kills.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.config_tree import digest
from cardionets_core.errors import EngineError
from cardionets_core.faults import FAULTS_ENV
from cardionets_core.site_config import compose_site, write_yaml
from client.client_app import app as client_app
from server.progress import read_progress
from server.server_app import app as server_app
from server.server_app import write_config
from server.status import Queue, standing
from simulations.faults.long_training import Holding
from simulations.faults.plan import OWN_PROCESS, Fault, ask_for
from simulations.grid import run_in_process
from simulations.processes import SUPERLINK, site_process
from simulations.supervised import SupervisedFederation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cardionets_core.run_config import RunConfig
    from simulations.faults.plan import Slow
    from simulations.processes import Federation

PATIENCE_S = 900.0
"""A federation that takes longer has hung."""

LOOK_S = 0.1
TRAIN_MESSAGE = re.compile(rb"Receiving: train")
"""How a SuperNode says in its log that it was handed a training task."""

ANSWERED = re.compile(rb"Connection successful after")
"""How a SuperNode says in its log that a SuperLink that was away has answered it again."""


@dataclass(frozen=True)
class Hit:
    """A fault that happened.

    Attributes:
        fault: which.
        time: when, in seconds since 1970.
        recovered_s: seconds until a site was handed the next training task; infinite where no
            further one came. None where none came and a client process was the victim: its site
            mends that itself, in the round in hand, which may be the last one.
        answered_s: after the kill of a SuperLink, seconds until it first answered a site that had
            asked in vain; infinite where it never did. None for other victims.
    """

    fault: Fault
    time: float
    recovered_s: float | None
    answered_s: float | None = None


@dataclass(frozen=True)
class Ran:
    """What is left of a federation, for comparison with another one.

    Attributes:
        weights: SHA-256 of the final weights; empty if the run did not complete.
        rounds: `STAGE-ROUND` -> SHA-256 of the weights after it.
        sites: `STAGE-ROUND` -> sites whose update was used.
        repeated: rounds that were told as finished, and later done again.
        memory: `SITE/FILE` -> SHA-256 of what the site remembers of the run.
        hits: the faults that happened, in their order.
        missed: the faults that were asked for and did not happen.
        seconds: from the submission to the end.
        outlived: whether a site still worked on a task of a Flower run when the next Flower run
            had its server.
    """

    weights: str
    rounds: dict[str, str]
    sites: dict[str, list[str]]
    repeated: list[str]
    memory: dict[str, str]
    hits: tuple[Hit, ...]
    missed: tuple[Fault, ...]
    seconds: float
    outlived: bool = False


@dataclass
class Watch:
    """Kills who is to be killed, and notes when faults happened and tasks were handed out."""

    federation: Federation
    folder: Path
    faults: Sequence[Fault]
    times: dict[Fault, float] = field(default_factory=dict)
    tasks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Look once at all of it."""
        self._read_logs(time.time())
        for fault in self.faults:
            met = fault.met(self.folder) if fault not in self.times else None
            if met is None:
                continue
            when = met[1]
            if fault.victim not in OWN_PROCESS:
                if self.federation.processes.ended(self._victim(fault)) is not None:
                    continue  # its last life has just been taken; killed as soon as it is back
                when = self._kill(fault)
                fault.release(self.folder)
            self.times[fault] = when

    def hits(self) -> tuple[Hit, ...]:
        """Return what happened, in its order."""
        ordered = sorted(self.times.items(), key=lambda item: item[1])
        return tuple(self._hit(fault, when) for fault, when in ordered)

    def _hit(self, fault: Fault, when: float) -> Hit:
        task = _seconds_to(self.tasks, when)
        if fault.victim == "client process" and math.isinf(task):
            return Hit(fault, when, None)
        answered = _seconds_to(self.answers, when) if fault.victim == "SuperLink" else None
        return Hit(fault, when, task, answered)

    def _kill(self, fault: Fault) -> float:
        before = time.time()
        os.kill(self.federation.processes.processes[self._victim(fault)].pid, signal.SIGKILL)
        self._read_logs(before)  # what was written up to here is no sign of a recovery
        return time.time()

    def _victim(self, fault: Fault) -> str:
        return SUPERLINK if fault.victim == "SuperLink" else site_process(fault.site)

    def _read_logs(self, now: float) -> None:
        """Note what is new in the logs of the sites as seen now."""
        logs = [self.federation.processes.log_path(site_process(n)) for n in self.federation.sites]
        said = [p.read_bytes() for p in logs if p.exists()]
        for words, times in ((TRAIN_MESSAGE, self.tasks), (ANSWERED, self.answers)):
            times += [now] * (sum(len(words.findall(log)) for log in said) - len(times))


def _seconds_to(times: Sequence[float], when: float) -> float:
    """Return the seconds from a moment to the first time after it; infinite without one."""
    return next((t - when for t in times if t > when), math.inf)


def federate(
    folder: Path,
    config: RunConfig,
    sites: Mapping[str, Path],
    faults: Sequence[Fault] = (),
    *,
    slow: Slow | None = None,
    patience_s: float = PATIENCE_S,
) -> Ran:
    """Run a federation to its end through all of its faults.

    Args:
        folder: gets the run's folder, and what the sites keep; nobody else's.
        config: the plan.
        sites: site name -> YAML; the data are shared between federations, the caches are not.
        faults: what happens to it.
        slow: a training that takes long.
        patience_s: seconds after which it counts as hung.

    Raises:
        EngineError: it hung; the message says where the logs are.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier measurement
    run, plans = folder / "outputs" / config.name, folder / "faults"
    write_config(run, config)
    ask_for([*faults, *([slow] if slow else [])], plans)
    own = own_caches(sites, folder / "sites")
    env = {FAULTS_ENV: str(plans), "OMP_NUM_THREADS": str(config.threads)}
    with SupervisedFederation(run, own, env=env) as federation:
        watch, began = Watch(federation, plans, faults), time.monotonic()
        federation.submit({"run": config.name, "config-hash": digest(config)})
        held = Holding(slow, plans, run)
        follow(federation, run, watch, patience_s=patience_s, each=held.look)
        seconds = time.monotonic() - began
    missed = tuple(f for f in faults if f not in watch.times)
    ran = _ran(run, own, watch.hits(), missed, seconds)
    return replace(ran, outlived=held.outlived)


def undisturbed(folder: Path, config: RunConfig, sites: Mapping[str, Path]) -> Ran:
    """Run a federation in this process, where nothing can happen to it; its bits are the same."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier measurement
    run, own = folder / "outputs" / config.name, own_caches(sites, folder / "sites")
    write_config(run, config)
    submitted = {"run": config.name, "config-hash": digest(config)}
    began = time.monotonic()
    run_in_process(server_app, client_app, run_config=submitted, sites=own, outputs=run.parent)
    return _ran(run, own, (), (), time.monotonic() - began)


def follow(
    federation: Federation,
    run: Path,
    watch: Watch,
    *,
    patience_s: float = PATIENCE_S,
    each: Callable[[], None] = lambda: None,
) -> None:
    """Look after a federation until its run has ended.

    Args:
        federation: started, its run submitted.
        run: the run's folder.
        watch: sees to the faults.
        patience_s: seconds after which the run counts as hung.
        each: called a few times a second.

    Raises:
        EngineError: it hung.
    """
    deadline = time.monotonic() + patience_s
    while not standing(run, time.time(), queue=Queue(alive=True, resumes=True)).final:
        federation.look()
        watch.look()
        each()
        if time.monotonic() > deadline:
            raise EngineError(f"no end within {patience_s:g} s; logs in {run / 'logs'}")
        time.sleep(LOOK_S)


def own_caches(sites: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Write the sites' YAML anew into a folder, with caches there; return site name -> YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in sites.items():
        values: dict[str, Any] = compose_site(path)
        values["data"] = dict(values["data"]) | {"cache": str(folder / name / "cache")}
        write_yaml(folder / f"{name}.yaml", values)
    return {name: folder / f"{name}.yaml" for name in sites}


def _ran(
    run: Path,
    sites: Mapping[str, Path],
    hits: tuple[Hit, ...],
    missed: tuple[Fault, ...],
    seconds: float,
) -> Ran:
    path = run / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {"rounds": []}
    rounds = {f"{r['stage']}-{r['round']}": r for r in summary["rounds"]}
    told = [
        f"{e['stage']}-{e['round']}"
        for e in read_progress(run)
        if e["event"] == "round" and e["stage"] not in ("handshake", "evaluate")
    ]
    return Ran(
        weights=summary.get("weights_sha256", ""),
        rounds={name: r.get("weights", "") for name, r in rounds.items()},
        sites={name: r["accepted"] for name, r in rounds.items()},
        repeated=sorted({name for name in told if told.count(name) > 1}),
        memory={k: v for name, path in sites.items() for k, v in _memory(name, path).items()},
        hits=hits,
        missed=missed,
        seconds=round(seconds, 1),
    )


def _memory(name: str, site: Path) -> dict[str, str]:
    """Return the digests of what a site remembers; the number in a file's name is left out."""
    runs = Path(compose_site(site)["data"]["cache"]) / "runs"
    return {
        f"{name}/{p.name.split('-')[-1]}": hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(runs.glob("*/memory-*"))
    }

"""Whether the state that a person is shown is what the processes say, while a run has a hard time.

The ServerApp is killed between two rounds, then a site loses its data for good. All the while the
displayed state is compared with the process table, which it does not see.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from cardionets_core.config_tree import digest
from cardionets_core.faults import FAULTS_ENV
from cardionets_core.site_config import compose_site, write_yaml
from server.server_app import write_config
from server.status import standing, words
from server.supervisor import queue_of
from simulations.faults.harness import Watch, follow, own_caches
from simulations.faults.kills import STAGE, hospitals, kill_plan
from simulations.faults.plan import Fault, ask_for
from simulations.supervised import SupervisedFederation

if TYPE_CHECKING:
    from pathlib import Path

    from simulations.processes import Federation

ROUNDS = 4
LOOK_S = 0.25
SERVED = ("RUNNING", "WAITING")
"""States that say that the run has a server."""

KILLED = Fault("between_rounds", "ServerApp", STAGE, 2)
LEFT = f"between_rounds@{STAGE}-3.hold"
"""The server waits there while the site loses its data."""


@dataclass(frozen=True)
class Truth:
    """What was displayed.

    Attributes:
        states: every state that was shown, in its order, repeats left out.
        longest_s: the longest time that the display and the process table did not agree.
        last: the state at the end, with its sites.
        summary: the same word in summary.json.
        site: name of the site that was lost.
    """

    states: tuple[str, ...]
    longest_s: float
    last: str
    summary: str
    site: str


@dataclass
class Display:
    """Looks at the displayed state and at the process table, in a thread of its own."""

    federation: Federation
    run: Path
    states: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    closed: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until it is closed."""
        apart_since = None
        while not self.closed.wait(LOOK_S):
            shown, now = self.shown(), time.monotonic()
            if not self.states or self.states[-1] != shown:
                self.states.append(shown)
            served = shown.partition("(")[0] in SERVED
            if served == self.federation.server_app_runs():
                apart_since = None
                continue
            apart_since = now if apart_since is None else apart_since
            self.longest_s = max(self.longest_s, now - apart_since)

    def shown(self) -> str:
        """Return what `cardionets-coordinator status` would print."""
        queue = queue_of(self.federation.engine)
        return words(standing(self.run, time.time(), queue=queue))


@cache
def displayed(folder: Path) -> Truth:
    """Run a federation that is hit twice, and return what was displayed of it."""
    sites = own_caches(hospitals(folder), folder / "sites")
    config, plans = kill_plan(ROUNDS), folder / "faults"
    run, lost = folder / "outputs" / config.name, sorted(sites)[0]
    write_config(run, config)
    ask_for([KILLED], plans)
    (plans / LEFT).touch()
    env = {FAULTS_ENV: str(plans), "OMP_NUM_THREADS": str(config.threads)}
    with SupervisedFederation(run, sites, env=env) as federation:
        display = Display(federation, run)
        thread = threading.Thread(target=display.watch, daemon=True)
        federation.submit({"run": config.name, "config-hash": digest(config)})
        thread.start()
        watch = Watch(federation, plans, [KILLED])
        follow(federation, run, watch, each=lambda: _leave(plans, sites[lost]))
        last = display.shown()
        display.closed.set()
        thread.join()
    summary = json.loads((run / "summary.json").read_text())
    return Truth(tuple(display.states), display.longest_s, last, summary["status"], lost)


def _leave(plans: Path, site: Path) -> None:
    """Take a site's table of patients away as soon as the server is held, and let it go on."""
    held = plans / f"{LEFT}.reached"
    if not held.exists():
        return
    values = compose_site(site)
    values["data"] = dict(values["data"]) | {"manifest": str(site.with_name("gone.csv"))}
    write_yaml(site, values)
    held.unlink()

"""Figure 6: cuts of the link between a site and the SuperLink, in the middle of a transfer.

The site behind the link (link.py) is cut off at 10, 50 and 99 % of a reply and of a task, for 1, 10
and 30 s, in one round each. A round counts as aborted when it was not finished with all sites at
its first try. The weights at the end must have the SHA-256 of the same run without a cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.config_tree import digest
from client.client_app import app as client_app
from server.server_app import app as server_app
from server.server_app import write_config
from simulations.faults.link import Cut, Link
from simulations.faults.plain_federation import PlainFederation
from simulations.faults.row import Row, is_quick
from simulations.faults.small import NANO, ecg_hospitals, plan
from simulations.grid import run_in_process
from simulations.process_group import reserved_ports
from simulations.processes import Federation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cardionets_core.run_config import RunConfig
    from simulations.faults.link import Way

SHARES = (0.10, 0.50, 0.99)
CUTS: tuple[tuple[Way, float], ...] = tuple(
    (way, share) for way in ("up", "down") for share in SHARES
)
"""What is cut in rounds 1 to 6, and at which share of it."""

SECONDS = (1.0, 10.0, 30.0)
LONG_S = 100.0
"""Longer than the 60 s after which Flower gives a node up."""

PLAIN_PATIENCE_S = 600.0
DROPPED = "Failed to send message"
"""What Flower's SuperNode says when it drops a reply."""

PATIENCE_S = 1200.0


@dataclass(frozen=True)
class Crossed:
    """A run with a site behind a link.

    Attributes:
        weights: SHA-256 of the final checkpoint; empty where the run did not complete.
        rounds: records of the training rounds.
        events: what happened on the link.
    """

    weights: str
    rounds: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...] = ()

    @property
    def cuts(self) -> int:
        """How often the link went."""
        return sum(e["event"] == "cut" for e in self.events)

    def aborted(self, sites: int) -> int:
        """Return how many rounds were not finished by all sites at their first try."""
        return sum(len(r["accepted"]) < sites or r.get("tries", 1) > 1 for r in self.rounds)

    def resent(self) -> int:
        """Return the bytes of the objects that were cut: they travelled for nothing."""
        objects = [e for e in self.events if e["event"] == "object"]
        return sum(e["passed"] for e in objects if e["passed"] < e["size"])


def config_of(
    name: str,
    *,
    rounds: int,
    sites: int,
    codec: str = "float32",
    model: Sequence[str] = NANO,
) -> RunConfig:
    """Return the plan of a short run: one stage that needs ECGs only."""
    stage = {"rounds": rounds, "local_epochs": 1, "min_sites": sites}
    words = [f"stage.ecg_masked.{key}={value}" for key, value in stage.items()]
    words += ["stages=[handshake,ecg_masked]", f"wire.codec={codec}"]
    return plan(name, (*model, *words), sites=sites)


def calm(folder: Path, config: RunConfig, sites: Mapping[str, Path]) -> Crossed:
    """Run a plan in this process, without a link; the weights are those of real processes."""
    run = folder / config.name
    write_config(run, config)
    submission = {"run": config.name, "config-hash": digest(config)}
    run_in_process(server_app, client_app, run_config=submission, sites=sites, outputs=folder)
    return _crossed(run)


def over_link(
    folder: Path,
    config: RunConfig,
    sites: Mapping[str, Path],
    *,
    cuts: Sequence[Cut] = (),
    bits_per_s: float = 0.0,
    delay_s: float = 0.0,
    loss: float = 0.0,
) -> Crossed:
    """Run a plan as real processes with the first of the sites behind a link.

    Args:
        folder: gets the run's folder and the link's events.
        config: the plan; give each run a name of its own, or sites answer from memory.
        sites: site name -> YAML.
        cuts: see link.py; likewise `bits_per_s`, `delay_s` and `loss`.
        bits_per_s: see `cuts`.
        delay_s: see `cuts`.
        loss: see `cuts`.
    """
    run = folder / config.name
    write_config(run, config)
    submission = {"run": config.name, "config-hash": digest(config)}
    env = {"OMP_NUM_THREADS": str(config.threads)}
    slowness = {"bits_per_s": bits_per_s, "delay_s": delay_s, "loss": loss}
    with reserved_ports(1) as (port,), Link(run / "link", port, cuts=cuts, **slowness) as link:
        behind = {next(iter(sites)): link.address}
        with Federation(run, sites, port=port, env=env, site_address=behind) as federation:
            federation.wait(federation.submit(submission), seconds=PATIENCE_S)
        return _crossed(run, link.events())


def cuts_of(record: Mapping[str, Any], site: str, *, seconds: float) -> list[Cut]:
    """Return the cuts of rounds 1 to 6, by the bytes of an undisturbed round."""
    size = {"up": record["bytes_up"][site], "down": record["bytes_down"][site]}
    return [
        Cut(way, message=i + 1, at_bytes=int(share * size[way]), seconds=seconds)
        for i, (way, share) in enumerate(CUTS)
    ]


def figure_6(work: Path) -> Row:
    """Cut a site off in the middle of transfers; see the module's text."""
    sites = ecg_hospitals(work / "hospitals", 2)
    first, rounds = next(iter(sites)), len(CUTS)
    reference = calm(work, config_of("calm-run", rounds=rounds, sites=2), sites)
    lengths = SECONDS[:1] if is_quick() else (*SECONDS, LONG_S)
    made, aborted, resent, same = 0, 0, 0, True
    for seconds in lengths:
        cuts = cuts_of(reference.rounds[0], first, seconds=seconds)
        if seconds == LONG_S:
            cuts = cuts[1:2]
        config = config_of(f"cut-{seconds:04.0f}", rounds=rounds, sites=2)
        crossed = over_link(work, config, sites, cuts=cuts)
        made, aborted = made + crossed.cuts, aborted + crossed.aborted(2)
        resent += crossed.resent()
        same = same and crossed.weights == reference.weights and crossed.cuts == len(cuts)
    length = ", ".join(f"{s:g}" for s in lengths)
    ours = f"{aborted} aborted rounds in {made} cuts of {length} s, "
    ours += (
        f"{'the same' if same else 'OTHER'} weights, {resent / max(made, 1) / 1e3:.0f} kB resent"
    )
    return Row(
        figure=6,
        what="cuts at 10, 50 and 99 % of an upload and of a download",
        target="0 aborted rounds, the same weights",
        ours=ours,
        flower=_plain_flower(work, sites, reference),
        met=same and aborted == 0,
    )


def _plain_flower(work: Path, sites: Mapping[str, Path], reference: Crossed) -> str:
    """Cut plain Flower's only site for a second in each of three uploads."""
    (name, path), record = next(iter(sites.items())), reference.rounds[0]
    size, address = record["bytes_up"][name], [""]
    # Each of its rounds is two tasks and two replies: training, evaluation.
    cuts = [Cut("up", 2 * i, int(share * size), SECONDS[0]) for i, share in enumerate(SHARES)]
    federation = PlainFederation(
        work / "plain",
        {name: path},
        work / "calm-run" / "config.json",
        superlink_of=lambda _port: address[0],
    )
    with Link(work / "plain" / "link", federation.port, cuts=cuts) as link:
        address[0] = link.address
        with federation:
            run_id = federation.submit(rounds=len(cuts))
            state, waited = federation.wait_until_finished(run_id, PLAIN_PATIENCE_S)
            good = sum(bool(step["nodes"]) for step in federation.steps("train_back"))
            lost = federation.processes.log_path(f"site-{name}").read_text().count(DROPPED)
        made = sum(e["event"] == "cut" for e in link.events())
    end = state.status if state.finished else f"unfinished after {waited:.0f} s"
    return (
        f"{lost} replies dropped in {made} cuts of 1 s, {good} of {len(cuts)} rounds whole, {end}"
    )


def _crossed(run: Path, events: Sequence[dict[str, Any]] = ()) -> Crossed:
    path = run / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {"rounds": []}
    rounds = tuple(r for r in summary["rounds"] if r["stage"] != "handshake")
    return Crossed(summary.get("weights_sha256", ""), rounds, tuple(events))

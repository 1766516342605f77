"""Figure 12: bad updates stay out of the sum, each with its reason; honest ones get in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Message
from flwr.clientapp import ClientApp

from cardionets_core.config_tree import digest
from cardionets_core.messages import (
    Update,
    refusal,
    task_from_records,
    update_from_records,
    update_to_records,
)
from client.client_app import answer
from server.server_app import app as server_app
from server.server_app import write_config
from simulations.faults.attacks import FIGURE_12, Attack, count_attacks
from simulations.faults.clean_updates import false_refusals
from simulations.faults.flower_side import flower_12
from simulations.faults.row import Row, is_quick
from simulations.faults.silence import silenced
from simulations.faults.small import NANO, ecg_hospitals, plan
from simulations.grid import run_in_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.app import Context, RecordDict

MALICIOUS, STAGE = "hill", "ecg_masked"
FIRST_ATTACK = 2
"""Round of the first attack: a replay and a stale update need a round before them."""


def site_app(attacks: Mapping[int, Attack], malicious: str = MALICIOUS) -> ClientApp:
    """Return the sites' app; the malicious one sends what attacks[ROUND] makes of its update."""
    past: list[Update] = []

    def answered(message: Message, context: Context) -> Message:
        header = task_from_records(message.content).header
        content = answer(message.content)
        if Path(os.environ["SITE_CONFIG"]).stem == malicious and header.action == "train":
            past.append(update_from_records(content))
            if header.round in attacks:
                content = _sent(attacks[header.round](past[-1], past))
        return Message(content, reply_to=message)

    app = ClientApp()
    for register in (app.query(), app.train(), app.evaluate()):
        register(answered)
    return app


def _sent(spoilt: Update | str) -> RecordDict:
    return refusal(spoilt) if isinstance(spoilt, str) else update_to_records(spoilt)


def unable(update: Update, past: Sequence[Update]) -> str:
    """Answer what an honest site answers that cannot serve a round."""
    return "internal"


def figure_12(work: Path) -> Row:
    """An attack a round by one of three sites; and 1,000 clean updates."""
    numbers = {name: i for i, name in enumerate(FIGURE_12, start=FIRST_ATTACK)}
    sites = ecg_hospitals(work / "hospitals", 3, patients=20)
    attacked = _run(work / "attacked", sites, {numbers[n]: a for n, (a, _) in FIGURE_12.items()})
    honest = _run(work / "without", sites, dict.fromkeys(numbers.values(), unable))
    refused = {r["round"]: r["refused"].get(MALICIOUS) for r in attacked["rounds"]}
    right = [n for n, (_, code) in FIGURE_12.items() if refused.get(numbers[n]) == code]
    same = attacked["weights_sha256"] == honest["weights_sha256"]
    wrong, clean = false_refusals(federations=2 if is_quick() else 10)
    stopped = count_attacks(right)
    trace = "as if that site had not answered" if same else "CHANGED by an attack"
    return Row(
        figure=12,
        what="one of three sites attacks, round after round; clean updates of 10 uneven sites",
        target="12 of 12 refused before the sum, with a code; <= 0.1 % of clean updates refused; "
        "the run goes on",
        ours=f"{stopped} of 12 refused with their code; final weights {trace}; "
        f"{wrong} of {clean:,} clean updates refused",
        flower=flower_12(work),
        met=stopped == 12 and same and wrong <= clean / 1000,
    )


def _run(folder: Path, sites: Mapping[str, Path], attacks: Mapping[int, Attack]) -> dict[str, Any]:
    """Run three sites in this process, one attack a round, and return the summary."""
    run = folder / "firewall"
    words = [
        *NANO,
        f"stages=[handshake,{STAGE}]",
        f"stage.{STAGE}.rounds={FIRST_ATTACK + len(FIGURE_12)}",
        f"stage.{STAGE}.local_epochs=1",
        f"stage.{STAGE}.min_sites=2",
    ]
    config = plan(run.name, words, sites=3)
    write_config(run, config)
    with silenced("cardionets"):  # many warnings of refused updates
        run_in_process(
            server_app,
            site_app(attacks),
            run_config={"run": run.name, "config-hash": digest(config)},
            sites=sites,
            outputs=run.parent,
        )
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary
